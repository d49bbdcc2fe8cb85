"""The command line: what it prints and writes, and one line for every bad input."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from bmrpruner import cli, files
from bmrpruner.cli import interrupt
from tests.idx_files import write_split


def write_posterior(path, change=None):
    rng = np.random.default_rng(0)
    tensors = {}
    for i, shape in enumerate([(12, 16), (16, 10)]):
        tensors[f"dense_{i}/kernel/mean"] = rng.normal(size=shape).astype(np.float32)
        tensors[f"dense_{i}/kernel/std"] = rng.uniform(0.1, 1, shape).astype(np.float32)
    tensors |= change or {}
    kept = {name: tensor for name, tensor in tensors.items() if tensor is not None}
    files.write_tensors(path, kept, force=True)


def write_idx(directory, labels=10):
    directory.mkdir()
    rng = np.random.default_rng(1)
    images = rng.integers(0, 256, (40, 3, 4), np.uint8)
    targets = (np.arange(40) % labels).astype(np.uint8)
    write_split(directory, "t10k", images, targets)


@pytest.fixture
def work(tmp_path, monkeypatch):
    """A directory with a posterior and test data, to be in."""
    write_posterior(tmp_path / "posterior.npz")
    write_idx(tmp_path / "data")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(capsys, *words):
    code = cli.run(list(words))
    printed = capsys.readouterr()
    return code, printed.out, printed.err


def run_json(capsys, *words):
    code, out, err = run(capsys, *words, "--json")
    assert code == 0, err
    return json.loads(out)


PRUNE = ("prune", "posterior.npz", "--out", "pruned.npz", "--algorithm", "snr")
SWEEP = ("sweep", "posterior.npz", "--data", "data", "--out", "results", "--samples", "2")
FAST = ("--algorithms", "snr,magnitude", "--sparsities", "0,.5")


def test_prune_then_inspect_round_trips_bit_for_bit(work, capsys):
    done = run_json(capsys, *PRUNE, "--sparsity", ".75")
    found = run_json(capsys, "inspect", "pruned.npz")
    assert done["sparsity"] == 0.75
    assert found["nonzeros"] == done["nonzeros"] == 88
    assert found["info"]["sparsity"] == done["leaf_sparsity"]
    assert found["info"]["settings"]["algorithm"] == "snr"
    assert found["info"]["version"]
    dense, pruned = files.load("posterior.npz"), files.load("pruned.npz")
    assert dense.tensors.keys() == pruned.tensors.keys()
    for name, tensor in dense.tensors.items():
        mask = pruned.masks[name.rpartition("/")[0]]
        assert pruned.tensors[name].tobytes() == np.where(mask, tensor, np.float32(0)).tobytes()


@pytest.mark.parametrize("out", ["pruned.npz", "pruned.safetensors"])
@pytest.mark.parametrize("packed", [(), ("--packed",)])
def test_every_form_of_output_holds_the_same(work, capsys, out, packed):
    run_json(capsys, *PRUNE, "--sparsity", ".9")
    options = ("--algorithm", "snr", "--sparsity", ".9", "--out", f"again-{out}")
    run_json(capsys, "prune", "posterior.npz", *options, *packed)
    ours, theirs = files.load(f"again-{out}"), files.load("pruned.npz")
    for name, tensor in theirs.tensors.items():
        assert ours.tensors[name].tobytes() == tensor.tobytes()


def test_rules_reach_the_library(work, capsys):
    found = run_json(capsys, "inspect", "posterior.npz")
    evidence = run_json(capsys, "prune", "posterior.npz", "--evidence", "--out", "e.npz")
    assert evidence["sparsity"] == pytest.approx(found["evidence"])
    words = ("prune", "posterior.npz", "--evidence", "--temperature", ".1", "--out", "cold.npz")
    assert run_json(capsys, *words)["rule"] == "bmr at T = 0.1, ΔF ≥ 0"
    threshold = run_json(capsys, *PRUNE, "--threshold", "1")
    assert threshold["sparsity"] == pytest.approx(found["snr"]["1"])
    layer = run_json(capsys, *PRUNE, "--sparsity", ".5", "--scope", "layer", "--force")
    assert set(layer["leaf_sparsity"].values()) == {0.5}
    groups = run_json(capsys, *PRUNE, "--type", "1:2", "--exclude", "*_0/*", "--force")
    assert groups["leaf_sparsity"] == {"dense_1/kernel": 0.5}


def test_tables_are_printed(work, capsys):
    assert "dense_0/kernel" in run(capsys, "inspect", "posterior.npz")[1]
    plain = run(capsys, *PRUNE, "--sparsity", ".5")[1]
    assert "bytes became" in plain
    assert "With --packed" in plain
    assert "Pruned by algorithm snr, sparsity 0.5" in run(capsys, "inspect", "pruned.npz")[1]
    assert "With --packed" not in run(capsys, *PRUNE, "--sparsity", ".5", "--packed", "--force")[1]


@pytest.mark.slow
def test_sweep_then_report(work, capsys):
    code, out, err = run(capsys, *SWEEP, *FAST, "--thresholds", "snr=.5,bmr=0")
    assert code == 0, err
    assert "magnitude, 50 %" in out
    assert "6 of 6" in err
    assert (work / "results" / "results.csv").read_text().count("\n") == 7
    assert run(capsys, "report", "results")[1] == "Wrote results/report.html.\n"
    code, _, err = run(capsys, "report", "results")
    assert (code, "--force" in err) == (2, True)
    found = run_json(capsys, *SWEEP, *FAST, "--resume")
    assert [point["label"] for point in found["points"]][-1] == "magnitude, 50 %"
    assert found == json.loads((work / "results" / "results.json").read_text())


def test_arguments_from_files(work, capsys):
    (work / "args.txt").write_text("posterior.npz --algorithm snr\n# comment\n--out 'a b.npz'")
    assert run_json(capsys, "prune", "@args.txt", "--sparsity", ".5")["out"] == "a b.npz"
    (work / "prune.yaml").write_text(
        "file: posterior.npz\nalgorithm: magnitude\nsparsity: 0.5\nout: c.npz\n"
        "include: [dense_0/*, dense_1/*]\npacked: true\nforce: false\n"
    )
    # What stands on the command line wins over the file.
    done = run_json(capsys, "prune", "--config", "prune.yaml", "--sparsity", ".25")
    assert (done["rule"], done["out"]) == ("magnitude, 25 %", "c.npz")
    again = run_json(capsys, "prune", "--config=prune.yaml", "--force")
    assert again["rule"] == "magnitude, 50 %"


def test_the_prior_is_remembered(work, capsys):
    run_json(capsys, *PRUNE, "--sparsity", ".5", "--prior-precision", "4")
    assert run_json(capsys, "inspect", "pruned.npz")["prior_precision"] == 4.0


@pytest.mark.parametrize("command", [(), ("inspect",), ("prune",), ("sweep",), ("report",)])
def test_help_teaches_by_examples(command, capsys):
    code, out, _ = run(capsys, *command, "--help")
    assert code == 0
    assert "usage: bmrpruner" in out
    assert f"  bmrpruner {' '.join(command)}" in out.partition("Examples:")[2]


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


BAD = {
    "not what its name says": ("text", ("inspect", "posterior.npz"), "not an .npz archive"),
    "truncated": ("truncated", ("inspect", "posterior.npz"), "cut short"),
    "missing std": ("no std", ("inspect", "posterior.npz"), "has no 'dense_1/kernel/std'"),
    "mismatched shapes": ("mismatched", ("inspect", "posterior.npz"), "has shape (10, 16)"),
    "no file": ("", ("inspect", "nowhere.npz"), "nowhere.npz: there is no such file"),
    "another format": ("", ("inspect", "net.pt"), "net.pt"),
    "no command": ("", (), "inspect, prune, sweep, report"),
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
    "evidence by snr": ("", (*PRUNE, "--evidence"), "--evidence is bmr"),
    "no such type": ("", (*PRUNE, "--sparsity", ".5", "--type", "3of4"), "'3of4' is not known"),
    "no such leaf": ("", (*PRUNE, "--sparsity", ".5", "--include", "conv*"), "matches none"),
    "bad prior": ("", ("inspect", "posterior.npz", "--prior-precision", "-1"), "prior_precision"),
    "no posterior": ("plain", (*PRUNE, "--sparsity", ".5"), "snr reads a posterior"),
    "output exists": ("there", (*PRUNE, "--sparsity", ".5"), "--force"),
    "output is the input": (
        "",
        ("prune", "posterior.npz", "--evidence", "--out", "./posterior.npz", "--force"),
        "this is the network to prune",
    ),
    "a threshold of no size": ("", (*PRUNE, "--threshold", "nan"), "expected a finite number"),
    "another scope": ("", (*PRUNE, "--scope", "galaxy"), "invalid choice 'galaxy'"),
    "an empty directory": ("empty", ("inspect", "empty"), "empty: not a whole orbax checkpoint"),
    "nothing to sweep": ("", (*SWEEP, "--sparsities", ""), "nothing to try"),
    "nobody side by side": ("", (*SWEEP, "--parallel", "0"), "parallel: expected a number >= 1"),
    "output elsewhere": (
        "",
        ("prune", "posterior.npz", "--evidence", "--out", "no/such/dir.npz"),
        "there is no directory",
    ),
    "output format": (
        "",
        ("prune", "posterior.npz", "--evidence", "--out", "pruned.h5"),
        ".npz or .safetensors",
    ),
    "results exist": ("results", SWEEP, "--resume"),
    "no module": ("", (*SWEEP, "--model", "nowhere:f"), "does not import"),
    "broken module": ("module", (*SWEEP, "--model", "spoiled_module:f"), "RuntimeError: broken"),
    "no function": ("", (*SWEEP, "--model", "bmrpruner.study.models:nothing"), "does not import"),
    "no data": ("", (*SWEEP, "--data", "nowhere"), "nowhere: there is no such directory"),
    "empty data": ("", (*SWEEP, "--data", "."), "there is no t10k-images-idx3-ubyte.gz"),
    "too many labels": ("labels", (*SWEEP, "--data", "many"), "the model has 10 classes"),
    "bad sparsities": ("", (*SWEEP, "--sparsities", "0,x"), "'x'"),
    "bad thresholds": ("", (*SWEEP, "--thresholds", "snr"), "expected algorithm=number"),
    "negative samples": ("", (*SWEEP, "--samples", "-1"), "samples"),
    "no results": ("", ("report", "nowhere"), "nowhere/results.json: there is none"),
    "no arguments file": ("", ("prune", "@nowhere.txt"), "nowhere.txt: cannot be read"),
    "no configuration": ("", ("prune", "--config", "nowhere.yaml"), "nowhere.yaml: cannot be read"),
    "configuration without a name": ("", ("prune", "--config"), "the name of a YAML file"),
    "bad YAML": ("yaml", ("prune", "--config", "bad.yaml"), "bad.yaml: not YAML"),
    "YAML of a list": ("list", ("prune", "--config", "bad.yaml"), "expected a mapping"),
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
    assert "the model does not take inputs of shape (5, 7)" in err
    assert err.count("\n") == 1


def command(*words, **options):
    return subprocess.Popen(
        [sys.executable, "-m", "bmrpruner", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


@pytest.mark.slow
def test_control_c_leaves_what_is_done_and_the_rest_is_resumed(work, capsys):
    many = ("--sparsities", ",".join(str(i / 200) for i in range(200)), "--algorithms", "snr")
    process = command(*SWEEP, *many, cwd=work)
    results = work / "results" / "results.json"
    deadline = time.monotonic() + 60
    while not results.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 2, err
    assert out == ""
    last = err.strip().splitlines()[-1]
    assert "interrupted; what is done is in results, --resume goes on" in last
    assert "Traceback" not in err
    left = json.loads(results.read_text())
    assert 0 < len(left["points"]) < 200
    assert [path.name for path in results.parent.iterdir()] == ["results.json"]
    few = ("--sparsities", "0,.005", "--algorithms", "snr")
    resumed = run_json(capsys, *SWEEP, *few, "--resume")
    assert resumed["complete"]
    assert resumed["points"][0] == left["points"][0]


def test_a_second_control_c_does_not_wait():
    before = signal.getsignal(signal.SIGINT)
    with interrupt.between_steps() as check:
        check()
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            check()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.slow
def test_the_module_runs(work):
    process = command("inspect", "posterior.npz", "--json", cwd=work)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert json.loads(out)["weights"] == 352


@pytest.mark.slow
def test_without_the_extra_it_is_named(work):
    code = "import sys; sys.modules['tyro'] = None; import bmrpruner.__main__ as m; m.main()"
    process = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert process.returncode == 2
    assert process.stderr == (
        "bmrpruner: the command line needs tyro: pip install 'bmrpruner[cli]'.\n"
    )
