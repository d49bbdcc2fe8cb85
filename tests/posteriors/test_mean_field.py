"""Variational means and scales: the softplus over its whole range, trees, errors."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from bmrpruner.posteriors import from_mean_field


def test_scale():
    posterior = from_mean_field(
        {"w": jnp.ones(3), "b": None},
        {"w": jnp.array([0.5, 2.0, 0.0]), "b": None},
        prior_precision=3.0,
    )
    np.testing.assert_allclose(posterior.precision["w"], [4.0, 0.25, np.inf])
    assert posterior.precision["b"] is None
    assert posterior.prior_precision == 3.0


def test_rho_over_the_whole_range():
    rho = np.concatenate([np.linspace(-1000, 1000, 401), np.linspace(-28, 30, 101)])
    posterior = from_mean_field(jnp.ones(rho.size), rho=jnp.asarray(rho, jnp.float32))
    exact = np.logaddexp(np.float32(rho).astype(float), 0)
    np.testing.assert_allclose(posterior.std, np.maximum(exact, 2.2737e-13), rtol=1e-4)
    ordinary = exact > 1e-12
    np.testing.assert_allclose(np.asarray(posterior.std)[ordinary], exact[ordinary], rtol=1e-6)
    assert np.all(np.isfinite(posterior.precision))
    assert np.all(np.asarray(posterior.std) > 0)
    assert not np.any(np.isnan(posterior.delta_f()))


def test_gradients_are_finite_over_the_whole_range():
    def kl(rho):
        return from_mean_field(jnp.full(rho.shape, 0.1), rho=rho).kl_to_prior()

    gradient = jax.jit(jax.grad(kl))(jnp.array([-1000.0, -60.0, -29.0, -3.0, 0.0, 1000.0]))
    assert np.all(np.isfinite(gradient))
    sigma = np.log1p(np.exp(-3.0))
    expected = (sigma - 1 / sigma) / (1 + np.exp(3.0))  # of ½[σ² − ln σ²]
    assert gradient[3] == pytest.approx(expected, rel=1e-5)


def test_scales_below_the_floor_stay_finite():
    posterior = from_mean_field(jnp.zeros(2), jnp.array([1e-30, 1e-12]))
    assert np.all(np.isfinite(posterior.precision))
    assert posterior.std[1] == pytest.approx(1e-12)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_low_precision_parameters_get_float32_precisions(dtype):
    posterior = from_mean_field(jnp.ones(2, dtype), rho=jnp.array([-8.0, -5.0], dtype))
    assert posterior.mean.dtype == dtype
    assert posterior.precision.dtype == jnp.float32
    np.testing.assert_allclose(posterior.std, np.logaddexp([-8.0, -5.0], 0), rtol=1e-5)


class Layer(eqx.Module):
    weight: jax.Array
    activation: object


def test_equinox_and_nnx_trees():
    loc = Layer(jnp.ones(2), jax.nn.relu)
    posterior = from_mean_field(loc, rho=Layer(jnp.zeros(2), jax.nn.relu))
    assert posterior.precision.activation is None
    assert posterior.sample(jax.random.key(0)).activation is jax.nn.relu
    state = nnx.state(nnx.LayerNorm(2, rngs=nnx.Rngs(0)))
    posterior = from_mean_field(state, jax.tree.map(jnp.ones_like, state))
    assert jax.tree.structure(posterior.std) == jax.tree.structure(state)


def test_traces():
    posterior = jax.jit(from_mean_field)(jnp.ones(2), jnp.array([0.5, 1.0]))
    np.testing.assert_allclose(posterior.precision, [4.0, 1.0])
    scale = jnp.array([0.5, 1.0])  # a constant of the traced function, checked there
    np.testing.assert_allclose(jax.jit(lambda loc: from_mean_field(loc, scale).std)(scale), scale)
    stacked = jax.vmap(lambda rho: from_mean_field(rho, rho=rho).kl_to_prior())(jnp.ones((3, 2)))
    assert stacked.shape == (3,)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({}, ValueError, "scale, rho: expected exactly one of the two, got neither"),
        ({"scale": 1, "rho": 1}, ValueError, "scale, rho: .* got both"),
        ({"scale": {"w": jnp.array([1.0, -0.5])}}, ValueError, r"scale\['w'\]: .*>= 0, got -0.5"),
        ({"scale": {"w": jnp.array([1.0, jnp.nan])}}, ValueError, r"scale\['w'\]: .* got nan"),
        ({"scale": {"w": jnp.ones(3)}}, ValueError, r"scale\['w'\]: .* of loc, \(2,\), got \(3,\)"),
        ({"rho": {"w": jnp.ones(3)}}, ValueError, r"rho\['w'\]: .* of loc, \(2,\), got \(3,\)"),
        ({"rho": [jnp.ones(2)]}, ValueError, "rho: expected the tree structure of loc"),
        ({"scale": 0.1}, ValueError, "scale: expected the tree structure of loc"),
        ({"scale": {"w": 0.1}}, TypeError, r"scale\['w'\]: expected an array or None, got float"),
    ],
)
def test_errors(arguments, error, message):
    with pytest.raises(error, match=message):
        from_mean_field({"w": jnp.ones(2)}, **arguments)
