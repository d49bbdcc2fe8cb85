"""N:M sparsity, approached one weight of a group at a time."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp

from bmrpruner._checks import concrete
from bmrpruner._masks import MASK_DTYPE
from bmrpruner._settings import pattern_sparsity
from bmrpruner._tree import PyTree
from bmrpruner.algorithms.pruners import MagnitudePruning
from bmrpruner.mask_calculator import largest_of_each_group
from bmrpruner.registry import register_algorithm
from bmrpruner.sparsity_types import Group, NByM, SparsityType, as_sparsity_type, check_shape


@register_algorithm("iterative_nm")
@dataclasses.dataclass(eq=False)
class IterativeNMPruning(MagnitudePruning):
    """Keep the largest weights of each group of M: all M of them at first, N at the end.

    How many is what the schedule's sparsity leaves of M, to the nearest. The target of every leaf
    that is to be pruned at all is 1 - N/M, whatever sparsity is configured, as for the N:M type.

    Attributes:
      sparsity_type: An `NByM`; 2:4 by default.

    Example:
      >>> pruner = IterativeNMPruning(sparsity=0.5)
      >>> params = jnp.array([[4., 3., 2., 1.]])
      >>> pruner.instant_sparsify(params)[1].tolist()
      [[1, 1, 0, 0]]
      >>> pruner.create_masks(params, 0.25).tolist()
      [[1, 1, 1, 0]]
    """

    sparsity_type: SparsityType | Group | str = dataclasses.field(
        default_factory=lambda: NByM(2, 4)
    )

    def __post_init__(self) -> None:
        self.sparsity_type = as_sparsity_type(self.sparsity_type)
        if not isinstance(self.sparsity_type, NByM):
            raise ValueError(
                f"sparsity_type: expected an NByM or a string such as '2:4', got "
                f"{self.sparsity_type}."
            )
        if self.topk_fn is None:
            self.topk_fn = functools.partial(_topk_of_each_group, sparsity_type=self.sparsity_type)
        super().__post_init__()

    def get_target_sparsities(self, params: PyTree) -> PyTree:
        """1 - N/M for each leaf that is to be pruned; 0 and None stay."""
        share = pattern_sparsity(self.sparsity_type)
        targets = super().get_target_sparsities(params)
        return jax.tree.map(lambda target: share * (target != 0), targets)


def _topk_of_each_group(scores: Any, sparsity: Any, sparsity_type: NByM) -> jax.Array:
    """Keep what `sparsity` leaves of each group of M, at least N."""
    scores = jnp.asarray(scores)
    if concrete(sparsity) and sparsity == 0:
        return jnp.ones(scores.shape, MASK_DTYPE)
    check_shape(sparsity_type, scores.shape, "scores")
    n, m, axis = sparsity_type
    kept = jnp.clip(jnp.round(m * (1 - jnp.asarray(sparsity, jnp.float32))), n, m)
    return largest_of_each_group(scores, kept, m, axis)


def add_to_jaxpruner() -> None:
    """Register `iterative_nm`."""
    register_algorithm("iterative_nm", IterativeNMPruning)
