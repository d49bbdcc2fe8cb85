"""What is read to calibrate with, and what is held out."""

import numpy as np
import pytest

from bmrpruner import study
from bmrpruner.study import calibration
from bmrpruner.study.models import mlp
from tests.idx_files import write_split


def labelled(n):
    """Examples whose only feature tells them apart and is their label as well."""
    return np.arange(n, dtype=np.float32)[:, None], np.arange(n)


def seen(batches):
    return np.concatenate([np.ravel(batch) for batch in batches])


@pytest.mark.parametrize(("n", "expected"), [(7, [2, 1]), (3, [1]), (100, [2, 2, 1])])
def test_half_is_held_out(tmp_path, monkeypatch, n, expected):
    monkeypatch.setattr(calibration, "MOST", 5)
    monkeypatch.setattr(calibration, "BATCH", 2)
    x, y = labelled(n)
    np.savez(tmp_path / "data.npz", x=x, y=y)
    found = study.load_calibration(mlp, tmp_path / "data.npz", 4, 0.1)
    assert [len(batch) for batch in found.batches] == expected
    assert [len(inputs) for inputs, _ in found.held_out] == expected
    own, others = seen(found.batches), seen([inputs for inputs, _ in found.held_out])
    assert len(set(own) | set(others)) == 2 * sum(expected)
    np.testing.assert_array_equal(others, seen([labels for _, labels in found.held_out]))
    assert (found.max_loss_rise, found.model) == (0.1, mlp)
    again, other = (
        study.load_calibration(mlp, tmp_path / "data.npz", seed, 0.1) for seed in (4, 5)
    )
    np.testing.assert_array_equal(seen(again.batches), own)
    if n == 100:
        assert set(seen(other.batches)) != set(own)


def test_without_a_tolerance_all_may_calibrate(tmp_path, monkeypatch):
    np.savez(tmp_path / "data.npz", x=labelled(7)[0])
    found = study.load_calibration(mlp, tmp_path / "data.npz")
    assert sorted(seen(found.batches)) == list(range(7))
    assert found.held_out == ()
    monkeypatch.setattr(calibration, "MOST", 5)
    assert len(set(seen(study.load_calibration(mlp, tmp_path / "data.npz").batches))) == 5


def test_of_a_directory_the_training_images_alone_are_read(tmp_path):
    images, labels = np.full((9, 2, 2), 255, np.uint8), np.zeros(9, np.uint8)
    write_split(tmp_path, "t10k", 0 * images, labels)
    assert not study.has_calibration(tmp_path)
    with pytest.raises(FileNotFoundError, match="expected train-images-idx3-ubyte"):
        study.load_calibration(mlp, tmp_path)
    write_split(tmp_path, "train", images, labels)
    assert study.has_calibration(tmp_path)
    held = study.load_calibration(mlp, tmp_path, 0, 0.1)
    everything = [*held.batches, *(inputs for inputs, _ in held.held_out)]
    assert all(np.all(batch == 1) for batch in everything)
    (tmp_path / "train-labels-idx1-ubyte.gz").unlink()
    assert len(seen(study.load_calibration(mlp, tmp_path).batches)) == 9 * 4
    with pytest.raises(FileNotFoundError, match="expected train-labels-idx1-ubyte"):
        study.load_calibration(mlp, tmp_path, 0, 0.1)
