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
        found = _filled_masks(arrays, jnp.stack([wanted[i] for i in filled]), joint)
        for i, mask in zip(filled, found, strict=True):
            masks[i] = mask
    return masks


def _filled_masks(scores: list[jax.Array], wanted: jax.Array, joint: bool) -> list[jax.Array]:
    largest = max(x.size for x in scores)
    if largest > _MAX_LEAF_SIZE:
        raise ValueError(f"an array may hold {_MAX_LEAF_SIZE} scores, found {largest}")
    if joint:
        common = _common_dtype(scores)
    width = jnp.result_type(*(jax.eval_shape(order_key, x).dtype for x in scores))
    pool = _pool if joint else lambda counts: counts

    def key_of(x, i, origin) -> jax.Array:
        return order_key(x.astype(common) if joint else x).astype(width)

    sizes = jnp.array([x.size for x in scores], wanted.dtype)
    cut, reached, above = _search(key_of, scores, wanted, sizes, width, 8 * width.itemsize, pool)
    ties, missing = reached - above, wanted - pool(above)
    if joint:
        taken = jnp.minimum(lax.associative_scan(_add, ties), missing)
        missing = jnp.diff(taken, prepend=taken.dtype.type(0))

    def rank_of(x, i, origin) -> jax.Array:
        return jnp.where(key_of(x,i,origin) == _at(cut, i), _rank(x, origin), 0)

    bits = (largest + 1).bit_length()
    last, _, _ = _search(rank_of, scores, missing, ties, jnp.dtype(jnp.uint32), bits)
    *numbers, origin = _opaque(len(scores))
    masks=[]
    for x, i in zip(scores, numbers, strict=True):
        key = key_of(x, i, origin)
        c = _at(cut,i)
        masks.append(((key > c) | ((key == c) & (_rank(key, origin) >= _at(last, i)))).astype(jnp.uint8))
    return masks

def _at(values, i):
    return lax.dynamic_index_in_dim(values, i, keepdims=False)

def _opaque(n):
    return lax.optimization_barrier([np.uint32(i) for i in [*range(n),0]])

def _common_dtype(scores: Sequence[jax.Array]) -> np.dtype:
    dtypes = {x.dtype for x in scores}
    if len(dtypes) > 1 and not all(jnp.issubdtype(d, jnp.floating) for d in dtypes):
        raise TypeError(
            f"a joint ranking needs floats, or one dtype; found {sorted(map(str, dtypes))}"
        )
    return jnp.result_type(*dtypes)


def _rank(like: jax.Array, origin: jax.Array) -> jax.Array:
    """Numbers the elements of an array downwards, from its size at the first to 1 at the last."""
    index = origin
    for axis, length in enumerate(like.shape):
        index = index * jnp.uint32(length) + lax.broadcasted_iota(jnp.uint32, like.shape, axis)
    return jnp.uint32(like.size) - index


def _search(value_of, scores, wanted, reached, dtype, bits, pool=lambda c: c):
    """Finds, for each array, the largest threshold that `wanted` of its values still reach."""

    def unfinished(state):
        shift, _, reached, _ = state
        return (shift >= 0) & jnp.any(pool(reached) != wanted)

    def refine(state):
        shift, low, reached, above = state
        # Tied to the loop, the values cannot be computed once and kept beside the scores.
        tied, low, (*numbers, origin) = lax.optimization_barrier((scores, low, _opaque(len(scores))))
        step = lax.shift_left(dtype.type(1), shift.astype(dtype))
        trial = step * np.arange(1, 1 << _BITS, dtype=dtype)
        count = jnp.stack([_count(value_of(x,i,origin), _at(low, i)+trial) for x, i in zip(tied, numbers, strict=True)])
        count = count.astype(wanted.dtype)
        enough = pool(count) >= wanted[:, None]
        low += step * enough.sum(1, dtype=dtype)
        reached = jnp.where(enough, count, reached[:, None]).min(1)
        above = jnp.where(enough, above[:, None], count).max(1)
        return shift - _BITS, low, reached, above

    low = jnp.zeros(len(wanted), dtype)
    start = jnp.int32(-(-bits // _BITS) * _BITS - _BITS)
    state = start, low, reached, jnp.zeros_like(reached)
    return lax.while_loop(unfinished, refine, state)[1:]


def _count(values: jax.Array, thresholds: jax.Array) -> jax.Array:
    """Counts the values that reach each threshold, in one read."""
    reached = [values >= threshold for threshold in thresholds]
    if jax.device_count() > 1:
        return jnp.stack([jnp.sum(r, dtype=jnp.uint32) for r in reached])
    # One reduction of several operands is one vectorised loop on a CPU, where separate sums are not
    # fused with what they sum. On a mesh, XLA would gather its partial results.
    zeros = (jnp.uint32(0),) * len(reached)
    operands = tuple(r.astype(jnp.uint32) for r in reached)
    counts = lax.reduce(operands, zeros, lambda a, b: tuple(map(lax.add, a, b)), range(values.ndim))
    return jnp.stack(counts)


def _pool(counts: jax.Array) -> jax.Array:
    """Sums over the arrays, for each of them."""
    return jnp.broadcast_to(lax.reduce(counts, counts.dtype.type(0), _add, (0,)), counts.shape)


def _add(a: jax.Array, b: jax.Array) -> jax.Array:
    """Adds unsigned integers; stops at the largest, which still exceeds every count asked for."""
    return jnp.where(a + b < a, np.array(jnp.iinfo(a.dtype).max, a.dtype), a + b)
