"""Complex parameters."""

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
