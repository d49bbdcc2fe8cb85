"""Pruners that read the moments of each layer, on a network whose moments NumPy computes."""

import functools

import jax.numpy as jnp
import numpy as np
import optax
import pytest

import bmrpruner
from bmrpruner import oneshot, posteriors, pruning
from bmrpruner.posteriors import LayerwiseGaussian, LinearLayer

DAMPING = 0.01
SIZES = (12, 8, 6)
ONE_SHOT = ("obs", "global_obs", "wanda")


def make_params(has_bias=True, seed=0):
    rng = np.random.default_rng(seed)
    layers = {}
    for i in range(2):
        layers[f"dense_{i}"] = {"kernel": rng.normal(size=SIZES[i : i + 2]) / SIZES[i] ** 0.5}
        if has_bias:
            layers[f"dense_{i}"]["bias"] = rng.normal(size=SIZES[i + 1])
    return {n: {k: jnp.asarray(v, jnp.float32) for k, v in x.items()} for n, x in layers.items()}


def calibration_inputs():
    rng = np.random.default_rng(7)
    return 1 + rng.normal(size=(400, SIZES[0])) @ rng.normal(size=(SIZES[0], SIZES[0]))


def layer_inputs(params):
    """The inputs of both layers."""
    x = calibration_inputs()
    first = params["dense_0"]
    hidden = x @ np.asarray(first["kernel"], float) + np.asarray(first.get("bias", 0))
    return x, np.maximum(hidden, 0)


@functools.cache
def posterior_of(has_bias=True):
    params, layers = make_params(has_bias), []
    for i, x in enumerate(layer_inputs(params)):
        mean = x.mean(0) if has_bias else np.zeros(x.shape[1])
        outputs = SIZES[i + 1]
        name = f"dense_{i}"
        layers.append(
            LinearLayer(
                name=f"{name}/kernel",
                leaf=(name, "kernel"),
                bias_leaf=(name, "bias") if has_bias else None,
                positions=jnp.arange(SIZES[i] * outputs).reshape(-1, outputs).T,
                bias_positions=jnp.arange(outputs) if has_bias else None,
                input_mean=jnp.asarray(mean, jnp.float32),
                input_covariance=jnp.asarray((x - mean).T @ (x - mean) / len(x), jnp.float32),
                curvature=jnp.linspace(0.5, 1.5, outputs) * (1 + i),
            )
        )
    return LayerwiseGaussian(params, tuple(layers), examples=400, damping=DAMPING)


def ridge(x, w, b, keep):
    """Weights that stay and bias of one output: least squares with λ(w − before)², b free."""
    ridge = DAMPING * np.mean(np.var(x, 0))
    design = np.concatenate([x[:, keep], np.ones((len(x), 1))], 1)
    penalty = np.diag([ridge] * keep.sum() + [0])
    left = design.T @ design / len(x) + penalty
    right = design.T @ (x @ w + b) / len(x) + penalty @ np.append(w[keep], 0)
    found = np.linalg.solve(left, right)
    return found[:-1], found[-1]


@pytest.mark.parametrize("name", ["obs", "global_obs"])
def test_weights_and_biases_are_those_of_a_ridge_regression(name):
    params, posterior = make_params(), posterior_of()
    updater = bmrpruner.ALGORITHM_REGISTRY[name](sparsity=0.6)
    pruned, masks = updater.instant_sparsify(params, posterior=posterior)
    for i, x in enumerate(layer_inputs(params)):
        before, after = params[f"dense_{i}"], pruned[f"dense_{i}"]
        keep = np.asarray(masks[f"dense_{i}"]["kernel"], bool)
        assert masks[f"dense_{i}"]["bias"] is None
        np.testing.assert_array_equal(np.asarray(after["kernel"]) != 0, keep)
        for r in range(SIZES[i + 1]):
            w, b = np.asarray(before["kernel"][:, r], float), float(before["bias"][r])
            weights, bias = ridge(x, w, b, keep[:, r])
            found = np.asarray(after["kernel"])[keep[:, r], r]
            np.testing.assert_allclose(found, weights, rtol=5e-3, atol=1e-4)
            np.testing.assert_allclose(after["bias"][r], bias, rtol=5e-3, atol=1e-3)


def test_without_a_bias_moments_are_about_zero():
    params, posterior = make_params(has_bias=False), posterior_of(has_bias=False)
    pruned, masks = bmrpruner.OBSPruning(sparsity=0.5).instant_sparsify(params, posterior=posterior)
    x = layer_inputs(params)[0]
    second = x.T @ x / len(x)
    second += DAMPING * np.mean(np.diag(second)) * np.eye(len(second))
    for r in range(SIZES[1]):
        keep = np.asarray(masks["dense_0"]["kernel"][:, r], bool)
        w = np.asarray(params["dense_0"]["kernel"][:, r], float)
        expected = np.linalg.solve(second[np.ix_(keep, keep)], (second @ w)[keep])
        found = np.asarray(pruned["dense_0"]["kernel"])[keep, r]
        np.testing.assert_allclose(found, expected, rtol=5e-3, atol=1e-4)


def test_scopes_rank_the_scores_of_each_layer_or_of_all():
    params, posterior = make_params(), posterior_of()
    scores = bmrpruner.OBSPruning().calculate_scores(params, posterior=posterior)
    for layer in posterior.layers:
        by_layer = oneshot.obs_scores(
            layer.weights(params), layer.precision(DAMPING), layer.curvature
        )
        np.testing.assert_allclose(layer.weights(scores), by_layer)
    flat = np.concatenate([np.ravel(x["kernel"]) for x in scores.values()])
    lowest = np.sort(flat)[round(0.6 * flat.size)]
    updaters = [
        bmrpruner.GlobalOBSPruning(sparsity=0.6),
        bmrpruner.OBSPruning(sparsity=0.6, scope="global"),
    ]
    for updater in updaters:
        masks = updater.instant_sparsify(params, posterior=posterior)[1]
        for name, leaf in scores.items():
            np.testing.assert_array_equal(masks[name]["kernel"], leaf["kernel"] >= lowest)
    masks = bmrpruner.OBSPruning(threshold=float(lowest)).instant_sparsify(
        params, posterior=posterior
    )[1]
    for name, leaf in scores.items():
        np.testing.assert_array_equal(masks[name]["kernel"], leaf["kernel"] > lowest)


@pytest.mark.parametrize("kind", ["2:4", "2x4", "channel_0"])
@pytest.mark.parametrize("name", ["obs", "wanda"])
def test_patterns(name, kind):
    params, posterior = make_params(), posterior_of()
    cls = bmrpruner.ALGORITHM_REGISTRY[name]
    settings = {} if kind == "2:4" else {"sparsity": 0.5}
    settings["custom_sparsity_map"] = {("dense_1", "kernel"): None}
    pruned, masks = cls(sparsity_type=kind, **settings).instant_sparsify(
        params, posterior=posterior
    )
    mask = np.asarray(masks["dense_0"]["kernel"])
    assert mask.mean() == 0.5
    assert masks["dense_1"]["kernel"] is None
    np.testing.assert_array_equal(pruned["dense_1"]["kernel"], params["dense_1"]["kernel"])
    groups = {"2:4": (12, 2, 4), "2x4": (6, 2, 2, 4), "channel_0": (12, 8)}[kind]
    if kind == "2:4":
        assert np.all(mask.reshape(groups).sum(-1) == 2)
    else:
        axes = {"2x4": (1, 3), "channel_0": (1,)}[kind]
        whole = mask.reshape(groups)
        np.testing.assert_array_equal(whole.min(axes), whole.max(axes))


def test_wanda_prunes_each_row_alike_and_moves_nothing():
    params, posterior = make_params(), posterior_of()
    pruned, masks = bmrpruner.WandaPruning(sparsity=0.5).instant_sparsify(
        params, posterior=posterior
    )
    for i, x in enumerate(layer_inputs(params)):
        kernel = np.asarray(params[f"dense_{i}"]["kernel"])
        metric = np.abs(kernel) * np.sqrt(np.mean(x**2, 0))[:, None]
        expected = metric >= np.sort(metric, 0)[SIZES[i] // 2]
        np.testing.assert_array_equal(masks[f"dense_{i}"]["kernel"], expected)
        np.testing.assert_array_equal(pruned[f"dense_{i}"]["kernel"], np.where(expected, kernel, 0))
        np.testing.assert_array_equal(pruned[f"dense_{i}"]["bias"], params[f"dense_{i}"]["bias"])
    moved = bmrpruner.WandaPruning(sparsity=0.5, refits=True).instant_sparsify(
        params, posterior=posterior
    )[0]
    assert not np.allclose(moved["dense_0"]["bias"], params["dense_0"]["bias"])


def test_wide_layers_are_swept():
    params, posterior = make_params(), posterior_of()
    pruned, masks = bmrpruner.OBSPruning(sparsity=0.5, wide=True).instant_sparsify(
        params, posterior=posterior
    )
    layer = posterior.layers[0]
    expected, _ = oneshot.sweep(
        layer.weights(params), layer.precision(DAMPING), keep=layer.weights(masks)
    )
    np.testing.assert_allclose(layer.weights(pruned), expected, rtol=1e-5)


def test_leaves_that_no_layer_covers_are_named_and_stay_dense():
    params = {**make_params(), "table": jnp.ones((3, 4))}
    for scope in ("layer", "global"):
        with pytest.warns(UserWarning, match="got none for table: left dense"):
            pruned, masks = bmrpruner.OBSPruning(sparsity=0.5, scope=scope).instant_sparsify(
                params, posterior=posterior_of()
            )
        assert masks["table"] is None
        assert jnp.all(pruned["table"] == 1)
        assert float(jnp.mean(masks["dense_0"]["kernel"])) < 1
    exempt = bmrpruner.OBSPruning(sparsity=0.5, filter_fn=lambda key, leaf: key[-1] == "kernel")
    exempt.instant_sparsify(params, posterior=posterior_of())


def test_the_evidence_of_what_goes_is_that_of_the_gaussian():
    params, posterior = make_params(), posterior_of()
    masks = bmrpruner.OBSPruning(sparsity=0.5).instant_sparsify(params, posterior=posterior)[1]
    found = posterior.delta_f(masks)
    assert list(found) == ["dense_0/kernel", "dense_1/kernel"]
    for layer in posterior.layers:
        total = 0.0
        for r, curvature in enumerate(np.asarray(layer.curvature, float)):
            precision = 400 * curvature * np.asarray(layer.precision(DAMPING), float)
            precision += np.eye(len(precision))  # of the prior
            gone = np.asarray(layer.weights(masks)[r]) == 0
            inside = np.linalg.inv(precision)[np.ix_(gone, gone)]
            mean = np.asarray(layer.weights(params)[r], float)[gone]
            total -= 0.5 * (np.linalg.slogdet(inside)[1] + mean @ np.linalg.solve(inside, mean))
        np.testing.assert_allclose(found[layer.name], total, rtol=2e-3)


def test_a_covariance_that_has_no_inverse_is_named():
    posterior = posterior_of()
    first = posterior.layers[0]
    indefinite = first.with_inputs(first.input_mean, first.input_covariance - 100 * jnp.eye(12))
    posterior = LayerwiseGaussian(posterior.mean, (indefinite,), 400)
    with pytest.raises(ValueError, match=r"^posterior: .* 'dense_0/kernel', got NaN"):
        bmrpruner.OBSPruning(sparsity=0.5).instant_sparsify(make_params(), posterior=posterior)


def test_a_rule_prunes_by_it():
    params, posterior = make_params(), posterior_of()
    result = pruning.prune(params, pruning.Rule("global_obs", sparsity=0.6), posterior)
    expected, _ = bmrpruner.GlobalOBSPruning(sparsity=0.6).instant_sparsify(
        params, posterior=posterior
    )
    np.testing.assert_array_equal(result.params["dense_0"]["kernel"], expected["dense_0"]["kernel"])
    assert result.sparsity == pytest.approx(0.6, abs=0.01)


@pytest.mark.parametrize("name", ONE_SHOT)
def test_what_makes_no_sense_is_refused(name):
    updater = bmrpruner.create_updater_from_config(
        algorithm=name, dist_type="uniform", sparsity=0.5
    )
    assert bmrpruner.ALGORITHM_REGISTRY[name].is_one_shot
    with pytest.raises(TypeError, match=r"^wrap_optax: expected .* call instant_sparsify"):
        updater.wrap_optax(optax.sgd(0.1))
    diagonal = posteriors.DiagonalGaussian(make_params(), make_params())
    for posterior, got in ((None, "none"), (diagonal, "a DiagonalGaussian")):
        with pytest.raises(TypeError, match=f"^posterior: expected a Layerwise.* got {got}"):
            updater.instant_sparsify(make_params(), posterior=posterior)
    with pytest.raises(ValueError, match=r"^params: expected a leaf 'dense_1/kernel'"):
        updater.instant_sparsify({"dense_0": make_params()["dense_0"]}, posterior=posterior_of())
