"""Networks pruned layer by layer, against least squares in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bmrpruner import posteriors
from bmrpruner.posteriors._moments import CrossSums
from bmrpruner.pruning import prune_sequentially
from bmrpruner.pruning.layer_by_layer import _cross_finished
from bmrpruner.pruning.tolerance import held_out_loss
from bmrpruner.study.models import init_mlp, mlp

DAMPING = 0.01
PARAMS = init_mlp(jax.random.key(0), (6, 8, 4))
INPUTS = np.random.default_rng(1).normal(size=(240, 6)).astype(np.float32) + 0.5
BATCHES = [INPUTS[:120], INPUTS[120:]]


def random_masks():
    rng = np.random.default_rng(2)
    return {
        name: {"kernel": jnp.asarray(rng.uniform(size=x["kernel"].shape) < 0.6), "bias": None}
        for name, x in PARAMS.items()
    }


def ridge(inputs, outputs, before, keep):
    """Weights (D, R) and biases, column by column; λ(w − before)² and a free bias."""
    damping = DAMPING * np.mean(np.var(inputs, 0))
    weights, biases = np.zeros(before.shape), np.zeros(before.shape[1])
    for r, own in enumerate(keep.T):
        design = np.column_stack([inputs[:, own], np.ones(len(inputs))])
        penalty = damping * len(inputs) * np.diag([1.0] * own.sum() + [0])
        right = design.T @ outputs[:, r] + penalty @ np.append(before[own, r], 0)
        found = np.linalg.solve(design.T @ design + penalty, right)
        weights[own, r], biases[r] = found[:-1], found[-1]
    return weights, biases


def numpy_sequential(masks):
    """The first layer on its inputs; the second on those that the pruned first one hands it."""
    x = INPUTS.astype(float)
    kernels = [np.asarray(PARAMS[name]["kernel"], float) for name in PARAMS]
    keeps = [np.asarray(masks[name]["kernel"], bool) for name in PARAMS]
    dense = np.maximum(x @ kernels[0], 0)
    first = ridge(x, x @ kernels[0], kernels[0], keeps[0])
    hidden = np.maximum(x @ first[0] + first[1], 0)
    return first, ridge(hidden, dense @ kernels[1], kernels[1], keeps[1])


def test_given_masks_are_refitted_in_the_order_of_execution():
    masks = random_masks()
    pruned, found, report = prune_sequentially(mlp, PARAMS, BATCHES, masks=masks, report=True)
    for (name, layer), (weights, biases) in zip(
        pruned.items(), numpy_sequential(masks), strict=True
    ):
        np.testing.assert_array_equal(found[name]["kernel"], masks[name]["kernel"])
        np.testing.assert_allclose(layer["kernel"], weights, rtol=5e-3, atol=2e-3)
        np.testing.assert_allclose(layer["bias"], biases, rtol=5e-3, atol=2e-3)
    posterior = posteriors.from_calibration(mlp, PARAMS, BATCHES)
    nats = posterior.delta_f(masks)
    for row, layer in zip(report, posterior.layers, strict=True):
        name = layer.leaf[0]
        assert (row.name, row.weights) == (layer.name, PARAMS[name]["kernel"].size)
        assert row.pruned == int(jnp.sum(masks[name]["kernel"] == 0))
        error = np.asarray(PARAMS[name]["kernel"] - pruned[name]["kernel"], float).T
        squares = np.einsum("rd,de,re->r", error, np.asarray(layer.input_covariance), error)
        assert row.cost == pytest.approx(
            0.5 * float(np.sum(np.asarray(layer.curvature) * squares)), rel=1e-3
        )
        assert row.delta_f == pytest.approx(float(nats[layer.name]), rel=1e-4)
        assert row.seconds > 0


def output_error(params):
    return float(jnp.mean((mlp(params, INPUTS) - mlp(PARAMS, INPUTS)) ** 2))


def test_a_sparsity_is_met_and_the_outputs_stay_closest():
    pruned, masks = prune_sequentially(mlp, PARAMS, (b for b in BATCHES), 0.5)
    kept = [np.asarray(layer["kernel"] != 0) for layer in pruned.values()]
    for mask, own in zip((m["kernel"] for m in masks.values()), kept, strict=True):
        np.testing.assert_array_equal(mask, own)
    assert sum(own.sum() for own in kept) == 40
    assert all(masks[name]["bias"] is None for name in masks)
    magnitude = {
        name: {"kernel": jnp.abs(layer["kernel"]) > jnp.median(jnp.abs(layer["kernel"]))}
        for name, layer in PARAMS.items()
    }
    masks = {name: {"bias": None, **layer} for name, layer in magnitude.items()}
    refitted, _ = prune_sequentially(mlp, PARAMS, BATCHES, masks=masks)
    cut = {
        name: {**layer, "kernel": layer["kernel"] * magnitude[name]["kernel"]}
        for name, layer in PARAMS.items()
    }
    errors = [output_error(p) for p in (pruned, refitted, cut)]
    assert errors == sorted(errors)
    assert errors[0] < 0.5 * errors[1]
    assert errors[1] < 0.5 * errors[2]


def test_a_pattern_holds_in_every_layer():
    pruned, masks = prune_sequentially(mlp, PARAMS, BATCHES, sparsity_type="2:4")
    for name, layer in pruned.items():
        groups = np.asarray(layer["kernel"] != 0).reshape(len(layer["kernel"]), -1, 4)
        np.testing.assert_array_equal(groups.sum(-1), 2)
        np.testing.assert_array_equal(masks[name]["kernel"], layer["kernel"] != 0)


def test_a_tolerance_is_used_up_and_not_exceeded():
    labels = np.asarray(jnp.argmax(mlp(PARAMS, INPUTS), -1))
    held_out = [(INPUTS, labels)]
    tight, loose = (
        prune_sequentially(mlp, PARAMS, BATCHES, max_loss_rise=rise, held_out=iter(held_out))
        for rise in (0.02, 0.2)
    )
    dense = held_out_loss(mlp, PARAMS, held_out, "softmax")
    rises = [held_out_loss(mlp, p, held_out, "softmax") - dense for p, _ in (tight, loose)]
    assert rises[0] <= 0.02
    assert rises[1] <= 0.2
    kept = [sum(int(m["kernel"].sum()) for m in masks.values()) for _, masks in (tight, loose)]
    assert 0 < kept[1] < kept[0] < 80
    fewer = 1 - (kept[0] - 4) / 80
    pruned, _ = prune_sequentially(mlp, PARAMS, BATCHES, fewer)
    assert held_out_loss(mlp, pruned, held_out, "softmax") - dense > 0.02


def test_losses_on_held_out_data():
    outputs = np.asarray(mlp(PARAMS, INPUTS), float)
    labels = np.arange(240) % 4
    shifted = np.exp(outputs - outputs.max(1, keepdims=True))
    nats = -np.log(shifted / shifted.sum(1, keepdims=True))[np.arange(240), labels]
    halves = [(INPUTS[:100], labels[:100]), (INPUTS[100:], labels[100:])]
    assert held_out_loss(mlp, PARAMS, halves, "softmax") == pytest.approx(nats.mean(), rel=1e-5)
    squares = 0.5 * np.sum((outputs - 1) ** 2, 1)
    targets = [(INPUTS, np.ones((240, 4)))]
    found = held_out_loss(mlp, PARAMS, targets, "regression")
    assert found == pytest.approx(squares.mean(), rel=1e-5)
    own = held_out_loss(mlp, PARAMS, [INPUTS], lambda y, x: jnp.sum(y, 1) + x[:, 0])
    assert own == pytest.approx(np.mean(outputs.sum(1) + INPUTS[:, 0]), rel=1e-4)


@pytest.mark.parametrize(
    ("message", "settings"),
    [
        ("expected exactly one that says what goes .* got 0", {}),
        ("got 2", {"sparsity": 0.5, "masks": random_masks()}),
        ("got 2", {"sparsity": 0.5, "sparsity_type": "2:4"}),
        ("max_loss_rise: expected a number > 0", {"max_loss_rise": -1.0, "held_out": []}),
        ("max_loss_rise, held_out: expected both", {"max_loss_rise": 0.1}),
        ("max_loss_rise, held_out: expected both", {"sparsity": 0.5, "held_out": []}),
        ("held_out: expected one batch at least", {"max_loss_rise": 0.1, "held_out": []}),
        ("sparsity: expected a number in", {"sparsity": 1.5}),
        ("masks: expected the tree structure", {"masks": {"dense_0": None}}),
        (
            "masks: dense_0/bias: expected the shape of params",
            {"masks": jax.tree.map(lambda x: jnp.ones(2), PARAMS)},
        ),
    ],
)
def test_bad_input_is_named(message, settings):
    with pytest.raises(ValueError, match=message):
        prune_sequentially(mlp, PARAMS, BATCHES, **settings)


LABELS = np.arange(240) % 4


@pytest.mark.parametrize(
    ("message", "item"),
    [
        (
            r"integers in \[0, 4\), the classes of the model, got -1 to 3",
            (INPUTS, LABELS - (LABELS == 1) * 2),
        ),
        (r"integers in \[0, 4\), .* got 1 to 4", (INPUTS, LABELS + 1)),
        (r"integer labels of shape \(240,\), .* got float32", (INPUTS, LABELS.astype("float32"))),
        (
            r"integer labels .* got int32 of shape \(240, 4\)",
            (INPUTS, np.eye(4, dtype="int32")[LABELS]),
        ),
        (r"got int32 of shape \(100,\)", (INPUTS, LABELS[:100].astype("int32"))),
        ("pairs of a batch and its labels, got ndarray", np.asarray(INPUTS)),
        ("pairs of a batch and its labels, got tuple of 3", (INPUTS, LABELS, LABELS)),
    ],
)
def test_held_out_data_that_do_not_fit_are_named(message, item):
    with pytest.raises(ValueError, match=f"held_out: expected .*{message}"):
        held_out_loss(mlp, PARAMS, [item], "softmax")


def normalized(params, x):
    """NaN for an example whose hidden units are all zero."""
    hidden = jax.nn.relu(x @ params["a"])
    return hidden / jnp.linalg.norm(hidden, axis=-1, keepdims=True) @ params["b"]


def test_a_trial_without_a_finite_loss_exceeds_the_tolerance():
    rng = np.random.default_rng(0)
    params = {
        "a": jnp.asarray(0.3 * rng.normal(size=(6, 4)) - 0.1, jnp.float32),
        "b": jnp.asarray(rng.normal(size=(4, 3)), jnp.float32),
    }
    x = np.abs(rng.normal(size=(600, 6))).astype(np.float32)
    x = x[np.any(x @ np.asarray(params["a"]) > 1e-3, 1)]
    labels = np.asarray(normalized(params, x)).argmax(1)
    data = [(x, labels)]
    emptied = {**params, "a": jnp.zeros((6, 4))}
    assert held_out_loss(normalized, emptied, data, "softmax") == np.inf
    pruned, masks = prune_sequentially(normalized, params, [x], max_loss_rise=0.1, held_out=data)
    rise = [held_out_loss(normalized, p, data, "softmax") for p in (pruned, params)]
    assert rise[0] - rise[1] <= 0.1
    assert 0 < sum(int(m.sum()) for m in masks.values()) < 36
    for bad in (x * np.nan, x * 0):
        with pytest.raises(ValueError, match="held_out: expected data on which the loss of params"):
            prune_sequentially(normalized, params, [x], max_loss_rise=0.1, held_out=[(bad, labels)])


def test_labels_of_every_position_of_a_sequence():
    inputs, labels = INPUTS.reshape(60, 4, -1), LABELS.reshape(60, 4)
    found = held_out_loss(mlp, PARAMS, [(inputs, labels)], "softmax")
    flat = held_out_loss(mlp, PARAMS, [(INPUTS, LABELS)], "softmax")
    assert found == pytest.approx(flat, rel=1e-6)


def test_behind_a_layer_that_has_gone_the_outputs_have_the_mean_of_the_dense_network():
    masks = {
        name: {"kernel": jnp.full(x["kernel"].shape, i > 0), "bias": None}
        for i, (name, x) in enumerate(PARAMS.items())
    }
    pruned, _ = prune_sequentially(mlp, PARAMS, BATCHES, masks=masks)
    mean = np.asarray(mlp(PARAMS, INPUTS)).mean(0)
    np.testing.assert_allclose(mlp(pruned, INPUTS), np.tile(mean, (len(INPUTS), 1)), atol=1e-4)


def test_the_ridge_is_right_beside_an_input_that_varies_most():
    """Not as the difference of two large numbers: with no outputs in common, the target is λw."""
    width, largest = 64, 1e8
    variances = np.ones(width)
    variances[0] = largest
    nothing = jnp.zeros(width)
    second = jnp.asarray(np.diag(variances), jnp.float32)
    sums = CrossSums(jnp.float32(1), nothing, second, nothing, jnp.zeros((width, width)))
    weights = np.random.default_rng(0).normal(size=(3, width)).astype(np.float32)
    _, _, target = _cross_finished(sums, nothing, weights, 0.01, True)
    np.testing.assert_allclose(target, 0.01 * variances.mean() * weights, rtol=1e-6)
