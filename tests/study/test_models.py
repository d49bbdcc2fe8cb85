"""The forward pass for files that come without code."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bmrpruner.study import models


def test_layers_go_by_number():
    rng = np.random.default_rng(0)
    kernels = [rng.normal(size=(4, 4)) for _ in range(12)]
    params = {f"dense_{i}": {"kernel": kernel} for i, kernel in enumerate(kernels)}
    x = rng.normal(size=(5, 4))
    expected = x
    for kernel in kernels[:-1]:
        expected = np.maximum(expected @ kernel, 0)
    np.testing.assert_allclose(models.mlp(params, x), expected @ kernels[-1], rtol=1e-3)


def test_biases_of_any_name():
    params = {"a": {"w": jnp.eye(2), "b": jnp.ones(2)}, "b": {"w": jnp.eye(2), "b": -jnp.ones(2)}}
    assert jax.jit(models.mlp)(params, jnp.ones((1, 2))).tolist() == [[1.0, 1.0]]


def test_initial_parameters_are_he_normal_and_run():
    """Kernels have the variance 2 / inputs; biases are zero."""
    params = models.init_mlp(jax.random.key(0), (200, 100, 3))
    assert list(params) == ["dense_0", "dense_1"]
    assert [layer["kernel"].shape for layer in params.values()] == [(200, 100), (100, 3)]
    assert not any(layer["bias"].any() for layer in params.values())
    assert float(jnp.var(params["dense_0"]["kernel"])) == pytest.approx(2 / 200, rel=0.05)
    assert models.mlp(params, jnp.ones((5, 200))).shape == (5, 3)
    with pytest.raises(ValueError, match="sizes: expected"):
        models.init_mlp(jax.random.key(0), (200,))


def test_another_activation_is_for_hidden_layers_only():
    params = {"a": {"kernel": jnp.eye(2)}, "b": {"kernel": jnp.eye(2)}}
    assert models.mlp(params, jnp.array([[1.0, -3.0]]), jnp.square).tolist() == [[1.0, 9.0]]


@pytest.mark.parametrize(
    ("params", "message"),
    [
        (
            {"conv": {"kernel": jnp.ones((3, 3, 1, 8))}},
            "conv/kernel: expected a kernel of two axes",
        ),
        ({"a": {"kernel": jnp.ones((2, 2)), "other": jnp.ones((2, 2))}}, "a/other"),
        ({"a": {"bias": jnp.ones(2)}}, "params: expected kernels of two axes, got none"),
    ],
)
def test_other_networks_are_refused(params, message):
    with pytest.raises(ValueError, match=message):
        models.mlp(params, jnp.ones((1, 2)))
