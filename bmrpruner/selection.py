"""Exact top-k masks of one array or of a whole tree, without sorting, concatenating or reshaping.

Scores are read as unsigned integers of the same order (`order_key`), and the k-th largest is found
by a search over those integers, two bits a pass: each pass counts in one read of memory how many
scores reach each of three thresholds, and the search ends as soon as a count is exact. Equal scores
at the cut, where some are kept and some dropped, are told apart by going on in the same way over
their positions. All arrays share one loop, and what crosses devices is the counts.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

# Bits found by a pass. With three thresholds a CPU counts while it waits for memory; with more it
# takes fewer passes but no less time, and with one XLA makes a slower program (see `_count`).
_BITS = 2

# Bits still to find; key of the cut, once it is found; what is found so far, of the key or then of
# the rank; how many scores reach that.
_State = tuple[jax.Array, jax.Array, jax.Array, jax.Array]


def order_key(scores: jax.Array) -> jax.Array:
    """Maps scores to unsigned integers of the same order.

    Works on the bits, so that denormals stay distinct where arithmetic flushes them to zero.

    Args:
      scores: Array of any shape; floating, integer or boolean.

    Returns:
      Unsigned integers of the same shape, as wide as the scores (16 bits for 8-bit floats). NaN of
      either sign is 0, below -inf; -0.0 and +0.0 are equal.

    Raises:
      TypeError: if the scores have no order, such as complex numbers.

    Examples:
      >>> order_key(jnp.array([jnp.nan, -jnp.inf, -0.0, 0.0, 1.0], jnp.bfloat16))
      Array([    0,   128, 32768, 32768, 49024], dtype=uint16)
    """
    scores = jnp.asarray(scores)
    kind, width = scores.dtype, 8 * scores.dtype.itemsize
    if jnp.issubdtype(kind, jnp.unsignedinteger):
        return scores
    if kind == jnp.bool_:
        return scores.astype(jnp.uint8)
    if jnp.issubdtype(kind, jnp.floating):
        if width == 8:
            return order_key(scores.astype(jnp.bfloat16))
    elif not jnp.issubdtype(kind, jnp.signedinteger):
        raise TypeError(f"scores must be real numbers, found {kind}")
    unsigned = jnp.dtype(f"uint{width}")
    bits = lax.bitcast_convert_type(scores, unsigned)
    sign = jnp.full_like(bits, 1 << (width - 1))
    if jnp.issubdtype(kind, jnp.signedinteger):
        return bits ^ sign
    key = lax.select(bits < sign, bits + sign, -bits)
    return lax.select(jnp.isnan(scores), jnp.zeros_like(key), key)


def top_masks(scores: Sequence[jax.Array], counts: Sequence[int | jax.Array]) -> list[jax.Array]:
    """Masks of the `counts[i]` largest scores of each array on its own.

    Among equal scores the lower row-major index is kept. NaN is dropped first, then -inf.

    Args:
      scores: Arrays of any shapes and real dtypes. An array of 2³² - 1 elements or more needs
        64-bit types enabled in JAX.
      counts: For each array how many to keep, clipped to [0, size]; integers or integer scalars.

    Returns:
      For each array a uint8 mask of its shape and sharding, with exactly `counts[i]` ones.

    Examples:
      >>> masks = top_masks([jnp.array([1.0, 3.0, 2.0]), jnp.zeros((2, 2))], [1, 3])
      >>> [mask.tolist() for mask in masks]
      [[0, 1, 0], [[1, 1], [1, 0]]]
    """
    arrays = [jnp.asarray(x) for x in scores]
    if len(counts) != len(arrays):
        raise ValueError(f"each array needs a count, found {len(counts)} for {len(arrays)} arrays")
    return _top_masks(arrays, [_unsigned(count) for count in counts], joint=False)


def top_masks_jointly(scores: Sequence[jax.Array], count: int | jax.Array) -> list[jax.Array]:
    """Masks of the `count` largest scores of all arrays together: one global ranking.

    Among equal scores the earlier array is kept, and within an array the lower row-major index.
    NaN is dropped first, then -inf.

    Args:
      scores: Arrays of any shapes; all floating, or all of one dtype. A total of 2³² - 1 elements
        or more needs 64-bit types enabled in JAX. (Beside a float64 array, denormals of float32
        may rank as zeros: the conversion flushes them.)
      count: How many to keep, clipped to [0, total size]; an integer or an integer scalar.

    Returns:
      For each array a uint8 mask of its shape and sharding; with exactly `count` ones altogether.

    Examples:
      >>> masks = top_masks_jointly([jnp.array([1.0, 5.0, 2.0]), jnp.array([4.0, 3.0])], 3)
      >>> [mask.tolist() for mask in masks]
      [[0, 1, 0], [1, 1]]
    """
    arrays = [jnp.asarray(x) for x in scores]
    return _top_masks(arrays, [_unsigned(count)], joint=True)


def top_mask(scores: jax.Array, count: int | jax.Array) -> jax.Array:
    """Mask of the `count` largest scores of one array; see `top_masks`.

    Examples:
      >>> top_mask(jnp.array([[1.0, jnp.nan], [3.0, 1.0]]), 2).tolist()
      [[1, 0], [1, 0]]
    """
    return top_masks([scores], [count])[0]


def _unsigned(count: int | jax.Array) -> np.ndarray | jax.Array:
    """A count as a scalar of the widest unsigned type enabled, with nothing below zero."""
    widest = jax.dtypes.canonicalize_dtype(np.uint64)
    if isinstance(count, int | np.integer):
        return np.array(min(max(int(count), 0), jnp.iinfo(widest).max), widest)
    if not jnp.issubdtype(jnp.result_type(count), jnp.integer):
        raise TypeError(f"a count must be an integer, found {jnp.result_type(count)}")
    return jnp.maximum(count, 0).astype(widest)


@functools.partial(jax.jit, static_argnames="joint")
def _top_masks(scores: list[jax.Array], counts: list[jax.Array], joint: bool) -> list[jax.Array]:
    arrays = [lax.stop_gradient(x) for x in scores if x.size]
    if not arrays:
        return [jnp.zeros(x.shape, jnp.uint8) for x in scores]
    if not joint:
        counts = [count for x, count in zip(scores, counts, strict=True) if x.size]
    masks = iter(_search(arrays, jnp.stack(counts), joint))
    return [next(masks) if x.size else jnp.zeros(x.shape, jnp.uint8) for x in scores]


def _search(scores: list[jax.Array], counts: jax.Array, joint: bool) -> list[jax.Array]:
    """Searches the cut between kept and dropped scores, one for all arrays or one for each.

    First comes the key of the last kept score; if that leaves a choice among equal keys, then the
    rank of the last one kept of them. Ranks fall along an array, and from array to array.
    """
    sizes = [x.size for x in scores]
    ranks = [sum(sizes[i:]) for i in range(len(sizes))] if joint else sizes
    kinds = [_common_dtype(scores)] * len(scores) if joint else [x.dtype for x in scores]
    width = max(_key_width(kind) for kind in kinds)
    word = _word(width, max(ranks))
    rank_bits = -(-(max(ranks) + 1).bit_length() // _BITS) * _BITS
    first = np.array(ranks, word)
    totals = first[: len(counts)]
    wanted = jnp.minimum(counts, totals).astype(word)
    tags = [np.array([i, ~i]).astype(np.uint32) for i in range(len(scores))]

    def on_each(function: Callable, ranking: jax.Array, *columns: jax.Array) -> list[jax.Array]:
        rows = [jnp.broadcast_to(c, (len(scores),)) for c in (first, word.type(0), *columns)]
        table = jnp.stack(rows, axis=1)
        # Hidden from the compiler: what does not depend on the pass, which it would compute once
        # and store; and the numbers of the arrays, so that equal shapes share compiled code.
        hidden = lax.optimization_barrier((tags, scores, ranking, table))
        return [function(k, t, x, *hidden[2:]) for k, t, x in zip(kinds, *hidden[:2], strict=True)]

    def unfinished(state: _State) -> jax.Array:
        shift, _, _, reached = state
        return (shift >= 0) & jnp.any(reached != wanted)

    def refine(state: _State) -> _State:
        shift, cut, low, reached = state
        ranking, turning = shift < rank_bits, shift == rank_bits - _BITS
        cut, low = jnp.where(turning, low, cut), jnp.where(turning, 0, low)
        step = word.type(1) << jnp.where(ranking, shift, shift - rank_bits).astype(word)
        trials = [low + step * word.type(i) for i in range(1, 1 << _BITS)]
        found = jnp.stack(on_each(_count, ranking, cut, *trials))
        found = found.sum(0, keepdims=True, dtype=word) if joint else found
        enough = found >= wanted[:, None]
        low += step * enough.sum(1, dtype=word)
        reached = jnp.where(enough, found, reached[:, None]).min(1)
        return shift - _BITS, cut, low, reached

    # Inside of `shard_map` the state varies over the devices, as the scores do.
    zero = functools.reduce(lax.add, [lax.full_like(x, 0, word, ()) for x in scores])
    shift = 8 * width + rank_bits - _BITS + zero.astype(jnp.int32)
    state = shift, zero * totals, zero * totals, zero + totals
    shift, cut, low, _ = lax.while_loop(unfinished, refine, state)
    ranking = shift < rank_bits - _BITS
    return on_each(_keep, ranking, cut, jnp.maximum(low, ranking.astype(word)))


def _key_width(kind: np.dtype) -> int:
    return jax.eval_shape(order_key, jax.ShapeDtypeStruct((), kind)).dtype.itemsize


def _common_dtype(scores: Sequence[jax.Array]) -> np.dtype:
    kinds = {x.dtype for x in scores}
    if len(kinds) > 1 and not all(jnp.issubdtype(kind, jnp.floating) for kind in kinds):
        raise TypeError(
            f"one ranking needs floats or a single dtype, found {sorted(map(str, kinds))}"
        )
    return jnp.result_type(*kinds)


def _word(width: int, size: int) -> np.dtype:
    """The unsigned type of keys of so many bytes that can also count to `size`."""
    if width < 8 and size < 2**32 - 1:
        return np.dtype(np.uint32)
    if jax.dtypes.canonicalize_dtype(np.uint64).itemsize < 8:
        raise ValueError(f"ranking {size} scores needs jax_enable_x64")
    return np.dtype(np.uint64)


def _values(
    kind: np.dtype, tag: jax.Array, scores: jax.Array, ranking: jax.Array, table: jax.Array
) -> list[jax.Array]:
    """What a pass compares of an array, and the thresholds to compare it with.

    These are its keys; or, when ranking, a value above all for keys above the cut, the rank for
    keys at the cut, and 0 for those below.
    """
    row = lax.dynamic_index_in_dim(table, tag[0], keepdims=False)
    first, origin, cut, *thresholds = (row[i] for i in range(len(row)))
    key = order_key(scores.astype(kind)).astype(table.dtype)
    index = lax.full_like(key, origin)
    for axis, length in enumerate(scores.shape):
        if length > 1:
            position = lax.broadcasted_iota(table.dtype, scores.shape, axis)
            index = index * table.dtype.type(length) + position
    above = -(key > cut).astype(table.dtype)
    rank = lax.select(key == cut, first - index, above)
    return [lax.select(ranking, rank, key), *thresholds]


@functools.partial(jax.jit, static_argnums=0)
def _count(*leaf: Any) -> jax.Array:
    """Counts the values that reach each threshold, in one read."""
    values, *thresholds = _values(*leaf)
    reached = [values >= threshold for threshold in thresholds]
    # On a CPU one reduction of several operands is one vectorised loop, while a plain sum is cut up
    # and first stores what it sums. On a mesh, though, XLA gathers the former's partial results.
    if jax.device_count() > 1:
        return jnp.stack([jnp.sum(r, dtype=values.dtype) for r in reached])
    zeros = (values.dtype.type(0),) * len(reached)
    operands = tuple(r.astype(values.dtype) for r in reached)
    counts = lax.reduce(operands, zeros, lambda a, b: tuple(map(lax.add, a, b)), range(values.ndim))
    return jnp.stack(counts)


@functools.partial(jax.jit, static_argnums=0)
def _keep(*leaf: Any) -> jax.Array:
    values, threshold = _values(*leaf)
    return (values >= threshold).astype(jnp.uint8)
