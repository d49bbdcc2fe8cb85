"""Posterior-averaged predictions against closed forms, for any model, compiled once."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import norm

from bmrpruner import DiagonalGaussian, predict
from bmrpruner._tree import is_array, map_leaves

X = jnp.array([[1.0, 2.0], [0.5, -1.0], [0.0, 0.0]])


def probit(w, x):
    return jax.scipy.stats.norm.cdf(x @ w)


def test_equals_the_closed_form_of_probit_regression():
    """E Φ(xᵀw) = Φ(xᵀμ / √(1 + xᵀΣx)) for w ~ N(μ, Σ)."""
    mean, std = np.array([0.7, -0.4]), np.array([0.9, 0.3])
    posterior = DiagonalGaussian(jnp.asarray(mean), jnp.asarray(1 / std**2))
    expected = norm.cdf(X @ mean / np.sqrt(1 + np.square(X) @ std**2))
    averaged = predict(probit, posterior, X, jax.random.key(0), samples=20_000)
    np.testing.assert_allclose(averaged, expected, atol=4 * 0.35 / np.sqrt(20_000))


def test_pruned_weights_add_no_noise():
    posterior = DiagonalGaussian(jnp.array([0.7, 3.0]), jnp.array([jnp.inf, 0.01]))
    pruned = posterior.prune(jnp.array([1, 0]))
    averaged = predict(probit, pruned, X, jax.random.key(0), samples=8)
    np.testing.assert_allclose(averaged, norm.cdf(X[:, 0] * 0.7), rtol=1e-6)


def test_any_model_any_output_compiled_once():
    model = eqx.nn.MLP(2, 2, 4, 1, key=jax.random.key(0))
    precision = map_leaves(lambda w: jnp.full(w.shape, 1e4) if is_array(w) else None, model)
    posterior = DiagonalGaussian(model, precision)
    traced = []

    def apply_fn(model, x):
        traced.append(1)
        return {"probs": jax.nn.softmax(jax.vmap(model)(x)), "half": x.astype(jnp.bfloat16)}

    out = [predict(apply_fn, posterior, X, jax.random.key(i), samples=16) for i in range(2)]
    assert len(traced) == 1
    assert out[0]["half"].dtype == jnp.bfloat16
    assert not np.array_equal(out[0]["probs"], out[1]["probs"])
    np.testing.assert_allclose(out[0]["probs"], jax.nn.softmax(jax.vmap(model)(X)), atol=0.02)
    np.testing.assert_allclose(out[0]["probs"].sum(1), 1, rtol=1e-5)


def test_no_samples_is_the_mean_network():
    posterior = DiagonalGaussian(jnp.array([0.7, -0.4]), jnp.ones(2))
    np.testing.assert_array_equal(
        predict(probit, posterior, X, jax.random.key(0), samples=0),
        jax.jit(probit)(posterior.mean, X),
    )


@pytest.mark.parametrize("samples", [-1, 2.5, "many"])
def test_impossible_samples(samples):
    posterior = DiagonalGaussian(jnp.zeros(2), jnp.ones(2))
    with pytest.raises(ValueError, match="samples"):
        predict(probit, posterior, X, jax.random.key(0), samples=samples)


def test_not_a_posterior():
    with pytest.raises(TypeError, match="posterior: expected a DiagonalGaussian, got a dict"):
        predict(probit, {"w": 1}, X, jax.random.key(0))
