"""Sweeps: the numbers, the directory, and going on after an interruption."""

import csv
import dataclasses
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bmrpruner import files, metrics, pruning, study
from bmrpruner.pruning import Rule
from bmrpruner.study import Task, models, results

pytestmark = pytest.mark.slow


def blobs(n=200, seed=0):
    """Three clouds of points in the plane, and a posterior of a network that tells them apart."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, n).astype(np.int32)
    centres = np.array([[0, 2], [2, -1], [-2, -1]])
    inputs = (centres[labels] + 0.5 * rng.normal(size=(n, 2))).astype(np.float32)
    return Task(inputs, labels, rng.normal(0, 0.2, (n, 2)).astype(np.float32))


def checkpoint(spread=True):
    rng = np.random.default_rng(1)
    angles = np.linspace(0, 2 * np.pi, 16, endpoint=False)
    kernel = np.stack([np.cos(angles), np.sin(angles)])
    centres = np.array([[0, 2], [2, -1], [-2, -1]])
    means = {"dense_0/kernel": kernel, "dense_1/kernel": kernel.T @ centres.T}
    tensors = {}
    for name, mean in means.items():
        tensors[f"{name}/mean" if spread else name] = mean.astype(np.float32)
        if spread:
            tensors[f"{name}/std"] = rng.uniform(0.05, 0.5, mean.shape).astype(np.float32)
    return files.Checkpoint(tensors)


RULES = study.make_rules(["snr", "magnitude"], [0.0, 0.5, 0.8], {"snr": 1.0})


def without_seconds(points):
    return [{k: v for k, v in point.items() if k != "seconds"} for point in points]


def run(out, **changes):
    settings = {"samples": 3, "rules": RULES} | changes
    rules = settings.pop("rules")
    return study.run_sweep(
        checkpoint(), "bmrpruner.study.models:mlp", blobs(), rules, out, **settings
    )


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    out = tmp_path_factory.mktemp("sweep") / "results"
    return out, run(out)


def test_points_are_those_of_the_pruned_network(swept):
    _, found = swept
    dense, task = checkpoint(), blobs()
    for rule, point in zip(RULES, found.points, strict=True):
        pruned = pruning.prune(dense.params, rule, dense.posterior)
        probs = jax.nn.softmax(models.mlp(pruned.params, task.inputs))
        assert point["mean"]["accuracy"] == float(metrics.accuracy(probs, task.labels))
        assert point["mean"]["nll"] == pytest.approx(float(metrics.nll(probs, task.labels)), 1e-5)
        assert point["sparsity"] == pytest.approx(pruned.sparsity)
        kept = sum(int(np.count_nonzero(leaf)) for leaf in jax.tree.leaves(pruned.params))
        assert point["nonzeros"] == kept
        draws = [pruned.posterior.sample(key) for key in jax.random.split(jax.random.key(0), 3)]
        average = sum(jax.nn.softmax(models.mlp(draw, task.inputs)) for draw in draws) / 3
        assert point["averaged"]["nll"] == pytest.approx(
            float(metrics.nll(average, task.labels)), 1e-4
        )
    assert found.points[0]["mean"]["accuracy"] > 0.95


@pytest.fixture(scope="module")
def swept_side_by_side(tmp_path_factory):
    return run(tmp_path_factory.mktemp("wide") / "results", width=4)


def test_side_by_side_gives_the_same(swept, swept_side_by_side):
    for ours, theirs in zip(swept_side_by_side.points, swept[1].points, strict=True):
        assert ours["mean"]["nll"] == pytest.approx(theirs["mean"]["nll"], 1e-5)
        assert ours["averaged"]["nll"] == pytest.approx(theirs["averaged"]["nll"], 1e-5)


def test_batches_do_not_change_the_numbers(monkeypatch):
    from bmrpruner.study import evaluation

    rules, dense = RULES[1:2], checkpoint()
    whole = study.sweep(dense, rules, study.Evaluator(models.mlp, blobs(), 2))
    monkeypatch.setattr(evaluation, "_BATCH", 64)
    parts = study.sweep(dense, rules, study.Evaluator(models.mlp, blobs(), 2))
    assert parts[0]["mean"]["nll"] == pytest.approx(whole[0]["mean"]["nll"], 1e-5)


@pytest.mark.parametrize("width", [None, 4])
def test_an_interrupted_sweep_goes_on_with_the_same_numbers(
    tmp_path, swept, swept_side_by_side, width
):
    def interrupt(points):
        if len(points) >= 3:
            raise KeyboardInterrupt

    whole = swept_side_by_side if width else swept[1]
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "parts", width=width, on_points=interrupt)
    left = json.loads((tmp_path / "parts" / "results.json").read_text())
    assert not left["complete"]
    assert 3 <= len(left["points"]) < len(RULES)
    assert [p.name for p in (tmp_path / "parts").iterdir()] == ["results.json"]
    resumed = run(tmp_path / "parts", width=width, resume=True)
    assert without_seconds(resumed.points) == without_seconds(whole.points)
    assert resumed.points[0]["seconds"] == left["points"][0]["seconds"]  # not computed again


def test_a_finished_sweep_takes_more_rules(swept, tmp_path):
    more = [*RULES, Rule("bmr", threshold=0.0)]
    shutil.copytree(swept[0], tmp_path / "results")
    found = run(tmp_path / "results", rules=more, resume=True)
    assert without_seconds(found.points[: len(RULES)]) == without_seconds(swept[1].points)
    assert len(found.points) == len(more)


def test_the_directory(swept):
    out, found = swept
    names = {"metrics.png", "histograms.png", "reliability.png", "layers.png"}
    assert {path.name for path in out.iterdir()} == names | {"results.json", "results.csv"}
    for name in names:
        assert (out / name).read_bytes().startswith(b"\x89PNG")
    assert json.loads((out / "results.json").read_text()) == dataclasses.asdict(found)
    with (out / "results.csv").open() as file:
        lines = list(csv.DictReader(file))
    for line, point in zip(lines, found.points, strict=True):
        assert float(line["accuracy"]) == point["mean"]["accuracy"]
        assert float(line["averaged_ece"]) == point["averaged"]["ece"]


def test_parameters_without_a_posterior(tmp_path):
    found = study.run_sweep(
        checkpoint(spread=False),
        "bmrpruner.study.models:mlp",
        blobs(),
        RULES[3:6],
        tmp_path / "out",
    )
    assert [point["averaged"] for point in found.points] == [None] * 3
    assert (tmp_path / "out" / "histograms.png").exists()


def test_a_pattern_is_one_rule_an_algorithm():
    rules = study.make_rules(["snr", "magnitude"], [0.0, 0.5], sparsity_type="2:4")
    assert [rule.label for rule in rules] == ["snr, 2:4", "magnitude, 2:4"]
    with pytest.raises(ValueError, match="expected one rule to try at least"):
        study.make_rules(["snr"], [])


def test_directories_are_not_written_over(swept, tmp_path):
    out, _ = swept
    with pytest.raises(FileExistsError, match="--resume"):
        run(out)
    with pytest.raises(ValueError, match="got another samples"):
        run(out, samples=4, resume=True)
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    for name in ("file", "link"):
        with pytest.raises(FileExistsError, match=f"{name}: expected a directory"):
            run(tmp_path / name, force=True)
    assert not (tmp_path / "elsewhere").exists()


def test_a_model_that_ignores_the_parameters_is_caught():
    constant = study.Evaluator(lambda params, x: jnp.zeros((len(x), 3)), blobs(), samples=0)
    with pytest.raises(RuntimeError, match=r"expected other outputs without the .* weights"):
        study.sweep(checkpoint(), RULES[1:2], constant)


def test_a_temperature_is_for_those_that_have_one():
    rules = study.make_rules(["snr", "bmr"], [0.5], {"bmr": 0.0}, temperature=0.1)
    assert [rule.temperature for rule in rules] == [1.0, 0.1, 0.1]
    expected = [
        Rule("snr", sparsity=0.5),
        Rule("bmr", sparsity=0.5, temperature=0.1),
        Rule("bmr", threshold=0.0, temperature=0.1),
    ]
    dense, task = checkpoint(), blobs()
    at_mean = study.Evaluator(models.mlp, task, samples=0)
    points = study.sweep(dense, rules, at_mean)
    for point, rule in zip(points, expected, strict=True):
        pruned = pruning.prune(dense.params, rule, dense.posterior)
        probs = jax.nn.softmax(models.mlp(pruned.params, task.inputs))
        assert point["nonzeros"] == pruned.nonzeros
        assert point["mean"]["nll"] == pytest.approx(float(metrics.nll(probs, task.labels)), 1e-5)
    warm = study.sweep(dense, study.make_rules(["bmr"], [], {"bmr": 0.0}), at_mean)
    assert warm[0]["nonzeros"] != points[2]["nonzeros"]


def test_a_temperature_that_nobody_takes():
    with pytest.raises(ValueError, match="temperature: expected an algorithm that has one"):
        study.make_rules(["snr", "magnitude"], [0.5], temperature=0.1)
    with pytest.raises(ValueError, match="temperature: expected a number > 0"):
        study.make_rules(["snr", "bmr"], [0.5], temperature=-1.0)


def test_settings_of_an_earlier_run_that_are_gone(tmp_path):
    results.save(tmp_path, results.Results({"samples": 3, "other": 1}, [], "0.1.0", complete=False))
    with pytest.raises(ValueError, match="got another other;"):
        results.start(tmp_path, {"samples": 3}, resume=True, force=False)


def test_nothing_is_left_where_the_model_does_not_fit(tmp_path):
    with pytest.raises(ValueError, match="expected a function to import"):
        study.run_sweep(checkpoint(), "no_such_module_at_all:f", blobs(), RULES, tmp_path / "out")
    assert not (tmp_path / "out").exists()


PUBLISHED = {
    "snr": {0.5: 0.9554, 0.75: 0.9555, 0.9: 0.9565, 0.95: 0.9412},
    "magnitude": {0.5: 0.9555, 0.75: 0.9471, 0.9: 0.8965, 0.95: 0.8070},
}


def test_the_posterior_at_hand(data_dir):
    dense = files.load(data_dir / "posteriors" / "mnist_mlp_meanfield.npz")
    task = study.load_task(data_dir / "mnist")
    at_mean = study.Evaluator(models.mlp, task, samples=0)
    points = study.sweep(
        dense, study.make_rules(PUBLISHED, PUBLISHED["snr"], scope="global"), at_mean
    )
    for point in points:
        expected = PUBLISHED[point["algorithm"]][point["rule"]["sparsity"]]
        assert point["mean"]["accuracy"] == pytest.approx(expected, abs=0.0015), point["label"]
    averaged = study.Evaluator(models.mlp, task, samples=20)
    (point,) = study.sweep(dense, [Rule("snr", threshold=0.5)], averaged)
    assert point["averaged"]["accuracy"] >= 0.955
