"""Pruned networks in few bytes, which come back bit for bit."""

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from bmrpruner import files
from tests.files.posterior_files import SUFFIXES, assert_same_bits


@settings(max_examples=30, deadline=None)
@given(
    kernel=arrays(
        np.float32,
        st.tuples(st.integers(0, 7), st.integers(1, 9)),
        elements=st.floats(-1e9, 1e9, width=32),
    ),
    packed=st.booleans(),
    seed=st.integers(0, 9),
)
def test_pruned_files_come_back_bit_for_bit(tmp_path_factory, kernel, packed, seed):
    tensors = {"w/mean": kernel, "w/std": np.abs(kernel) + 1, "bias": np.ones(3, np.float32)}
    checkpoint = files.Checkpoint(tensors)
    mask = np.random.default_rng(seed).random(kernel.shape) < 0.5
    pruned = checkpoint.prune({"w": mask}, {"algorithm": "snr"})
    path = tmp_path_factory.mktemp("files") / "pruned.npz"
    files.save(path, pruned, packed=packed)
    back = files.load(path)
    assert_same_bits(back.tensors, pruned.tensors)
    np.testing.assert_array_equal(back.masks["w"], mask)
    assert back.info["algorithm"] == "snr"


@pytest.mark.parametrize("sparsity", [0.5, 0.9, 0.95])
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_packed_file_is_smaller_by_the_sparsity(tmp_path, suffix, sparsity):
    rng = np.random.default_rng(0)
    mean = rng.normal(size=(500, 400)).astype(np.float32)
    checkpoint = files.Checkpoint({"w/mean": mean, "w/std": rng.random(mean.shape, np.float32)})
    files.save(tmp_path / f"dense{suffix}", checkpoint)
    pruned = checkpoint.prune({"w": rng.random(mean.shape) >= sparsity}, {})
    path = tmp_path / f"pruned{suffix}"
    files.save(path, pruned, packed=True)
    dense_bytes = sum(tensor.nbytes for tensor in checkpoint.tensors.values())
    assert path.stat().st_size <= (1 - sparsity) * dense_bytes
    assert_same_bits(files.load(path).tensors, pruned.tensors)
    if suffix == ".npz":  # random numbers do not compress, but the zeros around them do
        files.save(path, pruned, force=True)
        assert path.stat().st_size <= 1.1 * (1 - sparsity) * dense_bytes + 2 * mean.size / 8


@pytest.mark.parametrize("dtype", [jnp.bfloat16, np.float16, np.float64, np.int8, bool])
def test_every_dtype_is_packed(tmp_path, dtype):
    tensors = {"w": np.arange(1, 7).reshape(2, 3).astype(dtype), "scale": np.ones((), dtype)}
    pruned = files.Checkpoint(tensors).prune({"w": np.eye(2, 3)}, {})
    files.save(tmp_path / "x.safetensors", pruned, packed=True)
    back = files.load(tmp_path / "x.safetensors")
    assert_same_bits(back.tensors, pruned.tensors)
    assert_same_bits(back.masks, pruned.masks)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda x: x | {"w": x["w"][:-9]}, "'w': expected whole compressed numbers"),
        (lambda x: x | {"w": x["v"]}, "'w': expected 3 numbers of float64, got 40 bytes"),
        (
            lambda x: {k: v for k, v in x.items() if k != "w/mask"},
            "'w/mask': expected it among",
        ),
        (lambda x: x | {"w/mask": x["w"]}, "'w/mask': expected 1 numbers of uint8"),
    ],
)
def test_a_spoiled_packed_tensor_is_named(tmp_path, spoil, message):
    checkpoint = files.Checkpoint({"w": np.arange(6.0), "v": np.ones(5)})
    path = tmp_path / "x.npz"
    files.save(path, checkpoint.prune({"w": np.arange(6) % 2}, {}), packed=True)
    arrays, metadata = files.read_tensors(path)
    files.write_tensors(path, spoil(arrays), metadata, force=True)
    with pytest.raises(ValueError, match=message):
        files.load(path)


def test_a_mask_that_contradicts_its_tensor_is_not_written(tmp_path):
    checkpoint = files.Checkpoint({"w": np.ones(3)}, masks={"w": np.array([0, 1, 1], np.uint8)})
    with pytest.raises(ValueError, match="'w': expected 0 where 'w/mask' is 0"):
        files.save(tmp_path / "x.npz", checkpoint, packed=True)
    assert list(tmp_path.iterdir()) == []
