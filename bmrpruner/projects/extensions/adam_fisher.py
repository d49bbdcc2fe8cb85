"""JaxPruner's import path of `bmrpruner.algorithms.adam_fisher`."""

from bmrpruner.algorithms.adam_fisher import (
    AdamBasedFisherPruning,
    add_to_jaxpruner,
    find_adamstate,
    replace_adamstate,
)

__all__ = ["AdamBasedFisherPruning", "add_to_jaxpruner", "find_adamstate", "replace_adamstate"]
