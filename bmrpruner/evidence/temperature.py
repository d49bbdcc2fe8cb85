"""The temperature at which the evidence of single weights ranks the weights of a network."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp


def temperature_of_signals(leaves: Sequence[tuple[jax.Array, jax.Array]]) -> jax.Array:
    """The temperature at which ΔF ranks weights well: a third of the mean of SNR², at most 1.

    ΔF = ½ [ln(π/π₀) - SNR²] has two parts. SNR² = μ²π grows with the number of examples, the Occam
    term ln π hardly does. Where most weights have no signal (SNR² far below 1), the Occam term
    decides, and first prunes weights that are small but precise, on which a network depends, before
    those that the data never touched. At this temperature both parts keep their proportion, however
    cold the posterior is. The third is the outcome of `benchmarks/temperature.py`.

    Args:
      leaves: Means μ and precisions π of the same shape, float32 or wider; ∞ where pruned.

    Returns:
      A scalar in (0, 1], float32 or wider. The mean is over all weights that are not pruned; 1 if
      there is none, or none with a mean other than 0.

    Example:
      >>> temperature_of_signals([(jnp.array([0.5, 0.0]), jnp.array([3.0, jnp.inf]))]).item()
      0.25
    """
    total, count = jnp.zeros((), jnp.float32), jnp.zeros((), jnp.float32)
    for mean, precision in leaves:
        kept = jnp.isfinite(precision)
        squares = jnp.square(mean) * jnp.where(kept, precision, 0)
        total += jnp.sum(jnp.where(kept, squares, 0))
        count += jnp.sum(kept, dtype=jnp.float32)
    mean_square = total / jnp.maximum(count, 1)
    return jnp.where(mean_square > 0, jnp.minimum(mean_square / 3, 1), 1)
