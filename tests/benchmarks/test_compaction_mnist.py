"""The benchmark of compaction on MNIST: what it sees, runs once, and refuses."""

import json
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

import bmrpruner
from bmrpruner import compact
from tests.idx_files import write_easy_images

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import compaction_mnist

SIZES = {"mlp": {300, 100}, "lenet5": {6, 16, 120, 84}}


@pytest.mark.parametrize("name", SIZES)
def test_channels_and_neurons_are_seen_and_go(name):
    """Also through LeNet-5's convolutions, which are products of patches; half of them at once.

    Some versions of JAX trace padding so that the rows of a kernel, 5 of them, are units as well.
    """
    model = compaction_mnist.seen(name, 1)
    free = [g for g in model.groups if g.frozen is None and g.size in SIZES[name]]
    assert {g.size for g in free} == SIZES[name]
    params = model.network.init(jax.random.key(1))
    params = jax.tree.map(lambda x: x + 0.01, params)
    weights = {
        (layer, kind): np.array(leaf) for layer, own in params.items() for kind, leaf in own.items()
    }
    for group in free:
        for key, axis, indices in group.members:
            np.moveaxis(weights[key], axis, 0)[indices[::2].ravel()] = 0
    pruned = {layer: {kind: weights[layer, kind] for kind in own} for layer, own in params.items()}
    images = jax.random.normal(jax.random.key(2), (3, 784))
    small = compact(model.network.apply, pruned, images)
    found = [s[1] for key, s in small.report.shapes.items() if key[1] == "bias"]
    halves = [n // 2 for n in {"mlp": (300, 100), "lenet5": (6, 16, 120, 84)}[name]]
    assert found == [*((n,) for n in halves), (10,)]
    found, expected = (
        jax.jit(fn)(own, images)
        for fn, own in ((small.fn, small.params), (model.network.apply, pruned))
    )
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_what_a_weight_of_lenet5_costs():
    model = compaction_mnist.seen("lenet5", 1)
    by_hand = {"conv_0": 28 * 28, "conv_1": 10 * 10, "dense_0": 1, "dense_1": 1, "dense_2": 1}
    expected = {(name, "kernel"): 2.0 * 128 * n for name, n in by_hand.items()}
    assert {key: cost for key, cost in model.cost.items() if cost} == expected


def test_units_that_go_sixteen_at_a_time():
    model = compaction_mnist.seen("mlp", 16)
    masks = bmrpruner.MagnitudePruning(
        sparsity=0.9, sparsity_type=model.kind("magnitude")
    ).instant_sparsify(model.network.init(jax.random.key(0)))[1]
    one, two = (int(masks[name]["bias"].sum()) for name in ("dense_0", "dense_1"))
    assert one % 16 == two % 16 == 0
    assert 784 * one + one * two + two * 10 <= 0.1 * (784 * 300 + 300 * 100 + 100 * 10)


@pytest.fixture
def settings(tmp_path):
    """Images of which a row tells the label, mostly; few runs."""
    write_easy_images(tmp_path)
    return compaction_mnist.Settings(
        data=tmp_path,
        out=tmp_path / "out",
        networks=("mlp",),
        shares=(0.9,),
        during=("bmr",),
        seeds=(3,),
        epochs=2,
        repeats=2,
    )


@pytest.mark.slow
def test_every_method_is_run_once(settings, monkeypatch, capsys):
    compaction_mnist.main(settings)
    results = json.loads((settings.out / "results.json").read_text())
    rows = {(r["mode"], r["algorithm"]): r for result in results for r in result["rows"]}
    assert len(rows) == 1 + 6 + 1
    assert rows["dense", "no_prune"]["accuracy"] > 0.5  # ten classes
    for (_, algorithm), row in rows.items():
        one, two = row["shapes"]["dense_0/bias"][0], row["shapes"]["dense_1/bias"][0]
        assert row["shapes"]["dense_1/kernel"] == [one, two]
        assert row["flops"][1] == 2 * 128 * (784 * one + one * two + two * 10)
        if algorithm in compaction_mnist.ALGORITHMS:
            assert 0.09 < row["flops"][1] / row["flops"][0] <= 0.1
    assert "| during training | BMR | 90% |" in (settings.out / "table.md").read_text()
    assert (settings.out / "mlp.png").exists()
    monkeypatch.setattr(compaction_mnist, "train", None)
    compaction_mnist.main(settings)
    settings.epochs = 5
    with pytest.raises(ValueError, match="choose another --out"):
        compaction_mnist.main(settings)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("during", ("ivon",), "during: expected some of adaptive_bmr, .* got 'ivon'"),
        ("networks", ("resnet",), "networks: expected some of mlp, lenet5, got 'resnet'"),
    ],
)
def test_names_that_are_not_known(settings, field, value, message):
    setattr(settings, field, value)
    with pytest.raises(ValueError, match=message):
        compaction_mnist.main(settings)
    assert not settings.out.exists()
