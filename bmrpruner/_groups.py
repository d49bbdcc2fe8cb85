"""One value for each group that is pruned together, and back to its members."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bmrpruner._sharding import gathered
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
            total = _reduce(values, others, how)
            return total / math.prod(values.shape[a] for a in others) if how == "mean" else total
        case Block(block_shape=(height, width)):
            return gathered(lambda v: _pool_blocks(v, height, width, how), values)
    return values


def _pool_blocks(values: jax.Array, height: int, width: int, how: str) -> jax.Array:
    values = values[None] if values.ndim == 1 else values
    neutral = _neutral(values.dtype, how)
    # First what needs no reshape of an axis that may be sharded.
    plane = _reduce(values, tuple(range(2, values.ndim)), how)
    rows, columns = plane.shape
    padded = jnp.pad(plane, ((0, -rows % height), (0, -columns % width)), constant_values=neutral)
    blocks = padded.reshape(-(-rows // height), height, -(-columns // width), width)
    total = _reduce(blocks, (1, 3), how)
    if how != "mean":
        return total
    heights, widths = (_lengths(n, size) for n, size in ((rows, height), (columns, width)))
    members = np.outer(heights, widths) * math.prod(values.shape[2:])
    return total / members.astype(total.dtype)


def _lengths(length: int, size: int) -> np.ndarray:
    """How many real entries each block of an axis has; the last may be partial."""
    return np.minimum(size, length - np.arange(0, length, size))


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


def _neutral(dtype: Any, how: str) -> Any:
    if how != "max":
        return 0
    return -jnp.inf if jnp.issubdtype(dtype, jnp.floating) else jnp.iinfo(dtype).min


def _reduce(values: jax.Array, axes: tuple[int, ...], how: str) -> jax.Array:
    return jnp.max(values, axis=axes) if how == "max" else jnp.sum(values, axis=axes)
