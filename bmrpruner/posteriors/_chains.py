"""How far chains of draws can be trusted: R-hat and effective numbers of draws.

Names and equation numbers are those of Vehtari, Gelman, Simpson, Carpenter, Bürkner 2021,
Rank-normalization, folding, and localization: an improved R-hat for assessing convergence of MCMC,
https://arxiv.org/abs/1903.08008.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp


def diagnose(draws: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Rank-normalised split R-hat and bulk effective number of draws of [chain, draw, *shape].

    R-hat is the larger one of that of the draws and that of their distances from the median, so
    that chains of other widths are told as well. Of constant draws R-hat is 1, and the effective
    number is that of the draws; NaN among the draws gives NaN.
    """
    chains = _split(draws)
    ranks, (lower, upper) = _normal_ranks(chains)
    # Twice the distance to the median, which lies between two draws: these two remain equal.
    folded, _ = _normal_ranks(jnp.abs((chains - lower) + (chains - upper)))
    bulk, n_eff = _rhat_and_n_eff(ranks)
    tail, _ = _rhat_and_n_eff(folded)
    unknown = jnp.any(jnp.isnan(draws), axis=(0, 1))
    return (
        jnp.where(unknown, jnp.nan, jnp.maximum(bulk, tail)),
        jnp.where(unknown, jnp.nan, n_eff),
    )


def _split(draws: jax.Array) -> jax.Array:
    """The first and the last half of each chain as two chains; an odd middle draw is left out."""
    half = draws.shape[1] // 2
    return jnp.concatenate([draws[:, :half], draws[:, -half:]])


def _normal_ranks(chains: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    """Normal scores of the ranks among all draws, equation 14; and the two draws in the middle."""
    size = chains.shape[0] * chains.shape[1]
    rows = chains.reshape(size, math.prod(chains.shape[2:])).T  # one per weight: sorts faster
    position = jax.lax.broadcasted_iota(jnp.int32, rows.shape, 1)
    ordered, source = jax.lax.sort((rows, position), num_keys=1)
    # Equal draws share the mean of their ranks: the first and the last position of each run.
    is_other = ordered[:, 1:] != ordered[:, :-1]
    edge = jnp.ones_like(is_other[:, :1])
    starts = jnp.where(jnp.concatenate([edge, is_other], axis=1), position, 0)
    ends = jnp.where(jnp.concatenate([is_other, edge], axis=1), position, size - 1)
    first = jax.lax.cummax(starts, axis=1)
    last = jax.lax.cummin(ends, axis=1, reverse=True)
    rank = (first + last).astype(rows.dtype) / 2 + 1
    score = jax.scipy.special.ndtri((rank - 3 / 8) / (size + 1 / 4))
    scores = jnp.put_along_axis(jnp.zeros_like(rows), source, score, axis=1, inplace=False)
    middle = [ordered[:, i].reshape(chains.shape[2:]) for i in ((size - 1) // 2, size // 2)]
    return scores.T.reshape(chains.shape), (middle[0], middle[1])


def _rhat_and_n_eff(chains: jax.Array) -> tuple[jax.Array, jax.Array]:
    """R-hat and effective number of draws of [chain, draw, *shape]."""
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
    correlations = correlations.at[0].set(1)
    time = jnp.maximum(_autocorrelation_time(correlations), 1 / jnp.log10(m * n))
    return rhat, jnp.where(constant, m * n, m * n / time)


def _autocovariance(deviations: jax.Array) -> jax.Array:
    """Autocovariance [lag, *shape] of [chain, draw, *shape], the mean over the chains."""
    n = deviations.shape[1]
    power = jnp.abs(jnp.fft.rfft(deviations, 2 * n, axis=1)) ** 2  # padded: no wrap-around
    return jnp.fft.irfft(jnp.mean(power, axis=0), 2 * n, axis=0)[:n] / n


def _autocorrelation_time(correlations: jax.Array) -> jax.Array:
    """τ̂ of [lag, *shape], equations 11-13.

    Geyer's initial monotone sequence: sums of two lags, each cut to those before it, up to the
    first that is not positive or the last there is; of that one the even lag counts, once, if it is
    positive.
    """
    lags = correlations.shape[0]
    pairs = max(1, (lags - 1) // 2)
    even, odd = correlations[: 2 * pairs : 2], correlations[1 : 2 * pairs : 2]
    sums = even + odd
    positive = jax.lax.cumprod((sums > 0).astype(sums.dtype), axis=0)
    positive = positive.at[-1].set(0)
    before = jnp.concatenate([jnp.ones_like(positive[:1]), positive[:-1]])
    final = before - positive  # one where the sequence ends
    summed = positive * jax.lax.cummin(sums, axis=0)
    return -1 + jnp.sum(2 * summed + final * jnp.maximum(even, 0), axis=0)
