"""JaxPruner's import path of `bmrpruner.algorithms.iterative_nm`."""

from bmrpruner.algorithms.iterative_nm import IterativeNMPruning, add_to_jaxpruner

__all__ = ["IterativeNMPruning", "add_to_jaxpruner"]
