"""The public functions: masks of the largest scores."""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from bmrpruner._masks import MASK_DTYPE
from bmrpruner.selection.batching import Batches
from bmrpruner.selection.keys import common_dtype, key_bits, word_dtype
from bmrpruner.selection.search import find_cut


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

    Raises:
      TypeError: If scores have no order, or counts are not integers.
      ValueError: If there is not one count for each array, or one has the wrong shape, or an array
        is too large without 64-bit types.

    Example:
      >>> masks = top_masks([jnp.array([1.0, 3.0, 2.0]), jnp.zeros((2, 2))], [1, 3])
      >>> [mask.tolist() for mask in masks]
      [[0, 1, 0], [[1, 1], [1, 0]]]
    """
    arrays = [jnp.asarray(x) for x in scores]
    if isinstance(counts, jax.Array):
        return _top_masks(arrays, [_unsigned("counts", counts, (len(arrays),))], joint=False)
    if len(counts) != len(arrays):
        raise ValueError(f"counts: expected {len(arrays)}, one for each array, got {len(counts)}")
    return _top_masks(arrays, [_unsigned("counts", count) for count in counts], joint=False)


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

    Raises:
      TypeError: If scores have no common order, or the count is not an integer.
      ValueError: If the count is not a scalar, or the total is too large without 64-bit types.

    Example:
      >>> masks = top_masks_jointly([jnp.array([1.0, 5.0, 2.0]), jnp.array([4.0, 3.0])], 3)
      >>> [mask.tolist() for mask in masks]
      [[0, 1, 0], [1, 1]]
    """
    arrays = [jnp.asarray(x) for x in scores]
    return _top_masks(arrays, [_unsigned("count", count)], joint=True)


def top_mask(scores: jax.Array, count: int | jax.Array) -> jax.Array:
    """Mask of the `count` largest scores of one array; see `top_masks`.

    Example:
      >>> top_mask(jnp.array([[1.0, jnp.nan], [3.0, 1.0]]), 2).tolist()
      [[1, 0], [1, 0]]
    """
    return top_masks([scores], [count])[0]


def _unsigned(
    name: str, count: int | jax.Array, shape: tuple[int, ...] = ()
) -> np.ndarray | jax.Array:
    """Counts in the widest unsigned type enabled, with nothing below zero."""
    widest = jax.dtypes.canonicalize_dtype(np.uint64)
    if isinstance(count, int | np.integer):
        return np.array(min(max(int(count), 0), jnp.iinfo(widest).max), widest)
    if not jnp.issubdtype(jnp.result_type(count), jnp.integer):
        raise TypeError(f"{name}: expected integers, got {jnp.result_type(count)}")
    if jnp.shape(count) != shape:
        raise ValueError(f"{name}: expected the shape {shape}, got {jnp.shape(count)}")
    return jnp.maximum(count, 0).astype(widest)


@functools.partial(jax.jit, static_argnames="joint")
def _top_masks(scores: list[jax.Array], counts: list[jax.Array], joint: bool) -> list[jax.Array]:
    chosen = [i for i, x in enumerate(scores) if x.size]
    masks = [jnp.zeros(x.shape, MASK_DTYPE) for x in scores]
    if chosen:
        arrays = [lax.stop_gradient(scores[i]) for i in chosen]
        wanted = jnp.concatenate([jnp.atleast_1d(count) for count in counts])
        found = _masks(arrays, wanted if joint else wanted[np.array(chosen)], joint)
        for i, mask in zip(chosen, found, strict=True):
            masks[i] = mask
    return masks


def _masks(scores: list[jax.Array], counts: jax.Array, joint: bool) -> list[jax.Array]:
    """Masks of arrays that are not empty, of one ranking or of one for each array."""
    sizes = np.array([x.size for x in scores])
    kinds = [common_dtype(scores)] * len(scores) if joint else [x.dtype for x in scores]
    # Places fall from array to array as well, where all are ranked together.
    first = np.cumsum(sizes[::-1])[::-1] if joint else sizes
    bits = max(map(key_bits, kinds))
    word = word_dtype(bits, int(first.max()))
    first = first.astype(word)
    totals = first[:1] if joint else first
    wanted = jnp.minimum(counts, totals.astype(counts.dtype)).astype(word)
    batches = Batches(scores, kinds, first)

    def count(placing: jax.Array, key: jax.Array, thresholds: list[jax.Array]) -> jax.Array:
        found = batches.count(placing, key, thresholds)
        return found.sum(0, keepdims=True, dtype=word) if joint else found

    zeros = [lax.full_like(x, 0, word, ()) for x in [*scores, counts]]
    return batches.masks(find_cut(count, wanted, totals, bits, functools.reduce(lax.add, zeros)))
