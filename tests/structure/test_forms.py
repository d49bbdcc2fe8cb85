"""Calls of other forms: NumPy's dtypes, weak types, leaves that are no arrays."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from plain_models import normal

from bmrpruner.structure import compact, load_function, save_function

PARAMS = {
    "e": normal(7, 5).at[:, 3].set(0),
    "w": normal(5, 6).at[:, 1].set(0),
    "b": normal(6),
    "o": normal(6, 3),
}
X = np.asarray(normal(4, 5))


def net(p, x):
    return jnp.tanh(x @ p["w"] + p["b"]) @ p["o"]


def embedded(p, tokens):
    return net(p, jnp.tanh(p["e"][tokens]))


def assert_same(found, expected):
    assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
    np.testing.assert_allclose(found, expected, rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize("traced", [np.float64, np.float32])
def test_float64_arguments_of_numpy(traced):
    small = compact(net, PARAMS, X.astype(traced))
    assert small.params["w"].shape == (5, 5)
    for x in (X.astype(np.float64), X[:3].astype(np.float64), X):
        assert_same(small(x), net(PARAMS, x))


def test_float64_arguments_of_numpy_in_an_exported_file(tmp_path):
    pytest.importorskip("flatbuffers")
    small = compact(net, PARAMS, X)
    path = tmp_path / "small.jaxexport"
    save_function(path, small, X.astype(np.float64), any_batch=True)
    assert_same(load_function(path)(small.params, X), net(PARAMS, X))


def test_int64_tokens_of_numpy():
    tokens = np.array([1, 2, 3])
    for traced in (tokens, jnp.asarray(tokens)):
        small = compact(embedded, PARAMS, traced)
        assert small.params["w"].shape == (4, 5)
        assert_same(small(tokens), embedded(PARAMS, tokens))


def test_float64_parameters_of_numpy():
    params = jax.tree.map(lambda x: np.asarray(x, np.float64), PARAMS)
    small = compact(net, params, X)
    assert small.params["w"].dtype == np.float64
    for x in (X, X[:3]):
        assert_same(small(x), net(PARAMS, x))


def test_weak_types_of_arguments():
    def scaled(p, x, scale):
        return net(p, x).astype(jnp.bfloat16) * scale

    weak, strong = jnp.asarray(0.5), jnp.array(0.5, jnp.float32)
    small = compact(scaled, PARAMS, X, weak)
    for scale in (weak, strong):
        found, expected = small(X, scale), scaled(PARAMS, X, scale)
        assert found.dtype == expected.dtype
        np.testing.assert_allclose(
            found.astype("float32"), expected.astype("float32"), rtol=0.01, atol=0.01
        )


def test_weak_types_of_parameters_stay_what_they_were_for_other_batch_sizes():
    params = {"w": PARAMS["w"].astype(jnp.bfloat16), "b": jnp.full(6, 0.5), "o": jnp.full(6, 0.5)}

    def fn(p, x):
        return (x @ p["w"] + p["b"]) * p["o"] @ p["w"].T

    x = jnp.asarray(X, jnp.bfloat16)
    small = compact(fn, params, x)
    for size in (4, 3):
        assert small(x[:size]).dtype == fn(params, x[:size]).dtype == jnp.bfloat16


@pytest.mark.parametrize("pair", [(1, True), (0, False), (1, 1.0), (0.0, -0.0)])
def test_equal_numbers_that_are_not_the_same(pair):
    def fn(p, x, flag):
        return net(p, x) + (100.0 if isinstance(flag, bool) else np.copysign(10.0, flag))

    small = compact(fn, PARAMS, X, pair[0])
    for flag in (*pair, *pair[::-1]):
        assert_same(small(X, flag), fn(PARAMS, X, flag))


def scaled(p, x):
    return p["scale"] * net(p["net"], x)


def test_another_number_among_the_parameters_is_traced_anew():
    params = {"net": PARAMS, "scale": 0.5}
    small = compact(scaled, params, X)
    for scale in (0.5, 2.0, -1):
        found = small.fn({**small.params, "scale": scale}, X)
        assert_same(found, scaled({**params, "scale": scale}, X))


def test_numbers_among_the_parameters_cannot_be_traced():
    small = compact(scaled, {"net": PARAMS, "scale": 0.5}, X)
    expected = r"params: expected what .* at 'scale', a float, got an array"
    with pytest.raises(TypeError, match=expected):
        jax.jit(small.fn)(small.params, X)
    with pytest.raises(TypeError, match=expected):
        jax.grad(lambda p: small.fn(p, X).sum())(small.params)
    with pytest.raises(TypeError, match=r"at 'net/b', an array, got a float"):
        small.fn({"net": {**small.params["net"], "b": 1.0}, "scale": 0.5}, X)
    arrays = compact(scaled, {"net": PARAMS, "scale": jnp.float32(0.5)}, X)
    got = jax.jit(arrays.fn)(arrays.params, X)
    assert_same(got, scaled({"net": PARAMS, "scale": 0.5}, X))
