"""Names in files that are not the same for two leaves, and random keys."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from plain_models import normal

from bmrpruner.structure import compact, save_compacted, save_function

X = normal(4, 5)
LAYERS = {"w": normal(5, 8).at[:, 2].set(0), "b": normal(8), "o": normal(8, 3)}
KEY = jax.random.key(0)
KEYS = jax.random.split(KEY, 6)


def net(p, x):
    return jnp.tanh(x @ p["w"] + p["b"]) @ p["o"]


@pytest.mark.parametrize("name", ["small.npz", "small.safetensors", "small.jaxexport"])
def test_leaves_whose_joined_names_are_the_same_are_named(name, tmp_path):
    pytest.importorskip("flatbuffers" if name.endswith("jaxexport") else "safetensors")
    params = {"a": {"b": LAYERS["w"]}, "a/b": LAYERS["o"]}
    small = compact(lambda p, x: jnp.tanh(x @ p["a"]["b"]) @ p["a/b"], params, X)
    args = (X,) if name.endswith("jaxexport") else ()
    save = save_function if args else save_compacted
    with pytest.raises(ValueError, match=r"params: expected .* got 'a/b' of \('a', 'b'\) and of"):
        save(tmp_path / name, small, *args)
    assert list(tmp_path.iterdir()) == []


def test_a_key_among_the_parameters_is_named_when_saved(tmp_path):
    small = compact(net, {**LAYERS, "key": KEY}, X)
    np.testing.assert_allclose(small(X), net(LAYERS, X), rtol=2e-5, atol=1e-6)
    with pytest.raises(TypeError, match=r"arrays of numbers, got one of key<fry> at 'key'"):
        save_compacted(tmp_path / "small.npz", small)
    assert list(tmp_path.iterdir()) == []


def noisy(p, x):
    return net(p, x) + jax.random.normal(KEY, (len(x), 3))


def by_row(p, x):
    return net(p, x) + jax.vmap(lambda key: jax.random.normal(key, (3,)))(KEYS[: len(x)])


@pytest.mark.parametrize("fn", [noisy, by_row])
def test_keys_that_the_function_closes_over(fn):
    small = compact(fn, LAYERS, X)
    assert small.params["w"].shape == (5, 7)
    for x in (X, X[:3]):
        np.testing.assert_allclose(small(x), fn(LAYERS, x), rtol=2e-5, atol=1e-6)
