"""The scores of all that is ranked together, pooled, and the masks that follow from who stays."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from bmrpruner import _groups, selection
from bmrpruner._dependency import cost_shares
from bmrpruner._masks import MASK_DTYPE
from bmrpruner._tree import PyTree, map_leaves
from bmrpruner._units import units_of
from bmrpruner.mask_calculator import keep_count
from bmrpruner.sparsity_types import Group


def pooled(updater: Any, scores: PyTree) -> PooledLeaves | PooledUnits:
    """The pooled scores of an updater's groups; `scores` are None where a leaf is exempt."""
    is_joint = isinstance(updater.sparsity_type, Group)
    return (PooledUnits if is_joint else PooledLeaves)(updater, scores)


class PooledLeaves:
    """Weights, blocks or channels, which lie in one leaf each.

    Attributes:
      scores: For each leaf an array with a score for each group.
      multiple: How many go at once.
    """

    multiple = 1

    def __init__(self, updater: Any, scores: PyTree):
        self._kind, self._tree = updater.sparsity_type, scores
        self.scores = [_groups.pool(score, self._kind) for score in jax.tree.leaves(scores)]

    def fewest(self, cap: Any) -> jax.Array:
        """How many groups stay at least where a fraction `cap` may go."""
        return _fewest(sum(score.size for score in self.scores), cap)

    def best(self, count: Any) -> list[jax.Array]:
        """Which groups stay if the best `count` do."""
        return selection.top_masks_jointly(self.scores, count)

    def masks(self, kept: list[jax.Array]) -> PyTree:
        """The masks of all weights, from one entry for each group."""
        masks = iter(kept)

        def mask(score: Any) -> Any:
            if score is None:
                return None
            return _groups.spread(next(masks), self._kind, score.shape).astype(MASK_DTYPE)

        return map_leaves(mask, self._tree)


class PooledUnits:
    """Units of dependency groups; those of the first bundle of each group have the score +inf.

    Attributes:
      scores: One array with a score for each unit, that of the bundle with which it goes.
      multiple: How many units make a bundle.
    """

    def __init__(self, updater: Any, scores: PyTree):
        kind = updater.sparsity_type
        self._tree, self._units = scores, units_of(kind, scores)
        self._costs = None if kind.cost == "units" else cost_shares(kind.cost, scores)
        compared = map_leaves(lambda s: None if s is None else updater._comparable(s), scores)
        own = updater._unit_scores(compared, self._units.add_up)
        self._ranking = self._units.ranking(own)
        self.scores, self.multiple = [self._ranking.scores], self._units.multiple

    def most(self, sparsity: Any) -> jax.Array:
        """How many units may stay, in whole bundles, where a share `sparsity` is to go."""
        sparsity, units = jnp.asarray(sparsity, jnp.float32), self._units
        if self._costs is None:
            most = keep_count(units.count, sparsity)
        else:
            most = units.most_within(self._ranking.ranks, 1 - sparsity, self._costs)
            most = jnp.where(sparsity == 0, units.count, most)
        return units.whole(self._ranking, most)

    def fewest(self, cap: Any) -> jax.Array:
        """How many units stay at least where a fraction `cap` of the cost may go."""
        if self._costs is None:
            return _fewest(self._units.count, cap)
        share = 1 - jnp.asarray(cap, jnp.float32)
        return self._units.fewest_with(self._ranking.ranks, share, self._costs)

    def best(self, count: Any) -> list[jax.Array]:
        """Which units stay if the best `count` do, and those with which they go or stay."""
        return [self._units.best(self._ranking, count)]

    def masks(self, kept: list[jax.Array]) -> PyTree:
        """The masks of all weights that a unit owns, from one entry for each unit."""
        return self._units.masks(kept[0], self._tree)


def _fewest(size: int, cap: Any) -> jax.Array:
    return jnp.ceil(size * (1 - jnp.asarray(cap, jnp.float32))).astype(jnp.int32)
