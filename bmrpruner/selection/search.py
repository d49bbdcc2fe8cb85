"""The search for the last score that is kept, for one ranking or for many at once.

Scores are ranked by their key (`keys.py`), and equal keys by their place in the array: the first
of n scores has the place n, the next one n - 1, and the last one 1. The cut is the key and the
place of the last score that is kept. It is found from the highest bit to the lowest, first the
key, then the place; a pass counts how many scores reach each of three thresholds, which fixes two
bits. The search ends as soon as every ranking keeps as many scores as it should.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

# Bits found by a pass. With 4, which compares with 15 thresholds, a run takes 1.9 times as long and
# compilation 1.5 times; with 1, a run 4.4 times (measured as in `batching.py`).
BITS = 2


class Cut(NamedTuple):
    """The last score kept by each ranking."""

    key: jax.Array  # (rankings,) unsigned
    place: jax.Array  # (rankings,) unsigned; 0 where all scores with the key are kept


class _State(NamedTuple):
    shift: jax.Array  # () int32: the lowest bit that the next pass finds, of (key, place)
    cut: Cut  # with zeros in all bits not found yet
    reached: jax.Array  # (rankings,) unsigned: how many scores reach the cut


Count = Callable[[jax.Array, jax.Array, list[jax.Array]], jax.Array]


def find_cut(
    count: Count, wanted: jax.Array, totals: np.ndarray, key_bits: int, zero: jax.Array
) -> Cut:
    """Finds for each ranking the cut that `wanted` scores reach.

    Args:
      count: `count(placing, key, thresholds)` gives for each ranking and threshold the number of
        scores whose `standing` reaches it: (rankings, thresholds).
      wanted: How many scores to keep, between 0 and the total: (rankings,), unsigned.
      totals: How many scores there are; constants of the same shape and dtype.
      key_bits: Width of the keys.
      zero: A scalar 0 of that dtype, which inside of `shard_map` varies over the same axes as the
        result of `count`, as the state of a loop has to from the start.
    """
    word = wanted.dtype
    # One more than the total has to fit, as a place that no score reaches.
    place_bits = _whole_passes((int(totals.max()) + 1).bit_length())
    first_shift = _whole_passes(key_bits) + place_bits - BITS

    def unfinished(state: _State) -> jax.Array:
        return (state.shift >= 0) & jnp.any(state.reached != wanted)

    def refine(state: _State) -> _State:
        shift, (key, place), reached = state
        placing = shift < place_bits
        step = word.type(1) << jnp.where(placing, shift, shift - place_bits).astype(word)
        low = jnp.where(placing, place, key)
        found = count(placing, key, [low + step * word.type(i) for i in range(1, 1 << BITS)])
        enough = found >= wanted[:, None]
        low += step * enough.sum(1, dtype=word)
        reached = jnp.where(enough, found, reached[:, None]).min(1)
        cut = Cut(jnp.where(placing, key, low), jnp.where(placing, low, place))
        return _State(shift - BITS, cut, reached)

    none = zero * totals
    start = _State(zero.astype(jnp.int32) + first_shift, Cut(none, none), none + totals)
    return lax.while_loop(unfinished, refine, start).cut


def standing(placing: jax.Array, key: jax.Array, place: jax.Array, cut_key: jax.Array) -> jax.Array:
    """What a pass compares with its thresholds: the keys, or then the places at the cut's key.

    When placing, all that is above the cut's key reaches every threshold, and what is below none.
    All arguments but the scalar `placing` have the shape and dtype of the result.
    """
    highest = lax.full_like(key, jnp.iinfo(key.dtype).max)
    above = lax.select(key > cut_key, highest, lax.full_like(key, 0))
    return lax.select(placing, lax.select(key == cut_key, place, above), key)


def is_kept(key: jax.Array, place: jax.Array, cut: Cut) -> jax.Array:
    """Whether scores reach the cut; all of one shape and dtype."""
    return lax.select(key == cut.key, place >= cut.place, key > cut.key)


def _whole_passes(bits: int) -> int:
    return -(-bits // BITS) * BITS
