"""Exact top-k masks of one array or of a whole tree, without sorting and without copying it.

Scores are read as unsigned integers of the same order (`order_key`), and the k-th largest is found
by a search over those integers, two bits a pass: each pass counts in one read of memory how many
scores reach each of three thresholds, and the search ends as soon as a count is exact. Equal scores
at the cut, where some are kept and some dropped, are told apart by going on in the same way over
their positions. All arrays share one loop, and what crosses devices is the counts. Only small
arrays are copied, into the rows of one, as each array costs time to compile.
"""

import functools
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import AxisType

from bmrpruner._masks import MASK_DTYPE

# Bits found by a pass, a divisor of 8. With three thresholds a CPU counts while it waits for
# memory; with more it takes fewer passes but no less time, and with one XLA makes a slower program
# (see `_count`).
_BITS = 2

# Largest array to be worked on together with others.
_SMALL = 1 << 12


class _State(NamedTuple):
    """Where a search stands; of each cut, `reached >= wanted > above` unless nothing is wanted."""

    shift: jax.Array  # of the bits that the next pass finds: of the key, then of the rank
    cut: jax.Array  # the key of the cut, once it is found
    low: jax.Array  # what is found so far, of the key or then of the rank
    reached: jax.Array  # how many scores reach that
    above: jax.Array  # how many have keys known to be above the cut's


def order_key(scores: jax.Array) -> jax.Array:
    """Maps scores to unsigned integers of the same order.

    Works on the bits, so that denormals stay distinct where arithmetic flushes them to zero.

    Args:
      scores: Array of any shape; floating, integer or boolean.

    Returns:
      Unsigned integers of the same shape, as wide as the scores (16 bits for 8-bit floats). NaN of
      either sign is 0, below -inf; -0.0 and +0.0 are equal.

    Raises:
      TypeError: if the scores have no order, such as complex numbers, or are of less than 8 bits.

    Examples:
      >>> order_key(jnp.array([jnp.nan, -jnp.inf, -0.0, 0.0, 1.0], jnp.bfloat16))
      Array([    0,   128, 32768, 32768, 49024], dtype=uint16)
    """
    scores = jnp.asarray(scores)
    kind, width = scores.dtype, 8 * scores.dtype.itemsize
    if kind != jnp.bool_ and not _is_real(kind):
        raise TypeError(f"scores must be real numbers of 8 bits or more, found {kind}")
    if jnp.issubdtype(kind, jnp.unsignedinteger):
        return scores
    if kind == jnp.bool_:
        return scores.astype(jnp.uint8)
    if jnp.issubdtype(kind, jnp.floating) and width == 8:
        return order_key(scores.astype(jnp.bfloat16))
    unsigned = jnp.dtype(f"uint{width}")
    bits = lax.bitcast_convert_type(scores, unsigned)
    sign = jnp.full_like(bits, 1 << (width - 1))
    if jnp.issubdtype(kind, jnp.signedinteger):
        return bits ^ sign
    key = lax.select(bits < sign, bits + sign, -bits)
    return lax.select(jnp.isnan(scores), jnp.zeros_like(key), key)


def _is_real(kind: np.dtype) -> bool:
    if jnp.issubdtype(kind, jnp.floating):
        return jnp.finfo(kind).bits >= 8
    return jnp.issubdtype(kind, jnp.integer) and jnp.iinfo(kind).bits >= 8


def top_masks(
    scores: Sequence[jax.Array], counts: Sequence[int | jax.Array] | jax.Array
) -> list[jax.Array]:
    """Masks of the `counts[i]` largest scores of each array on its own.

    Among equal scores the lower row-major index is kept. NaN is dropped first, then -inf.

    Args:
      scores: Arrays of any shapes and real dtypes. An array of 2³² - 1 elements or more needs
        64-bit types enabled in JAX.
      counts: For each array how many to keep, clipped to [0, size]: integers or integer scalars,
        or a vector of integers.

    Returns:
      For each array a uint8 mask of its shape and sharding, with exactly `counts[i]` ones. Inside
      of `shard_map` all masks vary over the axes that any of the scores or counts varies over.

    Examples:
      >>> masks = top_masks([jnp.array([1.0, 3.0, 2.0]), jnp.zeros((2, 2))], [1, 3])
      >>> [mask.tolist() for mask in masks]
      [[0, 1, 0], [[1, 1], [1, 0]]]
    """
    arrays = [jnp.asarray(x) for x in scores]
    if isinstance(counts, jax.Array):
        return _top_masks(arrays, [_unsigned(counts, (len(arrays),))], joint=False)
    if len(counts) != len(arrays):
        raise ValueError(f"each array needs a count, found {len(counts)} for {len(arrays)} arrays")
    return _top_masks(arrays, [_unsigned(count) for count in counts], joint=False)


def top_masks_jointly(scores: Sequence[jax.Array], count: int | jax.Array) -> list[jax.Array]:
    """Masks of the `count` largest scores of all arrays together: one global ranking.

    Among equal scores the earlier array is kept, and within an array the lower row-major index.
    NaN is dropped first, then -inf.

    Args:
      scores: Arrays of any shapes; all of one dtype, or floating ones that JAX promotes to a
        common one, so that 8-bit floats do not mix with others. A total of 2³² - 1 elements
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


def _unsigned(count: int | jax.Array, shape: tuple[int, ...] = ()) -> np.ndarray | jax.Array:
    """Counts in the widest unsigned type enabled, with nothing below zero."""
    widest = jax.dtypes.canonicalize_dtype(np.uint64)
    if isinstance(count, int | np.integer):
        return np.array(min(max(int(count), 0), jnp.iinfo(widest).max), widest)
    if not jnp.issubdtype(jnp.result_type(count), jnp.integer):
        raise TypeError(f"a count must be an integer, found {jnp.result_type(count)}")
    if jnp.shape(count) != shape:
        raise ValueError(f"counts: expected the shape {shape}, found {jnp.shape(count)}")
    return jnp.maximum(count, 0).astype(widest)


@functools.partial(jax.jit, static_argnames="joint")
def _top_masks(scores: list[jax.Array], counts: list[jax.Array], joint: bool) -> list[jax.Array]:
    chosen = [i for i, x in enumerate(scores) if x.size]
    masks: dict[int, jax.Array] = {}
    if chosen:
        arrays = [lax.stop_gradient(scores[i]) for i in chosen]
        wanted = concatenate(counts)
        wanted = wanted if joint else wanted[np.array(chosen)]
        masks = dict(zip(chosen, _search(arrays, wanted, joint), strict=True))
    return [masks[i] if x.size else jnp.zeros(x.shape, MASK_DTYPE) for i, x in enumerate(scores)]


def _search(scores: list[jax.Array], counts: jax.Array, joint: bool) -> list[jax.Array]:
    """Searches the cut between kept and dropped scores, one for all arrays or one for each.

    First comes the key of the last kept score; if that leaves a choice among equal keys, then the
    rank of the last one kept of them. Ranks fall along an array, and from array to array.
    """
    sizes = [x.size for x in scores]
    ranks = [sum(sizes[i:]) for i in range(len(sizes))] if joint else sizes
    kinds = {x.dtype: _common_dtype(scores) if joint else x.dtype for x in scores}
    width = max(map(_key_width, kinds.values()))
    word = _word(width, max(ranks))
    highest = word.type(jnp.iinfo(word).max)
    rank_bits = -(-(max(ranks) + 1).bit_length() // _BITS) * _BITS
    batches = _batches(scores)
    order = np.concatenate(batches)
    stacks = [_stacked([scores[i] for i in batch]) for batch in batches]
    tags = _tags(np.cumsum([0, *map(len, batches)])[:-1])
    first, length = np.array(ranks, word)[order], np.array(sizes, word)[order]
    totals = np.array(ranks[:1], word) if joint else first
    counts = counts if joint else counts[order]
    wanted = jnp.minimum(counts, totals.astype(counts.dtype)).astype(word)

    def on_each(function: Callable, flag: jax.Array, *columns: jax.Array) -> list:
        """The function of each batch, the flag and the batch's rows of the columns."""
        table = jnp.stack([jnp.broadcast_to(column, first.shape) for column in columns], axis=1)
        # Hidden from the compiler: what does not depend on the pass, which it would compute once
        # and store; and where in the table a batch is, so that equal shapes share compiled code.
        hidden = lax.optimization_barrier((tags, stacks, flag, table, length, word.type(0)))
        hidden_tags, hidden_stacks, *common = hidden
        batched = zip(hidden_tags, hidden_stacks, strict=True)
        return [function(kinds[x.dtype], tag, x, *common) for tag, x in batched]

    def level(rank: jax.Array) -> jax.Array:
        """The place of a rank in each array; above all places where there is none so high."""
        return jnp.where(rank > first, highest, highest - 1 - (first - rank))

    def unfinished(state: _State) -> jax.Array:
        return (state.shift >= 0) & jnp.any(state.reached != wanted)

    def refine(state: _State) -> _State:
        shift, cut, low, reached, above = state
        ranking, turning = shift < rank_bits, shift == rank_bits - _BITS
        cut, low = jnp.where(turning, low, cut), jnp.where(turning, 0, low)
        step = word.type(1) << jnp.where(ranking, shift, shift - rank_bits).astype(word)
        trials = [low + step * word.type(i) for i in range(1, 1 << _BITS)]
        thresholds = [jnp.where(ranking, level(trial), trial) for trial in trials]
        counted = zip(*on_each(_count, ranking, cut, *thresholds), strict=True)
        found = jnp.stack([concatenate(c) for c in counted], axis=1)
        found = found.sum(0, keepdims=True, dtype=word) if joint else found
        # Ranks are counted at the cut alone, so that what is above it has to be added.
        found += jnp.where(ranking, above, 0)[:, None]
        enough = found >= wanted[:, None]
        low += step * enough.sum(1, dtype=word)
        reached = jnp.where(enough, found, reached[:, None]).min(1)
        # The lowest key known to be too high ends as the one next to the cut.
        short = jnp.where(enough, above[:, None], found).max(1)
        return _State(shift - _BITS, cut, low, reached, jnp.where(ranking, above, short))

    # Inside of `shard_map` the state varies over the devices, as scores and counts do.
    zero = functools.reduce(lax.add, [lax.full_like(x, 0, word, ()) for x in [*scores, counts]])
    start = 8 * width + rank_bits - _BITS
    none = zero * totals
    state = _State(start + zero.astype(jnp.int32), none, none, none + totals, none)
    shift, cut, low, *_ = lax.while_loop(unfinished, refine, state)
    ranking = shift < rank_bits - _BITS
    last_key, last_place = jnp.where(ranking, cut, low), jnp.where(ranking, level(low), 0)
    kept = on_each(_keep, shift <= start, last_key, last_place)
    masks: dict[int, jax.Array] = {}
    for stack, batch in zip(kept, batches, strict=True):
        masks |= zip(batch, _unstacked(stack, [scores[i] for i in batch]), strict=True)
    return [masks[i] for i in range(len(scores))]


def _batches(scores: list[jax.Array]) -> list[list[int]]:
    """Small arrays of one dtype are worked on together, where no layout stands in the way."""
    batches: dict[Any, list[int]] = {}
    for i, x in enumerate(scores):
        together = x.size <= _SMALL and _alone(x)
        batches.setdefault(x.dtype if together else i, []).append(i)
    return list(batches.values())


def _stacked(batch: list[jax.Array]) -> jax.Array:
    """A row for each of several small arrays, filled up with what has the lowest key, zero."""
    if len(batch) == 1:
        return batch[0].reshape(1, -1) if _alone(batch[0]) else batch[0][None]
    width, kind = max(x.size for x in batch), batch[0].dtype
    stack = jnp.full((len(batch), width), _lowest(kind), kind)
    for corner, x in zip(_corners(batch), batch, strict=True):
        stack = lax.dynamic_update_slice(stack, x.reshape(1, -1), corner)
    return stack


def _unstacked(stack: jax.Array, batch: list[jax.Array]) -> list[jax.Array]:
    if len(batch) == 1:
        return [stack[0].reshape(batch[0].shape)]
    corners = zip(_corners(batch), batch, strict=True)
    return [lax.dynamic_slice(stack, at, (1, x.size)).reshape(x.shape) for at, x in corners]


def _corners(batch: list[jax.Array]) -> list[tuple[jax.Array, Any]]:
    """Where the rows of a stack begin; hidden, so that equal shapes share compiled code."""
    tags = lax.optimization_barrier(_tags(range(len(batch))))
    return [(lax.index_in_dim(tag, 0, keepdims=False), np.uint32(0)) for tag in tags]


def _alone(x: jax.Array) -> bool:
    """Whether the array is all on one device, by its type too."""
    explicit = AxisType.Explicit in jax.typeof(x).sharding.mesh.axis_types
    return jax.device_count() == 1 and not explicit


def _lowest(kind: np.dtype) -> Any:
    if jnp.issubdtype(kind, jnp.floating):
        return jnp.nan
    return False if kind == jnp.bool_ else jnp.iinfo(kind).min


def _tags(numbers: Iterable[int]) -> list[np.ndarray]:
    """The numbers in a form that XLA does not see through: it sinks scalars into what uses them."""
    return [np.array([number, ~number]).astype(np.uint32) for number in numbers]


def concatenate(arrays: Sequence[jax.Array]) -> jax.Array:
    """All in one vector, in two stages: XLA takes more than linear time for many operands."""
    vectors = [lax.reshape(x, (1,)) if jnp.ndim(x) == 0 else x for x in arrays]
    width = math.isqrt(len(vectors) - 1) + 1
    parts = [jnp.concatenate(vectors[i : i + width]) for i in range(0, len(vectors), width)]
    return jnp.concatenate(lax.optimization_barrier(parts))


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


def _read(
    kind: np.dtype,
    tag: jax.Array,
    scores: jax.Array,
    table: jax.Array,
    length: jax.Array,
    zero: jax.Array,
) -> tuple[jax.Array, ...]:
    """Keys of a batch of arrays, places, which fall by one from score to score; table columns.

    What fills up a row has the place 0, below all others.
    """

    def rows(column_or_table: jax.Array) -> jax.Array:
        return lax.dynamic_slice_in_dim(column_or_table, tag[0], len(scores))

    columns = [lax.broadcast_in_dim(column, scores.shape, (0,)) for column in rows(table).T]
    key = order_key(scores.astype(kind)).astype(table.dtype)
    index = lax.full_like(key, 0) + zero
    for axis, size in enumerate(scores.shape[1:], start=1):
        if size > 1:
            position = lax.broadcasted_iota(key.dtype, scores.shape, axis)
            index = index * key.dtype.type(size) + position
    place = lax.full_like(key, jnp.iinfo(key.dtype).max - 1) - index
    if len(scores) > 1:
        real = index < lax.broadcast_in_dim(rows(length), scores.shape, (0,))
        place = lax.select(real, place, lax.full_like(place, 0))
    return key, place, *columns


@functools.partial(jax.jit, static_argnums=0)
def _count(
    kind: np.dtype, tag: jax.Array, scores: jax.Array, ranking: jax.Array, *rest: jax.Array
) -> list[jax.Array]:
    """How many scores of each array reach each threshold, in one read.

    What is compared are the keys; or, when ranking, the places of those whose key is at the cut.
    """
    key, place, cut, *thresholds = _read(kind, tag, scores, *rest)
    place = lax.select(key == cut, place, lax.full_like(place, 0))
    values = lax.select(ranking, place, key)
    reaches = [(values >= threshold).astype(key.dtype) for threshold in thresholds]
    axes = tuple(range(1, key.ndim))
    # On a CPU one reduction of several operands is one vectorised loop, while a plain sum is cut up
    # and first stores what it sums. On a mesh, though, XLA gathers the former's partial results.
    if not _alone(scores):
        return [jnp.sum(r, axes, dtype=key.dtype) for r in reaches]
    zeros = (key.dtype.type(0),) * len(reaches)
    return lax.reduce(tuple(reaches), zeros, lambda a, b: tuple(map(lax.add, a, b)), axes)


@functools.partial(jax.jit, static_argnums=0)
def _keep(
    kind: np.dtype, tag: jax.Array, scores: jax.Array, true: jax.Array, *rest: jax.Array
) -> jax.Array:
    """Masks of the scores above the last key kept, and of those at it down to the last place.

    `true` always is, but the compiler cannot know: it would compute the masks of several arrays
    anew for each of them, if they did not come out of a conditional.
    """

    def mask() -> jax.Array:
        key, place, last_key, last_place = _read(kind, tag, scores, *rest)
        keep = lax.select(key == last_key, place >= last_place, key > last_key)
        return keep.astype(MASK_DTYPE)

    if len(scores) == 1:
        return mask()
    return lax.cond(true, mask, lambda: lax.full_like(scores, 0, MASK_DTYPE))
