"""The Bayes-by-Backprop study, in a short form."""

import json

import pytest

from tests.examples.running import check_refused, run

pytestmark = pytest.mark.slow

EXAMPLE = "bayes_by_backprop.py"


def test_it_leaves_a_table_numbers_a_posterior_and_a_picture(tmp_path):
    options = ("--epochs", "2", "--hidden", "16", "--sparsities", "0", "0.9", "--out", "out")
    finished = run(EXAMPLE, *options, cwd=tmp_path)
    assert finished.returncode == 0, finished.stderr
    assert "Bayes by Backprop" in finished.stdout
    out = tmp_path / "out"
    names = {"results.json", "posterior.npz", "histograms.png"}
    assert {path.name for path in out.iterdir()} == names
    rows = json.loads((out / "results.json").read_text())["rows"]
    assert [row["method"] for row in rows[::2]] == ["SGD", "dropout", *["Bayes by Backprop"] * 2]
    for row in rows[1::2]:
        assert row["sparsity"] == pytest.approx(0.9, abs=0.002)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (("--data", "nowhere"), "nowhere"),
        (("--sparsities", "1.5"), "--sparsities"),
        (("--epochs", "0"), "--epochs"),
    ],
)
def test_bad_options_end_in_one_line(tmp_path, options, named):
    check_refused(EXAMPLE, *options, cwd=tmp_path, named=named)
