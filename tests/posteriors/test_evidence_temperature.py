"""The temperature at which ΔF ranks weights, found from the posterior itself."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bmrpruner
from bmrpruner import DiagonalGaussian, pruning, study
from bmrpruner.files import Checkpoint
from bmrpruner.pruning import Rule

rng = np.random.default_rng(0)
MEAN = {"a": rng.normal(size=(30, 4)) * rng.exponential(size=(30, 4)), "b": rng.normal(size=7)}
PRECISION = {"a": rng.uniform(0.05, 0.4, (30, 4)), "b": rng.uniform(0.05, 0.2, 7)}


def posterior_of(factor=1.0, dtype=jnp.float32):
    mean = {k: jnp.asarray(v, dtype) for k, v in MEAN.items()} | {"n": 3, "activation": None}
    precision = {k: jnp.asarray(factor * v, dtype) for k, v in PRECISION.items()}
    return DiagonalGaussian(mean, precision | {"n": None, "activation": None})


def third_of_mean_snr2(keep=None):
    squares = np.concatenate([(MEAN[k] ** 2 * PRECISION[k]).ravel() for k in MEAN])
    return (squares if keep is None else squares[keep]).mean() / 3


def test_it_is_a_third_of_the_mean_of_the_squared_snr():
    assert 0.02 < third_of_mean_snr2() < 0.5
    found = jax.jit(lambda p: p.evidence_temperature())(
        DiagonalGaussian({"a": posterior_of().mean["a"]}, {"a": posterior_of().precision["a"]})
    )
    np.testing.assert_allclose(found, (MEAN["a"] ** 2 * PRECISION["a"]).mean() / 3, rtol=1e-5)
    np.testing.assert_allclose(
        posterior_of().evidence_temperature(), third_of_mean_snr2(), rtol=1e-5
    )
    assert posterior_of(dtype=jnp.bfloat16).evidence_temperature().dtype == jnp.float32


def test_pruned_weights_do_not_count():
    masks = {"a": jnp.asarray(rng.integers(0, 2, (30, 4))), "b": None, "n": None}
    pruned = posterior_of().prune(masks | {"activation": None})
    keep = np.concatenate([np.ravel(masks["a"]) > 0, np.ones(7, bool)])
    np.testing.assert_allclose(pruned.evidence_temperature(), third_of_mean_snr2(keep), rtol=1e-5)


@pytest.mark.parametrize(
    ("mean", "precision"),
    [([9.0, 9.0], [1.0, 1.0]), ([0.0, 0.0], [1.0, 1.0]), ([0.0, 0.0], [np.inf, np.inf])],
    ids=["all signal", "no mean", "all pruned"],
)
def test_it_is_at_most_1_and_1_without_any_signal(mean, precision):
    assert DiagonalGaussian(jnp.array(mean), jnp.array(precision)).evidence_temperature() == 1


@pytest.mark.parametrize("factor", [0.1, 3.0])
def test_the_ranking_is_the_same_however_cold_the_posterior_is(factor):
    pruner = bmrpruner.BMRPruning(sparsity=0.5, scope="global")
    scores = [
        pruner.calculate_scores(p.mean, posterior=p)["a"]
        for p in (posterior_of(), posterior_of(factor))
    ]
    np.testing.assert_array_equal(*(np.argsort(np.ravel(s), kind="stable") for s in scores))


def test_rules_take_it_and_say_it():
    posterior = posterior_of()
    number = float(posterior.evidence_temperature())
    ours, given = (
        pruning.prune(posterior.mean, Rule("bmr", sparsity=0.5, temperature=t), posterior)
        for t in (None, number)
    )
    np.testing.assert_array_equal(ours.masks["a"], given.masks["a"])
    other = pruning.prune(posterior.mean, Rule("bmr", sparsity=0.5, temperature=1.0), posterior)
    assert np.any(ours.masks["a"] != other.masks["a"])
    resolved = Rule("bmr", sparsity=0.5).resolved(posterior)
    assert resolved == Rule("bmr", sparsity=0.5, temperature=number)
    assert resolved.label == f"bmr at T = {number:.2g}, 50 %"
    assert Rule("snr", sparsity=0.5).resolved(posterior).label == "snr, 50 %"
    assert Rule("bmr", sparsity=0.5).resolved(None).temperature is None


def test_files_and_sweeps_say_it():
    tensors = {"w/mean": MEAN["a"].astype(np.float32)}
    tensors["w/std"] = (1 / np.sqrt(PRECISION["a"])).astype(np.float32)
    dense = Checkpoint(tensors)
    number = float(dense.posterior.evidence_temperature())
    pruned = pruning.prune_checkpoint(dense, Rule("bmr", sparsity=0.5))
    assert pruned.info["settings"]["temperature"] == number
    task = study.Task(np.eye(30, dtype=np.float32), np.zeros(30, int), np.ones((2, 30), np.float32))
    evaluator = study.Evaluator(lambda params, x: x @ params["w"], task)
    points = study.sweep(dense, study.make_rules(["bmr", "snr"], [0.5]), evaluator)
    assert [point["rule"]["temperature"] for point in points] == [number, 1.0]
    assert points[0]["label"] == f"bmr at T = {number:.2g}, 50 %"
