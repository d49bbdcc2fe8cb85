"""The small benchmarks on MNIST-format files: their settings reach what they print."""

import sys
from pathlib import Path
from unittest import mock

import pytest

from tests.idx_files import write_easy_images

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import adamw_search
import first_steps

pytestmark = pytest.mark.slow


def test_the_search_prints_a_line_for_each_decay_and_smoothing(tmp_path, capsys):
    write_easy_images(tmp_path)
    settings = adamw_search.Settings(
        tmp_path, decays=(0.1,), smoothings=(0.05,), seeds=(0,), epochs=3, validation=200
    )
    with mock.patch.dict(adamw_search.ADAMW):
        adamw_search.main(settings)
    lines = capsys.readouterr().out.splitlines()
    names = [line.split(":")[0] for line in lines]
    assert names == ["decay 0.1, smoothing 0", "decay 0.0001, smoothing 0.05"]
    accuracies = [float(line.split("accuracy ")[1].split(",")[0]) for line in lines]
    assert min(accuracies) > 80
    nlls = [float(line.split("NLL ")[1]) for line in lines]
    assert nlls[0] < nlls[1]  # smoothed labels make probabilities less certain


def test_the_bound_keeps_the_first_steps_small(tmp_path, capsys, monkeypatch):
    write_easy_images(tmp_path)
    monkeypatch.setattr(first_steps, "ESS", {"ivon_3n": 3.0})
    settings = first_steps.Settings(tmp_path, steps=10, seeds=(0,), bounds=(1.0, 0.0))
    first_steps.main(settings)
    rows = [line.split("│") for line in capsys.readouterr().out.splitlines() if "ivon" in line]
    largest = {row[2].strip(): max(map(float, row[4:8])) for row in rows}
    assert set(largest) == {"1.0", "None"}
    assert largest["1.0"] < largest["None"]
