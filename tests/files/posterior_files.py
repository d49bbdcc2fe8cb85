"""Networks for the tests of files, and what they must agree in."""

import numpy as np

from bmrpruner import files

SUFFIXES = (".npz", ".safetensors")


def mean_field(spread="std", value=0.5):
    rng = np.random.default_rng(0)
    return {
        f"dense_{i}/kernel/{role}": array.astype(np.float32)
        for i, shape in enumerate([(64, 32), (32, 10)])
        for role, array in (("mean", rng.normal(size=shape)), (spread, np.full(shape, value)))
    }


def assert_same_bits(ours, theirs):
    assert ours.keys() == theirs.keys()
    for name, array in ours.items():
        assert array.dtype == theirs[name].dtype, name
        assert array.shape == theirs[name].shape, name
        assert array.tobytes() == theirs[name].tobytes(), name


def write(path, changes=None):
    """A mean-field posterior with some of its tensors replaced, or removed by None."""
    tensors = {n: t for n, t in (mean_field() | (changes or {})).items() if t is not None}
    files.write_tensors(path, tensors)
