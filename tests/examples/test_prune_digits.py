"""The main job: its data, its errors, and what it leaves behind."""

import gzip
import json
import sys

import numpy as np
import pytest

from tests.examples.running import EXAMPLES, check_refused, run
from tests.idx_files import idx, write_split

sys.path.insert(0, str(EXAMPLES))
import data

pytestmark = pytest.mark.slow


def write_dataset(directory, pack=gzip.compress, suffix=".gz"):
    rng = np.random.default_rng(0)
    for part, n in (("train", 50), ("t10k", 20)):
        images = rng.integers(0, 256, (n, 3, 4), np.uint8)
        labels = rng.integers(0, 10, n).astype(np.uint8)
        write_split(directory, part, images, labels, pack, suffix)


@pytest.mark.parametrize(("pack", "suffix"), [(gzip.compress, ".gz"), (bytes, "")])
def test_idx_files_are_read(tmp_path, pack, suffix):
    write_dataset(tmp_path, pack, suffix)
    dataset = data.idx_directory(tmp_path)
    raw = np.random.default_rng(0).integers(0, 256, (50, 3, 4), np.uint8)
    np.testing.assert_allclose(dataset.train_images, raw.reshape(50, 12) / 255, rtol=1e-6)
    assert dataset.test_labels.shape == (20,)


def test_digits_are_whole_and_split():
    dataset = data.load(None)
    assert len(dataset.train_images) + len(dataset.test_images) == 1797
    assert dataset.train_images.mean() == pytest.approx(0, abs=1e-5)
    assert dataset.train_images.std() == pytest.approx(1, abs=1e-5)
    assert sorted(set(dataset.test_labels)) == list(range(10))


def test_mnist_is_read(data_dir):
    dataset = data.load(data_dir / "mnist")
    assert dataset.train_images.shape == (60_000, 784)
    assert dataset.test_labels[:5].tolist() == [7, 2, 1, 0, 4]


IMAGES = "train-images-idx3-ubyte.gz"
SPOILED = {
    "not a whole gzip": (IMAGES, lambda raw: raw[:-20]),
    "no gzip": (IMAGES, lambda raw: raw[:2] + b"\0" * 50),
    "cut short": (IMAGES, lambda raw: gzip.compress(gzip.decompress(raw)[:-1])),
    "too short": (IMAGES, lambda raw: gzip.compress(b"\0\0\x08")),
    "another magic": (
        IMAGES,
        lambda raw: gzip.compress(b"\0\0\x0d\x03" + gzip.decompress(raw)[4:]),
    ),
    "labels as images": (IMAGES, lambda raw: gzip.compress(idx(np.zeros(50, np.uint8)))),
    "empty": (IMAGES, lambda raw: gzip.compress(idx(np.zeros((0, 3, 4), np.uint8)))),
    "too few labels": (
        "train-labels-idx1-ubyte.gz",
        lambda raw: gzip.compress(idx(np.zeros(9, np.uint8))),
    ),
    "a label of 10": (
        "train-labels-idx1-ubyte.gz",
        lambda raw: gzip.compress(idx(np.full(50, 10, np.uint8))),
    ),
    "other sizes": (
        "t10k-images-idx3-ubyte.gz",
        lambda raw: gzip.compress(idx(np.zeros((20, 4, 4), np.uint8))),
    ),
}


@pytest.mark.parametrize(("name", "spoil"), SPOILED.values(), ids=SPOILED)
def test_spoiled_files_are_named(tmp_path, name, spoil):
    write_dataset(tmp_path)
    path = tmp_path / name
    path.write_bytes(spoil(path.read_bytes()))
    with pytest.raises(ValueError, match=r"idx|--data"):
        data.load(tmp_path)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (("--data", "nowhere"), "nowhere"),
        (("--data", "."), "train-images-idx3-ubyte"),
        (("--sparsities", "0.5", "1.5"), "--sparsities"),
        (("--seeds", "0"), "--seeds"),
        (("--epochs", "-1"), "--epochs"),
    ],
)
def test_bad_options_end_in_one_line(tmp_path, options, named):
    check_refused("prune.py", *options, cwd=tmp_path, named=named)


def test_it_leaves_a_table_numbers_and_pictures(tmp_path):
    options = ("--seeds", "1", "--sparsities", "0.8", "--epochs", "3", "--out", "out")
    finished = run("prune.py", *options, cwd=tmp_path)
    assert finished.returncode == 0, finished.stderr
    lines = finished.stdout.splitlines()
    table = [line for line in lines if " AdamW" in line or " IVON" in line]
    assert len([line for line in table if "seed" not in line]) == 9
    out = tmp_path / "out"
    names = {"results.json", "accuracy.png", "calibration_and_size.png"}
    assert {path.name for path in out.iterdir()} == names
    for picture in out.glob("*.png"):
        assert picture.read_bytes().startswith(b"\x89PNG")
    rows = json.loads((out / "results.json").read_text())["runs"]
    assert {(row["when"], row["optimizer"], row["by"]) for row in rows} == {
        ("dense", "AdamW", ""),
        ("dense", "IVON", ""),
        *(("after training", name, by) for name in ("AdamW", "IVON") for by in ("magnitude", "OBS")),
        ("after training", "IVON", "BMR"),
        ("during training", "IVON", "BMR"),
        ("units, cut out", "IVON", "BMR"),
    }
    (sizes,) = [row["sizes"] for row in rows if "sizes" in row]
    parameters = 64 * 128 + 128 + 128 * 64 + 64 + 64 * 10 + 10
    assert sizes["params"][0] == parameters
    assert sizes["params"][1] <= 0.2 * parameters
    assert sizes["kB"] == [4 * count / 1e3 for count in sizes["params"]]
    assert sizes["kFLOP"][1] <= 0.25 * sizes["kFLOP"][0]
