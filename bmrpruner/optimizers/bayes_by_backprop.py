"""Bayes by Backprop: mean-field variational inference with any Optax optimizer."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp

from bmrpruner import _noise, evidence
from bmrpruner._checks import check_positive
from bmrpruner._tree import PyTree, is_array, join, keyed_leaves
from bmrpruner.posteriors import DiagonalGaussian, from_mean_field


class MeanField(NamedTuple):
    """The approximate posterior N(loc, softplus(rho)²), which the optimizer trains; a pytree.

    Attributes:
      loc: Means, a tree like the parameters.
      rho: Inverse softplus of the standard deviations, like the parameters, float32 at least.

    Example:
      >>> MeanField(loc=jnp.zeros(2), rho=jnp.full(2, -5.0)).rho.shape
      (2,)
    """

    loc: PyTree
    rho: PyTree


class Prior(Protocol):
    """What `mean_field_value_and_grad` needs of a prior, which is the same for every weight."""

    @property
    def precision(self) -> float:
        """1/variance: what a `DiagonalGaussian` takes for its prior precision."""

    def kl(self, loc: jax.Array, std: jax.Array, draw: jax.Array) -> jax.Array:
        """KL from the prior to N(loc, std²), summed over a leaf, or its estimate at a draw."""


class GaussianPrior(NamedTuple):
    """N(0, std²), whose KL divergence is known in closed form.

    Example:
      >>> float(GaussianPrior(std=2.0).kl(jnp.zeros(3), jnp.full(3, 2.0), jnp.zeros(3)))
      0.0
    """

    std: float = 1.0

    @property
    def precision(self) -> float:
        """1/std²."""
        return 1 / self.std**2

    def kl(self, loc: jax.Array, std: jax.Array, draw: jax.Array) -> jax.Array:
        """The exact divergence, summed over a leaf; the draw is not used."""
        return jnp.sum(evidence.kl_divergence(loc, 1 / std**2, self.precision))


class ScaleMixturePrior(NamedTuple):
    """weight·N(0, wide²) + (1 - weight)·N(0, narrow²), Blundell et al. 2015, equation 7.

    Example:
      >>> round(ScaleMixturePrior(weight=0.25, wide=1.0, narrow=0.0).precision, 3)
      4.0
    """

    weight: float = 0.5
    wide: float = 1.0
    narrow: float = 0.0025

    @property
    def precision(self) -> float:
        """1/variance of the mixture."""
        return 1 / (self.weight * self.wide**2 + (1 - self.weight) * self.narrow**2)

    def kl(self, loc: jax.Array, std: jax.Array, draw: jax.Array) -> jax.Array:
        """Log q(draw) - log p(draw), whose expectation is the divergence."""
        log_prior = jnp.logaddexp(
            jnp.log(self.weight) + jax.scipy.stats.norm.logpdf(draw, 0.0, self.wide),
            jnp.log1p(-self.weight) + jax.scipy.stats.norm.logpdf(draw, 0.0, self.narrow),
        )
        return jnp.sum(jax.scipy.stats.norm.logpdf(draw, loc, std) - log_prior)


def init_mean_field(params: PyTree, std: float = 0.01) -> MeanField:
    """The approximate posterior to start from, with the parameters as its means.

    Args:
      params: Any pytree of floating-point arrays; None may stand among them.
      std: Initial standard deviation.

    Returns:
      A `MeanField` of the parameters and of rho, float32 or wider.

    Raises:
      TypeError: If a leaf is no floating-point array.
      ValueError: If `std` is not positive.

    Example:
      >>> q = init_mean_field({'w': jnp.ones(())}, std=0.5)
      >>> round(float(jax.nn.softplus(q.rho['w'])), 4)
      0.5
    """
    check_positive("std", std)
    for key, leaf in keyed_leaves(params):
        is_floating = is_array(leaf) and jnp.issubdtype(leaf.dtype, jnp.floating)
        if leaf is not None and not is_floating:
            raise TypeError(
                f"params: expected floating-point arrays, got leaf {join(key)!r} of type "
                f"{leaf.dtype if is_array(leaf) else type(leaf).__name__}."
            )
    value = math.log(math.expm1(std))
    rho = jax.tree.map(
        lambda leaf: jnp.full(leaf.shape, value, jnp.promote_types(leaf.dtype, jnp.float32)), params
    )
    return MeanField(params, rho)


def mean_field_value_and_grad(
    loss_fn: Callable[..., Any],
    q: MeanField,
    key: jax.Array,
    *args: Any,
    ess: float,
    prior: Prior = GaussianPrior(),  # noqa: B008 (immutable)
    kl_weight: Any = 1.0,
    mc_samples: int = 1,
) -> tuple[jax.Array, MeanField]:
    r"""Negative evidence lower bound per example, and its gradient in loc and rho.

    .. math::
      F = \tfrac1S \sum_s \bar\ell(\mu + \sigma \varepsilon_s)
          + \tfrac1N \sum_l w_l \, \mathrm{KL}(q_l \| p), \qquad \sigma = \ln(1 + e^\rho)

    Args:
      loss_fn: `loss_fn(params, *args, key)`, a scalar averaged over the batch.
      q: Where to evaluate.
      key: JAX key, for the noise and for the keys that `loss_fn` sees.
      *args: Passed on to `loss_fn`.
      ess: N, the number of training examples.
      prior: `GaussianPrior` or `ScaleMixturePrior`.
      kl_weight: w, a number or schedule value for all, or a tree that is the upper part of the
        parameters, with the weight of every leaf below.
      mc_samples: S, how many draws to average over.

    Returns:
      F in nats, and its gradient: hand it to any Optax optimizer as the gradient of `q`.

    Example:
      >>> import optax
      >>> loss_fn = lambda params, x, key: jnp.mean((params['w'] * x - 1.0) ** 2)
      >>> q, tx = init_mean_field({'w': jnp.zeros(3)}), optax.adam(0.1)
      >>> state = tx.init(q)
      >>> value, grads = mean_field_value_and_grad(
      ...     loss_fn, q, jax.random.key(0), jnp.ones(3), ess=100, mc_samples=2)
      >>> updates, state = tx.update(grads, state)
      >>> q = optax.apply_updates(q, updates)

    References:
      Blundell et al. 2015, Weight uncertainty in neural networks, https://arxiv.org/abs/1505.05424,
      equations 1-3.
    """
    check_positive("ess", ess)
    if not isinstance(mc_samples, int) or mc_samples < 1:
        raise ValueError(f"mc_samples: expected an integer >= 1, got {mc_samples!r}.")

    def bound(q: MeanField, draw_key: jax.Array) -> jax.Array:
        noise_key, loss_key = jax.random.split(draw_key)
        draw = sample_mean_field(noise_key, q)
        return loss_fn(draw, *args, loss_key) + _divergence(q, draw, prior, kl_weight) / ess

    def mean_bound(q: MeanField) -> jax.Array:
        if mc_samples == 1:
            return bound(q, key)
        return jnp.mean(jax.vmap(lambda k: bound(q, k))(jax.random.split(key, mc_samples)))

    return jax.value_and_grad(mean_bound)(q)


def sample_mean_field(key: jax.Array, q: MeanField) -> PyTree:
    """Parameters drawn from `q`.

    Args:
      key: JAX key.
      q: The approximate posterior.

    Returns:
      A tree like `q.loc`, in its dtypes.

    Example:
      >>> sample_mean_field(jax.random.key(0), init_mean_field({'w': jnp.zeros(3)}))['w'].shape
      (3,)
    """
    return jax.tree.map(
        lambda loc, rho, noise: (loc + jax.nn.softplus(rho) * noise).astype(loc.dtype),
        q.loc,
        q.rho,
        _noise.normal_like(key, q.loc),
    )


def mean_field_posterior(q: MeanField, prior: Prior = GaussianPrior()) -> DiagonalGaussian:  # noqa: B008
    """The posterior `q` in the form that the pruners take.

    Args:
      q: The approximate posterior.
      prior: `GaussianPrior` or `ScaleMixturePrior`, of which the precision is taken.

    Returns:
      A `DiagonalGaussian`.

    Example:
      >>> posterior = mean_field_posterior(init_mean_field({'w': jnp.zeros(())}, std=0.5))
      >>> round(float(posterior.std['w']), 4)
      0.5
    """
    return from_mean_field(q.loc, rho=q.rho, prior_precision=prior.precision)


def minibatch_kl_weight(batch: Any, batches: int) -> jax.Array:
    """Weight of the KL term in the i-th of M batches of an epoch, M·2^(M-i)/(2^M - 1), i from 0.

    The weight halves from batch to batch; its mean over the epoch is one.

    Args:
      batch: i, a number or an array of any shape.
      batches: M.

    Returns:
      The weights in the shape of `batch`, float32.

    Example:
      >>> [round(float(minibatch_kl_weight(i, 3)), 3) for i in range(3)]
      [1.714, 0.857, 0.429]

    References:
      Blundell et al. 2015, https://arxiv.org/abs/1505.05424, section 3.4. The weights here are M
      times theirs, as the loss is per example.
    """
    return batches * 2.0 ** -(jnp.asarray(batch) + 1.0) / (1 - 2.0**-batches)


def _divergence(q: MeanField, draw: PyTree, prior: Prior, kl_weight: Any) -> jax.Array:
    def leaf(loc: jax.Array, rho: jax.Array, theta: jax.Array, weight: Any) -> jax.Array:
        wide = loc.astype(rho.dtype)
        return weight * prior.kl(wide, jax.nn.softplus(rho), theta.astype(rho.dtype))

    weights = jax.tree.broadcast(kl_weight, q.loc)
    return sum(jax.tree.leaves(jax.tree.map(leaf, *q, draw, weights)), start=jnp.zeros(()))
