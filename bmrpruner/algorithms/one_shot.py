"""Pruners that prune once, from a pass over calibration data, and refit what stays."""

from __future__ import annotations

import dataclasses
import warnings
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from bmrpruner import oneshot
from bmrpruner._ranking import ranked_leaves
from bmrpruner._scoring import check_keywords, scores_of
from bmrpruner._tree import (
    PyTree,
    check_params,
    is_none,
    join,
    keyed_leaves,
    map_leaves,
    map_with_key,
)
from bmrpruner.base_updater import BaseUpdater, SparseState
from bmrpruner.oneshot.refit import refit_bias
from bmrpruner.posteriors import LayerwiseGaussian, LinearLayer
from bmrpruner.registry import register_algorithm
from bmrpruner.sparsity_types import Group


@dataclasses.dataclass(eq=False)
class LayerwisePruning(BaseUpdater):
    """Base of the pruners that read the moments of each layer: define `score_layer`.

    `instant_sparsify(params, posterior=...)` takes a `LayerwiseGaussian`, such as
    `posteriors.from_calibration` returns; it returns refitted parameters and masks. Leaves that no
    layer covers are named in a warning and stay dense. There is nothing to do during training.

    Attributes:
      wide: Whether layers are treated as wide: scored by the first removal and refitted by
        SparseGPT's sweep. By default those of 2,048 inputs or more are.
      refits: Whether the weights that stay are refitted.

    Example:
      >>> @dataclasses.dataclass(eq=False)
      ... class InputPruning(LayerwisePruning):
      ...     def score_layer(self, weights, layer, damping):
      ...         return jnp.broadcast_to(layer.input_covariance.diagonal(), weights.shape)
      >>> layer = LinearLayer(
      ...     name='w', leaf=('w',), bias_leaf=None,
      ...     positions=jnp.array([[0, 1]]), bias_positions=None, input_mean=jnp.zeros(2),
      ...     input_covariance=jnp.array([[2., 2.], [2., 4.]]), curvature=jnp.ones(1))
      >>> params = {'w': jnp.ones((2, 1))}
      >>> posterior = LayerwiseGaussian(params, (layer,), examples=10)
      >>> pruned, masks = InputPruning(sparsity=0.5).instant_sparsify(params, posterior=posterior)
      >>> [round(float(x), 2) for x in pruned['w'][:, 0]]
      [0.0, 1.5]
    """

    reads_posterior: ClassVar[bool] = True
    is_one_shot: ClassVar[bool] = True

    wide: bool | None = None
    refits: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.sparsity_type, Group):
            raise ValueError(
                f"sparsity_type: expected single weights, blocks, N:M or channels for "
                f"{type(self).__name__}, got {self.sparsity_type}: bmrpruner.pruning.prune_units("
                "fn, params, batches, sparsity) removes units and refits the layers that read them."
            )

    def score_layer(self, weights: jax.Array, layer: LinearLayer, damping: Any) -> jax.Array:
        """A score for each weight of a layer, (R, D), higher is more worth keeping."""
        raise NotImplementedError(f"{type(self).__name__} must define score_layer.")

    def calculate_scores(
        self,
        params: PyTree,
        sparse_state: SparseState | None = None,
        grads: PyTree = None,
        posterior: LayerwiseGaussian | None = None,
    ) -> PyTree:
        """The scores of the layers in the leaves' shapes; None where no layer covers a leaf.

        Raises:
          TypeError: If `posterior` is not a `LayerwiseGaussian`.
          ValueError: If the posterior has a leaf that `params` has not.
        """
        if not isinstance(posterior, LayerwiseGaussian):
            raise TypeError(
                f"posterior: expected a LayerwiseGaussian for {type(self).__name__} to read, as "
                "bmrpruner.posteriors.from_calibration makes one from a function and data, got "
                f"{'none' if posterior is None else f'a {type(posterior).__name__}'}."
            )

        def unscored(key: Any, leaf: Any) -> Any:
            # A weight of a covered leaf that is in none of its layers stays.
            return np.full(leaf.shape, np.inf, np.float32) if key in posterior.covered else None

        scores = map_with_key(unscored, params)
        for layer in posterior.layers:
            found = self.score_layer(layer.weights(params), layer, posterior.damping)
            _check_finite(layer, found)
            scores = layer.put(scores, found)
        return scores

    def instant_sparsify(
        self, params: PyTree, grads: PyTree = None, **kwargs: Any
    ) -> tuple[PyTree, PyTree]:
        """Prune once and refit what stays; see `BaseUpdater.instant_sparsify`.

        Args:
          params: Any pytree of arrays.
          grads: Not read.
          **kwargs: `posterior`, a `LayerwiseGaussian`.

        Returns:
          The refitted parameters, biases included, and the masks.

        Raises:
          TypeError: If `posterior` is not a `LayerwiseGaussian`.
          ValueError: As `BaseUpdater.instant_sparsify` does.
        """
        if self.sparsity_distribution_fn is None:
            raise ValueError("sparsity_distribution_fn: expected one, got None.")
        check_params(params)
        check_keywords(self, kwargs)
        scores = scores_of(self, params, None, grads, kwargs)
        self.warn_of_others(params, scores)
        return self.prune_by_scores(params, scores, kwargs["posterior"])

    def prune_by_scores(
        self, params: PyTree, scores: PyTree, posterior: LayerwiseGaussian
    ) -> tuple[PyTree, PyTree]:
        """Prune and refit by scores that are known: those of one network serve every sparsity.

        Args:
          params: The parameters that `calculate_scores` saw. What is zero stays zero.
          scores: What it returned.
          posterior: The one that it read.

        Returns:
          The refitted parameters, biases included, and the masks.
        """
        masks = self.create_masks(scores, self.eligible_targets(params, scores))
        pruned = self.apply_masks(params, masks, is_packed=False)
        if self.refits:
            keep = map_leaves(lambda m, p: None if m is None else p != 0, masks, pruned)
            pruned = refitted(params, pruned, keep, posterior, self.wide)
        return pruned, self._stored(masks, params)

    def wrap_optax(self, inner: Any, mask_updates: bool | None = None) -> Any:
        """Raise a TypeError: there is nothing to do in the steps of an optimizer."""
        raise TypeError(
            f"wrap_optax: expected an algorithm that prunes during training, got "
            f"{type(self).__name__}, which prunes once, from calibration data: call "
            "instant_sparsify(params, posterior=posterior)."
        )

    def eligible_targets(self, params: PyTree, scores: PyTree) -> PyTree:
        """The target sparsities, None for leaves without scores."""
        targets = self.get_target_sparsities(params)
        if self.scope == "global":
            return targets
        return map_leaves(lambda t, s: None if s is None else t, targets, scores)

    def warn_of_others(self, params: PyTree, scores: PyTree) -> None:
        """Name the leaves that would be pruned, had they been seen in a linear layer."""
        wanted = self.get_target_sparsities(params)
        if self.scope == "global":
            wanted = ranked_leaves(self, params)
        keys = [key for key, _ in keyed_leaves(params)]
        trees = (jax.tree.leaves(tree, is_leaf=is_none) for tree in (wanted, scores))
        left = [
            join(key) or "(root)"
            for key, want, score in zip(keys, *trees, strict=True)
            if want is not None and score is None
        ]
        if left:
            warnings.warn(
                f"params: expected a linear layer for each leaf to prune, got none for "
                f"{', '.join(left)}: left dense.",
                stacklevel=3,
            )


def _check_finite(layer: LinearLayer, scores: jax.Array) -> None:
    if not isinstance(scores, jax.core.Tracer) and np.isnan(scores).any():
        raise ValueError(
            f"posterior: expected finite weights and a covariance that the damping makes positive "
            f"definite for layer {layer.name!r}, got NaN as scores; calibrate with more damping."
        )


def refitted(
    params: PyTree, pruned: PyTree, masks: PyTree, posterior: LayerwiseGaussian, wide: Any = None
) -> PyTree:
    """The pruned parameters, with the weights that stay and the biases refitted.

    Args:
      params: The parameters before.
      pruned: The same, zero where the masks are.
      masks: A tree like `params`, None where a leaf is exempt.
      posterior: The moments of the layers' inputs.
      wide: As in `LayerwisePruning`.

    Returns:
      A tree like `params`.
    """
    by_key = dict(keyed_leaves(masks))
    for layer in posterior.layers:
        if by_key.get(layer.leaf) is None:
            continue
        before, keep = layer.weights(params), layer.weights(masks)
        precision = layer.precision(posterior.damping)
        is_wide = wide if wide is not None else before.shape[1] >= oneshot.WIDE
        if is_wide:
            after, _ = oneshot.sweep(before, precision, keep=keep)
        else:
            after = oneshot.refit(before, precision, keep)
        bias = layer.bias(pruned)  # which two layers may share
        if bias is not None:
            bias = refit_bias(bias, before, after, layer.input_mean, layer.input_mean)
        pruned = layer.put(pruned, after, bias)
    return pruned


@register_algorithm("obs")
@dataclasses.dataclass(eq=False)
class OBSPruning(LayerwisePruning):
    """Remove the weights that cost the loss least, together with the refit of those that stay.

    Optimal Brain Surgeon by rows (Hassibi and Stork 1992; ExactOBS, Frantar and Alistarh 2022,
    https://arxiv.org/abs/2208.11580): model reduction with the covariance of each layer's inputs.
    A score is the largest cost of a removal in its row until the weight goes, in nats per example;
    a `threshold` is such a cost.

    Example:
      >>> from bmrpruner.posteriors import from_calibration
      >>> params = {'w': jnp.array([[1., 2.], [1., -1.]])}
      >>> inputs = jnp.tile(jnp.array([[1., 1.], [4., 4.], [-4., -4.], [0., 1.]]), (50, 1))
      >>> posterior = from_calibration(lambda p, x: x @ p['w'], params, [inputs], loss='regression')
      >>> pruned, masks = OBSPruning(sparsity=0.5).instant_sparsify(params, posterior=posterior)
      >>> jnp.abs(pruned['w'].round(1)).tolist()  # one of two inputs that agree makes up for both
      [[0.0, 1.0], [2.0, 0.0]]
    """

    def score_layer(self, weights: jax.Array, layer: LinearLayer, damping: Any) -> jax.Array:
        """The largest cost so far, nats per example."""
        return oneshot.obs_scores(weights, layer.precision(damping), layer.curvature, self.wide)


@register_algorithm("global_obs")
@dataclasses.dataclass(eq=False)
class GlobalOBSPruning(OBSPruning):
    """`OBSPruning(scope='global')`: one ranking of costs over all rows and layers.

    Example:
      >>> from bmrpruner.posteriors import from_calibration
      >>> from bmrpruner.study.models import init_mlp, mlp
      >>> params = init_mlp(jax.random.key(0), (6, 8, 3))
      >>> inputs = jax.random.normal(jax.random.key(1), (200, 6))
      >>> posterior = from_calibration(mlp, params, [inputs])
      >>> pruner = GlobalOBSPruning(sparsity=0.5)
      >>> pruned, masks = pruner.instant_sparsify(params, posterior=posterior)
      >>> int(sum(mask['kernel'].sum() for mask in masks.values()))  # of 72 weights
      36
    """

    fixed_scope: ClassVar[str | None] = "global"


@register_algorithm("wanda")
@dataclasses.dataclass(eq=False)
class WandaPruning(LayerwisePruning):
    """Keep the weights of largest |w|·‖x‖ in each row, as they are.

    Sun et al. 2023, https://arxiv.org/abs/2306.11695. With `scope='global'` the costs ½g w²E[x²]
    are ranked over all layers. With `refits=True` the weights that stay are refitted.

    Example:
      >>> from bmrpruner.posteriors import from_calibration
      >>> params = {'w': jnp.array([[1., 2.], [1., -1.]])}
      >>> inputs = jnp.tile(jnp.array([[1., 1.], [4., 4.], [-4., -4.], [0., 1.]]), (50, 1))
      >>> posterior = from_calibration(lambda p, x: x @ p['w'], params, [inputs], loss='regression')
      >>> WandaPruning(sparsity=0.5).instant_sparsify(params, posterior=posterior)[0]['w'].tolist()
      [[0.0, 2.0], [1.0, 0.0]]
    """

    refits: bool = False

    def score_layer(self, weights: jax.Array, layer: LinearLayer, damping: Any) -> jax.Array:
        """The share of its row that a weight leads, or nats per example with one ranking of all."""
        moments = jnp.diagonal(layer.input_covariance) + layer.input_mean**2
        curvature = layer.curvature if self.scope == "global" else None
        return oneshot.wanda_scores(weights, moments, curvature)
