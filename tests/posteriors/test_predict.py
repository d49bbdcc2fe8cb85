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

    out = [predict(apply_fn, posterior, X, jax.random.key(0), samples=16)]
    times = len(traced)
    out.append(predict(apply_fn, posterior, X, jax.random.key(1), samples=16))
    assert len(traced) == times
    assert out[0]["half"].dtype == jnp.bfloat16
    assert not np.array_equal(out[0]["probs"], out[1]["probs"])
    np.testing.assert_allclose(out[0]["probs"], jax.nn.softmax(jax.vmap(model)(X)), atol=0.02)
    np.testing.assert_allclose(out[0]["probs"].sum(1), 1, rtol=1e-5)


def test_the_average_of_each_dtype_is_summed_in_float32():
    """The mean of 300 ones is 1; added up in bfloat16, they would stop at 256."""
    posterior = DiagonalGaussian(jnp.array([1.0]), jnp.array([jnp.inf]))

    def apply_fn(w, x):
        half = x + w.astype(jnp.bfloat16)
        return {"half": half, "whole": jnp.arange(2), "hit": w > 0, "none": None}

    out = predict(apply_fn, posterior, jnp.zeros(1, jnp.bfloat16), jax.random.key(0), samples=300)
    assert {name: leaf.dtype for name, leaf in out.items() if leaf is not None} == {
        "half": jnp.bfloat16,
        "whole": jnp.float32,
        "hit": jnp.float32,
    }
    assert (out["half"].tolist(), out["whole"].tolist(), out["hit"].tolist()) == ([1], [0, 1], [1])


def test_draws_take_the_memory_of_one():
    """The largest buffer of the program does not grow with the number of draws."""
    posterior = DiagonalGaussian(jnp.zeros((50, 40)), jnp.ones((50, 40)))
    x, key = jnp.ones((30, 50)), jax.random.key(0)

    def apply_fn(w, x):
        return x @ w

    def temporary(samples):
        run = jax.jit(lambda p, key: predict(apply_fn, p, x, key, samples))
        return run.lower(posterior, key).compile().memory_analysis().temp_size_in_bytes

    assert temporary(200) < temporary(2) + 50 * 40 * 4


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
