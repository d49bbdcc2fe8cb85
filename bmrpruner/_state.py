"""Finding states inside an optimizer state, wherever wrappers have put them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from bmrpruner._masks import as_plain
from bmrpruner._tree import (
    Key,
    PyTree,
    is_array,
    is_none,
    join,
    keyed_leaves,
    leaf_keys,
    map_with_key,
)

# Not set to zero on a restart: a Hessian of zero makes the variance large without bound.
_CURVATURES = ("hess", "hess_sum")


def has_fields(*fields: str) -> Callable[[Any], bool]:
    """A test for states (NamedTuples) with all these fields, whoever defined them."""

    def matches(node: Any) -> bool:
        return set(fields) <= set(getattr(node, "_fields", ()))

    return matches


def plain_state(opt_state: Any) -> Any:
    """`opt_state` with arrays in place of the Variables in which `nnx.Optimizer` stores them."""

    def plain(node: Any) -> Any:
        if not _is_nnx_state(node):
            return node
        (value,), _ = jax.tree_util.default_registry.flatten_one_level(node)
        return value

    return jax.tree.map(plain, opt_state, is_leaf=_is_nnx_state)


def state_like(plain: Any, opt_state: Any) -> Any:
    """The inverse of `plain_state`: `plain` with Variables where `opt_state` has them."""
    return jax.tree.unflatten(jax.tree.structure(opt_state), jax.tree.leaves(plain))


def find_states(opt_state: Any, matches: Callable[[Any], bool]) -> list[Any]:
    """The outermost nodes of `opt_state` that match, in tree order."""
    return [node for node in jax.tree.leaves(opt_state, is_leaf=matches) if matches(node)]


def replace_states(opt_state: Any, matches: Callable[[Any], bool], fn: Callable[[Any], Any]) -> Any:
    """`opt_state` with `fn(node)` for each of the outermost nodes that match."""
    return jax.tree.map(
        lambda node: fn(node) if matches(node) else node, opt_state, is_leaf=matches
    )


def find_masks(opt_state: Any, params: PyTree) -> PyTree:
    """The masks of every `SparseState` in `opt_state`, plain, as a tree like `params`.

    None where a leaf is exempt or belongs to no pruner. The `opt_state` of an `nnx.Optimizer` is
    taken as it is.
    """
    masks = _masks_by_key(_sparse_states(opt_state))
    return map_with_key(lambda key, leaf: as_plain(masks.get(key), leaf), params)


def stored_masks(opt_state: Any, params: PyTree) -> PyTree:
    """`find_masks`, from a state that must hold masks, and none for other leaves.

    Raises:
      ValueError: If there is no `SparseState`, or it has a mask for a leaf that is not there.
    """
    states = _sparse_states(opt_state)
    if not states:
        raise ValueError(
            f"sparse_state: expected a SparseState, or a state that holds one, got a "
            f"{type(opt_state).__name__}."
        )
    for key in _masks_by_key(states).keys() - set(leaf_keys(params)):
        raise ValueError(
            f"params: expected those that the masks were made for, but leaf {join(key)!r} is not "
            "there."
        )
    return find_masks(opt_state, params)


def _sparse_states(opt_state: Any) -> list[Any]:
    fields = ("masks", "inner_state", "target_sparsities")
    return find_states(plain_state(opt_state), has_fields(*fields))


def _masks_by_key(states: list[Any]) -> dict[Key, Any]:
    masks: dict[Key, Any] = {}
    for state in states:
        masks |= {key: mask for key, mask in keyed_leaves(state.masks) if mask is not None}
    return masks


def restart_accumulators(opt_state: Any, where: PyTree) -> Any:
    """`opt_state` with zeros in every accumulator where `where` is nonzero.

    An optimizer keeps its accumulators in trees like the parameters, so the path of an accumulator
    ends in the path of its weight. Arrays of another shape than the weight's stay as they are.

    Args:
      opt_state: Any optimizer state.
      where: Like the parameters, None where nothing restarts.
    """
    flat = jax.tree_util.tree_flatten_with_path(where, is_leaf=is_none)[0]
    restarts = {path: leaf for path, leaf in flat if leaf is not None}

    def restart(path: tuple[Any, ...], leaf: Any) -> Any:
        if not is_array(leaf) or not jnp.issubdtype(leaf.dtype, jnp.inexact):
            return leaf
        for start in range(len(path) + 1):
            mask = restarts.get(path[start:])
            if mask is not None and jnp.shape(mask) == leaf.shape:
                holders = [getattr(entry, "name", None) for entry in path[:start]]
                is_curvature = any(name in _CURVATURES for name in holders)
                return leaf if is_curvature else jnp.where(mask, jnp.zeros_like(leaf), leaf)
        return leaf

    return jax.tree_util.tree_map_with_path(restart, opt_state)


def _is_nnx_state(node: Any) -> bool:
    """Whether `node` is a Variable of an `nnx.Optimizer`, told without importing Flax."""
    return any(
        base.__name__ == "OptState" and base.__module__.startswith("flax")
        for base in type(node).__mro__
    )
