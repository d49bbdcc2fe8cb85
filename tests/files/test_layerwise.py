"""Posteriors of linear layers in files."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bmrpruner import files
from bmrpruner.files.formats import read_tensors, write_tensors
from bmrpruner.posteriors import LayerwiseGaussian, LinearLayer


def make(params):
    def layer(name, bias):
        return LinearLayer(
            name=f"{name}/kernel",
            leaf=(name, "kernel"),
            bias_leaf=(name, "bias") if bias else None,
            positions=jnp.arange(6, dtype=jnp.int32).reshape(2, 3).T,
            bias_positions=jnp.arange(3, dtype=jnp.int32) if bias else None,
            input_mean=jnp.arange(2.0),
            input_covariance=jnp.eye(2) + 0.5,
            curvature=jnp.arange(3.0),
        )

    return LayerwiseGaussian(params, (layer("a", True), layer("b", False)), 250.0, 0.02, 3.0)


PARAMS = {
    "a": {"kernel": jnp.arange(6.0).reshape(2, 3), "bias": jnp.ones(3)},
    "b": {"kernel": jnp.ones((2, 3))},
}


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_what_is_written_is_read(tmp_path, suffix):
    path, posterior = tmp_path / f"moments{suffix}", make(PARAMS)
    files.save_layerwise(path, posterior)
    found = files.load_layerwise(path)
    assert jax.tree.structure(found) == jax.tree.structure(posterior)
    jax.tree.map(np.testing.assert_array_equal, found, posterior)
    assert found.layers[0].bias_leaf == ("a", "bias")
    assert found.layers[1].bias_leaf is None
    with pytest.raises(FileExistsError):
        files.save_layerwise(path, posterior)


@pytest.mark.parametrize(
    ("key", "params"),
    [
        ((), jnp.arange(6.0).reshape(2, 3)),
        (("a/b",), {"a/b": jnp.ones((2, 3)), "c": {"d/": jnp.ones(2)}}),
        (("params",), {"params": jnp.ones((2, 3))}),
        (("a", ""), {"a": {"": jnp.ones((2, 3))}}),
    ],
)
def test_key_paths_of_any_kind_are_read(tmp_path, key, params):
    layer = dataclasses.replace(make(PARAMS).layers[1], leaf=key, leaf_shape=None)
    posterior = LayerwiseGaussian(params, (layer,), 250.0, 0.02, 3.0)
    files.save_layerwise(tmp_path / "moments.npz", posterior)
    found = files.load_layerwise(tmp_path / "moments.npz")
    assert jax.tree.structure(found) == jax.tree.structure(posterior)
    jax.tree.map(np.testing.assert_array_equal, found, posterior)
    np.testing.assert_array_equal(found.layers[0].weights(found.mean).T, jax.tree.leaves(params)[0])


def test_a_file_without_key_paths_is_read(tmp_path):
    """As files were before key paths were in them."""
    files.save_layerwise(tmp_path / "moments.npz", make(PARAMS))
    tensors, metadata = read_tensors(tmp_path / "moments.npz")
    info = json.loads(metadata["bmrpruner_layerwise"])
    del info["keys"]
    metadata["bmrpruner_layerwise"] = json.dumps(info)
    write_tensors(tmp_path / "older.npz", tensors, metadata)
    found = files.load_layerwise(tmp_path / "older.npz")
    jax.tree.map(np.testing.assert_array_equal, found, make(PARAMS))


@pytest.mark.parametrize("field", ["examples", "damping", "prior_precision"])
def test_arrays_in_place_of_numbers_are_named(tmp_path, field):
    posterior = dataclasses.replace(make(PARAMS), **{field: np.ones((3, 5))})
    message = rf"{field}: expected a number, got an array of shape \(3, 5\)"
    with pytest.raises(ValueError, match=message):
        files.save_layerwise(tmp_path / "moments.npz", posterior)
    assert not list(tmp_path.iterdir())


def test_parameters_of_any_make_take_the_place_of_dicts(tmp_path):
    files.save_layerwise(tmp_path / "moments.npz", make(PARAMS))
    params = {"a": PARAMS["a"], "b": PARAMS["b"], "activation": jax.nn.relu}
    found = files.load_layerwise(tmp_path / "moments.npz", params)
    assert found.mean is params
    np.testing.assert_array_equal(found.layers[0].weights(params), PARAMS["a"]["kernel"].T)


@pytest.mark.parametrize(
    ("message", "layer"),
    [
        (r"the shape \(2, 3\) of 'a/kernel', .* got \(2, 2\)", {"kernel": jnp.ones((2, 2))}),
        (r"the shape \(2, 3\) of 'a/kernel', .* got \(3, 3\)", {"kernel": jnp.ones((3, 3))}),
        (r"the shape \(3,\) of 'a/bias', .* got \(6,\)", {**PARAMS["a"], "bias": jnp.ones(6)}),
        ("a leaf 'a/kernel', .* got none", {"weight": jnp.ones((2, 3))}),
    ],
)
def test_parameters_of_another_network_are_named(tmp_path, message, layer):
    files.save_layerwise(tmp_path / "moments.npz", make(PARAMS))
    with pytest.raises(ValueError, match=f"params: expected {message}"):
        files.load_layerwise(tmp_path / "moments.npz", {**PARAMS, "a": layer})


@pytest.mark.parametrize(
    ("message", "change"),
    [
        ("layers/1/curvature", lambda t: t.pop("layers/1/curvature")),
        ("layers/0/bias_positions", lambda t: t.pop("layers/0/bias_positions")),
        (
            r"a/kernel: input_mean: expected shape \(2,\)",
            lambda t: t.update({"layers/0/input_mean": np.ones(3)}),
        ),
        (
            r"a/kernel: expected positions in \[0, 6\), got 1 to 6",
            lambda t: t.update({"layers/0/positions": t["layers/0/positions"] + 1}),
        ),
        ("params/b/kernel", lambda t: t.pop("params/b/kernel")),
        (
            "input_covariance: expected finite",
            lambda t: t.update({"layers/0/input_covariance": np.full((2, 2), np.nan)}),
        ),
    ],
)
def test_a_damaged_file_is_named(tmp_path, message, change):
    files.save_layerwise(tmp_path / "moments.npz", make(PARAMS))
    tensors, metadata = read_tensors(tmp_path / "moments.npz")
    change(tensors)
    write_tensors(tmp_path / "damaged.npz", tensors, metadata)
    with pytest.raises(ValueError, match=rf"damaged.npz: expected what .*{message}"):
        files.load_layerwise(tmp_path / "damaged.npz")
    files.save(tmp_path / "network.npz", PARAMS)
    with pytest.raises(ValueError, match=r"network\.npz: expected what save_layerwise"):
        files.load_layerwise(tmp_path / "network.npz")
