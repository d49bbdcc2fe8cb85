"""One score for each group that is pruned together, and from a group's mask to its members'."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bmrpruner._sharding import gathered
from bmrpruner.sparsity_types import Block, Channel, Group, NByM, as_sparsity_type, check_shape


def pool(scores: jax.Array, sparsity_type: Any, how: str = "sum") -> jax.Array:
    """The score of each group, from those of its members.

    A member with the score -inf is already gone: it adds nothing, and the others decide. A group
    of such members alone has -inf itself.

    Args:
      scores: One score per weight.
      sparsity_type: What is pruned together. N:M has no groups to keep or prune as a whole.
      how: `'sum'`, `'mean'` (the sum over the number of members, gone ones included) or `'max'`.

    Returns:
      As `scores` where weights are their own groups, (channels,), or (block rows, block columns).

    Raises:
      ValueError: For an N:M pattern or dependency groups, or an axis that the scores lack.

    Example:
      >>> pool(jnp.array([[1., 2., 3.], [-jnp.inf, 2., 1.]]), Channel(0))
      Array([6., 3.], dtype=float32)
    """
    match as_sparsity_type(sparsity_type):
        case NByM():
            raise ValueError(
                f"sparsity_type: expected groups that go as a whole, got {sparsity_type}, "
                "which keeps N of every M."
            )
        case Group():
            raise ValueError(
                f"sparsity_type: expected groups of one array, got {sparsity_type}, which run over "
                "the leaves of a tree."
            )
        case Channel(axis=axis):
            check_shape(sparsity_type, scores.shape, "scores")
            others = tuple(a for a in range(scores.ndim) if a != axis % scores.ndim)
            total = reduce_members(scores, others, how)
            return total / math.prod(scores.shape[a] for a in others) if how == "mean" else total
        case Block(block_shape=(height, width)):
            return gathered(lambda s: _pool_blocks(s, height, width, how), scores)
    return scores


def reduce_members(
    scores: jax.Array, axes: int | tuple[int, ...] | None, how: str = "sum"
) -> jax.Array:
    """The sum (or `how='max'`) over axes of groups' members, without those that are gone.

    Args:
      scores: One score per member; -inf says that it is gone.
      axes: The axes that run over a group's members; None for all.
      how: `'max'`; anything else is the sum.

    Returns:
      One score per group, -inf where all members are gone.

    Example:
      >>> reduce_members(jnp.array([[1., -jnp.inf], [-jnp.inf, -jnp.inf]]), (1,))
      Array([  1., -inf], dtype=float32)
    """
    if how == "max":
        return jnp.max(scores, axis=axes)
    if not jnp.issubdtype(scores.dtype, jnp.floating):
        return jnp.sum(scores, axis=axes)
    gone = jnp.isneginf(scores)
    total = jnp.sum(jnp.where(gone, jnp.zeros_like(scores), scores), axis=axes)
    return jnp.where(jnp.all(gone, axis=axes), jnp.full_like(total, -jnp.inf), total)


def spread(mask: jax.Array, sparsity_type: Any, shape: tuple[int, ...]) -> jax.Array:
    """The mask of every member of the groups in an array of `shape`.

    Args:
      mask: One entry per group, as `pool` returns them.
      sparsity_type: What is pruned together.
      shape: Of the array that was pooled.

    Returns:
      An array of `shape`.

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


def squared(scores: jax.Array) -> jax.Array:
    """Squares of scores; -inf, which says that a weight is gone, stays.

    Example:
      >>> squared(jnp.array([-2.0, -jnp.inf])).tolist()
      [4.0, -inf]
    """
    scores = scores.astype(jnp.promote_types(scores.dtype, jnp.float32))  # or squares overflow
    return jnp.where(jnp.isneginf(scores), scores, jnp.square(scores))


def _pool_blocks(scores: jax.Array, height: int, width: int, how: str) -> jax.Array:
    scores = scores[None] if scores.ndim == 1 else scores
    # First what needs no reshape of an axis that may be sharded.
    plane = reduce_members(scores, tuple(range(2, scores.ndim)), how) if scores.ndim > 2 else scores
    rows, columns = plane.shape
    padding = ((0, -rows % height), (0, -columns % width))
    padded = jnp.pad(plane, padding, constant_values=_absent(plane.dtype, how))
    blocks = padded.reshape(-(-rows // height), height, -(-columns // width), width)
    total = reduce_members(blocks, (1, 3), how)
    if how != "mean":
        return total
    heights, widths = (_lengths(n, size) for n, size in ((rows, height), (columns, width)))
    members = np.outer(heights, widths) * math.prod(scores.shape[2:])
    return total / members.astype(total.dtype)


def _lengths(length: int, size: int) -> np.ndarray:
    """How many real entries each block of an axis has; the last may be partial."""
    return np.minimum(size, length - np.arange(0, length, size))


def _plane(shape: tuple[int, ...]) -> tuple[int, int, int]:
    """Rows, columns and everything behind them; a vector is one row."""
    rows, columns, *rest = (1, *shape) if len(shape) == 1 else (*shape, 1)[: max(2, len(shape))]
    return rows, columns, math.prod(rest)


def _absent(dtype: Any, how: str) -> Any:
    """The score of what is not there: as if it were gone."""
    if jnp.issubdtype(dtype, jnp.floating):
        return -jnp.inf
    return jnp.iinfo(dtype).min if how == "max" else 0
