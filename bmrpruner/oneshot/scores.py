"""Scores of a layer's weights, in nats, from the moments of its inputs."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp

from bmrpruner.evidence import eliminate
from bmrpruner.evidence.correlated import inverse, unit_diagonal
from bmrpruner.oneshot.refit import checked_layer

WIDE = 2048
"""The width from which on a layer's weights are not eliminated one after the other.

Example:
  >>> 784 < WIDE  # the first layer of an MLP on MNIST is eliminated weight by weight
  True
"""


def obs_scores(weights: Any, precision: Any, curvature: Any = 1.0, wide: bool | None = None) -> Any:
    """How much the loss rises by the time that each weight has to go: Optimal Brain Surgeon.

    The weights of a row are removed one after the other, each with its update of the others; a
    weight's score is the largest cost of a removal up to its own, so that lower scores in a row
    are earlier removals. A wide layer, for which that
    would take long, has the cost of removing each weight first, ½g w²/Σ_qq.

    Args:
      weights: (R, D).
      precision: (D, D), P = C + λI.
      curvature: (R,), g of each row, or a number.
      wide: Whether the layer is to be treated as wide; by default from 2,048 inputs on.

    Returns:
      (R, D), nats per example, float32 or wider.

    Raises:
      ValueError: If shapes do not fit.

    Example:
      >>> precision = jnp.array([[2.0, 1.9], [1.9, 2.0]])
      >>> [round(float(x), 2) for x in obs_scores(jnp.array([[1.0, 1.1]]), precision)[0]]
      [0.1, 4.2]
    """
    weights, precision = checked_layer(weights, precision)
    is_wide = wide if wide is not None else weights.shape[1] >= WIDE
    return _obs_scores(weights, precision, jnp.asarray(curvature, weights.dtype), is_wide)


@functools.partial(jax.jit, static_argnames="is_wide")
def _obs_scores(
    weights: jax.Array, precision: jax.Array, curvature: jax.Array, is_wide: bool
) -> jax.Array:
    rows = jnp.reshape(curvature, (-1, 1))
    if is_wide:
        unit, root = unit_diagonal(precision)
        variance = jnp.diagonal(inverse(unit))
        return rows * 0.5 * (weights * root) ** 2 / variance
    order, _, cost = eliminate(weights, precision, 1.0)
    return jax.lax.sort_key_val(order, _rising(rows * cost))[1]


def _rising(cost: jax.Array) -> jax.Array:
    """The largest cost so far; where it stays, the next larger float, so that the order is kept.

    Floats that are not negative are ordered as the integers of their bits.
    """
    integer = jnp.dtype(f"int{8 * cost.dtype.itemsize}")
    steps = jnp.arange(cost.shape[1], dtype=integer)
    bits = jax.lax.bitcast_convert_type(cost, integer) - steps
    return jax.lax.bitcast_convert_type(jax.lax.cummax(bits, axis=1) + steps, cost.dtype)


def wanda_scores(weights: Any, input_moments: Any, curvature: Any = None) -> jax.Array:
    """|w|·‖x‖ in units of its row, or the cost of a weight alone.

    Sun et al. 2023, *A simple and effective pruning approach for large language models*, arXiv
    2306.11695, compare the weights of one row: without a curvature, a score is the share of its row
    that a weight leads. With a curvature, it is ½g w²E[x²], which can be compared between rows and
    layers.

    Args:
      weights: (R, D).
      input_moments: (D,), E[x²] of each input.
      curvature: (R,), g of each row; None to rank each row by itself.

    Returns:
      (R, D), in (0, 1] or in nats per example.

    Example:
      >>> wanda_scores(jnp.array([[1.0, -3.0]]), jnp.array([16.0, 1.0])).tolist()
      [[1.0, 0.5]]
    """
    squares = jnp.asarray(weights) ** 2 * input_moments
    if curvature is not None:
        return 0.5 * jnp.asarray(curvature)[:, None] * squares
    ranks = jnp.argsort(jnp.argsort(squares, axis=1), axis=1)
    return (ranks + 1) / squares.shape[1]
