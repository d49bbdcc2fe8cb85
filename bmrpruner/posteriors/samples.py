"""The posterior behind draws: MCMC chains and ensembles."""

from __future__ import annotations

import warnings
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bmrpruner._leaves import check_draws, flatten, is_concrete, widen
from bmrpruner._tree import PyTree, is_array
from bmrpruner.posteriors._chains import diagnose
from bmrpruner.posteriors.diagonal_gaussian import DiagonalGaussian

# When chains count as converged to a posterior that is symmetric in its units.
_FEW_WEIGHTS = 8
_LOW_RHAT = 1.05
_NO_SIGNAL = 0.1


class SampledPosterior(NamedTuple):
    """A posterior from draws, and how far the draws can be trusted; a pytree.

    Attributes:
      posterior: Mean and precision of the draws.
      rhat: Rank-normalised split R-hat per weight, 1 at convergence; a tree like the draws, float32
        or wider.
      n_eff: Bulk effective number of draws per weight; a tree like the draws, float32 or wider.

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

    R-hat and the effective number of draws are computed as ArviZ does: on split chains, from
    normalised ranks, R-hat also from those of the distances to the median. Draws whose R-hat is
    above 1.01 have not converged: their precision describes the distance between the chains.

    **Look at R-hat in function space.** The hidden units of a network can be exchanged, and with an
    odd activation their signs flipped, without a change of its outputs. Chains that have converged
    visit all these copies; then the mean of each hidden weight is that of all units, often zero,
    its signal to noise is nothing but Monte Carlo noise, and a good R-hat of weights is the *bad*
    sign. So hand in the predictions of each draw as draws, and look at the R-hat of these; and put
    the weights' draws through `align_units` before weights are scored. A warning says where the
    weights' R-hat is low and the signal to noise of their means vanishes.

    A weight that is the same in all draws (pruned, or frozen) has precision ∞, R-hat 1, and as many
    effective draws as there are. Chains that are each stuck at another value have R-hat ∞.

    Args:
      draws: A tree of floating arrays `[chain, draw, *shape]`, alike in the first two axes, with
        at least two draws in all: of weights, or of predictions. An ensemble is one chain of
        independent draws. Leaves that are no arrays are passed through, without a posterior.
      prior_precision: Prior precision π₀, as in `DiagonalGaussian`.

    Returns:
      The posterior, R-hat and `n_eff`, all of shape `shape`, float32 or wider. With fewer than
      four draws a chain, R-hat and `n_eff` cannot be told and are NaN.

    Raises:
      ValueError: Too few axes or draws, or leaves with different numbers of chains or draws.
      TypeError: An array that is not floating.

    Warns:
      UserWarning: At a leaf of eight weights or more whose R-hat is below 1.05 and whose |μ|/σ is
        below 0.1, in the median. A bare array [chain, draw, n] is taken for predictions and has
        none; nor is there one under jit, where values are not known.

    Example:
      >>> draws = {'kernel': jnp.array([[[1.0, 0.0], [2.0, 0.0], [3.0, 0.0], [2.0, 0.0]]])}
      >>> sampled = from_samples(draws)
      >>> sampled.posterior.mean['kernel'], sampled.posterior.precision['kernel']
      (Array([2., 0.], dtype=float32), Array([1.5, inf], dtype=float32))
      >>> weights = jax.random.normal(jax.random.key(0), (4, 250, 3)) + 1
      >>> predictions = jnp.tanh(weights @ jnp.array([0.5, -0.3, 0.2]))
      >>> round(float(from_samples(predictions).rhat), 2)
      1.0

    References:
      Vehtari et al. 2021, Rank-normalization, folding, and localization: an improved R-hat for
      assessing convergence of MCMC, https://arxiv.org/abs/1903.08008, equations 1-4 and 10-14.
    """
    paths, leaves, structure = flatten(draws)
    check_draws(paths, leaves)
    summaries = [_summary(leaf) if is_array(leaf) else (leaf, None, None, None) for leaf in leaves]
    for path, leaf, (mean, precision, rhat, _) in zip(paths, leaves, summaries, strict=True):
        # A bare array of one axis is taken for predictions, whose means may well be zero.
        are_weights = is_array(leaf) and (path != "" or leaf.ndim > 3)
        if are_weights and is_concrete(mean):
            _warn_if_symmetric(path, mean, precision, rhat)
    mean, precision, rhat, n_eff = (
        structure.unflatten([summary[i] for summary in summaries]) for i in range(4)
    )
    return SampledPosterior(DiagonalGaussian(mean, precision, prior_precision), rhat, n_eff)


def _warn_if_symmetric(path: str, mean: Any, precision: Any, rhat: Any) -> None:
    # In NumPy: what is varied has another size for each leaf, and would be compiled for each.
    varied = np.isfinite(precision)
    if np.sum(varied) < _FEW_WEIGHTS:
        return
    mean, precision, rhat = (np.asarray(x)[varied] for x in (mean, precision, rhat))
    typical_rhat = np.median(rhat)
    typical_snr = np.median(np.abs(mean) * np.sqrt(precision))
    if typical_rhat < _LOW_RHAT and typical_snr < _NO_SIGNAL:
        warnings.warn(
            f"draws{path}: the chains agree (median R-hat {typical_rhat:.3f}), and the weights' "
            f"means vanish (median |μ|/σ {typical_snr:.3f}): they visit permuted or sign-flipped "
            "copies of the units, or the data say nothing about these weights. Align the units by "
            "posteriors.align_units before scoring them, and judge convergence by the predictions.",
            stacklevel=3,
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
    return mean, precision, *diagnose(draws)
