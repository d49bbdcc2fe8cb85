"""Algorithms from papers, one a module, registered under their names."""

from bmrpruner.projects.extensions import acdc, adam_fisher, iterative_nm

__all__ = ["acdc", "adam_fisher", "iterative_nm"]
