"""Errors of predicted real numbers, and of their stated standard deviations."""

from __future__ import annotations

import numbers
from statistics import NormalDist

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from bmrpruner.metrics._arrays import real_array


def rmse(y: ArrayLike, mean: ArrayLike) -> jax.Array:
    """Root mean squared error over all entries, in the unit of `y`.

    Args:
      y: Observed values, float of any shape.
      mean: Predicted values, float in the shape of `y`.

    Returns:
      A float scalar, at least 0.

    Raises:
      TypeError: If an argument does not hold real numbers.
      ValueError: If the shapes differ, or are empty.

    Example:
      >>> import jax.numpy as jnp
      >>> float(rmse(jnp.array([1.0, 2.0, 3.0, 4.0]), jnp.array([1.0, 2.0, 3.0, 8.0])))
      2.0
    """
    observed, predicted = _pair(y, mean)
    return jnp.sqrt(jnp.square(observed - predicted).mean())


def interval_coverage(y: ArrayLike, mean: ArrayLike, std: ArrayLike, level: float) -> jax.Array:
    """Fraction of observations inside the central Gaussian interval of probability `level`.

    The interval is mean ± z·std with z = Φ⁻¹((1 + level)/2), ends included. Calibrated widths
    cover `level` of the data.

    Args:
      y: Observed values, float of any shape.
      mean: Predicted means, float in the shape of `y`.
      std: Predicted standard deviations, noise included; a scalar or in the shape of `y`. A
        negative one makes the result NaN.
      level: Probability of the interval, a static number in (0, 1).

    Returns:
      A float scalar in [0, 1].

    Raises:
      TypeError: If an argument does not hold real numbers, or `level` is not a plain number.
      ValueError: If the shapes differ, or are empty; if `level` is not in (0, 1).

    Example:
      >>> import jax.numpy as jnp
      >>> y = jnp.array([0.0, 1.9, 2.1, -1.0])  # z = 1.96
      >>> float(interval_coverage(y, jnp.zeros(4), 1.0, level=0.95))
      0.75

    References:
      Gneiting, Balabdaoui and Raftery, `Probabilistic forecasts, calibration and sharpness
      <https://doi.org/10.1111/j.1467-9868.2007.00587.x>`_, 2007.
    """
    observed, predicted = _pair(y, mean)
    width = _spread(std, observed)
    if not isinstance(level, numbers.Real):
        raise TypeError(f"level: expected a static number in (0, 1), got {type(level).__name__}.")
    if not 0 < level < 1:
        raise ValueError(f"level: expected a number in (0, 1), got {level}.")
    distance = jnp.abs(observed - predicted)
    covered = distance <= NormalDist().inv_cdf((1 + float(level)) / 2) * width
    # A comparison with NaN is False, which would pass for an observation outside.
    valid = ~jnp.isnan(distance) & (width >= 0)
    return jnp.where(valid, covered.astype(observed.dtype), jnp.nan).mean()


def gaussian_nll(y: ArrayLike, mean: ArrayLike, std: ArrayLike) -> jax.Array:
    """Mean negative log density of `y` under N(mean, std²), the constant ½ ln 2π included, in nats.

    Args:
      y: Observed values, float of any shape.
      mean: Predicted means, float in the shape of `y`.
      std: Predicted standard deviations, noise included; a scalar or in the shape of `y`. One that
        is not positive leaves no density and makes the result NaN.

    Returns:
      A float scalar.

    Raises:
      TypeError: If an argument does not hold real numbers.
      ValueError: If the shapes differ, or are empty.

    Example:
      >>> import jax.numpy as jnp
      >>> round(float(gaussian_nll(jnp.array([1.0, -1.0]), jnp.zeros(2), 1.0)), 4)
      1.4189

    References:
      Nix and Weigend, `Estimating the mean and variance of the target probability distribution
      <https://doi.org/10.1109/ICNN.1994.374138>`_, 1994.
    """
    observed, predicted = _pair(y, mean)
    scale = _spread(std, observed)
    scale = jnp.where(scale > 0, scale, jnp.nan)
    misfit = jnp.square((observed - predicted) / scale)
    return (0.5 * misfit + jnp.log(scale)).mean() + 0.5 * np.log(2 * np.pi)


def _pair(y: ArrayLike, mean: ArrayLike) -> tuple[jax.Array, jax.Array]:
    observed, predicted = real_array("y", y), real_array("mean", mean)
    # Broadcasting (n,) against (n, 1) would compare every observation with every prediction.
    if predicted.shape != observed.shape:
        raise ValueError(f"mean: expected the shape of y, {observed.shape}, got {predicted.shape}.")
    return observed, predicted


def _spread(std: ArrayLike, observed: jax.Array) -> jax.Array:
    spread = real_array("std", std)
    if spread.shape not in ((), observed.shape):
        raise ValueError(
            f"std: expected a scalar or the shape of y, {observed.shape}, got {spread.shape}."
        )
    return jnp.broadcast_to(spread, observed.shape)
