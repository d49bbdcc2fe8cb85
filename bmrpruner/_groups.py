"""One value for each group that is pruned together, and back to its members."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp

from bmrpruner.sparsity_types import Block, Channel, NByM, check_shape


def pool(values: jax.Array, sparsity_type: Any, how: str = "sum") -> jax.Array:
    """One value per group.

    Args:
      values: One value per weight.
      sparsity_type: What is pruned together. N:M has no groups to keep or prune as a whole.
      how: `'sum'`, `'mean'` or `'max'` over a group's (real) members.

    Returns:
      As `values` where weights are their own groups, (channels,), or (block rows, block columns).

    Example:
      >>> pool(jnp.ones((3, 4)), Block((2, 2)))
      Array([[4., 4.],
             [2., 2.]], dtype=float32)
    """
    match sparsity_type:
        case NByM():
            raise ValueError(f"{sparsity_type} keeps N of every M; it cannot decide how many.")
        case Channel(axis=axis):
            check_shape(sparsity_type, values.shape, "scores")
            others = tuple(a for a in range(values.ndim) if a != axis % values.ndim)
            return _reduce(values, others, how, jnp.ones_like(values))
        case Block(block_shape=(height, width)):
            plane = values.reshape(_plane(values.shape))
            blocks = _split(plane, height, width, _neutral(plane.dtype, how))
            members = _split(jnp.ones_like(plane), height, width, 0)
            return _reduce(blocks, (1, 3, 4), how, members)
    return values


def spread(mask: jax.Array, sparsity_type: Any, shape: tuple[int, ...]) -> jax.Array:
    """The mask of every member of the groups in an array of `shape`.

    Example:
      >>> spread(jnp.array([1, 0], 'uint8'), Channel(0), (2, 3))
      Array([[1, 1, 1],
             [0, 0, 0]], dtype=uint8)
    """
    match sparsity_type:
        case Channel(axis=axis):
            others = tuple(a for a in range(len(shape)) if a != axis % len(shape))
            return jnp.broadcast_to(jnp.expand_dims(mask, others), shape)
        case Block(block_shape=(height, width)):
            rows, columns, depth = _plane(shape)
            full = jnp.repeat(mask, height, axis=0)[:rows]
            full = jnp.repeat(full, width, axis=1)[:, :columns]
            return jnp.broadcast_to(full[:, :, None], (rows, columns, depth)).reshape(shape)
    return mask


def _plane(shape: tuple[int, ...]) -> tuple[int, int, int]:
    """Rows, columns and everything behind them; a vector is one row."""
    rows, columns, *rest = (1, *shape) if len(shape) == 1 else (*shape, 1)[: max(2, len(shape))]
    return rows, columns, math.prod(rest)


def _split(plane: jax.Array, height: int, width: int, fill: Any) -> jax.Array:
    """(block rows, height, block columns, width, depth), the last blocks padded with `fill`."""
    rows, columns, depth = plane.shape
    padded = jnp.pad(
        plane, ((0, -rows % height), (0, -columns % width), (0, 0)), constant_values=fill
    )
    return padded.reshape(-(-rows // height), height, -(-columns // width), width, depth)


def _neutral(dtype: Any, how: str) -> Any:
    if how != "max":
        return 0
    return -jnp.inf if jnp.issubdtype(dtype, jnp.floating) else jnp.iinfo(dtype).min


def _reduce(values: jax.Array, axes: tuple[int, ...], how: str, members: jax.Array) -> jax.Array:
    if how == "max":
        return jnp.max(values, axis=axes)
    total = jnp.sum(values, axis=axes)
    return total if how == "sum" else total / jnp.sum(members, axis=axes)
