"""Writing IDX files, for tests of what reads them."""

import gzip
import struct

import numpy as np


def idx(array, magic=None):
    """The bytes of an IDX file."""
    magic = 0x0800 + array.ndim if magic is None else magic
    return struct.pack(f">{1 + array.ndim}I", magic, *array.shape) + array.tobytes()


def write_split(directory, part, images, labels, pack=gzip.compress, suffix=".gz"):
    """The two files of the training set (`'train'`) or the test set (`'t10k'`)."""
    for name, array in (("images-idx3", images), ("labels-idx1", labels)):
        (directory / f"{part}-{name}-ubyte{suffix}").write_bytes(pack(idx(array)))


def write_easy_images(directory, spoiled=0.0):
    """1,000 images to train on and 200 to test, of which a bright row tells the label.

    A share of the labels, the first ones, is drawn anew.
    """
    rng = np.random.default_rng(0)
    for part, n in (("train", 1000), ("t10k", 200)):
        labels = rng.integers(0, 10, n).astype(np.uint8)
        images = rng.integers(0, 100, (n, 28, 28), np.uint8)
        images[np.arange(n), labels] += 150
        others = round(spoiled * n)
        labels[:others] = rng.integers(0, 10, others)
        write_split(directory, part, images, labels)
