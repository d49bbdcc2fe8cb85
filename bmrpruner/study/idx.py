"""Read images and labels from MNIST-format IDX files, gzipped or not, and check them."""

from __future__ import annotations

import gzip
import struct
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np


class Dataset(NamedTuple):
    """Images to classify, in a training and a test set.

    Attributes:
      name: What to call it.
      train_images: float32 (n, pixels); `read_dataset` scales them to [0, 1].
      train_labels: int32 (n,).
      test_images: float32 (m, pixels).
      test_labels: int32 (m,).

    Example:
      >>> images, labels = np.zeros((2, 4), 'float32'), np.array([0, 1], 'int32')
      >>> Dataset('two', images, labels, images, labels).train_images.shape
      (2, 4)
    """

    name: str
    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray


def read_dataset(directory: Path | str, classes: int | None = None) -> Dataset:
    """Read the four files of MNIST's distribution.

    Args:
      directory: Where they are.
      classes: Refuse labels from this number on.

    Returns:
      A `Dataset` with the name of the directory.

    Raises:
      FileNotFoundError: If the directory or a file is missing.
      ValueError: If a file is not what it should be, or they do not fit together.

    Example:
      >>> read_dataset('/nowhere')
      Traceback (most recent call last):
      FileNotFoundError: /nowhere: expected a directory of MNIST-format files, got none.
    """
    directory = Path(directory)
    train = read_split(directory, "train", classes)
    test = read_split(directory, "t10k", classes)
    if train[0].shape[1] != test[0].shape[1]:
        raise ValueError(
            f"{directory}: expected t10k-images-idx3-ubyte of {train[0].shape[1]} pixels as in "
            f"train-images-idx3-ubyte, got {test[0].shape[1]}."
        )
    return Dataset(directory.resolve().name, *train, *test)


def standardise(data: Dataset) -> Dataset:
    """Shift and scale all images so that the training pixels have mean 0 and variance 1.

    Args:
      data: Images and labels.

    Returns:
      The same with other images; those for testing go by the mean and variance of the others.

    Example:
      >>> images, labels = np.array([[1.0], [3.0]]), np.array([0, 1])
      >>> standardise(Dataset('two', images, labels, images + 1, labels)).test_images.tolist()
      [[0.0], [2.0]]
    """
    mean, std = data.train_images.mean(), data.train_images.std()
    return data._replace(
        train_images=(data.train_images - mean) / std, test_images=(data.test_images - mean) / std
    )


def read_split(
    directory: Path | str, part: str = "t10k", classes: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Read the images and labels of the training set or the test set.

    Args:
      directory: Where the files are.
      part: `'train'`, or `'t10k'` for the test set.
      classes: Refuse labels from this number on.

    Returns:
      Images, float32 (n, pixels) in [0, 1], and labels, int32 (n,).

    Raises:
      FileNotFoundError: If the directory or a file is missing.
      NotADirectoryError: If `directory` is a file.
      ValueError: If a file is not what it should be, or they do not fit together.

    Example:
      >>> read_split('/nowhere')
      Traceback (most recent call last):
      FileNotFoundError: /nowhere: expected a directory of MNIST-format files, got none.
    """
    images = read_images(directory, part)
    path = _find(Path(directory), f"{part}-labels-idx1-ubyte")
    labels = read_idx(path, dims=1)
    if len(images) != len(labels):
        raise ValueError(
            f"{path}: expected a label for each of {len(images)} images, got {len(labels)}."
        )
    if classes is not None and labels.max() >= classes:
        raise ValueError(f"{path}: expected labels in [0, {classes}), got {labels.max()}.")
    return images, labels.astype(np.int32)


def read_images(directory: Path | str, part: str = "t10k") -> np.ndarray:
    """Read the images of the training set or the test set, which needs no labels.

    Args:
      directory: Where the files are.
      part: `'train'`, or `'t10k'` for the test set.

    Returns:
      float32 (n, pixels) in [0, 1].

    Raises:
      FileNotFoundError, NotADirectoryError, ValueError: As `read_split` does.

    Example:
      >>> read_images('/nowhere')
      Traceback (most recent call last):
      FileNotFoundError: /nowhere: expected a directory of MNIST-format files, got none.
    """
    directory = Path(directory)
    if not directory.exists():
        raise FileNotFoundError(
            f"{directory}: expected a directory of MNIST-format files, got none."
        )
    if not directory.is_dir():
        raise NotADirectoryError(
            f"{directory}: expected a directory of MNIST-format files, got a file."
        )
    images = read_idx(_find(directory, f"{part}-images-idx3-ubyte"), dims=3)
    return (images.reshape(len(images), -1) / np.float32(255)).astype(np.float32)


def has_split(directory: Path | str, part: str) -> bool:
    """Whether the images of the training set or the test set are there.

    Args:
      directory: Where the files would be.
      part: `'train'` or `'t10k'`.

    Example:
      >>> has_split('/nowhere', 'train')
      False
    """
    try:
        _find(Path(directory), f"{part}-images-idx3-ubyte")
    except FileNotFoundError:
        return False
    return True


def read_idx(path: Path, dims: int) -> np.ndarray:
    """Read an IDX file: a header of big-endian sizes, then the bytes.

    Args:
      path: The file, gzipped or not.
      dims: How many axes the array must have.

    Returns:
      The array, uint8, of one entry at least.

    Raises:
      ValueError: If the file is another, truncated or empty.

    Example:
      >>> import tempfile
      >>> path = Path(tempfile.mkdtemp(), 'labels')
      >>> _ = path.write_bytes(bytes([0, 0, 8, 1, 0, 0, 0, 2, 7, 9]))
      >>> read_idx(path, dims=1)
      array([7, 9], dtype=uint8)
    """
    try:
        raw = path.read_bytes()
        content = gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f"{path}: expected a whole gzip file, got {error}.") from error
    header = 4 * (1 + dims)
    if len(content) < header:
        raise ValueError(f"{path}: expected an IDX header of {header} bytes, got {len(content)}.")
    magic, *shape = struct.unpack(f">{1 + dims}I", content[:header])
    if magic != 0x0800 + dims:
        raise ValueError(f"{path}: expected an IDX file of {dims} axes, got magic {magic:#010x}.")
    expected = int(np.prod(shape, dtype=np.int64))
    if not expected:
        raise ValueError(f"{path}: expected one entry at least, got shape {tuple(shape)}.")
    if len(content) - header != expected:
        raise ValueError(
            f"{path}: expected {expected} bytes of shape {tuple(shape)}, as its header says, "
            f"got {len(content) - header}."
        )
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape)


def _find(directory: Path, name: str) -> Path:
    for path in (directory / f"{name}.gz", directory / name):
        if path.is_file():
            return path
    raise FileNotFoundError(f"{directory}: expected {name}.gz (or {name}) in it, got neither.")
