"""The lottery-ticket study: its quick form, its masks, and what it refuses."""

import itertools
import json
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.examples.running import EXAMPLES, check_refused, run
from tests.idx_files import write_split

sys.path.insert(0, str(EXAMPLES))
import lottery_data
import lottery_report
import lottery_tickets

pytestmark = pytest.mark.slow

EXAMPLE = "lottery_tickets.py"
METHODS = {method.name for method in lottery_tickets.METHODS} | {"dense"}


def results(directory):
    assert {p.name for p in directory.iterdir()} == {"results.json", "table.txt", "tickets.png"}
    return json.loads((directory / "results.json").read_text())["rows"]


def test_the_quick_form_compares_all_methods(tmp_path):
    finished = run(EXAMPLE, "--quick", "--rounds", "1", "--out", "out", cwd=tmp_path)
    assert finished.returncode == 0, finished.stderr
    assert "winning ticket" in finished.stdout
    rows = results(tmp_path / "out")
    assert {row["method"] for row in rows} == METHODS
    left = (round(0.8 * 60) + round(0.9 * 60)) / 120  # 2-30-2: sixty weights in each layer
    assert [row["left"] for row in rows] == pytest.approx([1.0] + [left] * 8)
    assert all(0.5 < row["accuracy"] <= 1 for row in rows)
    assert all(0 <= row["auroc"]["far"] <= 1 for row in rows)
    early = next(row for row in rows if row["method"].startswith("rewound"))
    assert early["looks"] == [150, 200]


def test_images_have_outsiders_of_three_kinds(tmp_path):
    rng = np.random.default_rng(0)
    raw = {}
    for name in ("data", "other"):
        (tmp_path / name).mkdir()
        for part, n in (("train", 120), ("t10k", 20)):
            raw[name] = rng.integers(0, 256, (n, 4, 4), np.uint8)
            labels = (np.arange(n) % 3).astype(np.uint8)
            write_split(tmp_path / name, part, raw[name], labels, bytes, "")
    data = lottery_data.load(tmp_path / "data", tmp_path / "other", 0)
    assert [len(part.y) for part in (data.train, data.valid, data.test)] == [110, 10, 20]
    turned = np.stack([np.rot90(image, k=1) for image in raw["data"]]).reshape(20, 16) / 255
    np.testing.assert_allclose(data.ood["turned"], turned, rtol=1e-6)
    np.testing.assert_allclose(data.ood["other"], raw["other"].reshape(20, 16) / 255, rtol=1e-6)
    assert data.ood["noise"].shape == (20, 16)


def test_far_points_are_far_from_the_moons():
    data = lottery_data.load(None, None, 0)
    gaps = np.linalg.norm(data.ood["far"][:, None] - data.train.x[None], axis=-1)
    assert gaps.min() > 1 - 1e-5
    assert len(gaps) > 1000


def network():
    rng = np.random.default_rng(1)
    sizes = (5, 10, 4)
    return {
        f"dense_{i}": {
            "kernel": jnp.asarray(rng.normal(size=(n, m)), jnp.float32),
            "bias": jnp.zeros(m),
        }
        for i, (n, m) in enumerate(itertools.pairwise(sizes))
    }


def test_each_layer_keeps_its_largest_weights():
    params = network()
    masks = lottery_tickets.prune(params, None, 3)
    for name, left in (("dense_0", 0.8**3), ("dense_1", 0.9**3)):
        weights, mask = np.abs(params[name]["kernel"]), np.asarray(masks[name]["kernel"])
        kept = round(left * weights.size)
        assert mask.sum() == kept
        assert weights[mask == 1].min() > weights[mask == 0].max()
    assert masks["dense_0"]["bias"] is None


def test_neurons_without_inputs_or_without_outputs_go():
    params = jax.tree.map(np.array, network())
    params["dense_0"]["kernel"][:, 3] = 0
    params["dense_1"]["kernel"][[3, 7]] = 0
    x = jnp.asarray(np.random.default_rng(2).normal(size=(3, 5)), jnp.float32)
    data = lottery_data.Data("one", None, None, lottery_data.Split(x, None), {})
    found = lottery_report.compacted(jax.tree.map(jnp.asarray, params), data)
    assert found == {"neurons_removed": 2, "parameters": 5 * 8 + 8 + 8 * 4 + 4}


def test_a_network_that_is_not_the_pruned_one_is_noticed():
    params = network()
    masks = lottery_tickets.prune(params, None, 1)
    x = jnp.ones((3, 5))
    data = lottery_report.Data("one", None, None, lottery_tickets.Split(x, None), {})
    with pytest.raises(RuntimeError, match="a pruned weight is not zero"):
        lottery_report.check_pruned(params, masks, params, data)
    pruned = lottery_tickets.bmrpruner.apply_masks(params, masks)
    with pytest.raises(RuntimeError, match="did not change"):
        lottery_report.check_pruned(pruned, masks, pruned, data)
    lottery_report.check_pruned(pruned, masks, params, data)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"rounds": (4, 0)}, "--rounds"),
        ({"seeds": 0}, "--seeds"),
        ({"target": 1.5}, "--target"),
        ({"steps": 130}, "--steps"),
        ({"rewind": 1200, "steps": 1200}, "--rewind"),
    ],
)
def test_bad_options_are_named(options, named):
    with pytest.raises(ValueError, match=named):
        lottery_tickets.checked(lottery_tickets.Settings(**options))


def test_a_missing_directory_ends_in_one_line(tmp_path):
    check_refused(EXAMPLE, "--data", "nowhere", cwd=tmp_path, named="nowhere")
