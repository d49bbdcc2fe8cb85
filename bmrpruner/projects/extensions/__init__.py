"""JaxPruner's import paths of algorithms from papers."""

from bmrpruner.projects.extensions import acdc, adam_fisher, iterative_nm

__all__ = ["acdc", "adam_fisher", "iterative_nm"]
