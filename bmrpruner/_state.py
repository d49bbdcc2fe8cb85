"""Finding states inside an optimizer state, wherever wrappers have put them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax

from bmrpruner._masks import as_plain
from bmrpruner._tree import Key, PyTree, keyed_leaves, map_with_key


def has_fields(*fields: str) -> Callable[[Any], bool]:
    """A test for states (NamedTuples) with all these fields, whoever defined them."""

    def matches(node: Any) -> bool:
        return set(fields) <= set(getattr(node, "_fields", ()))

    return matches


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

    None where a leaf is exempt or belongs to no pruner.
    """
    masks: dict[Key, Any] = {}
    for state in find_states(opt_state, has_fields("masks", "inner_state", "target_sparsities")):
        masks |= {key: mask for key, mask in keyed_leaves(state.masks) if mask is not None}
    return map_with_key(lambda key, leaf: as_plain(masks.get(key), leaf), params)
