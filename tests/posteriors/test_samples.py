"""Posteriors from draws: moments, R-hat and effective numbers of draws."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from bmrpruner.posteriors import from_samples


def autoregressive(phi, rng, chains=4, draws=501):
    x = np.zeros((chains, draws))
    x[:, 0] = rng.normal(size=chains)
    for t in range(1, draws):
        x[:, t] = phi * x[:, t - 1] + np.sqrt(1 - phi**2) * rng.normal(size=chains)
    return x


def chains():
    """Weights [chain, draw, 7]: five autocorrelations, a chain apart, and a trend."""
    rng = np.random.default_rng(0)
    columns = [autoregressive(phi, rng) for phi in (0.0, 0.5, 0.9, 0.99, -0.5)]
    columns.append(autoregressive(0.3, rng) + np.array([0, 0, 0, 2.0])[:, None])
    columns.append(autoregressive(0.0, rng) + np.linspace(0, 2, 501))
    return np.stack(columns, -1)


def test_n_eff_follows_the_theory_of_autoregressive_chains():
    rng = np.random.default_rng(1)
    draws = jnp.asarray(autoregressive(0.6, rng, chains=32, draws=2000), jnp.float32)
    assert from_samples(draws).n_eff == pytest.approx(32 * 2000 * 0.4 / 1.6, rel=0.1)


def test_mean_and_precision_are_those_of_the_pooled_draws():
    draws = 1e4 + chains()
    posterior = from_samples(jnp.asarray(draws, jnp.float32), prior_precision=2.0).posterior
    pooled = np.float32(draws).astype(np.float64).reshape(-1, 7)
    np.testing.assert_allclose(posterior.mean, pooled.mean(0), rtol=1e-6)
    np.testing.assert_allclose(posterior.precision, 1 / pooled.var(0, ddof=1), rtol=1e-5)
    assert posterior.prior_precision == 2.0


def test_recovers_the_posterior_that_was_drawn_from():
    draws = 0.3 + 0.2 * np.random.default_rng(2).normal(size=(4, 5000, 2))
    posterior = from_samples(jnp.asarray(draws, jnp.float32)).posterior
    np.testing.assert_allclose(posterior.mean, 0.3, atol=0.01)
    np.testing.assert_allclose(posterior.std, 0.2, rtol=0.03)


def test_zero_variance_is_defined():
    draws = np.random.default_rng(3).normal(size=(3, 21, 4)).astype(np.float32)
    draws[..., 1] = 0.0  # pruned
    draws[..., 2] = 0.1  # frozen; the sum of 63 times 0.1 is not exactly 6.3
    draws[..., 3] = np.array([0.1, 0.2, 0.3])[:, None]  # chains stuck apart
    sampled = from_samples(jnp.asarray(draws))
    np.testing.assert_array_equal(sampled.posterior.precision[1:3], [np.inf, np.inf])
    np.testing.assert_array_equal(sampled.posterior.mean[1:3], np.float32([0.0, 0.1]))
    np.testing.assert_array_equal(sampled.rhat[1:], [1.0, 1.0, np.inf])
    np.testing.assert_array_equal(sampled.n_eff[1:3], [60, 60])  # the middle draws are left out
    assert 1 <= sampled.n_eff[3] <= 6  # halves of chains
    np.testing.assert_array_equal(sampled.posterior.delta_f()[1:3], [np.inf, -np.inf])


@pytest.mark.parametrize("shape", [(1, 2), (5, 1), (2, 3)])
def test_few_draws_have_a_posterior_but_no_diagnostics(shape):
    draws = jnp.asarray(np.random.default_rng(4).normal(size=(*shape, 2)), jnp.float32)
    sampled = from_samples(draws)
    assert np.all(np.isfinite(sampled.posterior.precision))
    assert np.all(np.isnan(sampled.rhat))
    assert np.all(np.isnan(sampled.n_eff))


class Layer(eqx.Module):
    weight: jax.Array
    activation: object
    bias: jax.Array | None = None


def test_trees():
    draws = jax.random.normal(jax.random.key(0), (2, 8, 3))
    sampled = from_samples(Layer(draws, jax.nn.relu))
    assert sampled.posterior.mean.activation is jax.nn.relu
    assert sampled.posterior.mean.weight.shape == sampled.rhat.weight.shape == (3,)
    assert sampled.n_eff.bias is None
    assert sampled.rhat.activation is None

    state = nnx.state(nnx.LayerNorm(3, rngs=nnx.Rngs(0)))
    drawn = jax.tree.map(lambda x: jnp.zeros((2, 8, *x.shape)), state)
    assert jax.tree.structure(from_samples(drawn).posterior.std) == jax.tree.structure(state)

    kernel, bias = from_samples((draws, {"bias": draws.astype(jnp.bfloat16)})).posterior.mean
    assert kernel.shape == (3,)
    assert (bias["bias"].shape, bias["bias"].dtype) == ((3,), jnp.float32)


def test_under_jit_and_numpy_float64():
    draws = np.random.default_rng(5).normal(size=(2, 8, 3))
    eager, jitted = from_samples(draws), jax.jit(from_samples)(jnp.asarray(draws))
    np.testing.assert_allclose(eager.rhat, jitted.rhat, rtol=1e-5)
    assert eager.posterior.mean.dtype == jnp.float32


@pytest.mark.parametrize(
    ("draws", "error", "message"),
    [
        (
            {"w": jnp.ones(3)},
            ValueError,
            r"draws\['w'\]: expected \[chain, draw.*got the shape \(3,\)",
        ),
        ({"w": jnp.ones((1, 1, 3))}, ValueError, r"draws\['w'\]: .* at least two draws"),
        (
            {"w": jnp.ones((2, 3), int)},
            TypeError,
            r"draws\['w'\]: expected a floating array, got int32",
        ),
        (
            {"v": jnp.ones((2, 5)), "w": jnp.ones((2, 6, 3))},
            ValueError,
            r"draws\['w'\]: expected 2 chains of 5 draws .* got \(2, 6\)",
        ),
    ],
)
def test_errors(draws, error, message):
    with pytest.raises(error, match=message):
        from_samples(draws)
