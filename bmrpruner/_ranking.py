"""Turn scores into masks in the way that an updater's fields say."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bmrpruner import mask_calculator, selection
from bmrpruner._dependency import owned_shapes, shapes_of
from bmrpruner._masks import MASK_DTYPE
from bmrpruner._pooled import PooledUnits
from bmrpruner._tree import Key, PyTree, is_prunable, join, keyed_leaves, map_leaves, map_with_key
from bmrpruner.sparsity_distributions import (
    NOT_DIM_ONE_FILTER_FN,
    filter_key,
)
from bmrpruner.sparsity_types import Group, fits


def ranked_leaves(updater: Any, tree: PyTree) -> PyTree:
    """True for each leaf of a tree that may be pruned, None for the others.

    Args:
      updater: With dependency groups, leaves that a unit owns a part of may be pruned. Else
        `filter_fn` says which, None for those of two axes or more; `custom_sparsity_map` wins over
        it, and None in it exempts a leaf.
      tree: Parameters, or scores.
    """
    if isinstance(updater.sparsity_type, Group):
        owned = owned_shapes(updater.sparsity_type.groups, shapes_of(tree))
        return map_with_key(lambda key, leaf: True if key in owned else None, tree)
    accepts = updater.filter_fn or NOT_DIM_ONE_FILTER_FN
    exceptions = updater.custom_sparsity_map or {}

    def is_ranked(key: Key, leaf: Any) -> bool | None:
        name = filter_key(key)
        if not is_prunable(leaf):
            return None
        accepted = exceptions[name] is not None if name in exceptions else accepts(name, leaf)
        return True if accepted else None

    return map_with_key(is_ranked, tree)


def masks_of(updater: Any, scores: PyTree, sparsities: PyTree) -> PyTree:
    """The masks that keep an updater's highest scores.

    Args:
      updater: Says by its fields what is pruned together, and ranked over what.
      scores: A tree of scores, None where a leaf has none.
      sparsities: A tree of sparsities, None where a leaf is exempt; with `scope='global'` one
        number for all leaves together.

    Returns:
      A tree of uint8 masks, None where a leaf is exempt.

    Raises:
      ValueError: If a leaf is to be pruned and has no score.
    """
    if isinstance(updater.sparsity_type, Group):
        return _unit_masks(updater, scores, sparsities)
    if updater.scope == "global":
        ranked = ranked_leaves(updater, scores)
        if updater.threshold is None:
            return _joint_masks(updater, scores, sparsities, ranked)
        sparsities = map_leaves(lambda is_ranked: is_ranked and 0.0, ranked)
    map_with_key(_check_scored, sparsities, scores)
    if updater.threshold is None and updater.topk_fn is mask_calculator.topk_mask_calculator:
        return mask_calculator.topk_masks(scores, sparsities)
    return map_leaves(functools.partial(_layer_mask, updater), sparsities, scores)


def _unit_masks(updater: Any, scores: PyTree, sparsity: Any) -> PyTree:
    pool = PooledUnits(updater, scores)
    if updater.threshold is not None:
        return pool.masks([pool.scores[0] > updater._lowest_kept_score])
    return pool.masks(pool.best(pool.most(sparsity)))


def _layer_mask(updater: Any, sparsity: Any, score: Any) -> Any:
    if sparsity is None:
        return None
    kind = updater.sparsity_type
    if updater.threshold is not None:
        lowest = updater._lowest_kept_score
        return mask_calculator.threshold_mask(score, lowest, kind, updater._pooling)
    if isinstance(sparsity, jax.core.Tracer) and not fits(kind, score.shape):
        # Its target is zero, or init_state would have refused it.
        return jnp.ones(score.shape, MASK_DTYPE)
    return updater.topk_fn(score, sparsity)


def _joint_masks(updater: Any, scores: PyTree, sparsity: Any, ranked: PyTree) -> PyTree:
    """Masks from one ranking over all leaves, but for those that have a sparsity of their own.

    Ties go to the earlier key path, and within a leaf to the lower row-major index.
    """
    exceptions = updater.custom_sparsity_map or {}
    chosen = dict(keyed_leaves(ranked))
    joint = {
        key: updater._comparable(score)
        for key, score in sorted(keyed_leaves(scores), key=lambda pair: pair[0])
        if chosen[key] and filter_key(key) not in exceptions
    }
    masks = dict(zip(joint, _rank(list(joint.values()), sparsity, updater.topk_fn), strict=True))

    def mask(key: Key, score: Any) -> Any:
        own = exceptions.get(filter_key(key))
        return updater.topk_fn(score, own) if chosen[key] and own is not None else masks.get(key)

    return map_with_key(mask, scores)


def _rank(
    scores: list[jax.Array], sparsity: Any, topk_fn: Callable[..., jax.Array]
) -> list[jax.Array]:
    if topk_fn is mask_calculator.topk_mask_calculator:
        size = sum(score.size for score in scores)
        return selection.top_masks_jointly(scores, mask_calculator.keep_count(size, sparsity))
    flat = topk_fn(jnp.concatenate([jnp.ravel(score) for score in scores]), sparsity)
    parts = jnp.split(flat, np.cumsum([score.size for score in scores])[:-1])
    return [part.reshape(score.shape) for part, score in zip(parts, scores, strict=True)]


def _check_scored(key: Key, sparsity: Any, score: Any) -> None:
    if sparsity is not None and score is None:
        raise ValueError(
            f"scores: expected one for leaf {join(key) or '(root)'!r}, which is to be pruned, got "
            "None, as its gradient or its state in the optimizer is missing; exempt it by "
            "filter_fn."
        )
