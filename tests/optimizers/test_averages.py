"""Auxiliary outputs of several draws, against means made by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bmrpruner

PARAMS = jnp.array([0.1, -0.1])


def noisy(method, samples=3):
    """The auxiliary output, and every draw as the loss saw it."""
    seen = []

    def loss_fn(params, key):
        jax.debug.callback(lambda *draw: seen.append(draw), params, jax.random.key_data(key))
        return jnp.sum(params**2), {
            "draw": params,
            "half": params.astype(jnp.float16),
            "positive": jnp.sum(params > 0),
            "key": key,
            "float": 2.5,
            "numpy": np.float32(1.5),
            "integer": 7,
            "flag": True,
            "name": "a name",
            "function": jnp.sum,
            "nothing": None,
        }

    tx = bmrpruner.ivon(0.1, ess=25, hess_init=0.5, weight_decay=0.5)
    (value, aux), *_ = bmrpruner.noisy_value_and_grad(
        loss_fn,
        tx.init(PARAMS),
        PARAMS,
        jax.random.key(3),
        mc_samples=samples,
        method=method,
        has_aux=True,
    )
    jax.effects_barrier()
    return value, aux, [np.asarray(d) for d, _ in seen], [np.asarray(k) for _, k in seen]


@pytest.mark.parametrize("method", ["sequential", "parallel"])
def test_floats_are_averaged_and_of_the_rest_the_last_counts(method):
    value, aux, draws, keys = noisy(method)
    assert len(draws) == 3
    np.testing.assert_allclose(value, np.mean(np.sum(np.square(draws), 1)), rtol=1e-6)
    np.testing.assert_allclose(aux["draw"], np.mean(draws, 0), rtol=1e-6)
    np.testing.assert_allclose(aux["half"], np.mean(draws, 0), rtol=2e-3)
    assert aux["half"].dtype == jnp.float16
    last = next(i for i in range(3) if np.array_equal(keys[i], jax.random.key_data(aux["key"])))
    assert int(aux["positive"]) == np.sum(draws[last] > 0)
    if method == "sequential":
        assert last == 2
    assert [float(aux["float"]), float(aux["numpy"])] == [2.5, 1.5]
    assert aux["float"].dtype == aux["numpy"].dtype == jnp.float32
    assert (int(aux["integer"]), aux["integer"].dtype) == (7, jnp.int32)
    assert (bool(aux["flag"]), aux["flag"].dtype) == (True, jnp.bool_)
    assert aux["name"] == "a name"
    assert aux["function"] is jnp.sum
    assert aux["nothing"] is None


def test_both_methods_have_the_same_last_draw():
    _, a, *_ = noisy("sequential")
    _, b, *_ = noisy("parallel")
    assert a["key"] == b["key"]
    assert a["positive"] == b["positive"]


def test_one_draw_is_handed_back_as_it_is():
    _, aux, (draw,), _ = noisy("sequential", samples=1)
    np.testing.assert_array_equal(aux["draw"], draw)
    assert aux["float"] == 2.5
    assert type(aux["float"]) is float
    assert aux["name"] == "a name"
