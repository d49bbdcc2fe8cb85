"""Accuracy and the proper scores of class probabilities."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from bmrpruner.metrics._arrays import correct, labelled, one_hot


def accuracy(probs: ArrayLike, labels: ArrayLike) -> jax.Array:
    """Fraction of examples whose likeliest class is the label; the first of equals counts.

    Args:
      probs: Class probabilities, float (n, classes). Any increasing function of them will do.
      labels: Class indices, int (n,).

    Returns:
      A float scalar in [0, 1].

    Raises:
      TypeError: If `labels` are not integers, or `probs` not real numbers.
      ValueError: If the shapes are not (n, classes) and (n,), or empty.

    Example:
      >>> import jax.numpy as jnp
      >>> probs = jnp.array([[0.8, 0.2], [0.4, 0.6]])
      >>> float(accuracy(probs, jnp.array([0, 0])))
      0.5
    """
    return correct(*labelled(probs, labels)).mean()


def nll(probs: ArrayLike, labels: ArrayLike) -> jax.Array:
    """Mean negative log-likelihood of the labels (log loss), in nats: -mean ln p[i, labels[i]].

    Probabilities below the smallest normal float count as that float, so one impossible label
    costs 87.3 nats in float32 and not infinity. A softmax in float32 reaches that floor; where its
    tails matter, hand the log-likelihoods to `log_predictive_density`, which has none.

    Args:
      probs: Class probabilities, float (n, classes).
      labels: Class indices, int (n,).

    Returns:
      A float scalar, at least 0.

    Raises:
      TypeError: If `labels` are not integers, or `probs` not real numbers.
      ValueError: If the shapes are not (n, classes) and (n,), or empty.

    Example:
      >>> import jax.numpy as jnp
      >>> probs = jnp.array([[0.5, 0.5], [0.125, 0.875]])
      >>> round(float(nll(probs, jnp.array([0, 0])) / jnp.log(2)), 4)
      2.0

    References:
      Good, `Rational decisions <https://doi.org/10.1111/j.2517-6161.1952.tb00104.x>`_, 1952.
    """
    p, y = labelled(probs, labels)
    of_label = (p * one_hot(y, p)).sum(1)
    return -jnp.log(jnp.maximum(of_label, jnp.finfo(p.dtype).tiny)).mean()


def brier(probs: ArrayLike, labels: ArrayLike) -> jax.Array:
    """Brier score: mean over examples of the squared distance to the one-hot label.

    The sum runs over all classes, as in the original, so that the range is [0, 2] and the score of
    two classes is twice what the one-probability form gives.

    Args:
      probs: Class probabilities, float (n, classes).
      labels: Class indices, int (n,).

    Returns:
      A float scalar in [0, 2].

    Raises:
      TypeError: If `labels` are not integers, or `probs` not real numbers.
      ValueError: If the shapes are not (n, classes) and (n,), or empty.

    Example:
      >>> import jax.numpy as jnp
      >>> float(brier(jnp.array([[0.5, 0.25, 0.25]]), jnp.array([0])))
      0.375

    References:
      Brier, `Verification of forecasts expressed in terms of probability
      <https://doi.org/10.1175/1520-0493(1950)078%3C0001:VOFEIT%3E2.0.CO;2>`_, 1950.
    """
    p, y = labelled(probs, labels)
    return jnp.square(p - one_hot(y, p)).sum(1).mean()
