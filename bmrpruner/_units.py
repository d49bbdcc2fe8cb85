"""Units of dependency groups: their scores, their share of the cost, the masks of what they own."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bmrpruner import selection
from bmrpruner._dependency import Term, by_leaf, owned_shapes, shapes_of
from bmrpruner._masks import MASK_DTYPE
from bmrpruner._sharding import gathered, sharded_like
from bmrpruner._tree import Key, PyTree, keyed_leaves, map_with_key

# Shares of the cost are sums of float32 products, which are equal to within this.
_ROUNDING = 1e-6


class Ranking(NamedTuple):
    """How all units are ranked: (count,) each."""

    scores: jax.Array  # of the bundle that a unit is in
    bundles: jax.Array  # the number of that bundle
    ranks: jax.Array  # from 0 for the best, a bundle's units one after the other


class _Axis(NamedTuple):
    """What the units of one group own of an axis of a leaf."""

    first: int  # the number of the group's first unit
    axis: int
    indices: np.ndarray  # (units of the group, k)

    def owners(self, length: int, nobody: int) -> np.ndarray:
        """The number of the unit that owns each index: (length,)."""
        owners = np.full(length, nobody, np.int32)
        owners[self.indices] = self.first + np.arange(len(self.indices))[:, None]
        return owners


# One program for each `Units`, of which there is one for each tree that a `Group` meets.
_compiled = functools.partial(jax.jit, static_argnums=0)


class Units:
    """The units of all groups that are not frozen, numbered group by group.

    Args:
      groups: `structure.Group`s.
      shapes: The shapes of all leaves of a tree, None for what is no array.
      multiple: How many units of a group make a bundle, which stays or goes as one.

    Attributes:
      count: How many units there are.
      multiple: As given, or the size of the largest group if that is less.

    Raises:
      ValueError: If a group names a leaf, an axis or an index that is not there.
    """

    def __init__(self, groups: Sequence[Any], shapes: Mapping[Key, Any], multiple: int = 1):
        free = [group for group in groups if group.frozen is None]
        sizes = np.array([group.size for group in free], np.int32)
        self.count, self.multiple = int(sizes.sum()), min(int(multiple), int(sizes.max()))
        bundles = -(-sizes // self.multiple)
        self._family = np.repeat(np.arange(len(free), dtype=np.int32), sizes)
        self._first_units, self._first_bundles = (
            np.cumsum(n, dtype=np.int32) - n for n in (sizes, bundles)
        )
        self._bundle_count = int(bundles.sum())
        self._shapes = owned_shapes(groups, shapes)
        self._axes: dict[Key, list[list[_Axis]]] = {key: [] for key in self._shapes}
        for group, first in zip(free, self._first_units, strict=True):
            for key, axes in by_leaf(group).items():
                owned = [_Axis(int(first), axis, indices) for axis, indices in axes.items()]
                self._axes[key].append(owned)

    def add_up(self, scores: PyTree) -> jax.Array:
        """The sum of a tree of scores over what each unit owns.

        A score of -inf says that a weight is gone: it adds nothing. A unit that owns nothing else
        has -inf itself. A weight that a unit owns by two axes counts once.

        Args:
          scores: Like the tree; sums of floats are float32 or wider, those of integers wrap.

        Returns:
          One sum for each unit: (count,).
        """
        leaves = dict(keyed_leaves(scores))
        found = {key: leaves[key] for key in self._axes}
        gone = {key: jnp.isneginf(score) for key, score in found.items() if _is_float(score)}
        for key, absent in gone.items():
            wide = jnp.promote_types(found[key].dtype, jnp.float32)
            found[key] = jnp.where(absent, 0, found[key].astype(wide))
        total = self._total(found)
        if not gone:
            return total
        remains = self._total({key: ~absent for key, absent in gone.items()})
        return jnp.where(remains, total, jnp.full_like(total, -jnp.inf))

    @_compiled
    def ranking(self, scores: jax.Array) -> Ranking:
        """Put the units of each group in order, bundle them from the best on, and rank bundles.

        A bundle's score is the mean of its units', but +inf for the first bundle of each group and
        lower for all others. Units of -inf, which are gone, and of NaN keep what they have, but for
        the first of each group.

        Args:
          scores: One for each unit: (count,).
        """
        order = jnp.lexsort((~selection.order_key(scores), self._family))
        place = jnp.argsort(order).astype(jnp.int32) - jnp.asarray(self._first_units[self._family])
        bundles = jnp.asarray(self._first_bundles[self._family]) + place // self.multiple
        present, highest = scores > -jnp.inf, jnp.finfo(scores.dtype).max
        ranked = jnp.minimum(self._means(scores, present, bundles), highest)
        ranked = jnp.where(present, ranked, scores)
        stays = place < jnp.where(present, self.multiple, 1)
        ranked = jnp.where(stays, jnp.full_like(ranked, jnp.inf), ranked)
        ranks = jnp.argsort(jnp.lexsort((bundles, ~selection.order_key(ranked))))
        return Ranking(ranked, bundles, ranks.astype(jnp.int32))

    def _means(self, scores: jax.Array, present: jax.Array, bundles: jax.Array) -> jax.Array:
        """The mean score of those that are present in each unit's bundle.

        It is within their range in spite of rounding, so that a group's bundles stay in order.
        """
        count = self._by_bundle(jax.ops.segment_sum, present.astype(scores.dtype), bundles)
        parts = jnp.where(present, scores / count, 0)
        least = self._by_bundle(jax.ops.segment_min, jnp.where(present, scores, jnp.inf), bundles)
        most = self._by_bundle(jax.ops.segment_max, jnp.where(present, scores, -jnp.inf), bundles)
        return jnp.clip(self._by_bundle(jax.ops.segment_sum, parts, bundles), least, most)

    @_compiled
    def best(self, ranking: Ranking, count: Any) -> jax.Array:
        """Whether each unit is one of the best `count`, or left of a bundle that has one.

        What is gone does not come back.
        """
        keep = ranking.ranks < count
        begun = self._by_bundle(jax.ops.segment_max, keep.astype(jnp.int32), ranking.bundles)
        return (keep & ~jnp.isneginf(ranking.scores)) | ((begun == 1) & (ranking.scores > -jnp.inf))

    @_compiled
    def whole(self, ranking: Ranking, count: Any) -> jax.Array:
        """How many of the best `count` units are in bundles that are all among them.

        The first bundle of each group counts in any case.
        """
        keep = (ranking.ranks < count) | jnp.isposinf(ranking.scores)
        in_full = (keep | ~(ranking.scores > -jnp.inf)).astype(jnp.int32)
        complete = self._by_bundle(jax.ops.segment_min, in_full, ranking.bundles)
        return jnp.sum(keep & (complete == 1), dtype=jnp.int32)

    def masks(self, keep: jax.Array, tree: PyTree) -> PyTree:
        """Masks of what stays: the weights of which no owner goes.

        Args:
          keep: Whether each unit stays: (count,).
          tree: Arrays in whose shapes and layouts the masks come.

        Returns:
          A tree of uint8 masks, None where no unit owns anything.
        """
        masks = self._masks(keep)
        return map_with_key(lambda key, leaf: sharded_like(masks.get(key), leaf), tree)

    def most_within(self, ranks: jax.Array, share: Any, costs: dict[Term, float]) -> jax.Array:
        """How many of the best units together have at most a share of the cost; see `_share`."""
        return self._first_above(ranks, share + _ROUNDING, costs) - 1

    def fewest_with(self, ranks: jax.Array, share: Any, costs: dict[Term, float]) -> jax.Array:
        """How many of the best units together have at least a share of the cost; see `_share`."""
        return jnp.minimum(self._first_above(ranks, share - _ROUNDING, costs), self.count)

    @_compiled
    def _first_above(self, ranks: jax.Array, share: Any, costs: dict[Term, float]) -> jax.Array:
        """The least number of best units with more than a share; one more than all if none."""

        def halve(_: Any, ends: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
            low, high = ends
            middle = (low + high) // 2
            is_above = self._share(ranks < middle, costs) > share
            return jnp.where(is_above, low, middle), jnp.where(is_above, middle, high)

        # Both ends follow from `ranks`, so that they vary over the same axes of a mesh.
        low = jnp.zeros_like(ranks, shape=()) - 1
        steps = (self.count + 2).bit_length()
        return jax.lax.fori_loop(0, steps, halve, (low, low + self.count + 2))[1]

    def _share(self, keep: jax.Array, costs: dict[Term, float]) -> jax.Array:
        """The share of the cost that is left.

        What stays of a leaf is a product over its axes of how many of their indices stay, so units
        of two groups that cross in a leaf are not counted twice.

        Args:
          keep: Whether each unit stays: (count,).
          costs: The shares of the cost when all is whole, by the axes that they get smaller with.
        """
        stays = {
            (key, axis): jnp.mean(alive, dtype=jnp.float32)
            for key in self._axes
            for axis, alive in self._alive(key, keep)
        }
        left = []
        for term, cost in costs.items():
            parts = (stays[place] for place in term if place in stays)
            left.append(functools.reduce(jnp.multiply, parts, jnp.asarray(cost, jnp.float32)))
        return jnp.sum(jnp.stack(left))

    @_compiled
    def _masks(self, keep: jax.Array) -> dict[Key, jax.Array]:
        masks = {}
        for key, shape in self._shapes.items():
            stays = jnp.ones(shape, bool)
            for axis, alive in self._alive(key, keep):
                stays &= jnp.expand_dims(alive, _others(axis, len(shape)))
            masks[key] = stays.astype(MASK_DTYPE)
        return masks

    @_compiled
    def _total(self, leaves: dict[Key, jax.Array]) -> jax.Array:
        """The sum over what each unit owns of some leaves, or of booleans whether any is true."""
        sums: list[list[jax.Array]] = [[] for _ in self._first_units]
        for key, groups in self._axes.items():
            for axes in groups:
                own = gathered(functools.partial(_over_members, axes), leaves[key])
                sums[self._family[axes[0].first]].append(own)
        return jnp.concatenate([functools.reduce(jnp.add, parts) for parts in sums])

    def _by_bundle(self, reduce: Any, values: jax.Array, bundles: jax.Array) -> jax.Array:
        """What a sum or the like over a unit's bundle comes to, for each unit."""
        return reduce(values, bundles, self._bundle_count)[bundles]

    def _alive(self, key: Key, keep: jax.Array) -> Iterator[tuple[int, jax.Array]]:
        """For each axis of a leaf that units own a part of, which indices stay."""
        shape = self._shapes[key]
        stays = jnp.concatenate([keep, jnp.ones_like(keep, shape=(1,))]).astype(bool)
        for axis in {part.axis: None for axes in self._axes[key] for part in axes}:
            parts = [part for axes in self._axes[key] for part in axes if part.axis == axis]
            owners = [part.owners(shape[axis], self.count) for part in parts]
            yield axis, functools.reduce(jnp.logical_and, (stays[owner] for owner in owners))


def units_of(kind: Any, tree: PyTree) -> Units:
    """The units of a `sparsity_types.Group` in a tree of parameters or scores."""
    return _units_of(kind, tuple(shapes_of(tree).items()))


@functools.lru_cache(maxsize=32)
def _units_of(kind: Any, shapes: tuple[tuple[Key, Any], ...]) -> Units:
    return Units(kind.groups, dict(shapes), kind.multiple)


def _over_members(axes: list[_Axis], values: jax.Array) -> jax.Array:
    """The sum (of booleans: any) over what each unit of a group owns of a leaf.

    What a unit owns by two axes counts by the first of them only.
    """
    is_bool = values.dtype == bool
    reduce = jnp.any if is_bool else functools.partial(jnp.sum, dtype=values.dtype)
    found = []
    for i, part in enumerate(axes):
        left = values
        for before in axes[:i]:
            twice = _spread(before, values) == _spread(part, values)
            left = jnp.where(twice, jnp.zeros_like(left), left)
        along = reduce(left, axis=_others(part.axis, values.ndim))
        found.append(reduce(along[part.indices], axis=1))
    return functools.reduce(jnp.add, found)


def _spread(part: _Axis, values: jax.Array) -> np.ndarray:
    """The owners of the indices of an axis, in a shape that broadcasts over an array."""
    owners = part.owners(values.shape[part.axis], -1)
    return np.expand_dims(owners, _others(part.axis, values.ndim))


def _others(axis: int, ndim: int) -> tuple[int, ...]:
    return tuple(a for a in range(ndim) if a != axis)


def _is_float(score: jax.Array) -> bool:
    return bool(jnp.issubdtype(score.dtype, jnp.floating))
