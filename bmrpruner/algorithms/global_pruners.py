"""JaxPruner's pruners that rank the weights of the whole network together."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from bmrpruner.algorithms.pruners import MagnitudePruning, SaliencyPruning
from bmrpruner.registry import register_algorithm
from bmrpruner.sparsity_distributions import (
    NOT_DIM_ONE_FILTER_FN,
    CustomSparsityMapType,
    FilterFnType,
)


@dataclasses.dataclass(eq=False)
class GlobalPruningMixin:
    """Makes a pruner rank all leaves at once, as JaxPruner does: `class G(GlobalPruningMixin, P)`.

    It is `scope='global'` with each leaf's scores divided by their L2 norm. In code of your own
    write `P(scope='global')`, which compares the scores as they are.

    Attributes:
      custom_sparsity_map: Sparsity by key path, for leaves that are ranked on their own; None to
        exempt one.
      filter_fn: `(key, param) -> bool`; leaves to rank together. Others are exempt.
      normalization_eps: Added to a leaf's norm.
      use_normalization: Divide a leaf's scores by their L2 norm before ranking.
      sparsity: Fraction to prune over all eligible leaves.

    Example:
      >>> @dataclasses.dataclass(eq=False)
      ... class GlobalPruning(GlobalPruningMixin, MagnitudePruning):
      ...     pass
      >>> params = {'a': jnp.array([[1., 2.]]), 'b': jnp.array([[3., 40.]])}
      >>> GlobalPruning(sparsity=0.5).instant_sparsify(params)[0]['a'].tolist()
      [[0.0, 2.0]]
    """

    fixed_scope: ClassVar[str | None] = "global"

    custom_sparsity_map: CustomSparsityMapType | None = None
    filter_fn: FilterFnType = NOT_DIM_ONE_FILTER_FN
    normalization_eps: float = 1e-8
    use_normalization: bool = True
    sparsity: float | None = 0.0

    def _comparable(self, score: jax.Array) -> jax.Array:
        """A leaf's scores over their norm."""
        if not self.use_normalization:
            return score
        score = score.astype(jnp.promote_types(score.dtype, jnp.float32))  # or squares overflow
        finite = jnp.where(jnp.isfinite(score), score, 0)
        norm = jnp.sqrt(jnp.sum(finite**2))  # jnp.linalg.norm would reshape a sharded score
        return score / (norm + self.normalization_eps)


@register_algorithm("global_magnitude")
@dataclasses.dataclass(eq=False)
class GlobalMagnitudePruning(GlobalPruningMixin, MagnitudePruning):
    """Keep the weights of largest magnitude, each leaf's divided by their L2 norm.

    Example:
      >>> params = {'a': jnp.array([[1., 2.]]), 'b': jnp.array([[3., 40.]])}
      >>> pruned, _ = GlobalMagnitudePruning(sparsity=0.5).instant_sparsify(params)
      >>> pruned['a'].tolist(), pruned['b'].tolist()  # not those of scope='global': 3 and 40
      ([[0.0, 2.0]], [[0.0, 40.0]])
    """


@register_algorithm("global_saliency")
@dataclasses.dataclass(eq=False)
class GlobalSaliencyPruning(GlobalPruningMixin, SaliencyPruning):
    """Keep the weights of largest |w·g|, each leaf's divided by their L2 norm.

    Example:
      >>> params = {'a': jnp.array([[1., 2.]]), 'b': jnp.array([[3., 4.]])}
      >>> pruned, _ = GlobalSaliencyPruning(sparsity=0.5).instant_sparsify(params, grads=params)
      >>> pruned['a'].tolist()
      [[0.0, 2.0]]
    """
