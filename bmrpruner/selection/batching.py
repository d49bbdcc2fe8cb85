"""One pass over many arrays, such that XLA compiles little and stores nothing of their size.

The functions that read an array are the same for all arrays. What differs from array to array is a
row of a table (thresholds, cuts, first places), which the function looks up at run time, so that
arrays of equal shape share compiled code. Small arrays of equal size are stacked as well.

Comments say what would grow without each measure, on two CPU cores: the time of a run on 10⁷ scores
in one array, and of the compilation of `top_masks` for 161 arrays. `python benchmarks/speed.py
--sizes 10000000` prints both.
"""

import functools
import math
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import AxisType

from bmrpruner._masks import MASK_DTYPE
from bmrpruner.selection.keys import order_key
from bmrpruner.selection.search import Cut, is_kept, standing

# Largest array that is stacked with others of its size and dtype, which copies it. Without stacks:
# compilation 1.2 times, a run on 161 arrays 1.3 times.
_SMALL = 1 << 12


class Batches:
    """Arrays, and what is known about each of their scores: the key and the place.

    Attributes:
      scores: The arrays, none of them empty.
      kinds: For each array the dtype in which its scores are compared.
      first: For each array the place of its first score, in the dtype of keys and places.
    """

    def __init__(self, scores: list[jax.Array], kinds: list[np.dtype], first: np.ndarray):
        self.scores, self.kinds, self.first = scores, kinds, first
        groups: dict[Any, list[int]] = {}
        for i, x in enumerate(scores):
            together = x.size <= _SMALL and _on_one_device(x)
            groups.setdefault((x.dtype, x.size) if together else i, []).append(i)
        self._groups = list(groups.values())
        self._stacks = [jnp.concatenate([_row(scores[i]) for i in g]) for g in self._groups]

    def count(self, placing: jax.Array, key: jax.Array, thresholds: list[jax.Array]) -> jax.Array:
        """How many scores of each array reach each threshold: (arrays, thresholds).

        The key of the cut and each threshold are one value for all arrays or one for each.
        """
        order = np.concatenate(self._groups)
        columns: list[Any] = [self.first, key, *thresholds]
        table = [x if len(x) == 1 else x[order] for x in columns]
        sizes = [len(group) for group in self._groups]
        rows, stacks, table = _hidden(np.cumsum([0, *sizes])[:-1], self._stacks, table)
        found = [
            _count(self.kinds[group[0]], row, stack, placing, *table)
            for group, row, stack in zip(self._groups, rows, stacks, strict=True)
        ]
        return jnp.concatenate(found)[np.argsort(order)]

    def masks(self, cut: Cut) -> list[jax.Array]:
        """For each array a mask of the scores that reach the cut: one, or one for each array."""
        rows, table = _hidden(range(len(self.scores)), [self.first, *cut])
        return [
            _keep(kind, row, x, *table)
            for kind, row, x in zip(self.kinds, rows, self.scores, strict=True)
        ]


def _on_one_device(x: jax.Array) -> bool:
    """Whether the array is all on one device, by its type too, so that it may be reshaped."""
    explicit = AxisType.Explicit in jax.typeof(x).sharding.mesh.axis_types
    return jax.device_count() == 1 and not explicit


def _row(x: jax.Array) -> jax.Array:
    """The array as the only one of a stack; sharded axes stay."""
    return x.reshape(1, -1) if _on_one_device(x) else x[None]


def _hidden(rows: Iterable[int], *trees: Any) -> Any:
    """Row numbers and trees of arrays, of which the compiler can compute nothing in advance.

    Without this XLA would compute keys and places once and store them, 8 bytes a score, and a run
    would take 2.0 times as long. It would also make each row number part of the code: compilation
    2.4 times. It sees through the barrier for single numbers, but not for vectors of two.
    """
    tags = [np.array([row, ~row]).astype(np.uint32) for row in rows]
    return lax.optimization_barrier((tags, *trees))


# JAX traces `_count` and `_keep` once for each shape. Without jit: compilation 1.2 times.
@functools.partial(jax.jit, static_argnums=0)
def _count(
    kind: np.dtype, row: jax.Array, scores: jax.Array, placing: jax.Array, *table: jax.Array
) -> jax.Array:
    """How many scores of each array in a stack reach each threshold, in one read."""
    first, cut_key, *thresholds = _looked_up(row, scores, table)
    key, place = _key_and_place(kind, scores, first)
    standings = standing(placing, key, place, cut_key)
    reaches = tuple((standings >= threshold).astype(key.dtype) for threshold in thresholds)
    axes = tuple(range(1, scores.ndim))
    if _on_one_device(scores):
        # On a CPU one reduction of several operands is one loop that stores nothing, while XLA
        # stores what a plain sum adds up: 12 bytes a score, a run 7.6 times.
        zeros = (key.dtype.type(0),) * len(reaches)
        found = lax.reduce(reaches, zeros, lambda a, b: tuple(map(lax.add, a, b)), axes)
    else:
        # On a mesh XLA would gather the partial results of such a reduction on every device.
        found = [jnp.sum(each, axes, dtype=key.dtype) for each in reaches]
    return jnp.stack(found, axis=1)


@functools.partial(jax.jit, static_argnums=0)
def _keep(kind: np.dtype, row: jax.Array, scores: jax.Array, *table: jax.Array) -> jax.Array:
    """Mask of the scores of one array that reach the cut."""
    stack = _row(scores)
    first, *cut = _looked_up(row, stack, table)
    key, place = _key_and_place(kind, stack, first)
    return is_kept(key, place, Cut(*cut)).astype(MASK_DTYPE).reshape(scores.shape)


def _looked_up(row: jax.Array, scores: jax.Array, table: tuple[jax.Array, ...]) -> list[jax.Array]:
    """Of each column the values of the arrays in a stack, in the shape of the stack."""
    at = lax.index_in_dim(row, 0, keepdims=False)
    values = [x if len(x) == 1 else lax.dynamic_slice(x, (at,), (len(scores),)) for x in table]
    return [lax.broadcast_in_dim(value, scores.shape, (0,)) for value in values]


def _key_and_place(
    kind: np.dtype, scores: jax.Array, first: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Keys of the scores in a stack; places, which fall by one from score to score."""
    key = order_key(scores.astype(kind)).astype(first.dtype)
    place = lax.full_like(key, 0) + first  # sharded as the scores are
    for axis, length in enumerate(scores.shape[1:], start=1):
        if length > 1:
            index = lax.broadcasted_iota(place.dtype, scores.shape, axis)
            place -= index * place.dtype.type(math.prod(scores.shape[axis + 1 :]))
    return key, place
