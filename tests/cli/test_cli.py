"""The command line: what it prints and writes."""

import json

import numpy as np
import pytest

from bmrpruner import files
from tests.cli.commands import FAST, PRUNE, SWEEP, run, run_json


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


def test_a_sweep_at_a_temperature(work, capsys):
    options = ("--algorithms", "snr,bmr", "--sparsities", ".5", "--temperature", ".1")
    found = run_json(capsys, *SWEEP, *options)
    assert [p["label"] for p in found["points"]] == ["snr, 50 %", "bmr at T = 0.1, 50 %"]
    assert [p["rule"]["temperature"] for p in found["points"]] == [1.0, 0.1]
    words = ("--algorithm", "bmr", "--sparsity", ".5", "--temperature", ".1", "--out", "cold.npz")
    done = run_json(capsys, "prune", "posterior.npz", *words)
    assert found["points"][1]["leaf_sparsity"] == done["leaf_sparsity"]


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


@pytest.mark.parametrize(
    "command", [(), ("inspect",), ("prune",), ("compact",), ("sweep",), ("report",)]
)
def test_help_teaches_by_examples(command, capsys):
    code, out, _ = run(capsys, *command, "--help")
    assert code == 0
    assert "usage: bmrpruner" in out
    assert f"  bmrpruner {' '.join(command)}" in out.partition("Examples:")[2]
