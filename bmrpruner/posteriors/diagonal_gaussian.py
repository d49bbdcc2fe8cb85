"""A diagonal Gaussian over the weights of a network, the form of all posteriors here."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from bmrpruner import evidence
from bmrpruner._checks import check_positive
from bmrpruner._leaves import (
    broadcast_prior,
    check_like,
    check_prior,
    flatten,
    widen,
)
from bmrpruner._masks import checked_plain
from bmrpruner._tree import PyTree, align, is_array


class _Weights(NamedTuple):
    """One leaf that has a posterior, in float32 at least."""

    mean: jax.Array
    precision: jax.Array
    prior_precision: jax.Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class DiagonalGaussian:
    """The posterior N(μ, 1/π) of every weight, with the prior N(0, 1/π₀); a pytree.

    A pruned weight has mean 0 and precision ∞: it is exactly 0 in every sample, and adds nothing to
    `log_prob` and `kl_to_prior`. A leaf of `mean` that has no posterior (batch-norm statistics, an
    activation function of an Equinox module, None) has None as its precision.

    Trees are compared with `mean` where they are used rather than on construction, so that JAX may
    build instances with any leaves (`jax.vmap` axes, shardings).

    Attributes:
      mean: Posterior means μ, a tree of arrays (other leaves are passed through).
      precision: Posterior precisions π = 1/variance: the tree of `mean`, arrays of the same
        shapes, None where there is no posterior.
      prior_precision: Prior precision π₀ > 0: a scalar, or a tree of which `mean`'s is an
        extension, with leaves that broadcast to the arrays below them.

    Raises:
      ValueError: On use, when trees or shapes do not match, or a number given as prior precision
        is not positive and finite (an array is not read: it gives NaN there).
      TypeError: On use, when a leaf of `precision` or `prior_precision` is no array or number.

    Example:
      >>> posterior = DiagonalGaussian(
      ...     mean={'kernel': jnp.array([2.0, 0.1]), 'steps': jnp.array(7)},
      ...     precision={'kernel': jnp.array([25.0, 25.0]), 'steps': None},
      ... )
      >>> posterior.std
      {'kernel': Array([0.2, 0.2], dtype=float32), 'steps': None}
      >>> [round(float(x), 2) for x in posterior.delta_f()['kernel']]
      [-48.39, 1.48]
    """

    mean: PyTree
    precision: PyTree
    prior_precision: PyTree = 1.0

    @property
    def std(self) -> PyTree:
        """Standard deviations σ = 1/√π, float32 or wider; None where there is no posterior.

        Example:
          >>> DiagonalGaussian(jnp.zeros(2), jnp.array([4.0, jnp.inf])).std
          Array([0.5, 0. ], dtype=float32)
        """
        return self._map(lambda w: 1 / jnp.sqrt(w.precision))

    @property
    def snr(self) -> PyTree:
        """Signal-to-noise ratios abs(μ)·√π, float32 or wider; None where there is no posterior.

        A pruned weight (μ = 0, π = ∞) has 0.

        Example:
          >>> DiagonalGaussian(jnp.array([-3.0, 0.0]), jnp.array([4.0, jnp.inf])).snr
          Array([6., 0.], dtype=float32)
        """

        def ratio(w: _Weights) -> jax.Array:
            pruned = (w.mean == 0) & jnp.isinf(w.precision)
            return jnp.abs(w.mean) * jnp.sqrt(jnp.where(pruned, 1, w.precision))

        return self._map(ratio)

    def delta_f(self) -> PyTree:
        """ΔF of fixing each weight at zero, in nats: `bmrpruner.evidence.delta_f_spike`.

        Returns:
          The tree of `mean` with arrays of its shapes, float32 or wider, positive where the data
          prefer the weight gone; None where there is no posterior.

        Example:
          >>> DiagonalGaussian(jnp.zeros(2), jnp.array([1.0, jnp.inf])).delta_f()
          Array([ 0., inf], dtype=float32)
        """
        return self._map(lambda w: evidence.delta_f_spike(*w))

    def sample(self, key: jax.Array, shape: Sequence[int] = (), mask: PyTree = None) -> PyTree:
        """Draw weights: μ + σε with standard normal ε, one key per leaf in leaf order.

        Args:
          key: PRNG key, split over the leaves that have a posterior.
          shape: Leading axes of independent draws.
          mask: Masks as in `prune`; None prunes nothing. Pruned weights are exactly 0.

        Returns:
          The tree of `mean` with arrays of `shape` + leaf shape in the dtype of the leaf (the
          noise is float32 or wider). Arrays without a posterior are repeated along `shape`; other
          leaves are passed through.

        Raises:
          ValueError: A tree or shape does not match that of `mean`.

        Example:
          >>> posterior = DiagonalGaussian(jnp.ones(3), jnp.full(3, 4.0))
          >>> draws = posterior.sample(jax.random.key(0), (5,), mask=jnp.array([1, 1, 0]))
          >>> draws.shape, draws[:, 2].tolist()
          ((5, 3), [0.0, 0.0, 0.0, 0.0, 0.0])
        """
        shape = tuple(shape)
        paths, means, structure = flatten(self.mean)
        weights = self._weights()
        masks = [None] * len(means) if mask is None else align("mask", mask, structure, "mean")
        keys = iter(jax.random.split(key, max(1, sum(w is not None for w in weights))))
        draws = []
        for path, mean, w, leaf_mask in zip(paths, means, weights, masks, strict=True):
            draw = mean
            if w is not None:
                noise = jax.random.normal(next(keys), shape + w.mean.shape, w.mean.dtype)
                draw = (w.mean + noise / jnp.sqrt(w.precision)).astype(jnp.result_type(mean))
            elif is_array(mean):
                draw = jnp.broadcast_to(mean, shape + mean.shape)
            draws.append(_where_kept(f"mask{path}", leaf_mask, mean, draw, 0))
        return structure.unflatten(draws)

    def prune(self, masks: PyTree) -> DiagonalGaussian:
        """The posterior without the pruned weights: mean 0 and variance 0 (precision ∞).

        Args:
          masks: The tree of `mean`; leaves are arrays of the leaf's shape with nonzero for keep,
            the same packed to bits (`jnp.packbits` of the flattened mask, ceil(n/8) bytes), or
            None for a leaf that is exempt.

        Returns:
          A new posterior; the dtypes stay. A leaf without a posterior loses the pruned means.

        Raises:
          ValueError: A tree or shape does not match that of `mean`.

        Example:
          >>> pruned = DiagonalGaussian(jnp.ones(2), jnp.ones(2)).prune(jnp.array([True, False]))
          >>> pruned.mean, pruned.precision
          (Array([1., 0.], dtype=float32), Array([ 1., inf], dtype=float32))
        """
        paths, means, structure = flatten(self.mean)
        precisions = align("precision", self.precision, structure, "mean")
        leaf_masks = align("masks", masks, structure, "mean")
        pruned = [
            (
                _where_kept(f"masks{path}", mask, mean, mean, 0),
                _where_kept(f"masks{path}", mask, mean, precision, jnp.inf),
            )
            for path, mask, mean, precision in zip(
                paths, leaf_masks, means, precisions, strict=True
            )
        ]
        return dataclasses.replace(
            self,
            mean=structure.unflatten([mean for mean, _ in pruned]),
            precision=structure.unflatten([precision for _, precision in pruned]),
        )

    def temper(self, temperature: float | jax.Array) -> DiagonalGaussian:
        """The posterior with all variances multiplied by a temperature.

        Averaging over a cold posterior (temperature < 1) raises the confidence of predictions:
        variational training fits the expected loss of one draw, and the average of many draws is
        less sure than that.

        Args:
          temperature: T > 0; the precisions are divided by it. Pruned weights stay pruned.

        Raises:
          ValueError: The temperature is not positive.

        Example:
          >>> DiagonalGaussian(jnp.ones(2), jnp.array([4.0, jnp.inf])).temper(0.25).std
          Array([0.25, 0.  ], dtype=float32)

        References:
          Wenzel et al. 2020, https://arxiv.org/abs/2002.02405
        """
        check_positive("temperature", temperature)
        precision = jax.tree.map(lambda p: (p / temperature).astype(p.dtype), self.precision)
        return dataclasses.replace(self, precision=precision)

    def evidence_temperature(self) -> jax.Array:
        """The temperature at which ΔF ranks these weights: `evidence.temperature_of_signals`.

        Example:
          >>> posterior = DiagonalGaussian(jnp.array([0.5, 0.0, 9.0]), jnp.array([3.0, 4.0, 0.0]))
          >>> posterior.evidence_temperature().item()  # SNR² is 0.75, 0, 0
          0.0833333358168602
        """
        weights = [w for w in self._weights() if w is not None]
        return evidence.temperature_of_signals([w[:2] for w in weights])

    def log_prob(self, params: PyTree) -> jax.Array:
        """Log density of `params`, summed over all weights that have a posterior.

        Args:
          params: The tree of `mean`, arrays of the same shapes.

        Returns:
          A scalar in nats, float32 or wider. Weights of zero variance (pruned, or held fixed)
          count 0, whatever their value in `params`.

        Raises:
          ValueError: A tree or shape does not match that of `mean`.

        Example:
          >>> posterior = DiagonalGaussian(jnp.array([1.0, 0.0]), jnp.array([4.0, jnp.inf]))
          >>> round(posterior.log_prob(jnp.array([1.5, 0.0])).item(), 4)
          -0.7258
        """
        paths, _, structure = flatten(self.mean)
        total = jnp.zeros((), jnp.float32)
        leaves = align("params", params, structure, "mean")
        for path, leaf, w in zip(paths, leaves, self._weights(), strict=True):
            if w is None:
                continue
            check_like("params", path, leaf, "mean", w.mean)
            fixed = jnp.isinf(w.precision)
            precision = jnp.where(fixed, 1, w.precision)
            deviation = widen(leaf) - w.mean
            log_density = 0.5 * (
                jnp.log(precision / (2 * jnp.pi)) - deviation * (deviation * precision)
            )
            total += jnp.sum(jnp.where(fixed, 0, log_density))
        return total

    def kl_to_prior(self) -> jax.Array:
        """Kullback-Leibler divergence from the prior, summed over all weights with a posterior.

        Returns:
          A scalar in nats, float32 or wider. Weights of zero variance (pruned, or held fixed)
          count 0.

        Example:
          >>> posterior = DiagonalGaussian(jnp.array([1.0, 0.0]), jnp.array([1.0, jnp.inf]))
          >>> posterior.kl_to_prior().item()
          0.5
        """
        total = jnp.zeros((), jnp.float32)
        for w in self._weights():
            if w is not None:
                total += jnp.sum(evidence.kl_divergence(*w))
        return total

    def _map(self, fn: Callable[[_Weights], jax.Array]) -> PyTree:
        """The tree of `mean` with `fn` of each leaf that has a posterior, and None elsewhere."""
        _, _, structure = flatten(self.mean)
        return structure.unflatten([None if w is None else fn(w) for w in self._weights()])

    def _weights(self) -> list[_Weights | None]:
        """The three fields leaf by leaf, checked; None for a leaf without a posterior."""
        paths, means, structure = flatten(self.mean)
        precisions = align("precision", self.precision, structure, "mean")
        priors = broadcast_prior(self.prior_precision, self.mean, structure)
        weights: list[_Weights | None] = []
        for path, mean, precision, prior in zip(paths, means, precisions, priors, strict=True):
            if precision is None or not is_array(mean):
                weights.append(None)
                continue
            check_like("precision", path, precision, "mean", mean)
            check_prior(path, prior, mean.shape)
            dtype = jnp.promote_types(jnp.result_type(mean, precision), jnp.float32)
            weights.append(_Weights(*(jnp.asarray(x, dtype) for x in (mean, precision, prior))))
        return weights


def _where_kept(field: str, mask: Any, mean: Any, values: Any, otherwise: float) -> Any:
    """`values` where `mask`, which must fit the leaf `mean`, is nonzero; None stays None."""
    if mask is None or values is None:
        return values
    return jnp.where(checked_plain(field, mask, mean, "mean") != 0, values, otherwise)
