"""Pruners that score each weight by itself."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from bmrpruner._groups import squared
from bmrpruner._masks import as_plain
from bmrpruner._tree import PyTree, arrays, is_prunable, map_arrays
from bmrpruner.base_updater import BaseUpdater, SparseState
from bmrpruner.registry import register_algorithm


def as_key(rng_seed: Any) -> jax.Array:
    """A JAX key, from a key or an integer seed, traced ones too."""
    is_seed = jnp.ndim(rng_seed) == 0 and jnp.issubdtype(jnp.result_type(rng_seed), jnp.integer)
    return jax.random.PRNGKey(rng_seed) if is_seed else rng_seed


def generate_random_scores(params: PyTree, rng_seed: Any) -> PyTree:
    """Uniform noise in [0, 1) for every array, one key per array in leaf order.

    Args:
      params: Any pytree of arrays.
      rng_seed: JAX key or an integer seed.

    Returns:
      A tree like `params`, of its dtypes; float32 where these are not real floating-point.

    Example:
      >>> scores = generate_random_scores({'w': jnp.ones((2, 3))}, 0)
      >>> scores['w'].shape
      (2, 3)
    """
    keys = iter(jax.random.split(as_key(rng_seed), max(1, len(arrays(params)))))

    def noise(param: Any) -> jax.Array:
        is_real = jnp.issubdtype(param.dtype, jnp.floating)
        dtype = jax.dtypes.canonicalize_dtype(param.dtype) if is_real else jnp.float32
        return jax.random.uniform(next(keys), param.shape, dtype)

    return map_arrays(noise, params)


def random_unit_scores(scores: PyTree, add_up: Callable[[PyTree], jax.Array]) -> jax.Array:
    """Uniform noise in [0, 1) for each unit, whatever the number of its weights.

    A sum of uniform noise, taken modulo 1, is uniform again. It is taken in integers, whose sums
    are exact. A unit whose weights are all 0, being pruned, gets 0.

    Args:
      scores: Uniform noise in [0, 1).
      add_up: Sums over the weights of each unit.

    Returns:
      A score for each unit.
    """

    def bits(score: jax.Array) -> jax.Array:
        wide = score.astype(jnp.promote_types(score.dtype, jnp.float32))
        return (wide * 2.0**32).astype(jnp.uint32)

    return add_up(jax.tree.map(bits, scores)).astype(jnp.float32) * 2.0**-32


@register_algorithm("magnitude")
@dataclasses.dataclass(eq=False)
class MagnitudePruning(BaseUpdater):
    """Keep the weights of largest magnitude.

    Example:
      >>> pruned, masks = MagnitudePruning(sparsity=0.5).instant_sparsify(jnp.array([[-2., 1.]]))
      >>> pruned.tolist(), masks.tolist()
      ([[-2.0, 0.0]], [[1, 0]])
    """

    def calculate_scores(
        self, params: PyTree, sparse_state: SparseState | None = None, grads: PyTree = None
    ) -> PyTree:
        """|w|."""
        return map_arrays(jnp.abs, params)

    def _unit_scores(self, scores: PyTree, add_up: Callable[[PyTree], jax.Array]) -> jax.Array:
        """The sum of w²."""
        return add_up(jax.tree.map(squared, scores))


@register_algorithm("saliency")
@dataclasses.dataclass(eq=False)
class SaliencyPruning(BaseUpdater):
    """Keep the weights whose removal would change the loss most, to first order.

    Example:
      >>> params, grads = {'w': jnp.array([-2., 1.])}, {'w': jnp.array([1., 3.])}
      >>> SaliencyPruning().calculate_scores(params, grads=grads)['w'].tolist()
      [2.0, 3.0]

    References:
      Molchanov et al. 2017, https://arxiv.org/abs/1611.06440, equation 7.
    """

    needs_training: ClassVar[bool] = True

    def calculate_scores(
        self, params: PyTree, sparse_state: SparseState | None = None, grads: PyTree = None
    ) -> PyTree:
        """|w·g|."""
        if grads is None:
            raise ValueError("grads: expected gradients, as saliency reads them, got None.")
        return map_arrays(
            lambda p, g: jnp.abs(p * g) if is_prunable(p) and g is not None else None,
            params,
            grads,
        )


@register_algorithm("random")
@dataclasses.dataclass(eq=False)
class RandomPruning(BaseUpdater):
    """Keep random weights; those once pruned stay pruned.

    Example:
      >>> pruner = RandomPruning(sparsity=0.75, rng_seed=1)
      >>> int(pruner.instant_sparsify(jnp.ones((2, 4)))[1].sum())
      2
    """

    def calculate_scores(
        self, params: PyTree, sparse_state: SparseState | None = None, grads: PyTree = None
    ) -> PyTree:
        """Uniform noise; with a state, drawn anew at each count and zero where pruned."""
        key = as_key(self.rng_seed)
        if sparse_state is None:
            return generate_random_scores(params, key)
        scores = generate_random_scores(params, jax.random.fold_in(key, sparse_state.count))

        def masked(score: Any, mask: Any) -> Any:
            return score if mask is None else score * as_plain(mask, score).astype(score.dtype)

        return map_arrays(masked, scores, sparse_state.masks)

    def _unit_scores(self, scores: PyTree, add_up: Callable[[PyTree], jax.Array]) -> jax.Array:
        """Noise of the same distribution for all units."""
        return random_unit_scores(scores, add_up)


@register_algorithm("global_random")
@dataclasses.dataclass(eq=False)
class GlobalRandomPruning(RandomPruning):
    """`RandomPruning(scope='global')`: the noise of all leaves is ranked as it is.

    Every weight has the same chance to stay, so that a leaf keeps its share of them on average.

    Example:
      >>> params = {'a': jnp.ones((2, 4)), 'b': jnp.ones((2, 4))}
      >>> masks = GlobalRandomPruning(sparsity=0.75, rng_seed=1).instant_sparsify(params)[1]
      >>> int(masks['a'].sum() + masks['b'].sum())
      4
    """

    fixed_scope: ClassVar[str | None] = "global"
