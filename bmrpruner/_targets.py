"""Compute how sparse each leaf of a tree of parameters is to be."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from bmrpruner._checks import accepted
from bmrpruner._dependency import check_owned
from bmrpruner._ranking import ranked_leaves
from bmrpruner._settings import (
    BOUND,
    asked_sparsity,
    check_group_fields,
    check_groups_are_layerwise,
)
from bmrpruner._tree import PyTree, check_params, is_array, is_none, join, keyed_leaves
from bmrpruner.sparsity_distributions import checked_custom_map
from bmrpruner.sparsity_types import Group, check_shape


def as_arrays(targets: PyTree) -> PyTree:
    """The targets as float32 scalars, of the types that they keep in every later state."""
    return jax.tree.map(lambda target: jnp.asarray(target, jnp.float32), targets)


def layer_targets(updater: Any, params: PyTree) -> PyTree:
    """What an updater's distribution assigns to each leaf, its fields bound; None is exempt.

    Raises:
      ValueError: If the targets fit neither the parameters nor the sparsity type; or if something
        is to be pruned and every leaf is exempt.
    """
    fields = {name: getattr(updater, name) for name in BOUND}
    given = {name: value for name, value in fields.items() if value is not None}
    distribution = updater.sparsity_distribution_fn
    targets = distribution(params, **accepted(distribution, given))
    _check_targets(params, targets, updater.sparsity_type)
    _check_any_prunable(updater, params, targets)
    return targets


def global_target(updater: Any, params: PyTree) -> Any:
    """The sparsity over all leaves that an updater ranks together.

    Raises:
      UnrankableError: If groups are to be ranked by an updater that ranks single weights.
      ValueError: If something is to be pruned and every leaf is exempt, or dependency groups are
        those of other parameters.
    """
    if not updater.ranks_groups:
        check_groups_are_layerwise(updater)
    check_params(params)
    checked_custom_map(params, updater.custom_sparsity_map)
    check_group_fields(updater)
    if isinstance(updater.sparsity_type, Group):
        check_owned(updater.sparsity_type.groups, updater.sparsity_type.cost, params)
    _check_any_prunable(updater, params, ranked_leaves(updater, params))
    return asked_sparsity(updater)


def _check_targets(params: PyTree, targets: PyTree, sparsity_type: Any) -> None:
    """Raise a ValueError unless a distribution's targets fit the parameters and the type."""
    leaves, found = keyed_leaves(params), jax.tree.leaves(targets, is_leaf=is_none)
    if len(leaves) != len(found):
        raise ValueError(
            f"sparsity_distribution_fn: expected a tree like the parameters, of {len(leaves)} "
            f"leaves, got {len(found)}: {targets}."
        )
    for (key, leaf), target in zip(leaves, found, strict=True):
        if target is not None and not _is_zero(target):
            check_shape(sparsity_type, leaf.shape, f"leaf {join(key) or '(root)'!r}")


def _check_any_prunable(updater: Any, params: PyTree, eligible: PyTree) -> None:
    """Raise a ValueError if something is asked for, there are arrays, and no leaf is eligible."""
    asks = updater.threshold is not None or not _is_zero(asked_sparsity(updater))
    leaves = [(key, leaf) for key, leaf in keyed_leaves(params) if is_array(leaf)]
    if not asks or not leaves or jax.tree.leaves(eligible):
        return
    names = ", ".join(f"{join(key) or '(root)'} {leaf.shape}" for key, leaf in leaves[:5])
    raise ValueError(
        f"params: expected a leaf that filter_fn accepts, got only {names}"
        f"{', ...' if len(leaves) > 5 else ''}. "
        "The default filter takes floating-point leaves of two or more axes."
    )


def _is_zero(value: Any) -> bool:
    return isinstance(value, float | int) and value == 0
