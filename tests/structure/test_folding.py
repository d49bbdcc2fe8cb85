"""Which biases take constants, and which do not because something in between is not linear."""

import exactness
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from plain_models import apply, dense, normal

import bmrpruner


def through(middle, bias=None):
    """Two units of a hidden layer are constants; their offset meets a bias after `middle`."""
    first = dense(5, 8)
    first["w"] = first["w"].at[:, jnp.array([1, 2])].set(0)
    bias = normal(6) if bias is None else bias
    params = {"in": first, "v": normal(8, 6, seed=1, scale=5), "b": bias, "o": normal(6, 3)}

    def fn(p, x):
        return jnp.tanh(middle(jnp.tanh(apply(p["in"], x)) @ p["v"], p["b"])) @ p["o"]

    return fn, params, (normal(40, 5),)


ROUNDED = {
    "to integers": (lambda y, b: (y.astype(jnp.int32) + b).astype(jnp.float32) / 9, "int32"),
    "to integers and back": (lambda y, b: y.astype(jnp.int32).astype(jnp.float32) + b, "float32"),
    "reduced": (lambda y, b: jax.lax.reduce_precision(y, 8, 3) + b, "float32"),
    "narrowed": (lambda y, b: y.astype(jnp.bfloat16).astype(jnp.float32) + b, "float32"),
    "bias to integers": (lambda y, b: y + b.astype(jnp.int32).astype(jnp.float32), "float32"),
    "bias reduced": (lambda y, b: y + jax.lax.reduce_precision(b, 8, 3), "float32"),
    "bias narrow": (lambda y, b: y + b.astype(jnp.float32), "bfloat16"),
}


@pytest.mark.parametrize("name", ROUNDED)
def test_constants_do_not_move_past_what_rounds(name):
    middle, dtype = ROUNDED[name]
    bias = (10 * normal(6)).astype(dtype)
    small = exactness.compacted(*through(middle, bias))
    assert small.params["v"].shape == (6, 6)
    np.testing.assert_array_equal(small.params["b"], bias)
    assert "constants" in str(small.report)


def test_constants_move_past_a_wider_type():
    _, params, args = through(jnp.add)
    params["v"], params["b"] = params["v"].astype(jnp.bfloat16), params["b"].astype(jnp.float32)

    def narrow(p, x):
        h = jnp.tanh(apply(p["in"], x)).astype(jnp.bfloat16)
        return jnp.tanh((h @ p["v"]).astype(jnp.float32) + p["b"]) @ p["o"]

    small = bmrpruner.compact(narrow, params, *args)
    assert small.params["v"].shape == (6, 6)
    assert "constants" not in str(small.report)
    assert exactness.error(small(*args), narrow(params, *args)) < 0.02


@jax.custom_vjp
def shifted(y, b):
    """A derivative rule that reads the sum without its bias."""
    return jnp.tanh(y + b)


def _forward(y, b):
    return shifted(y, b), y


def _backward(y, g):
    return g * jnp.cos(y), (g * jnp.sin(y)).sum(0)


shifted.defvjp(_forward, _backward)


def test_constants_stay_out_of_a_bias_within_a_custom_derivative():
    fn, params, (x,) = through(shifted)
    small = exactness.compacted(fn, params, (x,))
    assert small.params["v"].shape == (6, 6)
    got = jax.grad(lambda x: small.fn(small.params, x).sum())(x)
    full = jax.grad(lambda x: fn(params, x).sum())(x)
    assert exactness.error(got, full) < exactness.TOLERANCE
