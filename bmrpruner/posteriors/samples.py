"""The posterior behind draws: MCMC chains and ensembles."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from bmrpruner._tree import PyTree, is_array
from bmrpruner.posteriors._leaves import flatten, widen
from bmrpruner.posteriors.diagonal_gaussian import DiagonalGaussian


class SampledPosterior(NamedTuple):
    """A posterior from draws, and how far the draws can be trusted; a pytree.

    Attributes:
      posterior: Mean and precision of the draws.
      rhat: Split R-hat per weight, 1 at convergence; a tree like the draws, float32 or wider.
      n_eff: Effective number of draws per weight; a tree like the draws, float32 or wider.

    Example:
      >>> sampled = from_samples(jax.random.normal(jax.random.key(0), (4, 250, 3)))
      >>> [round(float(x), 2) for x in sampled.rhat]
      [1.0, 1.0, 1.0]
    """

    posterior: DiagonalGaussian
    rhat: PyTree
    n_eff: PyTree


def from_samples(draws: PyTree, prior_precision: PyTree = 1.0) -> SampledPosterior:
    """Posterior from draws, by the mean and variance of each weight over all chains and draws.

    R-hat and the effective number of draws are computed on split chains, without rank
    normalisation. Treat a posterior whose R-hat is well above 1.01 as unconverged: its precision
    describes the distance between the chains.

    A weight that is the same in all draws (pruned, or frozen) has precision ∞, R-hat 1, and as many
    effective draws as there are. Chains that are each stuck at another value have R-hat ∞.

    Args:
      draws: A tree of floating arrays [chain, draw, *shape], alike in the first two axes, with
        at least two draws in all. An ensemble is one chain of independent draws. Leaves that
        are no arrays are passed through, without a posterior.
      prior_precision: Prior precision π₀, as in `DiagonalGaussian`.

    Returns:
      The posterior, R-hat and `n_eff`, all of shape `shape`, float32 or wider. With fewer than
      four draws a chain, R-hat and `n_eff` cannot be told and are NaN.

    Raises:
      ValueError: Too few axes or draws, or leaves with different numbers of chains or draws.
      TypeError: An array that is not floating.

    Example:
      >>> draws = {'kernel': jnp.array([[[1.0, 0.0], [2.0, 0.0], [3.0, 0.0], [2.0, 0.0]]])}
      >>> sampled = from_samples(draws)
      >>> sampled.posterior.mean['kernel'], sampled.posterior.precision['kernel']
      (Array([2., 0.], dtype=float32), Array([1.5, inf], dtype=float32))

    References:
      Vehtari et al. 2021, Rank-normalization, folding, and localization: an improved R-hat for
      assessing convergence of MCMC, https://arxiv.org/abs/1903.08008, equations 1-4 and 10-13.
    """
    paths, leaves, structure = flatten(draws)
    _check_draws(paths, leaves)
    summaries = [_summary(leaf) if is_array(leaf) else (leaf, None, None, None) for leaf in leaves]
    mean, precision, rhat, n_eff = (
        structure.unflatten([summary[i] for summary in summaries]) for i in range(4)
    )
    return SampledPosterior(DiagonalGaussian(mean, precision, prior_precision), rhat, n_eff)


def _check_draws(paths: list[str], leaves: list[Any]) -> None:
    first = None
    for path, leaf in zip(paths, leaves, strict=True):
        if not is_array(leaf):
            continue
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            raise TypeError(f"draws{path}: expected a floating array, got {leaf.dtype}.")
        if leaf.ndim < 2 or leaf.shape[0] * leaf.shape[1] < 2:
            raise ValueError(
                f"draws{path}: expected [chain, draw, *shape] with at least two draws, "
                f"got the shape {leaf.shape}."
            )
        first = first or leaf.shape[:2]
        if leaf.shape[:2] != first:
            raise ValueError(
                f"draws{path}: expected {first[0]} chains of {first[1]} draws as in the first "
                f"leaf, got {leaf.shape[:2]}."
            )


@jax.jit
def _summary(leaf: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """Mean, precision, R-hat and effective number of draws over the first two axes."""
    draws = widen(leaf)
    # Subtracting one of the draws first makes the variance of a constant exactly zero, and keeps
    # the precision of draws whose mean is large.
    origin = draws[0, 0]
    centred = draws - origin
    mean = origin + jnp.mean(centred, axis=(0, 1))
    precision = 1 / jnp.var(centred, axis=(0, 1), ddof=1)
    if draws.shape[1] < 4:
        unknown = jnp.full_like(mean, jnp.nan)
        return mean, precision, unknown, unknown
    return mean, precision, *_diagnostics(_split(centred))


def _split(draws: jax.Array) -> jax.Array:
    """The first and the last half of each chain as two chains; an odd middle draw is left out."""
    half = draws.shape[1] // 2
    return jnp.concatenate([draws[:, :half], draws[:, -half:]])


def _diagnostics(chains: jax.Array) -> tuple[jax.Array, jax.Array]:
    """R-hat and effective number of draws of [chain, draw, *shape].

    Names and equation numbers are those of Vehtari et al. 2021.
    """
    m, n = chains.shape[:2]
    offsets = chains - chains[:, :1]  # exactly zero for a chain that is stuck
    chain_means = chains[:, 0] + jnp.mean(offsets, axis=1)
    deviations = offsets - jnp.mean(offsets, axis=1, keepdims=True)
    within = jnp.mean(jnp.sum(deviations**2, axis=1), axis=0) / (n - 1)  # W, equation 2
    between = jnp.var(chain_means, axis=0, ddof=1)  # B/n, equation 1
    pooled = within * (n - 1) / n + between  # var⁺, equation 3
    constant = pooled == 0
    rhat = jnp.where(constant, 1, jnp.sqrt(pooled / within))  # equation 4

    correlations = 1 - (within - _autocovariance(deviations)) / pooled  # ρ̂_t, equation 10
    time = jnp.maximum(_autocorrelation_time(correlations), 1 / jnp.log10(m * n))
    return rhat, jnp.where(constant, m * n, m * n / time)


def _autocovariance(deviations: jax.Array) -> jax.Array:
    """Autocovariance [lag, *shape] of [chain, draw, *shape], the mean over the chains."""
    n = deviations.shape[1]
    power = jnp.abs(jnp.fft.rfft(deviations, 2 * n, axis=1)) ** 2  # padded: no wrap-around
    return jnp.fft.irfft(jnp.mean(power, axis=0), 2 * n, axis=0)[:n] / n


def _autocorrelation_time(correlations: jax.Array) -> jax.Array:
    """τ̂ of [lag, *shape]: Geyer's initial monotone sequence, equations 11-13."""
    pairs = correlations.shape[0] // 2
    sums = correlations[: 2 * pairs].reshape(pairs, 2, *correlations.shape[1:]).sum(axis=1)
    positive = jax.lax.cumprod((sums > 0).astype(sums.dtype), axis=0)
    return -1 + 2 * jnp.sum(positive * jax.lax.cummin(sums, axis=0), axis=0)
