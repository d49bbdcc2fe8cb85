"""Scores of a posterior, thresholds, groups, and the adaptive rounds."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import bmrpruner
from bmrpruner import posteriors
from bmrpruner.algorithms import AdaptiveBMR
from bmrpruner.sparsity_types import Block, Channel, NByM

rng = np.random.default_rng(0)
SHAPES = {"a": (6, 4), "b": (4, 5)}
MEAN = {k: rng.normal(size=shape).astype(np.float32) for k, shape in SHAPES.items()}
STD = {k: rng.uniform(0.05, 1.5, v.shape).astype(np.float32) for k, v in MEAN.items()}
PRIOR = 2.0
POSTERIOR = posteriors.from_mean_field(MEAN, scale=STD, prior_precision=PRIOR)


def delta_f(key):
    """ln q(0) - ln p(0), from the two Gaussian densities."""
    log_q = -0.5 * np.log(2 * np.pi * STD[key] ** 2) - MEAN[key] ** 2 / (2 * STD[key] ** 2)
    return log_q - 0.5 * np.log(PRIOR / (2 * np.pi))


def kept(pruner):
    _, masks = pruner.instant_sparsify(MEAN, posterior=POSTERIOR)
    return {k: np.asarray(mask) == 1 for k, mask in masks.items()}


def largest(score, count):
    flat = np.zeros(score.size, bool)
    flat[np.argsort(-score.ravel(), kind="stable")[:count]] = True
    return flat.reshape(score.shape)


@pytest.mark.parametrize("key", ["a", "b"])
def test_snr_and_bmr_keep_the_best_of_each_layer(key):
    count = MEAN[key].size // 2
    snr = np.abs(MEAN[key]) / STD[key]
    np.testing.assert_array_equal(
        kept(bmrpruner.SNRPruning(sparsity=0.5))[key], largest(snr, count)
    )
    np.testing.assert_array_equal(
        kept(bmrpruner.BMRPruning(sparsity=0.5))[key], largest(-delta_f(key), count)
    )


@pytest.mark.parametrize("name", ["snr", "bmr"])
def test_global_forms_rank_the_network(name):
    pruner = bmrpruner.create_updater_from_config(
        algorithm=f"global_{name}", dist_type="uniform", sparsity=0.7
    )
    score = {
        "snr": lambda k: np.abs(MEAN[k]) / STD[k],
        "bmr": lambda k: -delta_f(k),
    }[name]
    flat = largest(np.concatenate([score(k).ravel() for k in "ab"]), round(44 * 0.3))
    masks = kept(pruner)
    np.testing.assert_array_equal(np.concatenate([masks[k].ravel() for k in "ab"]), flat)


@pytest.mark.parametrize("threshold", [0.0, 0.7, -2.0])
@pytest.mark.parametrize("pruner", [bmrpruner.BMRPruning, bmrpruner.GlobalBMRPruning])
def test_threshold_is_the_log_odds(pruner, threshold):
    masks = kept(pruner(threshold=threshold))
    for key, mask in masks.items():
        np.testing.assert_array_equal(mask, delta_f(key) < threshold)


def test_threshold_of_snr_and_magnitude():
    for key, mask in kept(bmrpruner.SNRPruning(threshold=1.0)).items():
        np.testing.assert_array_equal(mask, np.abs(MEAN[key]) / STD[key] > 1.0)
    for key, mask in kept(bmrpruner.GlobalMagnitudePruning(threshold=0.5)).items():
        np.testing.assert_array_equal(mask, np.abs(MEAN[key]) > 0.5)


def test_threshold_ties_are_pruned():
    """A weight that the data never touched has ΔF of zero."""
    posterior = posteriors.DiagonalGaussian(jnp.zeros((1, 2)), jnp.full((1, 2), 3.0), 3.0)
    _, mask = bmrpruner.BMRPruning(threshold=0.0).instant_sparsify(
        posterior.mean, posterior=posterior
    )
    assert mask.tolist() == [[0, 0]]


def test_groups_have_the_sum_of_their_evidence():
    channel = delta_f("a").sum(0)
    mask = kept(bmrpruner.BMRPruning(threshold=0.0, sparsity_type=Channel(-1)))["a"]
    np.testing.assert_array_equal(mask, np.broadcast_to(channel < 0, (6, 4)))

    padded = np.pad(delta_f("b"), ((0, 0), (0, 1)))
    block = padded.reshape(2, 2, 3, 2).sum((1, 3))
    mask = kept(bmrpruner.BMRPruning(threshold=0.0, sparsity_type=Block((2, 2))))["b"]
    expected = np.repeat(np.repeat(block < 0, 2, 0), 2, 1)[:, :5]
    np.testing.assert_array_equal(mask, expected)

    mask = kept(bmrpruner.BMRPruning(sparsity=0.5, sparsity_type=Block((2, 2))))["b"]
    expected = np.repeat(np.repeat(largest(-block, 3), 2, 0), 2, 1)[:, :5]
    np.testing.assert_array_equal(mask, expected)


def test_threshold_has_no_meaning_for_n_of_m():
    with pytest.raises(ValueError, match="threshold"):
        bmrpruner.BMRPruning(threshold=0.0, sparsity_type=NByM(2, 4))


def test_pruned_weights_stay_pruned():
    """A pruned weight's mean of zero must not be outranked by kept weights of large ΔF."""
    params = {k: jnp.asarray(v) for k, v in MEAN.items()}
    pruner = bmrpruner.BMRPruning(sparsity=0.9, scheduler=bmrpruner.PolynomialSchedule(1, 0, 10))
    tx = pruner.wrap_optax(optax.sgd(0.0), mask_updates=True)
    state = tx.init(params)
    before = jax.tree.map(jnp.ones_like, state.masks)
    for _ in range(10):
        grads = jax.tree.map(jnp.zeros_like, params)
        updates, state = tx.update(grads, state, params, posterior=POSTERIOR)
        params = optax.apply_updates(params, updates)
        assert all(bool((before[k] >= state.masks[k]).all()) for k in SHAPES)
        before = state.masks
    assert int(state.masks["a"].sum()) == round(24 * 0.1)


def test_temperature_weighs_the_data():
    """ΔF of the precisions π/T, against the formula."""
    scores = bmrpruner.BMRPruning(temperature=0.25).calculate_scores(MEAN, posterior=POSTERIOR)
    for key in MEAN:
        precision = 4 / np.asarray(STD[key]) ** 2
        expected = 0.5 * (np.log(precision / PRIOR) - precision * np.asarray(MEAN[key]) ** 2)
        np.testing.assert_allclose(scores[key], -expected, rtol=1e-4, atol=1e-4)
    with pytest.raises(ValueError, match="temperature"):
        bmrpruner.GlobalBMRPruning(sparsity=0.5, temperature=0)


def test_posteriors_of_another_kind_are_refused():
    with pytest.raises(TypeError, match="posterior"):
        bmrpruner.BMRPruning(sparsity=0.5).instant_sparsify(MEAN, posterior=STD)
    with pytest.raises(TypeError, match=r"posteriro.*Did you mean 'posterior'"):
        bmrpruner.BMRPruning(sparsity=0.5).instant_sparsify(MEAN, posteriro=POSTERIOR)


def rounds_of(pruner, steps):
    """The record and the masks after some rounds on a posterior that does not change."""
    tx = pruner.wrap_optax(optax.sgd(0.0))
    params = {k: jnp.asarray(v) for k, v in MEAN.items()}
    grads = jax.tree.map(jnp.zeros_like, params)

    def step(state, _):
        return tx.update(grads, state, params, posterior=POSTERIOR)[1], None

    return jax.jit(lambda state: jax.lax.scan(step, state, length=steps)[0])(tx.init(params))


def test_adaptive_rounds_against_a_loop():
    """Each round: the largest ΔF first, at most a share, none below the log-odds."""
    pruner = AdaptiveBMR(
        scheduler=bmrpruner.PolynomialSchedule(1, 0, 8), log_odds=2.0, max_share=0.15, max_rounds=8
    )
    state = rounds_of(pruner, 12)
    evidence = np.concatenate([delta_f(k).ravel() for k in "ab"])
    alive = np.ones(44, bool)
    expected = []
    for count in range(9):
        progress = min(count + 1, 8) / 8
        odds = 2.0 * (1 - progress) ** 3
        candidates = np.flatnonzero(alive & (evidence >= odds))
        bound = int(np.ceil(0.15 * alive.sum()))
        going = candidates[np.argsort(-evidence[candidates])][:bound]
        alive[going] = False
        expected.append((odds, len(candidates), len(going), evidence[going].sum()))
    masks = np.concatenate([np.asarray(state.masks[k]).ravel() for k in "ab"]) == 1
    np.testing.assert_array_equal(masks, alive)
    odds, qualified, pruned, nats = (np.array(c) for c in zip(*expected[:8], strict=True))
    assert int(state.rounds.done) == 9
    np.testing.assert_allclose(state.rounds.log_odds, odds, atol=1e-5)
    np.testing.assert_array_equal(state.rounds.qualified, qualified)
    np.testing.assert_array_equal(state.rounds.pruned, pruned)
    np.testing.assert_allclose(state.rounds.nats, nats, rtol=1e-4, atol=1e-5)


def test_adaptive_stops_when_nothing_qualifies_and_at_the_cap():
    schedule = bmrpruner.PeriodicSchedule(1, 0, None)
    free = rounds_of(AdaptiveBMR(scheduler=schedule), 20)
    evidence = np.concatenate([delta_f(k).ravel() for k in "ab"])
    assert int(free.rounds.pruned.sum()) == (evidence >= 0).sum()
    assert int(free.rounds.pruned[int(free.rounds.done) - 1]) == 0
    capped = rounds_of(AdaptiveBMR(scheduler=schedule, sparsity=0.1), 20)
    assert (evidence >= 0).sum() > 4
    assert int(capped.rounds.pruned.sum()) == 2 + 2  # floor(0.1 * 24) + floor(0.1 * 20)


@pytest.mark.parametrize("sparsity_type", [Channel(-1), Block((2, 2))])
def test_adaptive_groups_go_whole(sparsity_type):
    _, masks = AdaptiveBMR(sparsity_type=sparsity_type).instant_sparsify(MEAN, posterior=POSTERIOR)
    expected = kept(bmrpruner.BMRPruning(threshold=0.0, sparsity_type=sparsity_type))
    for key in MEAN:
        np.testing.assert_array_equal(np.asarray(masks[key]) == 1, expected[key])


def test_adaptive_needs_no_sparsity_in_its_configuration():
    pruner = bmrpruner.create_updater_from_config(
        algorithm="adaptive_bmr",
        dist_type="uniform",
        update_freq=1,
        update_start_step=0,
        update_end_step=8,
        max_share=0.5,
        use_packed_masks=True,
    )
    state = rounds_of(pruner, 9)
    evidence = np.concatenate([delta_f(k).ravel() for k in "ab"])
    assert int(state.rounds.pruned.sum()) == (evidence >= 0).sum()
    chex.assert_shape(state.masks["a"], (3,))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("max_share", 0),
        ("max_share", 1.5),
        ("log_odds", -1),
        ("max_rounds", 0),
        ("sparsity", 2),
    ],
)
def test_adaptive_names_impossible_settings(field, value):
    with pytest.raises(ValueError, match=field):
        AdaptiveBMR(**{field: value})
