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


def broadcast_prior(prior: PyTree, mean: PyTree, structure: Any) -> list[Any]:
    """The prior precision of every leaf of `mean`."""
    try:
        full = jax.tree.broadcast(prior, mean, is_leaf=is_none)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"prior_precision: expected a scalar, or a tree that is a prefix of mean's, "
            f"{structure}, got {jax.tree.structure(prior, is_leaf=is_none)}."
        ) from error
    return structure.flatten_up_to(full)


def check_prior(path: str, prior: Any, shape: tuple[int, ...]) -> None:
    """Raise unless `prior` is a positive number or an array that broadcasts to `shape`."""
    if not is_array(prior) and not isinstance(prior, int | float):
        raise TypeError(
            f"prior_precision{path}: expected a positive number or an array, "
            f"got {type(prior).__name__}."
        )
    if not is_array(prior) and not 0 < prior < float("inf"):
        raise ValueError(f"prior_precision{path}: expected a positive finite number, got {prior}.")
    try:
        fits = jnp.broadcast_shapes(jnp.shape(prior), shape) == shape
    except ValueError:
        fits = False
    if not fits:
        raise ValueError(
            f"prior_precision{path}: expected a shape that broadcasts to that of mean, {shape}, "
            f"got {jnp.shape(prior)}."
        )


def check_draws(paths: list[str], leaves: list[Any]) -> None:
    """Raise unless the leaves, at these paths, are draws [chain, draw, *shape] alike in number."""
    first = None
    for path, leaf in zip(paths, leaves, strict=True):
        if not is_array(leaf):
            continue
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            raise TypeError(f"draws{path}: expected a floating array, got {leaf.dtype}.")
        if leaf.ndim < 2 or leaf.shape[0] * leaf.shape[1] < 2:
            raise ValueError(
                f"draws{path}: expected [chain, draw, *shape] with at least two draws, "
                f"got the shape {leaf.shape}."
            )
        first = first or leaf.shape[:2]
        if leaf.shape[:2] != first:
            raise ValueError(
                f"draws{path}: expected {first[0]} chains of {first[1]} draws as in the first "
                f"leaf, got {leaf.shape[:2]}."
            )
