"""One pass over many arrays, such that XLA compiles little and stores nothing of their size.

Small arrays are stacked, as rows of one array. The function that reads a stack or a large array
looks up at run time what belongs to it, its thresholds for example, in columns that hold a value
for each array. So its code is the same for all arrays of one shape, and XLA compiles it once.

Comments say what would grow without each measure, on two CPU cores: the time of a run on 10⁷ scores
in one array, and of the compilation of `top_masks` for 161 arrays. `python benchmarks/speed.py
--sizes 10000000` prints both.
"""

import functools
import math
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import AxisType

from bmrpruner._masks import MASK_DTYPE
from bmrpruner.selection.keys import order_key
from bmrpruner.selection.search import Cut, is_kept, standing

# Largest array that is stacked with others of its dtype, which copies it. Without stacks:
# compilation 1.4 times, a run on 161 arrays 1.3 times.
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
        self._sizes = np.array([x.size for x in scores], first.dtype)
        groups: dict[Any, list[int]] = {}
        for i, x in enumerate(scores):
            together = x.size <= _SMALL and _on_one_device(x)
            groups.setdefault(x.dtype if together else i, []).append(i)
        self._groups = list(groups.values())
        self._order = np.concatenate(self._groups)
        self._stacks = [_stacked([scores[i] for i in group]) for group in self._groups]

    def count(self, placing: jax.Array, key: jax.Array, thresholds: list[jax.Array]) -> jax.Array:
        """How many scores of each array reach each threshold: (arrays, thresholds).

        The key of the cut and each threshold are one value for all arrays or one for each.
        """
        found = self._on_each(_count, [key, *thresholds], placing)
        return jnp.concatenate(found)[np.argsort(self._order)]

    def masks(self, cut: Cut) -> list[jax.Array]:
        """For each array a mask of the scores that reach the cut: one, or one for each array."""
        masks: dict[int, jax.Array] = {}
        stacks = self._on_each(_keep, list(cut))
        for group, stack in zip(self._groups, stacks, strict=True):
            masks |= zip(group, _unstacked(stack, [self.scores[i] for i in group]), strict=True)
        return [masks[i] for i in range(len(self.scores))]

    def _on_each(self, function: Callable, columns: list[Any], *rest: jax.Array) -> list[Any]:
        """The function of each stack, of the columns in the order of stacks, and of the rest."""
        table = [self.first, self._sizes, *columns]
        table = [x if len(x) == 1 else x[self._order] for x in table]
        starts = np.cumsum([0, *map(len, self._groups)])[:-1]
        starts, stacks, table = _hidden(starts, self._stacks, table)
        kinds = [self.kinds[group[0]] for group in self._groups]
        each = zip(kinds, starts, stacks, strict=True)
        return [function(kind, start, stack, table, *rest) for kind, start, stack in each]


def _stacked(arrays: list[jax.Array]) -> jax.Array:
    """A row for each array, filled up with zeros; of a single one, sharded axes stay."""
    if len(arrays) == 1:
        x = arrays[0]
        return x.reshape(1, -1) if _on_one_device(x) else x[None]
    stack = jnp.zeros((len(arrays), max(x.size for x in arrays)), arrays[0].dtype)
    for corner, x in zip(_corners(len(arrays)), arrays, strict=True):
        stack = lax.dynamic_update_slice(stack, x.reshape(1, -1), corner)
    return stack


def _unstacked(stack: jax.Array, arrays: list[jax.Array]) -> list[jax.Array]:
    """The rows of a stack in the shapes of the arrays that it was made of."""
    if len(arrays) == 1:
        return [stack.reshape(arrays[0].shape)]
    corners = zip(_corners(len(arrays)), arrays, strict=True)
    return [lax.dynamic_slice(stack, at, (1, x.size)).reshape(x.shape) for at, x in corners]


def _corners(rows: int) -> list[tuple[jax.Array, Any]]:
    """Where the rows of a stack begin."""
    (numbers,) = _hidden(range(rows))
    return [(lax.index_in_dim(number, 0, keepdims=False), np.uint32(0)) for number in numbers]


def _on_one_device(x: jax.Array) -> bool:
    """Whether the array is all on one device, by its type too, so that it may be reshaped."""
    explicit = AxisType.Explicit in jax.typeof(x).sharding.mesh.axis_types
    return jax.device_count() == 1 and not explicit


def _hidden(numbers: Iterable[int], *trees: Any) -> Any:
    """Numbers and trees of arrays, of which the compiler can compute nothing in advance.

    Without this XLA would compute keys and places once and store them, 8 bytes a score, and a run
    would take 2.0 times as long. It would also make the numbers part of the code: compilation
    2.8 times. It sees through the barrier for single numbers, but not for vectors of two.
    """
    vectors = [np.array([number, ~number]).astype(np.uint32) for number in numbers]
    return lax.optimization_barrier((vectors, *trees))


# JAX traces `_count` and `_keep` once for each shape. Without jit: compilation 1.1 times.
@functools.partial(jax.jit, static_argnums=0)
def _count(
    kind: np.dtype, start: jax.Array, stack: jax.Array, table: list[jax.Array], placing: jax.Array
) -> jax.Array:
    """How many scores of each array in a stack reach each threshold, in one read."""
    key, place, cut_key, *thresholds = _read(kind, start, stack, table)
    standings = standing(placing, key, place, cut_key)
    reaches = tuple((standings >= threshold).astype(key.dtype) for threshold in thresholds)
    axes = tuple(range(1, stack.ndim))
    if _on_one_device(stack):
        # On a CPU one reduction of several operands is one loop that stores nothing, while XLA
        # stores what a plain sum adds up: 12 bytes a score, a run 7.6 times.
        zeros = (key.dtype.type(0),) * len(reaches)
        found = lax.reduce(reaches, zeros, lambda a, b: tuple(map(lax.add, a, b)), axes)
    else:
        # On a mesh XLA would gather the partial results of such a reduction on every device.
        found = [jnp.sum(each, axes, dtype=key.dtype) for each in reaches]
    return jnp.stack(found, axis=1)


@functools.partial(jax.jit, static_argnums=0)
def _keep(kind: np.dtype, start: jax.Array, stack: jax.Array, table: list[jax.Array]) -> jax.Array:
    """Masks of the scores in a stack that reach the cut."""
    key, place, *cut = _read(kind, start, stack, table)
    return is_kept(key, place, Cut(*cut)).astype(MASK_DTYPE)


def _read(
    kind: np.dtype, start: jax.Array, stack: jax.Array, table: list[jax.Array]
) -> list[jax.Array]:
    """Keys, places and the columns of the table, all in the shape of the stack.

    Places fall by one from score to score. What fills up a row has the key 0 and the place 0, and
    so is below every threshold.
    """
    at = lax.index_in_dim(start, 0, keepdims=False)
    rows = [x if len(x) == 1 else lax.dynamic_slice(x, (at,), (len(stack),)) for x in table]
    first, size, *columns = [lax.broadcast_in_dim(row, stack.shape, (0,)) for row in rows]
    key = order_key(stack.astype(kind)).astype(first.dtype)
    zero = index = lax.full_like(key, 0)
    for axis, length in enumerate(stack.shape[1:], start=1):
        if length > 1:
            position = lax.broadcasted_iota(key.dtype, stack.shape, axis)
            index += position * key.dtype.type(math.prod(stack.shape[axis + 1 :]))
    place = first - index
    if len(stack) > 1:
        key, place = (lax.select(index < size, x, zero) for x in (key, place))
    return [key, place, *columns]
