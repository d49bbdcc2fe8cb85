"""Turn scores into masks: keep the highest, as many as a sparsity leaves."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bmrpruner import _groups, selection
from bmrpruner._checks import concrete
from bmrpruner._masks import MASK_DTYPE
from bmrpruner._tree import PyTree, map_leaves
from bmrpruner.sparsity_types import (
    Block,
    Channel,
    Group,
    NByM,
    as_sparsity_type,
    check_shape,
)

__all__ = [
    "MASK_DTYPE",
    "get_topk_fn",
    "keep_count",
    "topk_block_mask_calculator",
    "topk_channel_mask_calculator",
    "topk_mask_calculator",
    "topk_masks",
    "topk_n_by_m_mask_calculator",
]

TopkFnType = Callable[[jax.Array, Any], jax.Array]


def get_topk_fn(sparsity_type: Any) -> TopkFnType:
    """The function `(scores, sparsity) -> mask` of a sparsity type.

    Args:
      sparsity_type: A sparsity type, or a string such as `'2:4'`; the class `Unstructured` will do
        too.

    Returns:
      A function of an array of scores and a sparsity, both also by keyword, to a uint8 mask.

    Raises:
      ValueError: If it is none of the types, its numbers are impossible, or it is dependency
        groups, which no array has on its own.

    Example:
      >>> get_topk_fn(NByM(1, 2))(jnp.array([3., 4., 2., 1.]), 0.5)
      Array([0, 1, 1, 0], dtype=uint8)
    """
    match as_sparsity_type(sparsity_type):
        case Block(block_shape=(height, width), use_avg_pooling=use_avg_pooling):
            return functools.partial(
                topk_block_mask_calculator,
                block_height=height,
                block_width=width,
                use_avg_pooling=use_avg_pooling,
            )
        case NByM() as pattern:
            return functools.partial(topk_n_by_m_mask_calculator, sparsity_type=pattern)
        case Channel() as channel:
            return functools.partial(topk_channel_mask_calculator, sparsity_type=channel)
        case Group() as groups:
            raise ValueError(
                f"sparsity_type: expected one for a single array, got {groups}, which runs over "
                "the leaves of a tree."
            )
    return topk_mask_calculator


def is_default_topk_fn(topk_fn: Any, sparsity_type: Any) -> bool:
    """Whether a function is the one that `get_topk_fn` gives for a sparsity type.

    Example:
      >>> is_default_topk_fn(get_topk_fn(NByM(2, 4)), NByM(2, 4))
      True
    """
    default = get_topk_fn(sparsity_type)
    if isinstance(topk_fn, functools.partial) and isinstance(default, functools.partial):
        return (topk_fn.func, topk_fn.keywords) == (default.func, default.keywords)
    return topk_fn is default


def keep_count(size: Any, sparsity: Any) -> jax.Array:
    """How many weights stay: `max(1, round(size * (1 - sparsity)))`; `size` at sparsity 0.

    Args:
      size: How many weights are ranked together.
      sparsity: Fraction to prune; the product is a float32, and halves round to even.

    Returns:
      int32 scalar, or vector if the arguments are; unsigned where a size takes more than 31 bits.

    Raises:
      ValueError: If a size does not fit JAX's widest integer.

    Example:
      >>> keep_count(5, 0.5)
      Array(2, dtype=int32)
    """
    sparsity = jnp.asarray(sparsity, jnp.float32)
    kept = _rounded_count(size, sparsity)
    return jnp.where(sparsity == 0, np.asarray(size, kept.dtype), kept)


def topk_mask_calculator(scores: Any, sparsity: Any) -> jax.Array:
    """Keep the `keep_count` largest scores; of equal ones, the lower row-major index.

    Args:
      scores: Array of any shape, or a list of numbers. NaN is pruned first, then -inf.
      sparsity: Fraction to prune, a number or a scalar array; at 0 everything is chosen.

    Returns:
      uint8 mask of the scores' shape.

    Example:
      >>> topk_mask_calculator(jnp.array([3., 1., 2., 0.]), 0.5)
      Array([1, 0, 1, 0], dtype=uint8)
    """
    scores = jnp.asarray(scores)
    return selection.top_masks([scores], [keep_count(scores.size, sparsity)])[0]


def topk_masks(scores: PyTree, sparsities: PyTree) -> PyTree:
    """`topk_mask_calculator` for every leaf in one loop; None where the sparsity is None.

    Args:
      scores: A tree of arrays.
      sparsities: A tree like it of fractions to prune, None where a leaf is exempt.

    Returns:
      A tree of uint8 masks, None where a leaf is exempt.

    Example:
      >>> topk_masks({'a': jnp.array([3., 1.]), 'b': jnp.ones(2)}, {'a': 0.5, 'b': None})
      {'a': Array([1, 0], dtype=uint8), 'b': None}
    """
    arrays: list[jax.Array] = []
    chosen: list[Any] = []

    def choose(sparsity: Any, score: Any) -> None:
        if sparsity is not None:
            arrays.append(jnp.asarray(score))
            chosen.append(jnp.asarray(sparsity, jnp.float32))

    map_leaves(choose, sparsities, scores)
    if not arrays:
        return sparsities
    sizes = np.array([array.size for array in arrays])
    masks = iter(selection.top_masks(arrays, keep_count(sizes, jnp.stack(chosen))))
    return map_leaves(lambda sparsity: None if sparsity is None else next(masks), sparsities)


def _topk_mask_calculator_internal(scores: Any, sparsity: Any) -> jax.Array:
    scores = jnp.asarray(scores)
    count = _rounded_count(scores.size, jnp.asarray(sparsity, jnp.float32))
    return selection.top_masks([scores], [count])[0]


def topk_n_by_m_mask_calculator(scores: Any, sparsity: Any, sparsity_type: NByM | str) -> jax.Array:
    """Keep the n largest of each group of m along an axis; of equal ones, the higher index.

    Args:
      scores: Array whose `sparsity_type.axis` has a length divisible by m.
      sparsity: A switch: 0 keeps everything, anything else (None too) is the N:M pattern.
      sparsity_type: n, m and the axis, or a string such as `'2:4'`.

    Returns:
      uint8 mask of the scores' shape.

    Raises:
      ValueError: If n > m, or the axis does not divide into groups.

    Example:
      >>> topk_n_by_m_mask_calculator(jnp.array([3., 4., 2., 1.]), 0.5, '1:2')
      Array([0, 1, 1, 0], dtype=uint8)
    """
    pattern = as_sparsity_type(sparsity_type)
    scores = jnp.asarray(scores)
    dense = jnp.ones(scores.shape, MASK_DTYPE)
    if sparsity is not None and concrete(sparsity) and sparsity == 0:
        return dense
    check_shape(pattern, scores.shape, "scores")
    n, m, axis = pattern  # type: ignore[misc]
    mask = largest_of_each_group(scores, n, m, axis)
    return mask if sparsity is None else jnp.where(jnp.equal(sparsity, 0), dense, mask)


def topk_block_mask_calculator(
    scores: Any, sparsity: Any, block_height: int, block_width: int, use_avg_pooling: bool
) -> jax.Array:
    """Keep or prune whole blocks of the first two axes, by the mean or maximum of their scores.

    Args:
      scores: Array; later axes belong wholly to each block, and one axis is a single row.
      sparsity: Fraction of blocks to prune.
      block_height: Block size along the first axis.
      block_width: Block size along the second axis.
      use_avg_pooling: Mean of a block's (real) entries; otherwise their maximum.

    Returns:
      uint8 mask of the scores' shape. Blocks at the end may be partial.

    Example:
      >>> scores = jnp.array([[3., 1., 0., 2.]])
      >>> topk_block_mask_calculator(scores, 0.5, 1, 2, use_avg_pooling=True)
      Array([[1, 1, 0, 0]], dtype=uint8)
    """
    how = "mean" if use_avg_pooling else "max"
    return topk_groups(scores, sparsity, Block((block_height, block_width)), how)


def topk_channel_mask_calculator(
    scores: Any, sparsity: Any, sparsity_type: Channel | str
) -> jax.Array:
    """Keep or prune whole slices along an axis, by the sum of their scores.

    Args:
      scores: Array with the axis.
      sparsity: Fraction of channels to prune.
      sparsity_type: The axis, or a string such as `'channel_0'`.

    Returns:
      uint8 mask of the scores' shape.

    Raises:
      ValueError: If the scores have no such axis.

    Example:
      >>> topk_channel_mask_calculator(jnp.array([[3., 0.], [1., 2.]]), 0.5, 'channel_0')
      Array([[1, 1],
             [0, 0]], dtype=uint8)
    """
    return topk_groups(scores, sparsity, as_sparsity_type(sparsity_type), "sum")


def topk_groups(scores: Any, sparsity: Any, sparsity_type: Any, how: str) -> jax.Array:
    """Keep or prune whole groups by the sum, mean or maximum (`how`) of their scores."""
    scores = jnp.asarray(scores)
    mask = topk_mask_calculator(_groups.pool(scores, sparsity_type, how), sparsity)
    return _groups.spread(mask, sparsity_type, scores.shape)


def threshold_mask(score: jax.Array, lowest: Any, sparsity_type: Any, how: str) -> jax.Array:
    """Keep the weights, or groups, that score above a threshold.

    Args:
      score: Array of any shape. NaN is pruned.
      lowest: The threshold; what scores at or below it goes.
      sparsity_type: What is pruned together.
      how: `'sum'`, `'mean'` or `'max'`, of a group's scores.

    Returns:
      uint8 mask of the scores' shape.
    """
    groups = _groups.pool(score, sparsity_type, how)
    return _groups.spread((groups > lowest).astype(MASK_DTYPE), sparsity_type, score.shape)


def largest_of_each_group(scores: jax.Array, n: Any, m: int, axis: int) -> jax.Array:
    """uint8 mask of the n largest of every m along an axis; n may be traced."""
    keys = jnp.moveaxis(selection.order_key(scores), axis, -1)
    groups = keys.reshape(*keys.shape[:-1], keys.shape[-1] // m, m)
    # A member's rank is the number of those that beat it: larger, or equal with a higher index.
    mine, other = groups[..., :, None], groups[..., None, :]
    square = (*groups.shape, m)
    is_later = jax.lax.broadcasted_iota(jnp.int32, square, groups.ndim) > (
        jax.lax.broadcasted_iota(jnp.int32, square, groups.ndim - 1)
    )
    beaten = (other > mine) | ((other == mine) & is_later)
    mask = (jnp.sum(beaten, axis=-1) < jnp.asarray(n, jnp.int32)).astype(MASK_DTYPE)
    return jnp.moveaxis(mask.reshape(keys.shape), -1, axis)


def _rounded_count(size: Any, sparsity: jax.Array) -> jax.Array:
    widest = jax.dtypes.canonicalize_dtype(np.uint64)
    if np.max(size) > jnp.iinfo(widest).max:
        raise ValueError(
            f"size: expected at most {jnp.iinfo(widest).max} weights in one ranking, got {size}; "
            "set jax_enable_x64."
        )
    kind = jnp.int32 if np.max(size) < 2**31 else widest
    return _rounded(np.asarray(size, np.float32), sparsity, kind)


@functools.partial(jax.jit, static_argnames="kind")
def _rounded(size: np.ndarray, sparsity: jax.Array, kind: Any) -> jax.Array:
    return jnp.maximum(1, jnp.round(size * (1 - sparsity))).astype(kind)
