"""JaxPruner's import path of `bmrpruner.algorithms.acdc`."""

from bmrpruner.algorithms.acdc import ACDC, AlternatingSchedule, add_to_jaxpruner

__all__ = ["ACDC", "AlternatingSchedule", "add_to_jaxpruner"]
