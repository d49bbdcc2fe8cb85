"""Pruners that read a posterior: signal to noise, and Bayesian model reduction."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from bmrpruner._checks import check_positive
from bmrpruner._groups import squared
from bmrpruner._masks import as_plain
from bmrpruner._tree import PyTree, is_array, map_leaves
from bmrpruner.base_updater import BaseUpdater, SparseState
from bmrpruner.mask_calculator import topk_groups
from bmrpruner.posteriors import DiagonalGaussian, from_opt_state
from bmrpruner.registry import register_algorithm
from bmrpruner.sparsity_types import Block, as_sparsity_type


@dataclasses.dataclass(eq=False)
class PosteriorPruning(BaseUpdater):
    """Base of the pruners that score a posterior: subclass it and define `score_posterior`.

    The posterior is the one in the optimizer state, or the one given as `posterior=` to
    `instant_sparsify` or to the wrapped `update`. A weight that is already pruned, in the state's
    masks or in the posterior (mean and variance 0), scores -inf: it stays pruned, and adds nothing
    to the score of its group.

    Example:
      >>> @dataclasses.dataclass(eq=False)
      ... class PrecisionPruning(PosteriorPruning):
      ...     def score_posterior(self, posterior):
      ...         return posterior.precision
      >>> posterior = DiagonalGaussian(jnp.array([[2., 3.]]), jnp.array([[9., 1.]]))
      >>> pruner = PrecisionPruning(sparsity=0.5)
      >>> pruner.instant_sparsify(posterior.mean, posterior=posterior)[0].tolist()
      [[2.0, 0.0]]
    """

    reads_posterior: ClassVar[bool] = True

    def score_posterior(self, posterior: DiagonalGaussian) -> PyTree:
        """A score for each weight, higher is more worth keeping; None without a posterior."""
        raise NotImplementedError(f"{type(self).__name__} must define score_posterior.")

    def calculate_scores(
        self,
        params: PyTree,
        sparse_state: SparseState | None = None,
        grads: PyTree = None,
        posterior: DiagonalGaussian | None = None,
    ) -> PyTree:
        """The scores of the posterior.

        Raises:
          ValueError: If there is no posterior for a leaf of `params`.
          TypeError: If `posterior` is not a `DiagonalGaussian`.
        """
        if posterior is None:
            posterior = self._stored_posterior(params, sparse_state)
        elif not isinstance(posterior, DiagonalGaussian):
            raise TypeError(
                "posterior: expected a DiagonalGaussian, got a "
                f"{type(posterior).__name__}; see bmrpruner.posteriors for ways to get one."
            )
        scores = map_leaves(
            _sink_pruned, self.score_posterior(posterior), posterior.mean, posterior.precision
        )
        return scores if sparse_state is None else map_leaves(_sink, scores, sparse_state.masks)

    def _stored_posterior(self, params: PyTree, sparse_state: SparseState | None) -> Any:
        if sparse_state is None:
            raise ValueError(
                f"posterior: expected one for {type(self).__name__} to read, got none. Train with "
                "bmrpruner.ivon, or see bmrpruner.posteriors; in a file, a leaf has one where "
                "'.../std', '.../rho', '.../precision' or '.../draws' stands beside '.../mean'."
            )
        return from_opt_state(sparse_state.inner_state, params)


@register_algorithm("snr")
@dataclasses.dataclass(eq=False)
class SNRPruning(PosteriorPruning):
    """Keep the weights of largest signal to noise, |μ|/σ.

    Example:
      >>> posterior = DiagonalGaussian(jnp.array([[2., 3.]]), jnp.array([[9., 1.]]))
      >>> pruner = SNRPruning(sparsity=0.5)
      >>> pruner.instant_sparsify(posterior.mean, posterior=posterior)[0].tolist()
      [[2.0, 0.0]]

    References:
      Graves 2011, Practical variational inference for neural networks, section 6; Blundell et al.
      2015, https://arxiv.org/abs/1505.05424, section 5.1.
    """

    def score_posterior(self, posterior: DiagonalGaussian) -> PyTree:
        """|μ|√π."""
        return posterior.snr

    def _unit_scores(self, scores: PyTree, add_up: Callable[[PyTree], jax.Array]) -> jax.Array:
        """The sum of μ²π: Wald's statistic for all of a unit's weights being zero."""
        return add_up(jax.tree.map(squared, scores))


@register_algorithm("bmr")
@dataclasses.dataclass(eq=False)
class BMRPruning(PosteriorPruning):
    """Keep the weights whose removal would cost most log evidence.

    ΔF is the log evidence of the model without the weight minus that of the model with it; the
    score is -ΔF, in nats. A `threshold` is the ΔF, or log odds, from which a weight goes.

    ΔF is exact for one weight at a time. Weights that work together cost more together, and a
    factorised posterior cannot say how much more; a `temperature` below 1 assumes that the data
    weigh 1 / T times as much, which keeps what matters jointly.

    Attributes:
      temperature: T > 0; the posterior's variances are multiplied by it before ΔF is taken. By
        default `DiagonalGaussian.evidence_temperature` finds it. 1 is Bayes' rule as it stands.

    Example:
      >>> posterior = DiagonalGaussian(jnp.array([[2., 3.]]), jnp.array([[9., 1.]]))
      >>> pruner = BMRPruning(sparsity=0.5)
      >>> pruner.instant_sparsify(posterior.mean, posterior=posterior)[0].tolist()
      [[2.0, 0.0]]

    References:
      Friston et al. 2018, https://arxiv.org/abs/1805.07092; Marković et al. 2023,
      https://arxiv.org/abs/2309.12095.
    """

    temperature: float | None = None

    def __post_init__(self) -> None:
        if self.temperature is not None:
            check_positive("temperature", self.temperature)
        self.sparsity_type = as_sparsity_type(self.sparsity_type)
        if self.topk_fn is None and isinstance(self.sparsity_type, Block):
            self.topk_fn = functools.partial(
                topk_groups, sparsity_type=self.sparsity_type, how=self._pooling
            )
        super().__post_init__()

    @property
    def _pooling(self) -> str:
        """The ΔF of a group is the sum over its members."""
        return "sum"

    @property
    def _lowest_kept_score(self) -> Any:
        """The threshold is a ΔF, the score its negative."""
        return -self.threshold  # type: ignore[operator]

    def score_posterior(self, posterior: DiagonalGaussian) -> PyTree:
        """-ΔF, in nats, at the temperature."""
        given = self.temperature
        temperature = posterior.evidence_temperature() if given is None else given
        return jax.tree.map(jnp.negative, posterior.temper(temperature).delta_f())


@register_algorithm("posterior_variance")
@dataclasses.dataclass(eq=False)
class PosteriorVariancePruning(PosteriorPruning):
    """Keep the weights of high posterior variance, or of low.

    Attributes:
      keep: `'high'` prunes low variance; `'low'` prunes high variance.

    Example:
      >>> posterior = DiagonalGaussian(jnp.array([[2., 3.]]), jnp.array([[9., 1.]]))
      >>> pruner = PosteriorVariancePruning(sparsity=0.5)
      >>> pruner.instant_sparsify(posterior.mean, posterior=posterior)[0].tolist()
      [[0.0, 3.0]]
    """

    keep: str = "high"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.keep not in ("high", "low"):
            raise ValueError(f"keep: expected 'high' or 'low', got {self.keep!r}.")

    def score_posterior(self, posterior: DiagonalGaussian) -> PyTree:
        """σ², or its negative."""
        sign = 1 if self.keep == "high" else -1
        return jax.tree.map(lambda std: sign * std**2, posterior.std)


@register_algorithm("uncertainty_magnitude")
@dataclasses.dataclass(eq=False)
class UncertaintyMagnitudePruning(PosteriorPruning):
    """Keep the weights of largest |μ| + σ, so that uncertain ones stay.

    Example:
      >>> posterior = DiagonalGaussian(jnp.array([[0.2, 0.1]]), jnp.array([[100., 1.]]))
      >>> pruner = UncertaintyMagnitudePruning(sparsity=0.5)
      >>> pruner.instant_sparsify(posterior.mean, posterior=posterior)[1].tolist()
      [[0, 1]]

    References:
      https://arxiv.org/abs/2501.06962.
    """

    def score_posterior(self, posterior: DiagonalGaussian) -> PyTree:
        """|μ| + σ."""
        return map_leaves(
            lambda std, mean: None if std is None else jnp.abs(mean) + std,
            posterior.std,
            posterior.mean,
        )


@register_algorithm("global_snr")
@dataclasses.dataclass(eq=False)
class GlobalSNRPruning(SNRPruning):
    """`SNRPruning(scope='global')`.

    Example:
      >>> posterior = DiagonalGaussian([jnp.array([[2., 3.]])], [jnp.array([[9., 1.]])])
      >>> pruner = GlobalSNRPruning(sparsity=0.5)
      >>> pruner.instant_sparsify(posterior.mean, posterior=posterior)[0][0].tolist()
      [[2.0, 0.0]]
    """

    fixed_scope: ClassVar[str | None] = "global"


@register_algorithm("bayesian_global")
@register_algorithm("global_bmr")
@dataclasses.dataclass(eq=False)
class GlobalBMRPruning(BMRPruning):
    """`BMRPruning(scope='global')`: nats are compared between layers as they are.

    Example:
      >>> posterior = DiagonalGaussian([jnp.array([[2., 3.]])], [jnp.array([[9., 1.]])])
      >>> pruner = GlobalBMRPruning(sparsity=0.5)
      >>> pruner.instant_sparsify(posterior.mean, posterior=posterior)[0][0].tolist()
      [[2.0, 0.0]]
    """

    fixed_scope: ClassVar[str | None] = "global"


@register_algorithm("global_uncertainty_magnitude")
@dataclasses.dataclass(eq=False)
class GlobalUncertaintyMagnitudePruning(UncertaintyMagnitudePruning):
    """`UncertaintyMagnitudePruning(scope='global')`.

    Example:
      >>> posterior = DiagonalGaussian([jnp.array([[0.2, 0.1]])], [jnp.array([[100., 1.]])])
      >>> pruner = GlobalUncertaintyMagnitudePruning(sparsity=0.5)
      >>> pruner.instant_sparsify(posterior.mean, posterior=posterior)[1][0].tolist()
      [[0, 1]]
    """

    fixed_scope: ClassVar[str | None] = "global"


def _sink_pruned(score: Any, mean: Any, precision: Any) -> Any:
    """The scores, -inf where the posterior says that a weight is gone."""
    if score is None:
        return None
    return jnp.where((mean == 0) & jnp.isinf(precision), jnp.full_like(score, -jnp.inf), score)


def _sink(score: Any, mask: Any) -> Any:
    """The scores, -inf where the mask is zero."""
    if mask is None or not is_array(score):
        return score
    return jnp.where(as_plain(mask, score), score, jnp.full_like(score, -jnp.inf))
