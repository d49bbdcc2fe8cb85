"""Means of what a loss gives: over draws, and over the replicas of data-parallel training."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from bmrpruner._tree import PyTree, is_array, is_none


def mean_over_draws(
    draw: Callable[[jax.Array], PyTree], keys: jax.Array, method: str, axis_name: Any = None
) -> PyTree:
    """The mean of `draw(key)` over the keys.

    Floating-point leaves, Python numbers included, are averaged. Of other numbers the last draw's
    is returned, and what is no number is returned as it is. One draw is not changed at all.

    Args:
      draw: From a key to any pytree.
      keys: At least one key, along the first axis.
      method: `'parallel'`, or one after the other.
      axis_name: The axes over which the draws differ from replica to replica.
    """
    samples = keys.shape[0]
    if samples == 1:
        return draw(keys[0])
    others = None

    def numbers(key: jax.Array) -> tuple[PyTree, PyTree]:
        nonlocal others
        out = draw(key)
        others = jax.tree.map(lambda x: None if _is_number(x) else x, out)
        averaged = jax.tree.map(lambda x: _strong(x) if _is_averaged(x) else None, out)
        is_last = lambda x: _is_number(x) and not _is_averaged(x)  # noqa: E731
        return averaged, jax.tree.map(lambda x: _strong(x) if is_last(x) else None, out)

    def add(total: PyTree, key: jax.Array) -> tuple[PyTree, PyTree]:
        averaged, rest = numbers(key)
        return jax.tree.map(lambda t, x: t + x / samples, total, averaged), rest

    if method == "parallel":
        averaged, rest = jax.vmap(numbers)(keys)
        averaged = jax.tree.map(lambda x: jnp.mean(x, 0), averaged)
    else:
        shapes = jax.eval_shape(numbers, keys[0])[0]
        zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
        averaged, rest = jax.lax.scan(add, per_replica(zeros, axis_name), keys)
    last = jax.tree.map(lambda x: x[-1], rest)
    return jax.tree.map(_first_given, averaged, last, others, is_leaf=is_none)


def mean_over_replicas(tree: PyTree, axis_name: Any) -> PyTree:
    """`tree` with every floating-point leaf averaged over the named axes; as it is without any."""
    if axis_name is None:
        return tree
    return jax.tree.map(lambda x: jax.lax.pmean(x, axis_name) if _is_averaged(x) else x, tree)


def per_replica(tree: PyTree, axis_name: Any) -> PyTree:
    """The same values, typed as different on every replica; as it is without an axis.

    `shard_map` knows by its types which arrays are the same on all devices, and sums gradients with
    respect to those over the devices by itself.
    """
    if axis_name is None:
        return tree
    always = jax.lax.axis_index(axis_name) >= 0
    return jax.tree.map(lambda x: jnp.where(always, x, x), tree)


def _is_number(x: Any) -> bool:
    return is_array(x) or isinstance(x, bool | int | float | complex)


def _is_averaged(x: Any) -> bool:
    if is_array(x):
        return jnp.issubdtype(x.dtype, jnp.inexact)
    return isinstance(x, float | complex)


def _strong(x: Any) -> jax.Array:
    """`x` as an array whose dtype no longer depends on what it is combined with."""
    return jnp.asarray(x, x.dtype if is_array(x) else jnp.result_type(x))


def _first_given(*alternatives: Any) -> Any:
    return next((x for x in alternatives if x is not None), None)
