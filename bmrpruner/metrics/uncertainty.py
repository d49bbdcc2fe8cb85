"""Uncertainty of predictions over posterior draws, and their density of held-out data.

Draws of class probabilities come as (draws, n, classes). One network alone is one draw:
`probs[None]`.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from bmrpruner.metrics._arrays import entropy, real_array


def predictive_entropy(probs: ArrayLike) -> jax.Array:
    """Entropy of the predictive distribution, the mean over draws: total uncertainty, in nats.

    Args:
      probs: Class probabilities of each draw, float (draws, n, classes).

    Returns:
      A float array (n,) in [0, ln(classes)]; higher = less sure.

    Raises:
      TypeError: If `probs` are not real numbers.
      ValueError: If `probs` does not have three axes, or is empty.

    Example:
      >>> import jax.numpy as jnp
      >>> draws = jnp.array([[[1.0, 0.0]], [[0.0, 1.0]]])  # each draw is sure, and they disagree
      >>> (predictive_entropy(draws) / jnp.log(2)).tolist()
      [1.0]

    References:
      Depeweg et al., `Decomposition of Uncertainty in Bayesian Deep Learning
      <https://arxiv.org/abs/1710.07283>`_, 2018.
    """
    return entropy(_draws(probs).mean(0))


def mutual_information(probs: ArrayLike) -> jax.Array:
    """Information a label would give about the weights: H[mean over draws] - mean over draws of H.

    It is the part of the uncertainty that more data would reduce, and 0 where all draws agree.

    Args:
      probs: Class probabilities of each draw, float (draws, n, classes).

    Returns:
      A float array (n,) in [0, ln(min(draws, classes))], in nats; higher = less known.

    Raises:
      TypeError: If `probs` are not real numbers.
      ValueError: If `probs` does not have three axes, or is empty.

    Example:
      >>> import jax.numpy as jnp
      >>> draws = jnp.array([[[1.0, 0.0], [0.5, 0.5]], [[0.0, 1.0], [0.5, 0.5]]])
      >>> (mutual_information(draws) / jnp.log(2)).tolist()
      [1.0, 0.0]

    References:
      Houlsby et al., `Bayesian Active Learning for Classification and Preference Learning
      <https://arxiv.org/abs/1112.5745>`_, 2011, equation 2.
    """
    p = _draws(probs)
    return jnp.maximum(entropy(p.mean(0)) - entropy(p).mean(0), 0)


def max_probability(probs: ArrayLike) -> jax.Array:
    """Largest probability of the predictive distribution, the mean over draws.

    Args:
      probs: Class probabilities of each draw, float (draws, n, classes).

    Returns:
      A float array (n,) in [1/classes, 1]; higher = more sure, unlike the other two.

    Raises:
      TypeError: If `probs` are not real numbers.
      ValueError: If `probs` does not have three axes, or is empty.

    Example:
      >>> import jax.numpy as jnp
      >>> max_probability(jnp.array([[[1.0, 0.0]], [[0.5, 0.5]]])).tolist()
      [0.75]

    References:
      Hendrycks and Gimpel, `A Baseline for Detecting Misclassified and Out-of-Distribution
      Examples <https://arxiv.org/abs/1610.02136>`_, 2017.
    """
    return _draws(probs).mean(0).max(-1)


def log_predictive_density(log_likelihoods: ArrayLike) -> jax.Array:
    """Mean over data of the log of the mean likelihood over draws, in nats.

    It takes log-likelihoods, so that it serves regression too and nothing underflows. For classes,
    `jnp.take_along_axis(jax.nn.log_softmax(logits), labels[None, :, None], axis=-1)[..., 0]`.

    Args:
      log_likelihoods: ln p(yᵢ | xᵢ, θₛ) of draw s at data point i, float (draws, n).

    Returns:
      A float scalar; higher = better, and the negative of `nll` for one draw. Minus infinity if a
      data point is impossible under every draw.

    Raises:
      TypeError: If `log_likelihoods` are not real numbers.
      ValueError: If `log_likelihoods` does not have two axes, or is empty.

    Example:
      >>> import jax.numpy as jnp
      >>> likelihoods = jnp.array([[0.25], [0.75]])
      >>> round(float(jnp.exp(log_predictive_density(jnp.log(likelihoods)))), 4)
      0.5

    References:
      Gelman, Hwang and Vehtari, `Understanding predictive information criteria for Bayesian models
      <https://arxiv.org/abs/1307.5928>`_, 2014, equation 5, over n.
    """
    logs = real_array("log_likelihoods", log_likelihoods, ("draws", "n"))
    density = jax.scipy.special.logsumexp(logs, axis=0) - np.log(logs.shape[0])
    return density.mean()


def _draws(probs: ArrayLike) -> jax.Array:
    return real_array("probs", probs, ("draws", "n", "classes"))
