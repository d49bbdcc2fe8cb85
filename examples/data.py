"""Images to classify: scikit-learn's handwritten digits, or MNIST-format IDX files."""

from __future__ import annotations

from pathlib import Path

import jax
import numpy as np

from bmrpruner.study.idx import Dataset, read_dataset, standardise


def load(directory: Path | None) -> Dataset:
    """The IDX files of a directory, or else the digits of scikit-learn, standardised."""
    return standardise(digits()) if directory is None else idx_directory(directory)


def digits() -> Dataset:
    """1,797 images of 8 × 8 pixels in [0, 1]; every fifth is for testing."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    images, labels = (images / 16).astype(np.float32), labels.astype(np.int32)
    test = np.arange(len(images)) % 5 == 0
    return Dataset("digits", images[~test], labels[~test], images[test], labels[test])


def idx_directory(directory: Path) -> Dataset:
    """The four files of MNIST's distribution, gzipped or not; pixels in [0, 1]."""
    return read_dataset(directory, classes=10)


def random_batches(key: jax.Array, examples: int, batch_size: int) -> tuple[jax.Array, jax.Array]:
    """The rows of each batch of one pass, in random order, and a key for each batch."""
    order_key, noise_key = jax.random.split(key)
    steps = examples // batch_size
    order = jax.random.permutation(order_key, examples)[: steps * batch_size]
    return order.reshape(steps, batch_size), jax.random.split(noise_key, steps)
