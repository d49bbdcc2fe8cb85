"""Images to classify: scikit-learn's handwritten digits, or MNIST-format IDX files."""

from __future__ import annotations

import gzip
import struct
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np


class Dataset(NamedTuple):
    """Standardised images, float32 (n, pixels), and their labels, int32 (n,)."""

    name: str
    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray


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
    if not directory.is_dir():
        raise FileNotFoundError(f"--data: no directory {directory}.")
    arrays = []
    for part in ("train", "t10k"):
        images = read_idx(_find(directory, f"{part}-images-idx3-ubyte"), dims=3)
        labels = read_idx(_find(directory, f"{part}-labels-idx1-ubyte"), dims=1)
        if len(images) != len(labels):
            raise ValueError(f"--data: {len(images)} {part} images, but {len(labels)} labels.")
        if labels.max() > 9:
            raise ValueError(f"--data: {part} labels reach {labels.max()}, expected 0 to 9.")
        flat = images.reshape(len(images), -1)
        arrays += [(flat / np.float32(255)).astype(np.float32), labels.astype(np.int32)]
    if arrays[0].shape[1] != arrays[2].shape[1]:
        raise ValueError("--data: training and test images differ in size.")
    return Dataset(directory.resolve().name, *arrays)


def read_idx(path: Path, dims: int) -> np.ndarray:
    """The uint8 array of an IDX file: a header of big-endian sizes, then the bytes."""
    try:
        raw = path.read_bytes()
        content = gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f"{path}: not a whole gzip file ({error}).") from error
    header = 4 * (1 + dims)
    if len(content) < header:
        raise ValueError(f"{path}: {len(content)} bytes are too few for an IDX header.")
    magic, *shape = struct.unpack(f">{1 + dims}I", content[:header])
    if magic != 0x0800 + dims:
        raise ValueError(f"{path}: expected an IDX file of {dims} axes, found magic {magic:#010x}.")
    expected = int(np.prod(shape, dtype=np.int64))
    if len(content) - header != expected or not expected:
        raise ValueError(
            f"{path}: the header promises {expected} bytes of shape {tuple(shape)}, "
            f"found {len(content) - header}."
        )
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape)


def _find(directory: Path, name: str) -> Path:
    for path in (directory / f"{name}.gz", directory / name):
        if path.is_file():
            return path
    raise FileNotFoundError(f"--data: no {name}.gz (or {name}) in {directory}.")
