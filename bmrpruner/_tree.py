"""Parameter trees of any make: string key paths, None-aware maps, what counts as an array."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

PyTree = Any
Key = tuple[str, ...]


def is_none(x: Any) -> bool:
    """Whether `x` is None, for `is_leaf=`: None means exempt or absent and is a leaf to us."""
    return x is None


def is_array(x: Any) -> bool:
    """Whether `x` is an array, traced and abstract ones included."""
    return isinstance(x, jax.Array | np.ndarray | np.generic | jax.ShapeDtypeStruct)


def is_prunable(x: Any) -> bool:
    """Whether `x` is an array of floating-point or complex numbers, traced or abstract ones too."""
    return is_array(x) and jnp.issubdtype(x.dtype, jnp.inexact)


def is_numeric(x: Any) -> bool:
    """Whether `x` is an array of numbers or booleans, not of random keys or strings."""
    return is_array(x) and (jnp.issubdtype(x.dtype, np.number) or x.dtype == bool)


def map_leaves(fn: Callable[..., Any], tree: PyTree, *rest: PyTree) -> PyTree:
    """`jax.tree.map` that also visits None leaves of `tree`; `rest` may hold None anywhere."""
    return jax.tree.map(fn, tree, *rest, is_leaf=is_none)


def map_with_key(fn: Callable[..., Any], tree: PyTree, *rest: PyTree) -> PyTree:
    """`map_leaves` with the string key path as the first argument of `fn`."""
    keys = iter(leaf_keys(tree))
    return map_leaves(lambda *leaves: fn(next(keys), *leaves), tree, *rest)


def map_arrays(fn: Callable[..., Any], tree: PyTree, *rest: PyTree) -> PyTree:
    """`map_leaves` over the array leaves of `tree`; None in place of the others."""
    return map_leaves(lambda leaf, *more: fn(leaf, *more) if is_array(leaf) else None, tree, *rest)


def keyed_leaves(tree: PyTree) -> list[tuple[Key, Any]]:
    """The leaves of `tree`, None included, each with its string key path."""
    return list(zip(leaf_keys(tree), jax.tree.leaves(tree, is_leaf=is_none), strict=True))


def leaf_keys(tree: PyTree) -> list[Key]:
    """The string key path of every leaf, None included.

    Flax boxes (an `nnx.Param`, a `linen.Partitioned`) do not add their `value` to the path, so a
    kernel ends in `'kernel'` whatever it is wrapped in.
    """
    keys = []
    nodes, _ = jax.tree_util.tree_flatten_with_path(tree, is_leaf=_is_none_or_box)
    for path, node in nodes:
        key = tuple(_name(entry) for entry in path)
        keys += [key] * len(jax.tree.leaves(node, is_leaf=is_none))
    return keys


def arrays(tree: PyTree) -> list[Any]:
    """The array leaves of `tree`, in leaf order."""
    return [leaf for leaf in jax.tree.leaves(tree) if is_array(leaf)]


def align(field: str, tree: PyTree, structure: Any, owner: str) -> list[Any]:
    """The subtrees of `tree`, one for each leaf of `structure`.

    Raises:
      ValueError: If `tree` has another structure; the message names it `field`, and what it should
        be like `owner`.
    """
    try:
        return structure.flatten_up_to(tree)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{field}: expected the tree structure of {owner}, {structure}, "
            f"got {jax.tree.structure(tree, is_leaf=is_none)}."
        ) from error


def join(key: Key) -> str:
    """A key path as text: `'encoder/layer_0/kernel'`."""
    return "/".join(key)


def check_params(params: PyTree) -> None:
    """Raise a TypeError unless `params` has an array, or has no leaves at all."""
    leaves = [(key, leaf) for key, leaf in keyed_leaves(params) if leaf is not None]
    if leaves and not any(is_array(leaf) for _, leaf in leaves):
        key, leaf = leaves[0]
        raise TypeError(
            "params: expected a pytree of arrays, but no leaf is one; "
            f"leaf {join(key) or '(root)'!r} is a {type(leaf).__name__}. Convert with jnp.asarray."
        )


def _name(entry: Any) -> str:
    for attribute in ("key", "idx", "name"):
        if hasattr(entry, attribute):
            return str(getattr(entry, attribute))
    return str(entry)


def _is_none_or_box(x: Any) -> bool:
    return x is None or any(
        base.__name__ in ("Variable", "AxisMetadata") and base.__module__.startswith("flax")
        for base in type(x).__mro__
    )
