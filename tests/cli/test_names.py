"""Names from files are printed as they are, and do nothing to the terminal."""

import numpy as np
import pytest

from bmrpruner import files
from tests.cli.commands import run, run_json

NAMES = {
    "encoder[block]/kernel": "encoder[block]/kernel",
    "[/]": "[/]",
    "[bold]kernel[/bold]": "[bold]kernel[/bold]",
    "layer:smile:": "layer:smile:",
    "red\x1b[31m": "red\\x1b[31m",
    "bell\a, back\b": "bell\\x07, back\\x08",
    "two\r\nlines\tof": "two\\r\\nlines\\tof",
    "csi\x9b31m": "csi\\x9b31m",
    "turned\u202eround": "turned\\u202eround",
    "half\udc80": "half\\udc80",
    "Gewicht_ä_权重": "Gewicht_ä_权重",
    "long" * 100: "long" * 100,
}


@pytest.fixture
def network(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    # An archive cannot hold lone surrogates.
    tensors = {name: np.array([[1.0, 2.0]]) for name in NAMES if "\udc80" not in name}
    files.write_tensors("net.npz", tensors)
    return tensors


def assert_harmless(text):
    assert all(c.isprintable() for c in text.replace("\n", ""))


@pytest.mark.parametrize("command", ["inspect", "prune"])
def test_tables_hold_every_name(network, capsys, command):
    options = ("--algorithm", "magnitude", "--sparsity", ".5", "--out", "p.npz")
    code, out, err = run(capsys, command, "net.npz", *(options if command == "prune" else ()))
    assert code == 0, err
    assert_harmless(out)
    first_cells = [line.strip().split("  ")[0] for line in out.splitlines()]
    for name in network:
        assert first_cells.count(NAMES[name]) == 1


def test_json_holds_every_name(network, capsys):
    found = run_json(capsys, "inspect", "net.npz")
    assert {leaf["name"] for leaf in found["leaves"]} == set(network)


def test_files_with_such_names(network, capsys):
    out_file = "out[b]\x1b[31m.npz"
    words = ("prune", "net.npz", "--algorithm", "magnitude", "--sparsity", ".5", "--out", out_file)
    code, out, _ = run(capsys, *words)
    assert code == 0
    assert_harmless(out)
    assert "Wrote out[b]\\x1b[31m.npz." in out
    code, _, err = run(capsys, *words)
    assert code == 2
    assert_harmless(err)
    assert "out[b]\\x1b[31m.npz" in err


@pytest.mark.parametrize("name", [name for name in NAMES if len(name) < 99 and "\n" not in name])
@pytest.mark.parametrize("words", [("inspect",), ("report",), ("prune", "x.npz", "--algorithm")])
def test_errors_hold_the_name(network, capsys, words, name):
    options = ("--sparsity", ".5", "--out", "p.npz") if words[0] == "prune" else ()
    code, _, err = run(capsys, *words, name, *options)
    assert code == 2
    assert_harmless(err)
    assert err.count("\n") == 1
    assert NAMES[name] in err or repr(name)[1:-1] in err
