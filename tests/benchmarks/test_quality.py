"""The quality benchmark: its networks, what it leaves, and what it refuses."""

import json
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from tests.idx_files import write_easy_images

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import networks
import quality

pytestmark = pytest.mark.slow


@pytest.fixture
def settings(tmp_path):
    """Images of which a row tells the label, mostly; few runs."""
    write_easy_images(tmp_path, spoiled=0.1)
    return quality.Settings(
        data=tmp_path,
        out=tmp_path / "out",
        sparsities=(0.5, 0.9),
        gradual_sparsities=(0.9,),
        methods=("adamw", "ivon_3n", "ivon_1n+adaptive_bmr", "ivon_3n+global_bmr"),
        seeds=(3,),
        epochs=4,
        samples=4,
    )


def test_every_method_is_run_once(settings, monkeypatch, capsys):
    quality.main(settings)
    results = json.loads((settings.out / "results.json").read_text())
    rows = [row for result in results for row in result["rows"]]
    counted = {
        (row["mode"], row["optimizer"], row["algorithm"], row["sparsity"]): row["counted_sparsity"]
        for row in rows
    }
    for optimizer in ("adamw", "ivon_3n"):
        algorithms = quality.ONE_SHOT[optimizer == "ivon_3n"]
        assert counted["dense", optimizer, "no_prune", 0.0] == 0
        for algorithm in algorithms:
            assert counted["one-shot", optimizer, algorithm, 0.5] == pytest.approx(0.5, abs=1e-4)
    assert counted["gradual", "ivon_3n", "global_bmr", 0.9] == pytest.approx(0.9, abs=1e-4)
    chosen = counted["gradual", "ivon_1n", "adaptive_bmr", None]
    assert 0 < chosen < 1
    rounds = [result["rounds"] for result in results if result["rounds"]]
    assert len(rounds) == 1
    dense = [row["mean"]["accuracy"] for row in rows if row["mode"] == "dense"]
    assert min(dense) > 0.5  # ten classes
    assert "IVON, 3N + BMR" in (settings.out / "table.md").read_text()
    assert {path.name for path in settings.out.glob("*.png")} == {"mlp.png", "mlp-rounds.png"}

    monkeypatch.setattr(quality, "train", None)
    quality.main(settings)
    settings.epochs = 5
    with pytest.raises(ValueError, match="choose another --out"):
        quality.main(settings)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("epochs", 0, "epochs: expected at least 1, got 0"),
        ("methods", ("ivon",), "methods: expected some of adamw, .* got 'ivon'"),
    ],
)
def test_impossible_settings(settings, field, value, message):
    setattr(settings, field, value)
    with pytest.raises(ValueError, match=message):
        quality.main(settings)
    assert list((settings.out / "runs").iterdir()) == []


def test_fewer_images_than_a_batch():
    training = quality.Training("mlp", "ivon_3n", "no_prune", 0.0, 0)
    with pytest.raises(ValueError, match="training images: expected 100 at least, got 99"):
        quality.make_optimizer(training, 99, 20)


def test_a_forward_pass_without_the_pruned_weights_is_noticed(settings):
    data = quality.read_dataset(settings.data)
    network = networks.NETWORKS["mlp"]
    params = network.init(jax.random.key(0))
    params["dense_0"]["kernel"] = params["dense_0"]["kernel"].at[0].set(0)
    pruned = quality.Pruned("one-shot", "global_bmr", None, params, None)
    training = quality.Training("mlp", "ivon_3n", "no_prune", 0.0, 0)
    assert quality.evaluate(pruned, training, network, data, 2)["counted_sparsity"] > 0
    dense = network.init(jax.random.key(0))
    blind = network._replace(apply=lambda _, images: network.apply(dense, images))
    with pytest.raises(RuntimeError, match="do not depend on the pruned weights"):
        quality.evaluate(pruned, training, blind, data, 2)
    wrong = pruned._replace(sparsity=0.9)
    with pytest.raises(RuntimeError, match="counted a sparsity"):
        quality.evaluate(wrong, training, network, data, 2)


def test_lenet5_is_convolutions_pooling_and_dense_layers():
    params = networks.init_lenet5(jax.random.key(1))
    params = jax.tree.map(lambda leaf: leaf + 0.01, params)
    images = jax.random.normal(jax.random.key(2), (3, 784))
    x = images.reshape(3, 28, 28, 1)
    for name, padding in (("conv_0", "SAME"), ("conv_1", "VALID")):
        x = lax.conv_general_dilated(
            x, params[name]["kernel"], (1, 1), padding, dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        x = jax.nn.relu(x + params[name]["bias"])
        x = lax.reduce_window(x, -jnp.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")
    x = x.reshape(3, 400)
    for i in range(3):
        x = x @ params[f"dense_{i}"]["kernel"] + params[f"dense_{i}"]["bias"]
        x = jax.nn.relu(x) if i < 2 else x
    np.testing.assert_allclose(networks.lenet5(params, images), x, rtol=1e-4, atol=1e-4)
