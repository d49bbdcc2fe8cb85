"""A posterior of linear layers and trees of other shapes than those of its mean."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bmrpruner
from bmrpruner._masks import pack
from bmrpruner.posteriors import LayerwiseGaussian, LinearLayer

PRIOR, EXAMPLES, DAMPING = 0.7, 50, 0.01


def make(inputs=3, outputs=2, has_bias=True):
    rng = np.random.default_rng(inputs)
    half = rng.normal(size=(inputs, inputs))
    layer = LinearLayer(
        name="kernel",
        leaf=("kernel",),
        bias_leaf=("bias",) if has_bias else None,
        positions=jnp.arange(inputs * outputs, dtype=jnp.int32).reshape(inputs, outputs).T,
        bias_positions=jnp.arange(outputs, dtype=jnp.int32) if has_bias else None,
        input_mean=jnp.zeros(inputs),
        input_covariance=jnp.asarray(half @ half.T, jnp.float32),
        curvature=jnp.arange(1.0, outputs + 1),
    )
    params = {
        "kernel": jnp.asarray(0.3 * rng.normal(size=(inputs, outputs)), jnp.float32),
        "bias": jnp.ones(outputs),
    }
    return LayerwiseGaussian(params, (layer,), EXAMPLES, DAMPING, PRIOR)


WRONG = [
    (r"the shape \(3, 2\) of 'kernel', .* got \(2, 2\)", {"kernel": jnp.ones((2, 2))}),
    (r"the shape \(3, 2\) of 'kernel', .* got \(4, 2\)", {"kernel": jnp.ones((4, 2))}),
    (r"the shape \(3, 2\) of 'kernel', .* got \(2, 3\)", {"kernel": jnp.ones((2, 3))}),
    ("a leaf 'kernel', .* got none", {"kernel": None}),
    (r"the shape \(2,\) of 'bias', .* got \(1,\)", {"bias": jnp.ones(1)}),
]


@pytest.mark.parametrize(("message", "change"), WRONG)
def test_a_tree_of_other_shapes_is_named(message, change):
    posterior = make()
    layer, params = posterior.layers[0], {**posterior.mean, **change}
    with pytest.raises(ValueError, match=f"params: expected {message}"):
        (layer.weights if "kernel" in change else layer.bias)(params)
    with pytest.raises(ValueError, match=f"params: expected {message}"):
        layer.put(params, jnp.zeros((2, 3)), jnp.zeros(2))


@pytest.mark.parametrize("outputs", [1, 3])
def test_a_network_of_other_widths_is_not_pruned(outputs):
    posterior, other = make(), make(outputs=outputs)
    with pytest.raises(ValueError, match=r"the shape \(3, 2\) of 'kernel'"):
        bmrpruner.OBSPruning(sparsity=0.5).instant_sparsify(other.mean, posterior=posterior)


def test_layers_keep_their_shapes_in_transformations():
    posterior = make()
    again = jax.jit(lambda p: p)(posterior)
    assert again.layers[0].leaf_shape == (3, 2)
    assert again.layers[0].bias_leaf_shape == (2,)
    assert jax.tree.structure(again) == jax.tree.structure(posterior)
    stacked = jax.tree.map(lambda x: jnp.stack([jnp.asarray(x)] * 2), posterior)
    weights = jax.vmap(lambda p: p.layers[0].weights(p.mean))(stacked)
    np.testing.assert_array_equal(weights[1], np.asarray(posterior.mean["kernel"]).T)
    names = jax.tree.map(
        lambda x: getattr(x, "name", None),
        posterior,
        is_leaf=lambda x: isinstance(x, LinearLayer),
    )
    assert names.layers == ("kernel",)


def test_masks_of_the_evidence_are_checked_and_may_be_packed():
    posterior = make(has_bias=False)
    mask = jnp.asarray([[1, 0], [0, 0], [1, 1]], jnp.uint8)
    expected = 0.0
    layer = posterior.layers[0]
    second = np.asarray(layer.input_covariance, float)
    damped = second + DAMPING * np.mean(np.diag(second)) * np.eye(3)
    for r, curvature in enumerate([1.0, 2.0]):
        covariance = np.linalg.inv(EXAMPLES * curvature * damped + PRIOR * np.eye(3))
        gone = np.asarray(mask)[:, r] == 0
        inside = covariance[np.ix_(gone, gone)]
        mean = np.asarray(posterior.mean["kernel"], float)[gone, r]
        square = mean @ np.linalg.solve(inside, mean)
        expected -= 0.5 * (np.linalg.slogdet(PRIOR * inside)[1] + square)
    for given in (mask, pack(mask)):
        found = posterior.delta_f({"kernel": given, "bias": None})
        assert float(found["kernel"]) == pytest.approx(expected, rel=1e-4)
    with pytest.raises(ValueError, match=r"masks: kernel: expected the shape of mean, \(3, 2\)"):
        posterior.delta_f({"kernel": jnp.ones((2, 2)), "bias": None})


@pytest.mark.parametrize("prior", [-1.0, 0.0, float("nan")])
def test_a_prior_precision_that_is_not_positive_is_named(prior):
    posterior = dataclasses.replace(make(), prior_precision=prior)
    with pytest.raises(ValueError, match="prior_precision: expected a number > 0, got"):
        posterior.delta_f({"kernel": jnp.zeros((3, 2)), "bias": None})
