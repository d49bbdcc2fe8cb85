"""Writing IDX files, for tests of what reads them."""

import gzip
import struct


def idx(array, magic=None):
    """The bytes of an IDX file."""
    magic = 0x0800 + array.ndim if magic is None else magic
    return struct.pack(f">{1 + array.ndim}I", magic, *array.shape) + array.tobytes()


def write_split(directory, part, images, labels, pack=gzip.compress, suffix=".gz"):
    """The two files of the training set (`'train'`) or the test set (`'t10k'`)."""
    for name, array in (("images-idx3", images), ("labels-idx1", labels)):
        (directory / f"{part}-{name}-ubyte{suffix}").write_bytes(pack(idx(array)))
