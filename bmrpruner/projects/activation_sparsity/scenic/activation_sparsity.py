"""JaxPruner's import path of `bmrpruner.algorithms.activation_sparsity`; needs Flax."""

from bmrpruner.algorithms.activation_sparsity import (
    add_activation_sparsity,
    add_activation_sparsity_layers,
    get_activation_context,
)

__all__ = [
    "add_activation_sparsity",
    "add_activation_sparsity_layers",
    "get_activation_context",
]
