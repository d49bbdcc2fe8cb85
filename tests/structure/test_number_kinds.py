"""Complex parameters, and arrays without entries."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from plain_models import normal

from bmrpruner.structure import compact

X = normal(4, 5)


def waves(*shape, seed=0):
    return normal(*shape, seed=seed) + 1j * normal(*shape, seed=seed + 7)


def complex_net(p, x):
    return jnp.tanh(x @ p["w"] + p["b"]) @ p["o"] + p["c"]


@pytest.mark.parametrize("bias", [waves(3), normal(3)])
def test_constant_units_of_complex_networks(bias):
    params = {"w": waves(5, 8).at[:, 1].set(0), "b": waves(8), "o": waves(8, 3), "c": bias}
    small = compact(complex_net, params, X)
    assert small.params["w"].shape == (5, 7)
    assert small.params["c"].dtype == bias.dtype
    for x in (X, X[:3]):
        found, expected = small(x), complex_net(params, x)
        assert found.dtype == expected.dtype == jnp.complex64
        np.testing.assert_allclose(found, expected, rtol=2e-5, atol=1e-6)


def test_a_constant_unit_of_a_complex_network_moves_into_its_bias():
    params = {"w": waves(5, 8).at[:, 1].set(0), "b": waves(8), "o": waves(8, 3), "c": waves(3)}
    small = compact(complex_net, params, X)
    constant = np.tanh(params["b"][1]) * params["o"][1]
    np.testing.assert_allclose(small.params["c"], params["c"] + constant, rtol=1e-5)


PARAMS = {"w": normal(5, 8).at[:, 1].set(0), "b": normal(8), "o": normal(8, 3), "c": normal(3)}
IMAGES = {**PARAMS, "k": normal(3, 3, 2, 5).at[..., 4].set(0), "d": normal(5)}


def net(p, x):
    return jnp.tanh(x @ p["w"] + p["b"]) @ p["o"] + p["c"]


def heads(p, x):
    hidden = jnp.tanh(x @ p["w"] + p["b"]).reshape(-1, 2, 4)
    return jax.nn.softmax(hidden.reshape(-1, 8) @ p["o"])


def images(p, x):
    numbers = ("NHWC", "HWIO", "NHWC")
    y = jax.lax.conv_general_dilated(x, p["k"], (1, 1), "SAME", dimension_numbers=numbers)
    return net(p, jnp.tanh(y + p["d"]).mean((1, 2)))


@pytest.mark.parametrize(
    ("fn", "params", "shape"),
    [(net, PARAMS, (4, 5)), (heads, PARAMS, (4, 5)), (images, IMAGES, (2, 4, 4, 2))],
)
def test_an_empty_batch(fn, params, shape):
    small = compact(fn, params, normal(*shape))
    empty = jnp.zeros((0, *shape[1:]))
    assert small(empty).shape == fn(params, empty).shape == (0, 3)
    x = normal(*shape, seed=3)
    np.testing.assert_allclose(small(x), fn(params, x), rtol=2e-5, atol=1e-6)


def test_an_argument_of_no_features():
    def fn(p, x, more):
        return net(p, jnp.concatenate([x, more], 1))

    more = jnp.zeros((4, 0))
    small = compact(fn, PARAMS, X, more)
    assert small.params["w"].shape == (5, 7)
    np.testing.assert_allclose(small(X, more), fn(PARAMS, X, more), rtol=2e-5, atol=1e-6)
