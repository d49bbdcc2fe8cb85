"""Images to classify: scikit-learn's handwritten digits, or MNIST-format IDX files."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from bmrpruner.study.idx import Dataset, read_dataset


def load(directory: Path | None) -> Dataset:
    """The IDX files of a directory, or the digits that scikit-learn brings along, standardised."""
    raw = digits() if directory is None else idx_directory(directory)
    mean, std = raw.train_images.mean(), raw.train_images.std()
    return raw._replace(
        train_images=(raw.train_images - mean) / std, test_images=(raw.test_images - mean) / std
    )


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
