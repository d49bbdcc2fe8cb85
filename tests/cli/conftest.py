"""A directory to run commands in."""

from pathlib import Path

import numpy as np
import pytest

from bmrpruner import files
from tests.cli.commands import EXAMPLES, write_idx, write_posterior
from tests.idx_files import write_split


@pytest.fixture
def work(tmp_path, monkeypatch):
    """A directory with a posterior and test data, to be in."""
    write_posterior(tmp_path / "posterior.npz")
    write_idx(tmp_path / "data")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def net(work):
    """A network without a posterior, and training images beside the test images."""
    rng = np.random.default_rng(2)
    kernel = 3 * rng.normal(size=(12, 8))
    tensors = {
        "dense_0/kernel": kernel,
        "dense_0/bias": rng.normal(size=8) - kernel.sum(0) / 2,  # the mean of inputs is a half
        "dense_1/kernel": rng.normal(size=(8, 10)),
    }
    files.write_tensors("net.npz", {n: t.astype(np.float32) for n, t in tensors.items()})
    images = rng.integers(0, 256, (EXAMPLES, 3, 4), np.uint8)
    inputs = images.reshape(EXAMPLES, 12) / 255.0
    hidden = np.maximum(inputs @ tensors["dense_0/kernel"] + tensors["dense_0/bias"], 0)
    labels = np.argmax(hidden @ tensors["dense_1/kernel"], 1).astype(np.uint8)
    write_split(Path("data"), "train", images, labels)
    np.savez("examples.npz", x=inputs.astype(np.float32), y=labels.astype(int))
    return inputs
