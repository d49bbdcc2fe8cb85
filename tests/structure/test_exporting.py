"""Compacted functions in files: any number of rows, and what does not go by rows."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bmrpruner.structure import compact, load_function, save_function

pytest.importorskip("flatbuffers")
PARAMS = {
    "v": np.array([[1, 0, 2], [3, 0, 4]], "f"),
    "b": np.array([1, 2, 3], "f"),
    "w": np.ones((3, 2), "f"),
}
X = np.random.default_rng(0).normal(size=(5, 2)).astype("f")


def net(params, x):
    return jnp.tanh(x @ params["v"] + params["b"]) @ params["w"]


def centred(params, x):
    return net(params, x - x.mean(0))


def mean_of(params, x):
    return net(params, x).mean(0)


def summed(params, x):
    return net(params, x).sum()


def test_any_number_of_rows(tmp_path):
    small = compact(net, PARAMS, X)
    path = tmp_path / "small.jaxexport"
    save_function(path, small, X, any_batch=True)
    found = load_function(path)
    assert small.params["v"].shape == (2, 2)
    for x in (X[:1], X, np.concatenate([X, -X, X])):
        expected = np.tanh(x @ PARAMS["v"] + PARAMS["b"]) @ PARAMS["w"]
        np.testing.assert_allclose(found(small.params, x), expected, rtol=1e-5)


@pytest.mark.parametrize("fn", [centred, mean_of, summed])
def test_rows_that_need_each_other_are_refused(tmp_path, fn):
    path = tmp_path / "small.jaxexport"
    small = compact(fn, PARAMS, X)
    with pytest.raises(ValueError, match="any_batch: expected rows that go by themselves, got"):
        save_function(path, small, X, any_batch=True)
    assert list(tmp_path.iterdir()) == []
    save_function(path, small, jax.ShapeDtypeStruct(X.shape, X.dtype))
    np.testing.assert_allclose(load_function(path)(small.params, X), fn(PARAMS, X), rtol=1e-5)
    with pytest.raises(ValueError, match=r"\(5, 2\)|shape"):
        load_function(path)(small.params, X[:3])


def test_shapes_cannot_show_that_rows_go_by_themselves(tmp_path):
    small = compact(net, PARAMS, X)
    shape = jax.ShapeDtypeStruct(X.shape, X.dtype)
    with pytest.raises(ValueError, match="any_batch: expected"):
        save_function(tmp_path / "small.jaxexport", small, shape, any_batch=True)


def test_symbolic_shapes_are_refused():
    small = compact(net, PARAMS, X)
    (n,) = jax.export.symbolic_shape("n")
    with pytest.raises(ValueError, match=r"shapes of numbers, got \(n, 2\); .*any_batch"):
        jax.export.export(jax.jit(small.fn))(small.params, jax.ShapeDtypeStruct((n, 2), "f"))
