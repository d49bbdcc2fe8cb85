"""How well a score separates out-of-distribution examples from in-distribution ones.

The score is any of `uncertainty`, **higher = more out-of-distribution**: `predictive_entropy`,
`mutual_information`, or minus `max_probability`. Out-of-distribution examples are the positives.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from bmrpruner.metrics._arrays import real_array


def auroc(in_scores: ArrayLike, out_scores: ArrayLike) -> jax.Array:
    """Area under the ROC curve: how often an outsider scores above an insider, ties one half.

    Args:
      in_scores: Scores of in-distribution examples, float (n,); higher = more out.
      out_scores: Scores of out-of-distribution examples, float (m,).

    Returns:
      A float scalar in [0, 1]; 0.5 for a score that is unrelated.

    Raises:
      TypeError: If the scores are not real numbers.
      ValueError: If either does not have one axis, or is empty.

    Example:
      >>> import jax.numpy as jnp
      >>> float(auroc(jnp.array([0.1, 0.4]), jnp.array([0.4, 0.9])))
      0.875

    References:
      Hanley and McNeil, `The meaning and use of the area under a receiver operating characteristic
      (ROC) curve <https://doi.org/10.1148/radiology.143.1.7063747>`_, 1982.
    """
    inside, outside = _scores(in_scores, out_scores)
    below = jnp.searchsorted(inside, outside, side="left")
    up_to = jnp.searchsorted(inside, outside, side="right")
    wins = (below.astype(inside.dtype) + up_to.astype(inside.dtype)) / (2 * inside.size)
    return _unless_nan(wins.mean(), inside, outside)


def auroc_standard_error(area: ArrayLike, n_in: int, n_out: int) -> jax.Array:
    """Standard error of `auroc` over test sets.

    Args:
      area: The result of `auroc`.
      n_in: Number of in-distribution examples.
      n_out: Number of out-of-distribution examples.

    Returns:
      A float scalar, at least 0.

    Example:
      >>> round(float(auroc_standard_error(0.893, n_in=58, n_out=51)), 4)
      0.0325

    References:
      Hanley and McNeil, `The meaning and use of the area under a receiver operating characteristic
      (ROC) curve <https://doi.org/10.1148/radiology.143.1.7063747>`_, 1982, equation 1.
    """
    area = jnp.asarray(area)
    two_out = area / (2 - area) - area**2
    two_in = 2 * area**2 / (1 + area) - area**2
    variance = area * (1 - area) + (n_out - 1) * two_out + (n_in - 1) * two_in
    return jnp.sqrt(jnp.maximum(variance, 0) / (n_in * n_out))


def aupr(in_scores: ArrayLike, out_scores: ArrayLike) -> jax.Array:
    """Area under the precision-recall curve, as a step function (average precision).

    The mean over outsiders of the precision among all examples that score as high or higher.
    There is no interpolation between thresholds, which would overestimate the area.

    Args:
      in_scores: Scores of in-distribution examples, float (n,); higher = more out.
      out_scores: Scores of out-of-distribution examples, float (m,).

    Returns:
      A float scalar in [0, 1]; m / (n + m) for a score that is constant.

    Raises:
      TypeError: If the scores are not real numbers.
      ValueError: If either does not have one axis, or is empty.

    Example:
      >>> import jax.numpy as jnp
      >>> float(aupr(jnp.array([0.1, 0.4]), jnp.array([0.2, 0.9])))  # precisions 2/3 and 1
      0.8333333730697632

    References:
      Davis and Goadrich, `The relationship between Precision-Recall and ROC curves
      <https://doi.org/10.1145/1143844.1143874>`_, 2006.
    """
    inside, outside = _scores(in_scores, out_scores)
    false = inside.size - jnp.searchsorted(inside, outside, side="left")
    true = outside.size - jnp.searchsorted(outside, outside, side="left")
    return _unless_nan((true / (true + false)).astype(inside.dtype).mean(), inside, outside)


def _scores(in_scores: ArrayLike, out_scores: ArrayLike) -> tuple[jax.Array, jax.Array]:
    """Both as sorted floats."""
    inside = real_array("in_scores", in_scores, ("n",))
    outside = real_array("out_scores", out_scores, ("m",))
    return jnp.sort(inside), jnp.sort(outside)


def _unless_nan(area: jax.Array, inside: jax.Array, outside: jax.Array) -> jax.Array:
    # Sorting puts NaN last, where it would count as the highest score.
    return jnp.where(jnp.isnan(inside[-1]) | jnp.isnan(outside[-1]), jnp.nan, area)
