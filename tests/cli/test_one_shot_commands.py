"""Pruning from calibration data on the command line: what is read, written and refused."""

from pathlib import Path

import numpy as np
import pytest

from bmrpruner import files
from tests.cli.commands import EXAMPLES, NET, OBS, SWEEP_NET, run, run_json


def ridge(inputs, before, keep):
    """The weights (D, R) that stay, by least squares with a free bias and λ(w − before)²."""
    centred = inputs - inputs.mean(0)
    covariance = centred.T @ centred / len(inputs)
    precision = covariance + 0.01 * np.trace(covariance) / len(covariance) * np.eye(len(covariance))
    after = np.zeros(before.shape)
    for r, own in enumerate(keep.T):
        right = precision[own] @ before[:, r]
        after[own, r] = np.linalg.solve(precision[np.ix_(own, own)], right)
    return after


def test_the_file_holds_the_refitted_weights(net, capsys):
    done = run_json(capsys, *OBS, "--out", "pruned.npz")
    assert done["rule"] == "obs, 50 %"
    assert set(done["leaf_sparsity"].values()) == {0.5}
    assert done["calibration"] == {"examples": 300, "max_loss_rise": None, "left_dense": []}
    dense, pruned = files.load("net.npz"), files.load("pruned.npz")
    name = "dense_0/kernel"
    before, after = (np.asarray(f.tensors[name], float) for f in (dense, pruned))
    keep = pruned.masks[name] != 0
    np.testing.assert_allclose(after, ridge(net, before, keep), rtol=1e-3, atol=1e-4)
    bias = dense.tensors["dense_0/bias"] + net.mean(0) @ (before - after)
    np.testing.assert_allclose(pruned.tensors["dense_0/bias"], bias, rtol=1e-3, atol=1e-4)
    assert run_json(capsys, "inspect", "pruned.npz")["info"]["algorithm"] == "obs"


def test_neither_test_images_nor_labels_are_read(net, capsys):
    run_json(capsys, *OBS, "--out", "pruned.npz")
    for path in Path("data").iterdir():
        if not path.name.startswith("train-images"):
            path.unlink()
    run_json(capsys, *OBS, "--out", "again.npz")
    ours, theirs = files.load("again.npz"), files.load("pruned.npz")
    for name, tensor in theirs.tensors.items():
        np.testing.assert_array_equal(ours.tensors[name], tensor)


def test_wanda_keeps_weights_as_they_are(net, capsys):
    words = ("--algorithm", "wanda", "--sparsity", ".5", "--out", "pruned.npz")
    done = run_json(capsys, "prune", "net.npz", "--data", "examples.npz", *words)
    assert done["rule"] == "wanda, 50 %"
    before, after = files.load("net.npz").tensors, files.load("pruned.npz")
    norms = np.sqrt((net**2).mean(0))
    scores = np.abs(before["dense_0/kernel"]) * norms[:, None]
    keep = scores > np.median(scores, axis=0)
    np.testing.assert_array_equal(after.tensors["dense_0/kernel"], before["dense_0/kernel"] * keep)


def test_a_tolerance_holds_on_what_is_held_out(net, capsys):
    from bmrpruner import study
    from bmrpruner.study.models import mlp

    words = ("--algorithm", "global_obs", "--max-loss-rise", ".05", "--seed", "3")
    done = run_json(capsys, *NET, *words, "--out", "pruned.npz")
    assert done["rule"].startswith("global_obs, ")
    assert done["calibration"]["examples"] == EXAMPLES / 2
    assert done["calibration"]["max_loss_rise"] == 0.05
    assert 0 < done["sparsity"] < 1
    found = study.load_calibration(mlp, "data", 3, 0.05)
    ((inputs, labels),) = found.held_out
    (others,) = found.batches
    rows = {row.tobytes() for row in np.concatenate([inputs, others])}
    assert len(rows) == EXAMPLES

    def loss(path):
        logits = np.asarray(mlp(files.load(path).params, inputs), float)
        logits -= np.log(np.exp(logits).sum(1, keepdims=True))
        return -logits[np.arange(len(labels)), labels].mean()

    rise = loss("pruned.npz") - loss("net.npz")
    assert rise <= 0.05 + 1e-4
    harder = ("--algorithm", "global_obs", "--sparsity", str((1 + done["sparsity"]) / 2))
    run_json(capsys, *NET, *harder, "--out", "harder.npz")
    assert loss("harder.npz") - loss("net.npz") > rise


@pytest.mark.slow
@pytest.mark.parametrize("spread", ["std", "draws"])
def test_a_posterior_moves_along(net, capsys, spread):
    if spread == "draws":
        tensors = files.load("posterior.npz").tensors
        rng = np.random.default_rng(5)
        draws = {
            name.replace("mean", "draws"): (
                tensor + 0.1 * rng.normal(size=(2, 40, *tensor.shape))
            ).astype(np.float32)
            for name, tensor in tensors.items()
            if name.endswith("mean")
        }
        files.write_tensors("posterior.npz", draws, force=True)
    words = ("--data", "data", "--algorithm", "global_obs", "--sparsity", ".5")
    run_json(capsys, "prune", "posterior.npz", *words, "--out", "pruned.npz")
    dense, pruned = files.load("posterior.npz"), files.load("pruned.npz")
    for leaf, mask in pruned.masks.items():
        keep, layer = mask != 0, leaf.split("/")[0]
        before, after = (np.asarray(f.params[layer]["kernel"]) for f in (dense, pruned))
        assert not np.any(after[~keep])
        assert np.mean(before[keep] != after[keep]) > 0.5
        precisions = [np.asarray(f.posterior.precision[layer]["kernel"]) for f in (dense, pruned)]
        np.testing.assert_allclose(precisions[1][keep], precisions[0][keep], rtol=1e-3)
        assert np.all(np.isinf(precisions[1][~keep]))


@pytest.mark.slow
def test_what_is_gone_stays_gone(net, capsys):
    run_json(capsys, *NET, "--algorithm", "global_obs", "--sparsity", ".8", "--out", "once.npz")
    words = ("--data", "data", "--algorithm", "obs", "--sparsity", ".3", "--out", "twice.npz")
    run_json(capsys, "prune", "once.npz", *words)
    once, twice = files.load("once.npz"), files.load("twice.npz")
    for name in ("dense_0/kernel", "dense_1/kernel"):
        assert not np.any(twice.tensors[name][once.tensors[name] == 0])


def test_a_leaf_that_no_layer_reads_is_named(net, capsys):
    code = "def f(params, x):\n  return x @ params['w'] + 0 * params['table'].sum()\n"
    Path("with_table.py").write_text(code)
    rng = np.random.default_rng(0)
    tensors = {"w": rng.normal(size=(12, 3)), "table": rng.normal(size=(4, 4))}
    files.write_tensors("net.npz", tensors, force=True)
    done = run(capsys, *OBS, "--model", "with_table:f", "--out", "pruned.npz")
    assert done[0] == 0, done[2]
    assert "obs, 50 %" in done[1]
    assert "Calibrated with 300 examples." in done[1]
    assert "Left dense, as in no linear layer of the model: table." in done[1]
    assert np.count_nonzero(files.load("pruned.npz").tensors["w"]) == 18


SEVERAL = ("--algorithms", "global_obs,wanda,global_magnitude", "--sparsities", ".5,.7")


@pytest.mark.slow
def test_a_sweep_agrees_with_prune(net, capsys):
    found = run_json(capsys, *SWEEP_NET, "--data", "data", *SEVERAL)
    labels = [point["label"] for point in found["points"]]
    assert labels[:3] == ["global_obs, 50 %", "global_obs, 70 %", "wanda, 50 %"]
    words = ("--algorithm", "global_obs", "--sparsity", ".7", "--out", "pruned.npz")
    done = run_json(capsys, *NET, *words)
    assert found["points"][1]["leaf_sparsity"] == done["leaf_sparsity"]
    test = ("--data", "data", "--algorithms", "global_magnitude", "--sparsities", "0")
    pruned = run_json(capsys, "sweep", "pruned.npz", "--out", "other", *test)
    nll = pruned["points"][0]["mean"]["nll"]
    assert found["points"][1]["mean"]["nll"] == pytest.approx(nll, rel=1e-4)
    again = run_json(capsys, *SWEEP_NET, "--data", "data", *SEVERAL, "--resume")
    assert again == found
    np.savez("test.npz", x=np.ones((5, 12)), y=np.zeros(5, int))
    others = ("--data", "test.npz", "--calibration", "examples.npz", "--algorithms", "obs")
    found = run_json(capsys, *SWEEP_NET, *others, "--sparsities", ".5", "--force")
    assert [point["label"] for point in found["points"]] == ["obs, 50 %"]


@pytest.mark.slow
def test_a_sweep_calibrates_where_it_can(net, capsys):
    words = ("sweep", "posterior.npz", "--data", "data", "--sparsities", ".5", "--samples", "2")
    found = run_json(capsys, *words, "--out", "results")
    names = [point["algorithm"] for point in found["points"]]
    assert names == ["global_obs", "global_snr", "global_bmr", "global_magnitude"]
    assert all(point["averaged"] for point in found["points"])
    (Path("data") / "train-images-idx3-ubyte.gz").unlink()
    found = run_json(capsys, *words, "--out", "without")
    assert [point["algorithm"] for point in found["points"]] == names[1:]
