"""Bayes by Backprop: against integrals that are known, and through Optax."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from bmrpruner import optimizers, posteriors

pytestmark = pytest.mark.slow

X = jnp.asarray(np.random.default_rng(0).normal(size=(50, 3)), jnp.float32)
Y = X @ jnp.array([1.0, -2.0, 0.0])


def squared_error(params, x, y, key):
    """Gaussian negative log-likelihood with unit noise, averaged, but for a constant."""
    return 0.5 * jnp.mean((x @ params["w"] - y) ** 2)


def q_at(loc, std):
    rho = jnp.log(jnp.expm1(jnp.asarray(std, jnp.float32)))
    return optimizers.MeanField({"w": jnp.asarray(loc, jnp.float32)}, {"w": rho})


@pytest.mark.slow
def test_the_bound_is_the_known_one():
    loc, std = np.array([0.5, -1.0, 0.2]), np.array([0.1, 0.3, 0.5])
    q = q_at(loc, std)
    value, grads = optimizers.mean_field_value_and_grad(
        squared_error, q, jax.random.key(0), X, Y, ess=50, mc_samples=20_000
    )
    x, y = np.asarray(X, float), np.asarray(Y, float)
    expected_loss = 0.5 * (np.mean((x @ loc - y) ** 2) + np.mean(x**2 @ std**2))
    kl = 0.5 * np.sum(std**2 + loc**2 - 1 - np.log(std**2))
    assert float(value) == pytest.approx(expected_loss + kl / 50, rel=0.01)
    by_loc = x.T @ (x @ loc - y) / 50 + loc / 50
    np.testing.assert_allclose(grads.loc["w"], by_loc, atol=0.03)
    by_std = np.mean(x**2, 0) * std + (std - 1 / std) / 50
    slope = 1 - np.exp(-std)  # of softplus, which is 1/(1 + exp(-rho))
    np.testing.assert_allclose(grads.rho["w"], by_std * slope, atol=0.03)


@pytest.mark.slow
def test_it_finds_the_posterior_of_a_linear_model():
    tx = optax.adam(optax.cosine_decay_schedule(0.05, 2000))
    q = optimizers.init_mean_field({"w": jnp.zeros(3)}, std=0.1)

    def step(carry, key):
        q, state = carry
        _, grads = optimizers.mean_field_value_and_grad(
            squared_error, q, key, X, Y, ess=50, mc_samples=4
        )
        updates, state = tx.update(grads, state, q)
        return (optax.apply_updates(q, updates), state), None

    (q, _), _ = jax.lax.scan(step, (q, tx.init(q)), jax.random.split(jax.random.key(1), 2000))
    precision = np.asarray(X.T @ X, float) + np.eye(3)
    posterior = optimizers.mean_field_posterior(q)
    exact = np.linalg.solve(precision, np.asarray(X.T @ Y))
    np.testing.assert_allclose(posterior.mean["w"], exact, atol=0.03)
    # The best factorised Gaussian has the diagonal of the precision.
    np.testing.assert_allclose(posterior.precision["w"], np.diag(precision), rtol=0.15)


def test_the_divergence_from_a_mixture_is_an_unbiased_estimate():
    prior = optimizers.ScaleMixturePrior(weight=0.3, wide=1.0, narrow=0.1)
    loc, std = 0.2, 0.3
    draws = loc + std * jax.random.normal(jax.random.key(0), (100_000,))
    estimate = prior.kl(jnp.full(100_000, loc), jnp.full(100_000, std), draws) / 100_000
    grid = np.linspace(-3, 3, 200_001)

    def density(x, mean, scale):
        return np.exp(-0.5 * ((x - mean) / scale) ** 2) / (scale * np.sqrt(2 * np.pi))

    q = density(grid, loc, std)
    p = 0.3 * density(grid, 0, 1.0) + 0.7 * density(grid, 0, 0.1)
    exact = np.sum(q * (np.log(q + 1e-300) - np.log(p))) * (grid[1] - grid[0])
    assert float(estimate) == pytest.approx(exact, rel=0.02)
    assert prior.precision == pytest.approx(1 / (0.3 * 1.0 + 0.7 * 0.01))


def test_kl_weights_are_local():
    params = {"a": {"w": jnp.ones(3)}, "b": jnp.ones(2)}
    q = optimizers.init_mean_field(params, std=0.5)

    def value(kl_weight):
        no_loss = lambda params, key: jnp.zeros(())  # noqa: E731
        key = jax.random.key(0)
        return optimizers.mean_field_value_and_grad(no_loss, q, key, ess=10, kl_weight=kl_weight)[0]

    one = 0.5 * (0.25 + 1 - 1 - np.log(0.25)) / 10
    assert float(value(1.0)) == pytest.approx(5 * one, rel=1e-5)
    assert float(value({"a": 0.0, "b": 2.0})) == pytest.approx(4 * one, rel=1e-5)


def test_minibatch_weights_average_to_one():
    weights = [float(optimizers.minibatch_kl_weight(i, 8)) for i in range(8)]
    assert np.mean(weights) == pytest.approx(1.0)
    assert weights[0] / weights[1] == pytest.approx(2.0)
    assert float(optimizers.minibatch_kl_weight(0, 600)) == 300.0


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_dtypes_stay_and_none_passes_through(dtype):
    q = optimizers.init_mean_field({"w": jnp.ones((2, 2), dtype), "skip": None})
    draw = optimizers.sample_mean_field(jax.random.key(0), q)
    assert draw["w"].dtype == dtype
    assert draw["skip"] is None
    assert q.rho["w"].dtype == jnp.float32
    loss = lambda params, key: jnp.sum(params["w"].astype(jnp.float32) ** 2)  # noqa: E731
    _, grads = jax.jit(
        lambda q, key: optimizers.mean_field_value_and_grad(loss, q, key, ess=10, mc_samples=2)
    )(q, jax.random.key(0))
    assert jax.tree.map(jnp.dtype, jax.tree.map(lambda x: x.dtype, grads)) == jax.tree.map(
        lambda x: x.dtype, q
    )


def test_the_posterior_is_that_of_rho():
    q = q_at([1.0, 2.0], [0.1, 0.2])
    posterior = optimizers.mean_field_posterior(q, optimizers.GaussianPrior(std=0.5))
    np.testing.assert_allclose(posterior.std["w"], [0.1, 0.2], rtol=1e-5)
    assert posterior.prior_precision == 4.0
    same = posteriors.from_mean_field(q.loc, rho=q.rho, prior_precision=4.0)
    np.testing.assert_allclose(posterior.delta_f()["w"], same.delta_f()["w"])


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="std"):
        optimizers.init_mean_field({"w": jnp.ones(2)}, std=0.0)
    with pytest.raises(TypeError, match="got leaf 'steps' of type int32"):
        optimizers.init_mean_field({"w": jnp.ones(2), "steps": jnp.array(3)})
    q = optimizers.init_mean_field({"w": jnp.ones(2)})
    loss = lambda params, key: jnp.zeros(())  # noqa: E731
    with pytest.raises(ValueError, match="ess"):
        optimizers.mean_field_value_and_grad(loss, q, jax.random.key(0), ess=0)
    with pytest.raises(ValueError, match="mc_samples: expected an integer >= 1, got 0"):
        optimizers.mean_field_value_and_grad(loss, q, jax.random.key(0), ess=1, mc_samples=0)
