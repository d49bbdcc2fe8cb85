"""Calibration errors by bins of the stated probability, and the reliability diagram.

Two ways to bin. `'width'` cuts [0, 1] into equal intervals. `'mass'` cuts at the quantiles of the
values, so that every bin holds as many examples as the next one unless ties prevent it: equal
values share a bin, which keeps the result independent of the order of the data. Bins are
(lo, hi], and 0 falls in the first.
"""

from __future__ import annotations

import operator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from bmrpruner.metrics._arrays import correct, entropy, labelled, one_hot


class ReliabilityDiagram(NamedTuple):
    """Bins of a reliability diagram, by rising confidence; an empty one has zeros throughout.

    Attributes:
      confidence: float (bins,), mean top-label probability.
      accuracy: float (bins,), fraction correct.
      counts: int32 (bins,), number of examples.

    Example:
      >>> probs, labels = [[0.75, 0.25], [0.25, 0.75]], [0, 0]
      >>> reliability_diagram(probs, labels, bins=2).accuracy.tolist()
      [0.0, 0.5]
    """

    confidence: jax.Array
    accuracy: jax.Array
    counts: jax.Array


def ece(probs: ArrayLike, labels: ArrayLike, bins: int = 15, binning: str = "width") -> jax.Array:
    """Expected calibration error of the top label: sum over bins of |B|/n |acc(B) - conf(B)|.

    Confidence is the largest probability of a row, whichever class has it; accuracy, whether that
    class is the label.

    Args:
      probs: Class probabilities, float (n, classes).
      labels: Class indices, int (n,).
      bins: Number of bins, at least 1; static.
      binning: `'width'` as published, or `'mass'` for bins of equal count.

    Returns:
      A float scalar in [0, 1].

    Raises:
      TypeError: If `labels` or `bins` are not integers, or `probs` not real numbers.
      ValueError: If the shapes are not (n, classes) and (n,), or empty; if `bins` < 1 or
        `binning` is unknown.

    Example:
      >>> import jax.numpy as jnp
      >>> probs = jnp.array([[0.75, 0.25], [0.25, 0.75]])
      >>> float(ece(probs, jnp.array([0, 0])))
      0.25

    References:
      Guo et al., `On Calibration of Modern Neural Networks <https://arxiv.org/abs/1706.04599>`_,
      2017, equation 3; equal mass: Nguyen and O'Connor, `Posterior calibration and exploratory
      analysis for natural language processing models <https://arxiv.org/abs/1508.05154>`_, 2015.
    """
    p, y = labelled(probs, labels)
    return _binned_gap(p.max(1), correct(p, y), bins, binning)


def ece_standard_error(
    probs: ArrayLike, labels: ArrayLike, bins: int = 15, binning: str = "width"
) -> jax.Array:
    """Standard error of `ece` over test sets, to first order.

    Within a bin an example adds acc - conf, or its negative if the bin is overconfident; their mean
    is the calibration error, and the result is the standard error of that mean. It does not say
    how much of a small calibration error is noise: where a bin's gap is as small as its scatter,
    `ece` is biased upwards.

    Args:
      probs: Class probabilities, float (n, classes).
      labels: Class indices, int (n,).
      bins: Number of bins, at least 1; static.
      binning: `'width'` or `'mass'`, as for `ece`.

    Returns:
      A float scalar, at least 0.

    Example:
      >>> import jax.numpy as jnp
      >>> probs = jnp.array([[0.75, 0.25], [0.25, 0.75]])
      >>> float(ece_standard_error(probs, jnp.array([0, 0])))  # deviations of 1/2 over √2
      0.3535533845424652
    """
    p, y = labelled(probs, labels)
    values, rates = p.max(1), correct(p, y)
    index = _bin_index(values, bins, binning)
    sign = jnp.sign(jax.ops.segment_sum(rates - values, index, bins))
    return jnp.std(sign[index] * (rates - values)) / np.sqrt(values.size).astype(p.dtype)


def classwise_ece(
    probs: ArrayLike, labels: ArrayLike, bins: int = 15, binning: str = "width"
) -> jax.Array:
    """Calibration error of every class's probability against its frequency, mean over classes.

    Each class is binned by its own probability over all examples, not only where it is the top
    label.

    Args:
      probs: Class probabilities, float (n, classes).
      labels: Class indices, int (n,).
      bins: Number of bins, at least 1; static.
      binning: `'width'` as published, or `'mass'` for bins of equal count.

    Returns:
      A float scalar in [0, 1].

    Raises:
      TypeError: If `labels` or `bins` are not integers, or `probs` not real numbers.
      ValueError: If the shapes are not (n, classes) and (n,), or empty; if `bins` < 1 or
        `binning` is unknown.

    Example:
      >>> import jax.numpy as jnp
      >>> probs = jnp.array([[0.75, 0.25], [0.75, 0.25]])
      >>> float(classwise_ece(probs, jnp.array([0, 1])))
      0.25

    References:
      Kull et al., `Beyond temperature scaling <https://arxiv.org/abs/1910.12656>`_, 2019,
      section 2.
    """
    p, y = labelled(probs, labels)
    gap = jax.vmap(lambda values, rates: _binned_gap(values, rates, bins, binning), in_axes=1)
    return gap(p, one_hot(y, p)).mean()


def uce(probs: ArrayLike, labels: ArrayLike, bins: int = 15, binning: str = "width") -> jax.Array:
    """Uncertainty calibration error: sum over bins of |B|/n |err(B) - uncert(B)|.

    Uncertainty is the entropy of a row over its largest value, ln(classes); error, whether the
    likeliest class is not the label.

    Args:
      probs: Class probabilities, float (n, classes), of at least two classes.
      labels: Class indices, int (n,).
      bins: Number of bins, at least 1; static.
      binning: `'width'` as published, or `'mass'` for bins of equal count.

    Returns:
      A float scalar in [0, 1].

    Raises:
      TypeError: If `labels` or `bins` are not integers, or `probs` not real numbers.
      ValueError: If the shapes are not (n, classes) and (n,), or empty; if there is only one
        class, `bins` < 1 or `binning` is unknown.

    Example:
      >>> import jax.numpy as jnp
      >>> probs = jnp.array([[1.0, 0.0], [0.0, 1.0]])  # certain, and wrong half the time
      >>> float(uce(probs, jnp.array([0, 0])))
      0.5

    References:
      Laves et al., `Well-calibrated Model Uncertainty with Temperature Scaling for Dropout
      Variational Inference <https://arxiv.org/abs/1909.13550>`_, 2019.
    """
    p, y = labelled(probs, labels)
    if p.shape[1] < 2:
        raise ValueError(f"probs: expected at least 2 classes, got {p.shape}.")
    uncertainty = entropy(p) / np.log(p.shape[1]).astype(p.dtype)
    return _binned_gap(uncertainty, 1 - correct(p, y), bins, binning)


def reliability_diagram(
    probs: ArrayLike, labels: ArrayLike, bins: int = 15, binning: str = "width"
) -> ReliabilityDiagram:
    """Mean confidence, accuracy and count in each bin of the top-label confidence.

    The bins are those of `ece`: their gaps |accuracy - confidence|, weighted by counts / n, add up
    to it.

    Args:
      probs: Class probabilities, float (n, classes).
      labels: Class indices, int (n,).
      bins: Number of bins, at least 1; static.
      binning: `'width'` for equal intervals of [0, 1], `'mass'` for bins of equal count.

    Returns:
      A `ReliabilityDiagram` of arrays (bins,).

    Raises:
      TypeError: If `labels` or `bins` are not integers, or `probs` not real numbers.
      ValueError: If the shapes are not (n, classes) and (n,), or empty; if `bins` < 1 or
        `binning` is unknown.

    Example:
      >>> import jax.numpy as jnp
      >>> probs = jnp.array([[0.75, 0.25], [0.25, 0.75]])
      >>> diagram = reliability_diagram(probs, jnp.array([0, 0]), bins=2)
      >>> [row.tolist() for row in diagram]
      [[0.0, 0.75], [0.0, 0.5], [0, 2]]

    References:
      Guo et al., `On Calibration of Modern Neural Networks <https://arxiv.org/abs/1706.04599>`_,
      2017, figure 1.
    """
    p, y = labelled(probs, labels)
    confidence = p.max(1)
    index = _bin_index(confidence, bins, binning)
    counts = jax.ops.segment_sum(jnp.ones_like(index), index, bins)
    members = jnp.maximum(counts, 1).astype(p.dtype)
    return ReliabilityDiagram(
        confidence=jax.ops.segment_sum(confidence, index, bins) / members,
        accuracy=jax.ops.segment_sum(correct(p, y), index, bins) / members,
        counts=counts,
    )


def _binned_gap(values: jax.Array, rates: jax.Array, bins: int, binning: str) -> jax.Array:
    """Sum over bins of |B|/n |mean of rates - mean of values|, both (n,)."""
    # |B| cancels against the means' denominators, which leaves nothing to divide in empty bins.
    excess = jax.ops.segment_sum(rates - values, _bin_index(values, bins, binning), bins)
    return jnp.abs(excess).sum() / values.size


def _bin_index(values: jax.Array, bins: int, binning: str) -> jax.Array:
    """The bin of each of `values` (n,), int32 from 0 to bins-1."""
    try:
        operator.index(bins)
    except TypeError:
        raise TypeError(f"bins: expected an integer, at least 1, got {bins!r}.") from None
    if bins < 1:
        raise ValueError(f"bins: expected at least 1, got {bins}.")
    if binning == "width":
        # Rounded to the values' own precision: a float32 0.2 is above the float64 edge 1/5.
        edges = jnp.asarray(np.arange(1, bins) / bins, values.dtype)
    elif binning == "mass":
        last = -(-np.arange(1, bins) * values.size // bins) - 1
        edges = jnp.sort(values)[last]
    else:
        raise ValueError(f"binning: expected 'width' or 'mass', got {binning!r}.")
    return jnp.searchsorted(edges, values, side="left")
