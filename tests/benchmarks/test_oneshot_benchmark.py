"""The one-shot benchmark: what it runs, leaves and refuses."""

import json
import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from bmrpruner.study.models import init_mlp, mlp
from tests.idx_files import write_easy_images

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import oneshot as benchmark
import wide_layers
from networks import Network

pytestmark = pytest.mark.slow


@pytest.fixture
def settings(tmp_path, monkeypatch):
    """Images of which a row tells the label, and a small network."""
    small = Network(lambda key: init_mlp(key, (784, 24, 10)), mlp, 200)
    monkeypatch.setitem(benchmark.NETWORKS, "mlp", small)
    write_easy_images(tmp_path)
    return benchmark.Settings(
        data=tmp_path,
        out=tmp_path / "out",
        sparsities=(0.9,),
        examples=(200,),
        optimizers=("adamw",),
        seeds=(3,),
        epochs=20,
    )


def test_every_method_is_run_once(settings, monkeypatch):
    benchmark.main(settings)
    rows = json.loads((settings.out / "results.json").read_text())
    by_method = {row["method"]: row for row in rows}
    names = {"dense", "magnitude", "obs", "obs_sequential", "obs_in_turn", "wanda", "sweep"}
    assert len(rows) == len(by_method) == len(names)
    assert by_method.keys() == names
    assert by_method["dense"]["accuracy"] > 0.5  # ten classes
    for name in names - {"dense"}:
        assert by_method[name]["counted_sparsity"] == pytest.approx(0.9, abs=0.005)
        assert by_method[name]["examples"] == (0 if name == "magnitude" else 200)
    assert by_method["obs_sequential"]["nll"] < by_method["magnitude"]["nll"]
    table = (settings.out / "table.md").read_text()
    assert f"{100 * by_method['obs']['accuracy']:.2f}" in table

    monkeypatch.setattr(benchmark, "run", None)  # what is there is not run again
    benchmark.main(settings)
    settings.epochs = 21
    with pytest.raises(ValueError, match="choose another --out"):
        benchmark.main(settings)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("optimizers", ("ivon",), "optimizers: expected some of adamw, .* got 'ivon'"),
        ("examples", (0,), "examples: expected 1 at least, got 0"),
        ("data", None, "data: expected a directory"),
    ],
)
def test_impossible_settings(settings, field, value, message):
    setattr(settings, field, value)
    with pytest.raises(ValueError, match=message):
        benchmark.main(settings)


def test_the_memory_of_a_wide_layer(capsys, monkeypatch):
    found = wide_layers.memory_of_sweep(11_008, 4_096)
    weights, square = 4 * 11_008 * 4_096 / 2**30, 4 * 4_096**2 / 2**30
    assert found["arguments"] == pytest.approx(weights + square)
    assert found["in between"] < 8 * (weights + square)
    monkeypatch.setattr(wide_layers, "SHAPES", ((8, 6),))
    wide_layers.report_wide(width=140, rows=12)
    assert "sweep of 12 × 140:" in capsys.readouterr().out


def test_the_sweep_keeps_the_mean_outputs():
    x = np.random.default_rng(1).normal(size=(300, 6)).astype(np.float32) + 1
    params = {"w": jnp.asarray(np.random.default_rng(2).normal(size=(6, 4)), jnp.float32)}
    params["b"] = jnp.ones(4)

    def fn(params, x):
        return x @ params["w"] + params["b"]

    moments = benchmark.posteriors.from_calibration(fn, params, [x])
    pruned = benchmark.swept(params, moments, 0.5)
    assert int(jnp.sum(pruned["w"] == 0)) == 12
    means = [np.asarray(fn(p, x)).mean(0) for p in (params, pruned)]
    np.testing.assert_allclose(*means, rtol=1e-4, atol=1e-4)


def test_sparsities_rise_from_what_training_left(settings):
    settings.sparsities = (0.9, 0.8)
    with pytest.raises(ValueError, match=r"sparsities: expected them to rise from 0\.0 on"):
        benchmark.main(settings)
    settings.sparsities, settings.during = (0.9,), 0.5
    with pytest.raises(ValueError, match="optimizers: expected IVON's"):
        benchmark.main(settings)
    settings.optimizers = ("ivon_1n",)
    benchmark.main(settings)
    rows = json.loads((settings.out / "results.json").read_text())
    (trained,) = [row for row in rows if row["method"] == "dense"]
    assert trained["counted_sparsity"] == pytest.approx(0.5, abs=0.005)
    for row in rows:
        by_row = row["method"] in ("wanda", "sweep")  # which keeps some of every row, zeros even
        assert row["counted_sparsity"] >= row["sparsity"] - 0.005
        assert by_row or row["counted_sparsity"] <= row["sparsity"] + 0.005
