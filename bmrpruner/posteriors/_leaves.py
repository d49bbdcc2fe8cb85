"""Trees whose leaves may be absent (None) or no arrays at all, aligned leaf by leaf."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from bmrpruner._tree import PyTree, is_array, is_none


def is_concrete(x: Any) -> bool:
    """Whether the values of the array `x` can be read now, on this host."""
    return not isinstance(x, jax.core.Tracer) and getattr(x, "is_fully_addressable", True)


def flatten(tree: PyTree) -> tuple[list[str], list[Any], Any]:
    """Printable paths, leaves (None included) and structure of `tree`."""
    pairs, structure = jax.tree_util.tree_flatten_with_path(tree, is_leaf=is_none)
    return [jax.tree_util.keystr(path) for path, _ in pairs], [leaf for _, leaf in pairs], structure


def align(field: str, tree: PyTree, structure: Any, owner: str) -> list[Any]:
    """The leaves of `tree`, one for each leaf of `structure`.

    Raises:
        ValueError: `tree` has another structure; `field` and `owner` name the two in the message.
    """
    try:
        return structure.flatten_up_to(tree)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{field}: expected the tree structure of {owner}, {structure}, "
            f"got {jax.tree.structure(tree, is_leaf=is_none)}."
        ) from error


def check_like(field: str, path: str, leaf: Any, owner: str, reference: Any) -> None:
    """Raise unless `leaf` is an array of the shape of `reference`."""
    if not is_array(leaf):
        raise TypeError(f"{field}{path}: expected an array or None, got {type(leaf).__name__}.")
    if leaf.shape != reference.shape:
        raise ValueError(
            f"{field}{path}: expected the shape of {owner}, {reference.shape}, got {leaf.shape}."
        )


def widen(array: Any) -> jax.Array:
    """`array` in float32, or in its own dtype where that is wider."""
    return jnp.asarray(array, jnp.promote_types(jnp.result_type(array), jnp.float32))
