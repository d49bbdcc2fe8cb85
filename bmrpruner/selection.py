"""Exact top-k masks of one array or a whole tree, without sorting, concatenating or reshaping it.

Scores are read as unsigned integers of the same order (`order_key`), and the k-th largest is found
by a search over those integers, a few bits a pass: every pass counts how many scores reach each of
three thresholds, in one read of memory, and stops once a count is exact. Ties at the cut, if there
are any left, are settled by the same search over the row-major index. All leaves share one loop,
and what crosses devices is their counts.
"""

import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

# Two bits and three thresholds a pass: on a CPU the counting then hides behind the read of memory.
_BITS = 2
_MAX_LEAF_SIZE = 2**32 - 2

Values = Callable[[Sequence[jax.Array]], list[jax.Array]]


def order_key(scores: jax.Array) -> jax.Array:
    """Maps scores to unsigned integers that have the same order.

    Works on bits alone, so denormals stay distinct on hardware that flushes them to zero.

    Args:
      scores: Array of any shape; floating, integer or boolean.

    Returns:
      Unsigned integers of the same shape, as wide as the scores (8-bit floats become 16 bits). NaN
      of either sign is 0, below -inf; -0.0 and +0.0 are equal.

    Examples:
      >>> order_key(jnp.array([jnp.nan, -jnp.inf, -0.0, 0.0, 1.0], jnp.bfloat16))
      Array([    0,   128, 32768, 32768, 49024], dtype=uint16)
    """
    scores = jnp.asarray(scores)
    if jnp.issubdtype(scores.dtype, jnp.bool_):
        return scores.astype(jnp.uint8)
    if jnp.issubdtype(scores.dtype, jnp.unsignedinteger):
        return scores
    if jnp.issubdtype(scores.dtype, jnp.floating):
        return _float_key(scores)
    if jnp.issubdtype(scores.dtype, jnp.signedinteger):
        dtype = jnp.dtype(f"uint{8 * scores.dtype.itemsize}")
        return lax.bitcast_convert_type(scores, dtype) ^ _sign_bit(dtype)
    raise TypeError(f"scores must be real to have an order, found {scores.dtype}")


def top_masks(scores: Sequence[jax.Array], counts: Sequence[int | jax.Array]) -> list[jax.Array]:
    """Masks of the `counts[i]` largest scores of each array on its own.

    Equal scores: the lower row-major index is kept. NaN is dropped first, then -inf.

    Args:
      scores: Arrays of any shapes and real dtypes, each below 2³² - 1 elements.
      counts: How many to keep of each array, clipped to [0, size]; integers or integer scalars.

    Returns:
      One uint8 mask for each array, of its shape and sharding, with exactly `counts[i]` ones.

    Examples:
      >>> top_masks([jnp.array([1.0, 3.0, 2.0]), jnp.zeros((2, 2))], [1, 3])
      [Array([0, 1, 0], dtype=uint8), Array([[1, 1],
             [1, 0]], dtype=uint8)]
    """
    arrays = [jnp.asarray(score) for score in scores]
    wanted = [_wanted(count, x.size) for count, x in zip(counts, arrays, strict=True)]
    return _top_masks(arrays, wanted, joint=False)


def top_masks_jointly(scores: Sequence[jax.Array], count: int | jax.Array) -> list[jax.Array]:
    """Masks of the `count` largest scores of all arrays together: one global ranking.

    Equal scores: the earlier array is kept, and within it the lower row-major index. NaN is dropped
    first, then -inf.

    Args:
      scores: Arrays of any shapes, each below 2³² - 1 elements; all floating, or all of one dtype.
      count: How many to keep, clipped to [0, total size]; an integer or an integer scalar. Without
        64-bit types in JAX it must be below 2³², while the total size may be larger.

    Returns:
      One uint8 mask for each array, of its shape and sharding, with `count` ones altogether.

    Examples:
      >>> top_masks_jointly([jnp.array([1.0, 5.0, 2.0]), jnp.array([4.0, 3.0])], 3)
      [Array([0, 1, 0], dtype=uint8), Array([1, 1], dtype=uint8)]
    """
    arrays = [jnp.asarray(score) for score in scores]
    wanted = _wanted(count, sum(x.size for x in arrays))
    return _top_masks(arrays, [wanted] * len(arrays), joint=True)


def top_mask(scores: jax.Array, count: int | jax.Array) -> jax.Array:
    """Mask of the `count` largest scores of one array; see `top_masks`.

    Examples:
      >>> top_mask(jnp.array([[1.0, jnp.nan], [3.0, 1.0]]), 2)
      Array([[1, 0],
             [1, 0]], dtype=uint8)
    """
    return top_masks([scores], [count])[0]


def _sign_bit(dtype: np.dtype) -> np.ndarray:
    return np.array(1 << (8 * dtype.itemsize - 1), dtype)


def _float_key(scores: jax.Array) -> jax.Array:
    if scores.dtype.itemsize == 1:
        scores = scores.astype(jnp.bfloat16)  # exact; the 8-bit formats differ in their NaN
    dtype = jnp.dtype(f"uint{8 * scores.dtype.itemsize}")
    sign = _sign_bit(dtype)
    infinity = np.array(np.inf, scores.dtype).view(dtype)
    bits = lax.bitcast_convert_type(scores, dtype)
    magnitude = bits & (sign - 1)
    key = jnp.where(bits < sign, sign + magnitude, sign - magnitude)
    return jnp.where(magnitude > infinity, dtype.type(0), key)


def _wanted(count: int | jax.Array, size: int) -> jax.Array:
    """Clips a count to [0, size], as the widest unsigned scalar that JAX has enabled."""
    dtype = jax.dtypes.canonicalize_dtype(jnp.uint64)
    if isinstance(count, int | np.integer):
        count = min(max(int(count), 0), size)
        if count > jnp.iinfo(dtype).max:
            raise ValueError(f"a count of {count} needs jax_enable_x64")
        return jnp.asarray(count, dtype)
    count = jnp.asarray(count)
    if not jnp.issubdtype(count.dtype, jnp.integer):
        raise TypeError(f"a count must be an integer, found {count.dtype}")
    limit = min(size, jnp.iinfo(dtype).max)
    return jnp.minimum(jnp.maximum(count, 0).astype(dtype), np.array(limit, dtype))


@functools.partial(jax.jit, static_argnames="joint")
def _top_masks(scores: list[jax.Array], wanted: list[jax.Array], joint: bool) -> list[jax.Array]:
    masks = [jnp.zeros_like(x, jnp.uint8) for x in scores]
    filled = [i for i, x in enumerate(scores) if x.size]
    if filled:
        arrays = [lax.stop_gradient(scores[i]) for i in filled]
        rows = filled[:1] if joint else filled
        found = _filled_masks(arrays, jnp.stack([wanted[i] for i in rows]), joint)
        for i, mask in zip(filled, found, strict=True):
            masks[i] = mask
    return masks


def _filled_masks(scores: list[jax.Array], wanted: jax.Array, joint: bool) -> list[jax.Array]:
    """Searches the thresholds, one for all arrays or one for each, then compares with them."""
    sizes = [x.size for x in scores]
    tops = [sum(sizes[i:]) for i in range(len(sizes))] if joint else sizes
    common = _common_dtype(scores) if joint else None
    width = max(jax.eval_shape(order_key, x).dtype.itemsize for x in scores)
    dtype = _word(width, max(tops))
    key_bits = 8 * width
    rank_bits = -(-(max(tops) + 1).bit_length() // _BITS) * _BITS
    top = jnp.array(tops, dtype)
    wanted = wanted.astype(dtype)
    largest = np.array(jnp.iinfo(dtype).max, dtype)

    def pool(counts):
        return counts.sum(0, keepdims=True, dtype=dtype) if joint else counts

    def value_of(x, tag, cut, ranking):
        key = order_key(x.astype(common or x.dtype)).astype(dtype)
        index = tag[2].astype(dtype)
        for axis, length in enumerate(x.shape):
            index = index * np.array(length, dtype) + lax.broadcasted_iota(dtype, x.shape, axis)
        rank = _at(top, tag[0]) - index
        cut = _at(cut, tag[1])
        return jnp.where(
            ranking, jnp.where(key > cut, largest, jnp.where(key == cut, rank, 0)), key
        )

    @jax.jit
    def count_of(x, tag, cut, low, step, ranking):
        value = value_of(x, tag, cut, ranking)
        return _count(value, [_at(low, tag[1]) + step * np.array(j, dtype) for j in range(1, 1 << _BITS)])

    @jax.jit
    def mask_of(x, tag, cut, low, ranking):
        return (value_of(x, tag, cut, ranking) >= _at(low, tag[1])).astype(jnp.uint8)

    def unfinished(state):
        shift, _, _, reached = state
        return (shift >= 0) & jnp.any(reached != wanted)

    def refine(state):
        shift, cut, low, reached = state
        turn = shift == rank_bits - _BITS
        ranking = shift < rank_bits
        cut, low = jnp.where(turn, low, cut), jnp.where(turn, 0, low)
        step = lax.shift_left(dtype.type(1), (shift % rank_bits if False else jnp.where(ranking, shift, shift - rank_bits)).astype(dtype))
        tied, hidden, cut, low = lax.optimization_barrier((scores, tags, cut, low))
        count = pool(jnp.stack([count_of(x, tag, cut, low, step, ranking) for x, tag in zip(tied, hidden)]))
        enough = count >= wanted[:, None]
        low += step * enough.sum(1, dtype=dtype)
        reached = jnp.where(enough, count, reached[:, None]).min(1)
        return shift - _BITS, cut, low, reached

    tags = [np.array([i, 0 if joint else i, 0], np.uint32) for i in range(len(scores))]
    low = jnp.zeros(len(wanted), dtype)
    state = jnp.int32(key_bits + rank_bits - _BITS), low, low, pool(jnp.array(sizes, dtype))
    shift, cut, low, _ = lax.while_loop(unfinished, refine, state)
    ranking = shift < rank_bits - _BITS
    low = jnp.maximum(low, ranking.astype(dtype))
    return [mask_of(x, tag, cut, low, ranking) for x, tag in zip(scores, lax.optimization_barrier(tags))]


def _word(width: int, size: int) -> np.dtype:
    """The unsigned type that holds keys of that many bytes and counts up to that size."""
    if width < 8 and size < 2**32 - 1:
        return np.dtype(np.uint32)
    if jax.dtypes.canonicalize_dtype(np.uint64).itemsize < 8:
        raise ValueError(f"ranking {size} scores needs jax_enable_x64")
    return np.dtype(np.uint64)


def _common_dtype(scores: Sequence[jax.Array]) -> np.dtype:
    dtypes = {x.dtype for x in scores}
    if len(dtypes) > 1 and not all(jnp.issubdtype(d, jnp.floating) for d in dtypes):
        names = sorted(map(str, dtypes))
        raise TypeError(f"a joint ranking needs floats, or one dtype; found {names}")
    return jnp.result_type(*dtypes)


def _at(values, i):
    return lax.dynamic_index_in_dim(values, i, keepdims=False)


def _count(values: jax.Array, thresholds: Sequence[jax.Array]) -> jax.Array:
    """Counts the values that reach each threshold, in one read."""
    reached = [values >= threshold for threshold in thresholds]
    if jax.device_count() > 1:
        return jnp.stack([jnp.sum(r, dtype=values.dtype) for r in reached])
    # One reduction of several operands is one vectorised loop on a CPU, where separate sums are not
    # fused with what they sum. On a mesh, XLA would gather its partial results.
    zeros = (values.dtype.type(0),) * len(reached)
    operands = tuple(r.astype(values.dtype) for r in reached)
    counts = lax.reduce(operands, zeros, lambda a, b: tuple(map(lax.add, a, b)), range(values.ndim))
    return jnp.stack(counts)
