"""Pruners that rank the weights of the whole network together."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bmrpruner import selection
from bmrpruner._checks import check_sparsity
from bmrpruner._masks import MASK_DTYPE
from bmrpruner._tree import Key, PyTree, check_params, is_array, keyed_leaves, map_with_key
from bmrpruner.algorithms.pruners import MagnitudePruning, SaliencyPruning
from bmrpruner.base_updater import raise_not_prunable
from bmrpruner.mask_calculator import keep_count, topk_mask_calculator
from bmrpruner.registry import register_algorithm
from bmrpruner.sparsity_distributions import (
    NOT_DIM_ONE_FILTER_FN,
    CustomSparsityMapType,
    FilterFnType,
    checked_custom_map,
    filter_key,
)
from bmrpruner.sparsity_types import Unstructured


@dataclasses.dataclass(eq=False)
class GlobalPruningMixin:
    """Makes a pruner rank all eligible leaves at once: `class G(GlobalPruningMixin, Pruner)`.

    Attributes:
      custom_sparsity_map: Sparsity by key path, for leaves that are ranked on their own; None to
        exempt one.
      filter_fn: `(key, param) -> bool`; leaves to rank together. Others are exempt.
      normalization_eps: Added to a leaf's norm.
      use_normalization: Divide a leaf's scores by their L2 norm before ranking.
      sparsity: Fraction to prune over all eligible leaves.
    """

    custom_sparsity_map: CustomSparsityMapType | None = None
    filter_fn: FilterFnType = NOT_DIM_ONE_FILTER_FN
    normalization_eps: float = 1e-8
    use_normalization: bool = True
    sparsity: float | None = 0.0

    def get_target_sparsities(self: Any, params: PyTree) -> Any:
        """One number for the whole network.

        Raises:
          AttributeError: If groups are to be ranked: only single weights are comparable.
          ValueError: If no leaf is eligible.
        """
        if self.threshold is None and not isinstance(self.sparsity_type, Unstructured):
            raise AttributeError(
                f"{type(self).__name__} ranks single weights, got sparsity_type="
                f"{self.sparsity_type}; use a layer-wise algorithm."
            )
        eligible = [key for key, leaf in keyed_leaves(params) if self._is_ranked(key, leaf)]
        check_params(params)
        raise_not_prunable(params, bool(eligible))
        checked_custom_map(params, self.custom_sparsity_map)
        return self.sparsity

    def get_initial_masks(self, params: PyTree, target_sparsities: Any) -> PyTree:
        """Ones for every leaf that is ranked, None for the rest."""

        def ones(key: Key, param: Any) -> Any:
            return jnp.ones_like(param, MASK_DTYPE) if self._is_ranked(key, param) else None

        return map_with_key(ones, params)

    def create_masks(self, scores: PyTree, target_sparsity: Any) -> PyTree:
        """One ranking over all eligible leaves; mapped leaves at their own sparsity."""
        if self.threshold is not None:  # type: ignore[attr-defined]
            ranked = map_with_key(lambda k, s: 0.0 if self._is_ranked(k, s) else None, scores)
            return super().create_masks(scores, ranked)  # type: ignore[misc]
        custom = self.custom_sparsity_map or {}
        joint = {
            key: self._normalized(score)
            for key, score in sorted(keyed_leaves(scores), key=lambda pair: pair[0])
            if self._is_ranked(key, score) and filter_key(key) not in custom
        }
        masks = dict(zip(joint, self._rank(list(joint.values()), target_sparsity), strict=True))

        def mask(key: Key, score: Any) -> Any:
            sparsity = custom.get(filter_key(key))
            if sparsity is not None and is_array(score):
                return self.topk_fn(score, sparsity)  # type: ignore[attr-defined]
            return masks.get(key)

        return map_with_key(mask, scores)

    def _check_sparsity(self) -> None:
        check_sparsity("sparsity", self.sparsity)

    def _is_ranked(self, key: Key, leaf: Any) -> bool:
        if not is_array(leaf):
            return False
        name, custom = filter_key(key), self.custom_sparsity_map or {}
        return custom[name] is not None if name in custom else bool(self.filter_fn(name, leaf))

    def _normalized(self, score: jax.Array) -> jax.Array:
        if not self.use_normalization:
            return score
        score = score.astype(jnp.promote_types(score.dtype, jnp.float32))  # or squares overflow
        finite = jnp.where(jnp.isfinite(score), score, 0)
        norm = jnp.sqrt(jnp.sum(finite**2))  # jnp.linalg.norm would reshape a sharded score
        return score / (norm + self.normalization_eps)

    def _rank(self, scores: list[jax.Array], sparsity: Any) -> list[jax.Array]:
        topk_fn = self.topk_fn  # type: ignore[attr-defined]
        if topk_fn is topk_mask_calculator:
            size = sum(score.size for score in scores)
            return selection.top_masks_jointly(scores, keep_count(size, sparsity))
        flat = topk_fn(jnp.concatenate([jnp.ravel(score) for score in scores]), sparsity)
        ends = np.cumsum([score.size for score in scores])[:-1]
        parts = jnp.split(flat, ends)
        return [part.reshape(s.shape) for part, s in zip(parts, scores, strict=True)]


@register_algorithm("global_magnitude")
@dataclasses.dataclass(eq=False)
class GlobalMagnitudePruning(GlobalPruningMixin, MagnitudePruning):
    """Keep the weights of largest magnitude in the whole network.

    Example:
      >>> params = {'a': jnp.array([[1., 2.]]), 'b': jnp.array([[3., 4.]])}
      >>> pruner = GlobalMagnitudePruning(sparsity=0.5, use_normalization=False)
      >>> pruner.instant_sparsify(params)[0]['b'].tolist()
      [[3.0, 4.0]]
    """


@register_algorithm("global_saliency")
@dataclasses.dataclass(eq=False)
class GlobalSaliencyPruning(GlobalPruningMixin, SaliencyPruning):
    """Keep the weights of largest |w·g| in the whole network.

    Example:
      >>> params = {'a': jnp.array([[1., 2.]]), 'b': jnp.array([[3., 4.]])}
      >>> pruned, _ = GlobalSaliencyPruning(sparsity=0.5).instant_sparsify(params, grads=params)
      >>> pruned['a'].tolist()
      [[0.0, 2.0]]
    """
