"""One line on stderr for bad input to what prunes from calibration data, and nothing written."""

from pathlib import Path

import numpy as np
import pytest

from tests.cli.commands import NET, OBS, SWEEP_NET, run


def spoil(name):
    """Make the current directory bad for one case."""
    match name:
        case "one":
            np.savez("one.npz", x=np.ones((1, 12)), y=np.zeros(1, int))
        case "narrow":
            np.savez("narrow.npz", x=np.ones((200, 7)), y=np.zeros(200, int))
        case "classes":
            np.savez("classes.npz", x=np.ones((200, 12)), y=np.full(200, 10))
        case "unlabelled":
            np.savez("unlabelled.npz", x=np.ones((200, 12)))
        case "no training part":
            (Path("data") / "train-images-idx3-ubyte.gz").unlink()


OUT = ("--out", "pruned.npz")
RISE = ("--max-loss-rise", ".01", *OUT)
NO_DATA = ("prune", "net.npz", "--algorithm", "obs", *OUT)
BAD = {
    "no data": ("", (*NO_DATA, "--sparsity", ".5"), "data: expected inputs to calibrate obs with"),
    "data without need": (
        "",
        (*NET, "--algorithm", "magnitude", "--sparsity", ".5", *OUT),
        "data: expected it with obs, global_obs or wanda alone, got data with magnitude",
    ),
    "a model without need": (
        "",
        ("prune", "posterior.npz", "--evidence", "--model", "a:b", *OUT),
        "model: expected it with obs, global_obs or wanda alone, got a:b with bmr",
    ),
    "a tolerance without need": (
        "",
        ("prune", "posterior.npz", "--algorithm", "snr", *RISE),
        "max-loss-rise: expected it with obs, global_obs or wanda alone, got 0.01 with snr",
    ),
    "both": ("", (*OBS, *RISE), "max-loss-rise, sparsity: expected exactly one of them"),
    "both, a threshold": (
        "",
        (*NET, "--algorithm", "obs", "--threshold", "1", *RISE),
        "max-loss-rise, threshold: expected exactly one of them, got 0.01 and 1.0",
    ),
    "neither": ("", (*NET, "--algorithm", "obs", *OUT), "expected exactly one of them, got 0"),
    "a pattern": (
        "",
        (*NET, "--algorithm", "obs", "--type", "2:4", *RISE),
        "max-loss-rise: expected none with 2:4",
    ),
    "a tolerance of 0": (
        "",
        (*NET, "--algorithm", "obs", "--max-loss-rise", "0", *OUT),
        "max_loss_rise: expected",
    ),
    "another width": (
        "narrow",
        (*NO_DATA, "--sparsity", ".5", "--data", "narrow.npz"),
        "net.npz, narrow.npz: model: expected one that takes inputs of shape (200, 7)",
    ),
    "labels of no class": (
        "classes",
        (*NO_DATA, "--data", "classes.npz", "--max-loss-rise", ".1"),
        "net.npz, classes.npz: held_out: expected integers in [0, 10)",
    ),
    "no labels": (
        "unlabelled",
        (*NO_DATA, "--data", "unlabelled.npz", "--max-loss-rise", ".1"),
        "unlabelled.npz: expected arrays x and y",
    ),
    "nothing to divide": (
        "one",
        (*NO_DATA, "--data", "one.npz", "--max-loss-rise", ".1"),
        "one.npz: expected two examples to divide at least, got 1",
    ),
    "no training images": ("no training part", (*OBS, *OUT), "data: expected train-images-idx3"),
    "no such data": (
        "",
        (*NO_DATA, "--sparsity", ".5", "--data", "nowhere"),
        "nowhere: expected a directory",
    ),
    "no such model": ("", (*OBS, "--model", "nowhere:f", *OUT), "model: expected a function"),
    "a sweep without inputs": (
        "no training part",
        (*SWEEP_NET, "--data", "data", "--algorithms", "obs"),
        "calibration: expected inputs to calibrate obs with, got none: data has no training",
    ),
    "a sweep that needs none": (
        "",
        (
            *SWEEP_NET,
            "--data",
            "data",
            "--algorithms",
            "magnitude",
            "--calibration",
            "examples.npz",
        ),
        "calibration: expected it with obs, global_obs or wanda alone",
    ),
    "a sweep of another width": (
        "narrow",
        (*SWEEP_NET, "--data", "data", "--algorithms", "obs", "--calibration", "narrow.npz"),
        "net.npz, narrow.npz: model: expected one that takes inputs of shape (200, 7)",
    ),
}


@pytest.mark.parametrize(("spoiled", "words", "message"), BAD.values(), ids=BAD)
def test_bad_input_ends_in_one_line(net, capsys, spoiled, words, message):
    spoil(spoiled)
    code, out, err = run(capsys, *words)
    assert (code, out) == (2, "")
    assert message in err
    assert err.startswith("bmrpruner: ")
    assert err.count("\n") == 1
    assert not Path("pruned.npz").exists()
    assert not Path("results").exists()
