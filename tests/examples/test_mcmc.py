"""The sampling study: its quick form, what its samplers draw, and what it refuses."""

import json
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.examples.running import EXAMPLES, check_refused, run

pytest.importorskip("blackjax")
sys.path.insert(0, str(EXAMPLES))
import mcmc
import mcmc_data
import mcmc_evaluation
import mcmc_sampling

pytestmark = pytest.mark.slow

EXAMPLE = "mcmc.py"


def test_the_quick_form_leaves_tables_numbers_and_figures(tmp_path):
    finished = run(EXAMPLE, "--quick", "--out", "out", cwd=tmp_path)
    assert finished.returncode == 0, finished.stderr
    assert "max R-hat" in finished.stdout
    out = tmp_path / "out"
    names = {"results.json", "iris.txt", "iris_chains.png", "iris_pruning.png"}
    assert {path.name for path in out.iterdir()} == names
    (found,) = json.loads((out / "results.json").read_text())["iris"]
    nuts, rows = found["samplers"]["nuts"], found["rows"]
    assert nuts["max_rhat"] < 1.05
    assert nuts["divergences"] < 20
    assert 0.5 < nuts["acceptance"] <= 1
    assert [row["rule"] for row in rows] == ["none", *(rule.name for rule in mcmc.RULES)]
    assert [row["sparsity"] for row in rows] == pytest.approx([0.0] + [0.25] * 5, abs=0.01)
    assert all("resampled" in row for row in rows[2:])
    assert all(0 < row["masked"]["nll"] < 3 for row in rows)


def csv(directory, name, rows, separator=","):
    np.savetxt(directory / f"{name}.csv", rows, delimiter=separator)


def test_rows_are_split_and_scaled_by_those_for_training(tmp_path):
    rng = np.random.default_rng(0)
    rows = np.column_stack([5 + 3 * rng.normal(size=(50, 4)), 100 + 7 * rng.normal(size=50)])
    csv(tmp_path, "lazer", rows)
    problem = mcmc_data.load("lazer", tmp_path, 0)
    assert problem.sizes == (4, 5, 1)
    assert (len(problem.y), len(problem.y_test)) == (30, 20)
    np.testing.assert_allclose(problem.x.mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(problem.x.std(0), 1, rtol=1e-5)
    assert np.max(np.abs(problem.x_test.mean(0))) > 1e-3
    targets = problem.shift + problem.scale * np.concatenate([problem.y, problem.y_test])
    np.testing.assert_allclose(np.sort(targets), np.sort(rows[:, -1]), rtol=1e-5)


def test_classes_count_from_zero(tmp_path):
    rng = np.random.default_rng(1)
    rows = np.column_stack([rng.normal(size=(30, 4)), 1 + np.arange(30) % 3])
    csv(tmp_path, "iris", rows, ";")
    problem = mcmc_data.load("iris", tmp_path, 0)
    assert sorted(set(np.asarray(problem.y))) == [0, 1, 2]
    assert not problem.is_regression


def tiny(regression):
    rng = np.random.default_rng(2)
    x = jnp.asarray(rng.normal(size=(20, 2)), jnp.float32)
    noisy = np.tanh(x[:, 0]) + 0.5 * rng.normal(size=20)
    y = jnp.asarray(noisy, jnp.float32) if regression else jnp.asarray(x[:, 0] > 0, jnp.int32)
    name, outputs = ("lazer", 1) if regression else ("ionosphere", 2)
    return mcmc_data.Problem(name, (2, 2, outputs), x, y, x, y, 0.0, 1.0)


@pytest.mark.parametrize("is_regression", [False, True])
def test_the_log_likelihood_is_that_of_the_targets(is_regression):
    problem = tiny(is_regression)
    params = mcmc_sampling.init(problem)
    found = mcmc_sampling.log_likelihood(params, problem)
    hidden = np.tanh(np.asarray(problem.x) @ np.asarray(params["dense_0"]["kernel"]))
    out = hidden @ np.asarray(params["dense_1"]["kernel"])
    if is_regression:
        expected = np.sum(-0.5 * (np.asarray(problem.y) - out[:, 0]) ** 2 - 0.5 * np.log(2 * np.pi))
    else:
        probs = np.exp(out) / np.exp(out).sum(1, keepdims=True)
        expected = np.log(probs[np.arange(20), np.asarray(problem.y)]).sum()
    assert float(found) == pytest.approx(expected, rel=1e-5)


def test_all_samplers_agree_and_pruned_weights_are_zero():
    problem = tiny(True)
    masks = jax.tree.map(lambda leaf: jnp.ones(leaf.shape, jnp.uint8), mcmc_sampling.init(problem))
    masks["dense_0"]["kernel"] = jnp.array([[1, 0], [0, 1]], jnp.uint8)
    means = {}
    for sampler, sizes in {
        "hmc": (4, 200, 300),
        "mala": (4, 100, 300),
        "smc": (4, 0, 200),
    }.items():
        chains = mcmc_sampling.sample(sampler, problem, masks, jax.random.key(0), sizes)
        kernel = np.asarray(chains.draws["dense_0"]["kernel"])
        assert kernel.shape == (4, sizes[2], 2, 2)
        assert not np.any(kernel[..., [0, 1], [1, 0]])
        assert np.all(kernel[..., [0, 1], [0, 1]].std((0, 1)) > 0.1)
        means[sampler] = np.asarray(chains.draws["log_noise"])
    spread = float(means["hmc"].std())
    for sampler in ("mala", "smc"):
        assert means[sampler].mean() == pytest.approx(means["hmc"].mean(), abs=0.4 * spread)
        assert means[sampler].std() == pytest.approx(spread, rel=0.3)


def test_a_network_that_is_not_the_pruned_one_is_noticed():
    draws = {name: {"kernel": jnp.ones((1, 2, 2, 2))} for name in ("dense_0", "dense_1")}
    dense = jnp.ones((1, 2, 3))
    with pytest.raises(RuntimeError, match=r"counted 0\.0000, not 0\.5"):
        mcmc_evaluation.check_pruned("SNR", 0.5, draws, dense + 1, dense)
    with pytest.raises(RuntimeError, match="did not change the predictions"):
        mcmc_evaluation.check_pruned("SNR", 0.0, draws, dense, dense)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"names": ("lazer",)}, "--names: expected some of iris, diabetes, got 'lazer'"),
        ({"samplers": ("gibbs",)}, "--samplers"),
        ({"sparsities": (1.0,)}, "--sparsities"),
        ({"seeds": 0}, "--seeds"),
    ],
)
def test_bad_options_are_named(options, named):
    with pytest.raises(ValueError, match=named):
        mcmc.checked(mcmc.Settings(**options))


def test_a_missing_directory_ends_in_one_line(tmp_path):
    check_refused(EXAMPLE, "--data", "nowhere", cwd=tmp_path, named="nowhere")
