"""JaxPruner's import paths of `acdc`, `adam_fisher` and `iterative_nm`."""

from bmrpruner.projects.extensions import acdc, adam_fisher, iterative_nm

__all__ = ["acdc", "adam_fisher", "iterative_nm"]
