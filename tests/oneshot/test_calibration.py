"""Moments of the layers of real models, and what is refitted with them."""

import equinox as eqx
import jax
import jax.numpy as jnp
import linear_models
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

import bmrpruner
from bmrpruner import posteriors
from bmrpruner._tree import map_leaves, map_with_key
from bmrpruner.algorithms.one_shot import refitted
from bmrpruner.posteriors import _moments
from bmrpruner.study.models import mlp

DAMPING = 0.01


def random_masks(params, layers):
    rng = np.random.default_rng(3)
    covered = {layer.leaf for layer in layers}

    def mask(key, leaf):
        return jnp.asarray(rng.uniform(size=leaf.shape) < 0.6, "uint8") if key in covered else None

    return map_with_key(mask, params)


def ridge_of_all(fn, params, x, masks, layers):
    """Least squares over all that stays, as the outputs are linear in the parameters."""
    arrays, rest = eqx.partition(params, eqx.is_inexact_array)
    flat, unravel = ravel_pytree(arrays)

    def outputs(flat):
        return fn(eqx.combine(unravel(flat), rest), x).ravel()

    design = np.asarray(jax.jit(jax.jacfwd(outputs))(flat), float)
    numbers = unravel(jnp.arange(flat.size, dtype=jnp.float32))
    kept = map_leaves(
        lambda leaf, mask: leaf if mask is None or leaf is None else jnp.where(mask, leaf, -1),
        numbers,
        masks,
    )
    keep, flat = np.asarray(ravel_pytree(kept)[0]) >= 0, np.asarray(flat, float)
    penalty = np.zeros(flat.size)
    for layer in layers:
        in_leaf = sum(other.leaf == layer.leaf for other in layers)
        samples = len(design) // (layer.shape[0] * in_leaf)
        index = np.asarray(layer.weights(numbers), int)
        squares = (design[:, index] ** 2).sum(0) / samples
        means = design[:, index].sum(0) / samples if layer.bias_leaf is not None else 0
        penalty[index] = samples * DAMPING * np.mean(squares - means**2)
    left = design[:, keep].T @ design[:, keep] + np.diag(penalty[keep])
    right = design[:, keep].T @ (design @ flat) + (penalty * flat)[keep]
    found = np.zeros(flat.size)
    found[keep] = np.linalg.solve(left, right)
    return found


@pytest.mark.parametrize("make", linear_models.MODELS, ids=lambda make: make.__name__)
def test_what_stays_is_the_ridge_regression_on_the_true_moments(make):
    fn, params, x = make()
    posterior = posteriors.from_calibration(fn, params, [x], DAMPING, loss="regression")
    masks = random_masks(params, posterior.layers)
    pruned = refitted(params, bmrpruner._masks.mask_tree(params, masks), masks, posterior)
    found = ravel_pytree(eqx.filter(pruned, eqx.is_inexact_array))[0]
    expected = ridge_of_all(fn, params, x, masks, posterior.layers)
    np.testing.assert_allclose(found, expected, rtol=5e-3, atol=2e-3 * np.abs(expected).max())
    assert np.any(expected == 0)


PARAMS = bmrpruner.study.models.init_mlp(jax.random.key(0), (6, 8, 3))
INPUTS = np.asarray(1 + linear_models.normal(240, 6, seed=1))


def backward(params, x, cotangent):
    """Inputs and output gradients of both layers, by hand."""
    first, second = (np.asarray(params[f"dense_{i}"]["kernel"], float) for i in range(2))
    hidden = np.maximum(x @ first, 0)
    return (x, hidden), ((cotangent @ second.T) * (hidden > 0), cotangent)


def test_moments_and_curvatures_of_a_network_by_hand():
    batches = [INPUTS[:100], INPUTS[100:200], INPUTS[200:]]
    key = jax.random.key(5)
    posterior = posteriors.from_calibration(mlp, PARAMS, iter(batches), key=key)
    signs = [
        jax.random.rademacher(jax.random.fold_in(key, i), (len(x), 3), jnp.float32)
        for i, x in enumerate(batches)
    ]
    signs = [
        _moments.softmax_cotangent(mlp(PARAMS, x), x, own)[0]
        for x, own in zip(batches, signs, strict=True)
    ]
    inputs, grads = backward(PARAMS, INPUTS, np.concatenate(signs).astype(float))
    assert posterior.examples == 240
    assert [layer.name for layer in posterior.layers] == ["dense_0/kernel", "dense_1/kernel"]
    for layer, x, dy in zip(posterior.layers, inputs, grads, strict=True):
        assert layer.bias_leaf == (layer.leaf[0], "bias")
        np.testing.assert_allclose(layer.input_mean, x.mean(0), rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(
            layer.input_covariance, np.cov(x.T, bias=True), rtol=1e-3, atol=1e-5
        )
        np.testing.assert_allclose(layer.curvature, (dy**2).mean(0), rtol=1e-4)


def test_the_cotangent_has_the_hessian_of_the_cross_entropy():
    logits = jnp.array([1.0, -0.5, 0.3])
    signs = jax.random.rademacher(jax.random.key(0), (20000, 3), jnp.float32)
    draws = _moments.softmax_cotangent(jnp.tile(logits, (20000, 1)), None, signs)[0]
    hessian = jax.hessian(lambda z: jax.nn.logsumexp(z))(logits)
    np.testing.assert_allclose(draws.T @ draws / 20000, hessian, atol=5e-3)


def test_a_loss_of_ones_own_has_empirical_gradients():
    targets = np.asarray(linear_models.normal(240, 3, seed=4))

    def fn(params, batch):
        return mlp(params, batch[0])

    def loss(outputs, batch):
        return jnp.sum((outputs - batch[1]) ** 4, 1)

    posterior = posteriors.from_calibration(fn, PARAMS, [(INPUTS, targets)], loss=loss)
    errors = 4 * (np.asarray(mlp(PARAMS, INPUTS), float) - targets) ** 3
    for layer, dy in zip(posterior.layers, backward(PARAMS, INPUTS, errors)[1], strict=True):
        np.testing.assert_allclose(layer.curvature, (dy**2).mean(0), rtol=1e-3)


def test_a_posterior_passes_through_jit_and_flatten():
    posterior = posteriors.from_calibration(mlp, PARAMS, [INPUTS])
    again = jax.jit(lambda p: jax.tree.map(lambda x: x, p))(posterior)
    assert [layer.leaf for layer in again.layers] == [layer.leaf for layer in posterior.layers]
    np.testing.assert_array_equal(again.layers[0].positions, posterior.layers[0].positions)


@pytest.mark.parametrize(
    ("message", "batches", "settings"),
    [
        ("batches: expected one batch at least", [], {}),
        (r"batches: expected arrays of shapes \[\(6,\)\]", [INPUTS, INPUTS[:, :4]], {}),
        ("batches: expected finite .* 'dense_0/kernel'", [INPUTS * np.nan], {}),
        ("damping: expected a number > 0", [INPUTS], {"damping": 0.0}),
        ("loss: expected .* Did you mean 'softmax'", [INPUTS], {"loss": "sofmax"}),
    ],
)
def test_bad_input_is_named(message, batches, settings):
    with pytest.raises(ValueError, match=message):
        posteriors.from_calibration(mlp, PARAMS, batches, **settings)


@pytest.mark.parametrize(
    ("error", "message", "outputs", "loss"),
    [
        (
            ValueError,
            r"fn: .* got outputs of shape \(240, 1\); for one logit",
            lambda y: y[:, :1],
            0,
        ),
        (ValueError, r"fn: .* two classes .* got outputs of shape \(240,\)", lambda y: y[:, 0], 0),
        (ValueError, r"fn: .* got outputs of shape \(\)", jnp.sum, 0),
        (TypeError, "fn: expected outputs that are a floating array, got int32", jnp.int32, 0),
        (TypeError, "fn: .* a floating array, got tuple", lambda y: (y, y), 0),
        (ValueError, r"fn: .*\(examples, \.\.\.\), got a scalar", jnp.sum, "regression"),
        (ValueError, "loss: expected one loss per example, got a scalar", lambda y: y, jnp.mean),
    ],
)
def test_outputs_that_do_not_fit_the_loss_are_named(error, message, outputs, loss):
    own = (lambda y, _: loss(y)) if callable(loss) else loss or "softmax"
    with pytest.raises(error, match=message):
        posteriors.from_calibration(lambda p, x: outputs(mlp(p, x)), PARAMS, [INPUTS], loss=own)


def test_one_logit_with_a_loss_of_its_own():
    targets = np.arange(240) % 2

    def loss(outputs, batch):
        return jnp.logaddexp(0, outputs) - batch[1] * outputs

    def fn(params, batch):
        return mlp(params, batch[0])[:, 0]

    posterior = posteriors.from_calibration(fn, PARAMS, [(INPUTS, targets)], loss=loss)
    logits = np.asarray(mlp(PARAMS, INPUTS), float)[:, 0]
    errors = np.zeros((240, 3))
    errors[:, 0] = 1 / (1 + np.exp(-logits)) - targets
    assert posterior.examples == 240
    for layer, dy in zip(posterior.layers, backward(PARAMS, INPUTS, errors)[1], strict=True):
        np.testing.assert_allclose(layer.curvature, (dy**2).mean(0), rtol=1e-3, atol=1e-9)


def test_no_layers_and_few_examples_are_named():
    with pytest.raises(ValueError, match="fn: expected a linear layer of params"):
        posteriors.from_calibration(lambda p, x: x * p["w"], {"w": jnp.ones((1, 6))}, [INPUTS])
    with pytest.warns(UserWarning, match="expected some 100 examples at least, got 40"):
        posteriors.from_calibration(mlp, PARAMS, [INPUTS[:40]])
