"""One line on stderr for every bad input, and nothing half-written."""

from pathlib import Path

import numpy as np
import pytest

from bmrpruner import files
from tests.cli.commands import PRUNE, SWEEP, run, write_idx, write_posterior


def contents(directory):
    found = [path for path in directory.rglob("*") if path.is_file()]
    return {path: path.read_bytes() for path in found if path.suffix != ".pyc"}


def spoil(name):
    """Make the current directory bad for one case."""
    posterior = Path("posterior.npz")
    match name:
        case "text":
            posterior.write_text("not an archive")
        case "truncated":
            posterior.write_bytes(posterior.read_bytes()[:-100])
        case "no std":
            write_posterior(posterior, {"dense_1/kernel/std": None})
        case "mismatched":
            write_posterior(posterior, {"dense_1/kernel/std": np.ones((10, 16))})
        case "plain":
            files.write_tensors(posterior, {"dense/kernel": np.ones((12, 10))}, force=True)
        case "yaml":
            Path("bad.yaml").write_text("{")
        case "deep":
            Path("bad.yaml").write_text("[" * 3000)
        case "quote":
            Path("bad.txt").write_text("posterior.npz --out 'pruned.npz")
        case "list":
            Path("bad.yaml").write_text("- 1")
        case "module":
            Path("spoiled_module.py").write_text("raise RuntimeError('broken')")
        case "there":
            Path("pruned.npz").touch()
        case "results":
            Path("results").mkdir()
            Path("results/thesis.tex").touch()
        case "empty":
            Path("empty").mkdir()
        case "labels":
            write_idx(Path("many"), labels=11)
        case "link":
            Path("pruned.npz").symlink_to("elsewhere.npz")
        case "scalars":
            files.write_tensors(
                posterior, {"w/mean": np.ones(()), "w/std": np.ones(())}, force=True
            )


BAD = {
    "not what its name says": (
        "text",
        ("inspect", "posterior.npz"),
        "expected a whole .npz archive",
    ),
    "truncated": ("truncated", ("inspect", "posterior.npz"), "got another file or a part"),
    "missing std": ("no std", ("inspect", "posterior.npz"), "expected 'dense_1/kernel/std'"),
    "mismatched shapes": ("mismatched", ("inspect", "posterior.npz"), "got (10, 16)"),
    "no file": ("", ("inspect", "nowhere.npz"), "nowhere.npz: expected a .npz"),
    "another format": ("", ("inspect", "net.pt"), "net.pt"),
    "no command": ("", (), "inspect, prune, compact, sweep, report"),
    "another command": ("", ("pruen", "x"), "pruen"),
    "another option": ("", ("inspect", "posterior.npz", "--jason"), "--jason"),
    "a word for a number": ("", (*PRUNE, "--sparsity", "most"), "most"),
    "unknown algorithm": (
        "",
        ("prune", "posterior.npz", "--out", "p.npz", "--algorithm", "srn", "--sparsity", ".5"),
        "Did you mean 'snr'",
    ),
    "algorithm for training": (
        "",
        ("prune", "posterior.npz", "--out", "p.npz", "--algorithm", "rigl", "--sparsity", ".5"),
        "which prune without training",
    ),
    "sparsity of 90": ("", (*PRUNE, "--sparsity", "90"), "expected a number in [0, 1]"),
    "no rule": ("", PRUNE, "exactly one of them, got 0"),
    "two rules": ("", (*PRUNE, "--sparsity", ".5", "--threshold", "1"), "exactly one of them"),
    "evidence by snr": ("", (*PRUNE, "--evidence"), "evidence: expected no other algorithm"),
    "no such type": ("", (*PRUNE, "--sparsity", ".5", "--type", "3of4"), "got '3of4'"),
    "no such leaf": ("", (*PRUNE, "--sparsity", ".5", "--include", "conv*"), "matches none"),
    "bad prior": ("", ("inspect", "posterior.npz", "--prior-precision", "-1"), "prior_precision"),
    "no posterior": ("plain", (*PRUNE, "--sparsity", ".5"), "posterior: expected one"),
    "output exists": ("there", (*PRUNE, "--sparsity", ".5"), "--force"),
    "output is the input": (
        "",
        ("prune", "posterior.npz", "--evidence", "--out", "./posterior.npz", "--force"),
        "expected another file than the network",
    ),
    "a threshold of no size": ("", (*PRUNE, "--threshold", "nan"), "expected a finite number"),
    "another scope": ("", (*PRUNE, "--scope", "galaxy"), "invalid choice 'galaxy'"),
    "an empty directory": (
        "empty",
        ("inspect", "empty"),
        "empty: expected a whole orbax checkpoint",
    ),
    "nothing to sweep": ("", (*SWEEP, "--sparsities", ""), "expected one rule to try"),
    "nobody side by side": ("", (*SWEEP, "--parallel", "0"), "parallel: expected a number >= 1"),
    "output elsewhere": (
        "",
        ("prune", "posterior.npz", "--evidence", "--out", "no/such/dir.npz"),
        "expected a directory no/such to write to, got none",
    ),
    "output format": (
        "",
        ("prune", "posterior.npz", "--evidence", "--out", "pruned.h5"),
        ".npz or .safetensors",
    ),
    "results exist": ("results", SWEEP, "--resume"),
    "no module": ("", (*SWEEP, "--model", "nowhere:f"), "expected a function to import"),
    "broken module": ("module", (*SWEEP, "--model", "spoiled_module:f"), "RuntimeError: broken"),
    "no function": (
        "",
        (*SWEEP, "--model", "bmrpruner.study.models:nothing"),
        "expected a function to import",
    ),
    "no data": ("", (*SWEEP, "--data", "nowhere"), "nowhere: expected a directory"),
    "empty data": ("", (*SWEEP, "--data", "."), "expected t10k-images-idx3-ubyte.gz"),
    "too many labels": (
        "labels",
        (*SWEEP, "--data", "many"),
        "many: labels: expected integers in [0, 10)",
    ),
    "bad sparsities": ("", (*SWEEP, "--sparsities", "0,x"), "'x'"),
    "bad thresholds": ("", (*SWEEP, "--thresholds", "snr"), "expected algorithm=number"),
    "negative samples": ("", (*SWEEP, "--samples", "-1"), "samples"),
    "no results": ("", ("report", "nowhere"), "nowhere/results.json: expected the results"),
    "no arguments file": ("", ("prune", "@nowhere.txt"), "nowhere.txt: expected a text file"),
    "no configuration": (
        "",
        ("prune", "--config", "nowhere.yaml"),
        "nowhere.yaml: expected a text file",
    ),
    "configuration without a name": ("", ("prune", "--config"), "the name of a YAML file"),
    "bad YAML": ("yaml", ("prune", "--config", "bad.yaml"), "bad.yaml: expected YAML"),
    "words without an end": ("quote", ("prune", "@bad.txt"), "bad.txt: expected words"),
    "YAML without an end": ("deep", ("prune", "--config", "bad.yaml"), "bad.yaml: expected YAML"),
    "two thresholds": (
        "",
        (*SWEEP, "--thresholds", "snr=.5,bmr=0,snr=.6"),
        "thresholds: expected one for each algorithm, got snr, bmr, snr",
    ),
    "samples beyond all memory": ("", (*SWEEP, "--samples", str(2**40)), "too large"),
    "a seed of 2**70": ("", (*PRUNE, "--sparsity", ".5", "--seed", str(2**70)), "seed: expected"),
    "a seed of 2**32": ("", (*PRUNE, "--sparsity", ".5", "--seed", str(2**32)), "seed: expected"),
    "a seed below 0": ("", (*PRUNE, "--sparsity", ".5", "--seed", "-1"), "seed: expected"),
    "a seed of 2**70 to sweep": ("", (*SWEEP, "--seed", str(2**70)), "seed: expected"),
    "a seed below 0 to sweep": ("", (*SWEEP, "--seed", "-1"), "seed: expected"),
    "a link to nothing": ("link", (*PRUNE, "--sparsity", ".5"), "pruned.npz: expected a new name"),
    "scalars to prune": ("scalars", (*PRUNE, "--sparsity", ".5"), "posterior.npz: "),
    "scalars to sweep": ("scalars", SWEEP, "posterior.npz, data: "),
    "temperature of magnitude": (
        "",
        (*SWEEP, "--algorithms", "snr,magnitude", "--temperature", ".5"),
        "temperature: expected an algorithm that has one, as bmr has, got snr, magnitude",
    ),
    "a temperature of 0": (
        "",
        (*SWEEP, "--temperature", "0"),
        "temperature: expected",
    ),
    "YAML of a list": (
        "list",
        ("prune", "--config", "bad.yaml"),
        "expected a mapping of options to values, got a list",
    ),
}


@pytest.mark.parametrize(("spoiled", "words", "message"), BAD.values(), ids=BAD)
def test_bad_input_ends_in_one_line(work, capsys, spoiled, words, message):
    spoil(spoiled)
    before = contents(work)
    code, out, err = run(capsys, *words)
    assert code == 2
    assert out == ""
    assert message in err
    assert err.startswith("bmrpruner: ")
    assert err.count("\n") == 1
    assert contents(work) == before, "something was half-written"


def test_data_of_the_wrong_shape(work, capsys):
    np.savez("flat.npz", x=np.ones((5, 7)), y=np.zeros(5, int))
    code, _, err = run(capsys, *SWEEP, "--data", "flat.npz")
    assert code == 2
    assert "posterior.npz, flat.npz: model: expected one that takes inputs of shape (5, 7)" in err
    assert err.count("\n") == 1
