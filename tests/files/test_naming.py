"""Tensors that do not make up a network: the one at fault is named, and the file."""

import jax.numpy as jnp
import numpy as np
import pytest

from bmrpruner import files
from tests.files.posterior_files import SUFFIXES, write

K0, K1 = "dense_0/kernel", "dense_1/kernel"
BAD_TENSORS = {
    "no std": ({f"{K1}/std": None}, f"'{K1}/mean': expected '{K1}/std'"),
    "no mean": ({f"{K1}/mean": None}, f"'{K1}/std': expected '{K1}/mean' beside it, got none"),
    "another shape": ({f"{K1}/std": np.ones((10, 32))}, rf"{K1}/std.*\(10, 32\)"),
    "NaN": (
        {f"{K0}/mean": np.full((64, 32), np.nan)},
        f"'{K0}/mean': expected .* 2048 NaN",
    ),
    "infinite": ({f"{K0}/mean": np.full((64, 32), np.inf)}, f"{K0}/mean.*infinite"),
    "negative": ({f"{K0}/std": np.full((64, 32), -1.0)}, f"{K0}/std.*values >= 0, got -1"),
    "integers": ({f"{K0}/std": np.ones((64, 32), int)}, f"{K0}/std.*int64"),
    "text": ({"name": np.array("mnist")}, "'name': expected numbers"),
    "two spreads": ({f"{K0}/rho": np.ones((64, 32))}, "expected one of std, rho"),
    "a scalar for draws": ({"w/draws": np.ones(())}, r"'w/draws': expected .*got \(\)"),
    "draws without chains": ({"w/draws": np.ones(5)}, r"'w/draws': expected .*got \(5,\)"),
    "a scalar for bits": (
        {"bias": np.zeros(()), "bias/mask": np.zeros((), np.uint8)},
        "'bias/mask': expected 1 bytes",
    ),
    "one draw": ({"w/draws": np.ones((1, 1, 3))}, "'w/draws': expected"),
    "a tensor below a tensor": (
        {"a": np.ones(2), "a/b": np.ones(2)},
        "'a/b': expected no tensor above it",
    ),
    "zero precision": (
        {"w/mean": np.ones(2), "w/precision": np.array([1, 0.0])},
        "'w/precision': expected values > 0, got 0",
    ),
    "few bits": (
        {"bias": np.zeros(20), "bias/mask": np.zeros(1, np.uint8)},
        "'bias/mask': expected 3 bytes",
    ),
    "weights where the mask has none": (
        {"bias": np.ones(8), "bias/mask": np.zeros(1, np.uint8)},
        "'bias': expected 0 where 'bias/mask' is 0",
    ),
}


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize(("changes", "message"), BAD_TENSORS.values(), ids=BAD_TENSORS)
def test_the_tensor_at_fault_is_named(tmp_path, suffix, changes, message):
    if suffix == ".safetensors" and "name" in changes:
        pytest.skip("the format has no text")
    write(tmp_path / f"bad{suffix}", changes)
    with pytest.raises(ValueError, match=message) as raised:
        files.load(tmp_path / f"bad{suffix}")
    assert f"bad{suffix}" in str(raised.value)


def test_names_that_collide_are_refused(tmp_path):
    with pytest.raises(ValueError, match="'a/b': expected one leaf of this name, got two"):
        files.save(tmp_path / "x.npz", {"a": {"b": jnp.ones(1)}, "a/b": jnp.ones(1)})
