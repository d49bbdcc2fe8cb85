"""Bayesian model reduction: the change of log evidence when single weights are removed.

A weight has the posterior N(μ, 1/π) and the prior N(0, 1/π₀). Replacing the prior by the reduced
prior N(0, 1/π̃₀) changes the log evidence by ΔF nats, without another fit: the reduced posterior
has the precision π̃ = π + π̃₀ − π₀ and the mean πμ/π̃. Three functions follow, all element-wise over
arrays that broadcast against each other:

    ΔF = ½[ln(π̃₀/π₀) + ln(π/π̃) − πμ²(1 − π/π̃)]    general reduced prior
    ΔF = ½[ln π − ln π₀ − πμ²]                      its limit π̃₀ → ∞, a spike at zero

**ΔF > 0 means that the data prefer the weight gone.** A weight that the data never touched (π = π₀,
μ = 0) has ΔF = 0 exactly; a rule that prunes at ΔF ≥ 0 prunes it.

The edges are defined, so that a rule such as `delta_f >= 0` never prunes by accident:

==============================================  ====================  ==========================
input                                           ΔF                    why
==============================================  ====================  ==========================
π = ∞, μ = 0 (already pruned), spike            +∞                    it stays pruned
π = ∞, μ ≠ 0 (certain and not zero), spike      −∞                    zero is impossible
π = ∞, reduced prior finite                     ln p̃(μ) − ln p(μ)     the limit of the formula
π = 0 (improper posterior) or π̃₀ = 0            −∞                    the limit of the formula
π̃ ≤ 0 (reduced posterior has no normaliser)     −∞                    not a reduction: keep
π < 0, π̃₀ < 0, π₀ ≤ 0, π₀ = ∞, or any NaN       NaN                   no valid model
==============================================  ====================  ==========================

Computed in float32 at least (bfloat16 and float16 inputs included), with differences of precisions
taken before logarithms, so that no digits cancel where π ≈ π₀ or π̃₀ ≈ π₀. Each function is jitted:
one pass over memory, also when called outside of a jitted step.

References:
  Friston, Parr, Zeidman, *Bayesian model reduction*, 2018, arXiv 1805.07092.
  Marković, Friston, Kiebel, *Bayesian sparsification for deep neural networks with Bayesian model
  reduction*, 2023, arXiv 2309.12095.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike


@jax.jit
def delta_f(
    mean: ArrayLike,
    precision: ArrayLike,
    prior_precision: ArrayLike,
    reduced_prior_precision: ArrayLike,
) -> jax.Array:
    """Change of log evidence when the prior is replaced by a reduced Gaussian prior.

    ΔF = ½[ln(π̃₀/π₀) + ln(π/π̃) − πμ²(1 − π/π̃)] with π̃ = π + π̃₀ − π₀, the Gaussian case of
    Friston et al. 2018 (arXiv 1805.07092) as used by Marković et al. 2023 (arXiv 2309.12095).
    Exact for one weight at a time when posterior and priors are Gaussian.

    Args:
      mean: Posterior mean μ, any shape.
      precision: Posterior precision π ≥ 0; ∞ is a weight of zero variance.
      prior_precision: Prior precision π₀, positive and finite.
      reduced_prior_precision: Reduced prior precision π̃₀ ≥ 0; ∞ is the spike at zero, for which
        the result equals `delta_f_spike`.

    Returns:
      ΔF in nats, in the broadcast shape, float32 or wider. Positive: the data prefer the reduced
      model. The module's docstring lists the values at the edges.

    Example:
      >>> round(float(delta_f(0.1, 25.0, 1.0, 100.0)), 4)
      1.4021
      >>> delta_f(0.0, 1.0, 1.0, 1e6).item()  # the data never touched it
      0.0
    """
    mean, precision, prior, reduced_prior = as_floats(
        mean, precision, prior_precision, reduced_prior_precision
    )
    valid = _is_model(mean, precision, prior) & (reduced_prior >= 0)

    # The log term is symmetric in π and π̃₀; ordered by size, every subtraction below is accurate.
    # An infinity is replaced before it meets another one, so that gradients stay finite as well.
    posterior_is_upper = precision >= reduced_prior
    upper = jnp.where(posterior_is_upper, precision, reduced_prior)
    lower = jnp.where(posterior_is_upper, reduced_prior, precision)
    both_infinite = jnp.isinf(lower)
    lower = jnp.where(both_infinite, prior, lower)
    upper_is_infinite = jnp.isinf(upper)
    upper = jnp.where(upper_is_infinite, prior, upper)

    reduced = (upper - prior) + lower
    proper = reduced > 0
    reduced = jnp.where(proper, reduced, prior)
    upper_share = jnp.where(upper_is_infinite, 1, upper / reduced)
    excess_share = jnp.where(upper_is_infinite, 1, (upper - prior) / reduced)

    held = lower * upper_share  # ππ̃₀/π̃, to be compared with π₀
    excess = (lower - prior) * excess_share  # held − π₀, without cancellation
    curvature = jnp.where(
        posterior_is_upper, (lower - prior) * upper_share, lower * excess_share
    )  # π(1 − π/π̃)
    value = 0.5 * (_log_ratio(held, prior, excess) - mean * (mean * curvature))

    value = jnp.where(proper, value, -jnp.inf)
    value = jnp.where(both_infinite, jnp.where(mean == 0, jnp.inf, -jnp.inf), value)
    return jnp.where(valid, value, jnp.nan)


@jax.jit
def delta_f_spike(mean: ArrayLike, precision: ArrayLike, prior_precision: ArrayLike) -> jax.Array:
    """Change of log evidence when the weight is fixed at zero.

    ΔF = ½[ln π − ln π₀ − πμ²] = ln q(0) − ln p(0), the Savage-Dickey ratio: the limit of `delta_f`
    for an infinite reduced prior precision (Friston et al. 2018, arXiv 1805.07092; Marković et al.
    2023, arXiv 2309.12095).

    Args:
      mean: Posterior mean μ, any shape.
      precision: Posterior precision π ≥ 0; ∞ is a weight of zero variance.
      prior_precision: Prior precision π₀, positive and finite.

    Returns:
      ΔF in nats, in the broadcast shape, float32 or wider. Positive: the data prefer the weight
      gone. An already pruned weight (μ = 0, π = ∞) has +∞ and stays pruned.

    Example:
      >>> mean, precision = jnp.array([0.0, 0.1, 1.0]), jnp.array([25.0, 25.0, 25.0])
      >>> [round(float(x), 4) for x in delta_f_spike(mean, precision, 1.0)]
      [1.6094, 1.4844, -10.8906]
    """
    mean, precision, prior = as_floats(mean, precision, prior_precision)
    certain = jnp.isinf(precision)
    finite = jnp.where(certain, prior, precision)
    value = 0.5 * (_log_ratio(finite, prior, finite - prior) - mean * (mean * finite))
    value = jnp.where(certain, jnp.where(mean == 0, jnp.inf, -jnp.inf), value)
    return jnp.where(_is_model(mean, precision, prior), value, jnp.nan)


@jax.jit
def reduced_posterior(
    mean: ArrayLike,
    precision: ArrayLike,
    prior_precision: ArrayLike,
    reduced_prior_precision: ArrayLike,
) -> tuple[jax.Array, jax.Array]:
    """Posterior under the reduced prior, without another fit: mean πμ/π̃, precision π̃.

    π̃ = π + π̃₀ − π₀ (Friston et al. 2018, arXiv 1805.07092; Marković et al. 2023, arXiv 2309.12095).

    Args:
      mean: Posterior mean μ, any shape.
      precision: Posterior precision π ≥ 0; ∞ is a weight of zero variance.
      prior_precision: Prior precision π₀, positive and finite.
      reduced_prior_precision: Reduced prior precision π̃₀ ≥ 0; ∞ is the spike at zero.

    Returns:
      Mean and precision in the broadcast shape, float32 or wider. The spike gives mean 0 and
      precision ∞. Where π̃ ≤ 0 there is no reduced posterior, and both are NaN.

    Example:
      >>> mean, precision = reduced_posterior(0.5, 25.0, 1.0, 76.0)
      >>> mean.item(), precision.item()
      (0.125, 100.0)
      >>> mean, precision = reduced_posterior(0.5, 25.0, 1.0, jnp.inf)
      >>> mean.item(), precision.item()
      (0.0, inf)
    """
    mean, precision, prior, reduced_prior = as_floats(
        mean, precision, prior_precision, reduced_prior_precision
    )
    # The larger one first: exact where the result is much smaller than the terms.
    reduced = (jnp.maximum(precision, reduced_prior) - prior) + jnp.minimum(
        precision, reduced_prior
    )
    valid = _is_model(mean, precision, prior) & (reduced_prior >= 0) & (reduced > 0)
    finite = jnp.where(jnp.isinf(precision), prior, precision)
    shrinkage = jnp.where(jnp.isinf(precision), 1, finite / reduced)
    reduced_mean = mean * jnp.where(jnp.isinf(reduced_prior), 0, shrinkage)
    return jnp.where(valid, reduced_mean, jnp.nan), jnp.where(valid, reduced, jnp.nan)


@jax.jit
def kl_divergence(mean: ArrayLike, precision: ArrayLike, prior_precision: ArrayLike) -> jax.Array:
    """Kullback-Leibler divergence of the posterior from the prior, per weight.

    KL = ½[ln(π/π₀) + π₀/π − 1 + π₀μ²], between N(μ, 1/π) and N(0, 1/π₀).

    Args:
      mean: Posterior mean μ, any shape.
      precision: Posterior precision π ≥ 0.
      prior_precision: Prior precision π₀, positive and finite.

    Returns:
      KL in nats, in the broadcast shape, float32 or wider. A weight of zero variance (π = ∞:
      pruned, or held fixed) is no longer a random variable and counts 0; π = 0 gives ∞.

    Example:
      >>> [round(float(x), 4) for x in kl_divergence(jnp.array([0.0, 0.1]), 25.0, 1.0)]
      [1.1294, 1.1344]
    """
    mean, precision, prior = as_floats(mean, precision, prior_precision)
    certain = jnp.isinf(precision)
    finite = jnp.where(certain, prior, precision)
    log_ratio = _log_ratio(finite, prior, finite - prior)
    value = 0.5 * (log_ratio + (prior - finite) / finite + mean * (mean * prior))
    value = jnp.where(certain, 0, jnp.where(finite == 0, jnp.inf, value))
    return jnp.where(_is_model(mean, precision, prior), value, jnp.nan)


def _log_ratio(numerator: jax.Array, denominator: jax.Array, difference: jax.Array) -> jax.Array:
    """ln(numerator/denominator), accurate near 1 when given their difference to full precision."""
    larger = difference >= 0
    log = jnp.log1p(
        jnp.where(larger, difference, -difference) / jnp.where(larger, denominator, numerator)
    )
    return jnp.where(larger, log, -log)


def _is_model(mean: jax.Array, precision: jax.Array, prior: jax.Array) -> jax.Array:
    return ~jnp.isnan(mean) & (precision >= 0) & (prior > 0) & (prior < jnp.inf)


def as_floats(*arrays: ArrayLike) -> tuple[jax.Array, ...]:
    """The arrays in their common dtype, float32 at least."""
    dtype = jnp.promote_types(jnp.result_type(*arrays), jnp.float32)
    return tuple(jnp.asarray(array, dtype) for array in arrays)
