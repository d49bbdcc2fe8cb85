"""Tensors by name in files: every dtype, spoiled files, orbax directories."""

import contextlib
import json
import struct

import jax.numpy as jnp
import numpy as np
import pytest

from bmrpruner import files
from tests.files.posterior_files import SUFFIXES, assert_same_bits, write


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("dtype", [jnp.bfloat16, np.float16, np.float32, np.float64, np.int8])
def test_every_dtype_survives(tmp_path, suffix, dtype):
    tensors = {"a/b": np.arange(-3, 3).reshape(2, 3).astype(dtype), "c": np.ones((), dtype)}
    files.write_tensors(tmp_path / f"x{suffix}", tensors, {"author": "Bayes"})
    back = files.read_tensors(tmp_path / f"x{suffix}")
    assert_same_bits(back.arrays, tensors)
    assert back.metadata == {"author": "Bayes"}


def test_orbax_directories_are_read(tmp_path):
    import orbax.checkpoint as ocp

    tree = {"a": {"kernel": np.ones((2, 3), np.float32)}, "l": [np.arange(4, dtype=np.float32)]}
    with ocp.PyTreeCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "plain", tree)
    loaded = files.load(tmp_path / "plain")
    assert_same_bits(dict(loaded.tensors), {"a/kernel": tree["a"]["kernel"], "l/0": tree["l"][0]})
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="empty: expected a whole orbax checkpoint"):
        files.load(tmp_path / "empty")


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("cut", [0, 4, 100, -2000, -1])
def test_truncated_files_are_refused(tmp_path, suffix, cut):
    path = tmp_path / f"cut{suffix}"
    write(path)
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(ValueError, match=f"cut{suffix}: expected a whole"):
        files.load(path)


def test_what_a_cut_safetensors_file_lacks_is_named(tmp_path):
    path = tmp_path / "cut.safetensors"
    write(path)
    path.write_bytes(path.read_bytes()[:-4])
    (length,) = struct.unpack("<Q", path.read_bytes()[:8])
    header = json.loads(path.read_bytes()[8 : 8 + length])
    last = max((h["data_offsets"][1], name) for name, h in header.items())[1]
    with pytest.raises(ValueError, match=f"one that ends within tensor '{last}'"):
        files.load(path)


def test_a_spoiled_member_is_named(tmp_path):
    path = tmp_path / "spoiled.npz"
    files.write_tensors(path, {"a": np.zeros(5), "b": np.arange(5000.0)})
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 0xFF
    path.write_bytes(raw)
    with pytest.raises(ValueError, match="'b': expected a whole tensor"):
        files.load(path)


def test_the_other_order_of_bytes_is_read(tmp_path):
    np.savez(tmp_path / "x.npz", w=np.arange(6.0).astype(">f4"))
    tensor = files.load(tmp_path / "x.npz").tensors["w"]
    assert_same_bits({"w": tensor}, {"w": np.arange(6, dtype=np.float32)})


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("packed", [False, True])
def test_any_spoiled_byte_is_found_or_harmless(tmp_path, suffix, packed):
    rng = np.random.default_rng(0)
    checkpoint = files.Checkpoint({"w": np.arange(1, 99.0), "b": np.ones(3)})
    path = tmp_path / f"x{suffix}"
    files.save(path, checkpoint.prune({"w": rng.random(98) < 0.3}, {}), packed=packed)
    whole = path.read_bytes()
    for _ in range(100):
        raw = bytearray(whole)
        raw[rng.integers(len(raw))] = rng.integers(256)
        path.write_bytes(raw)
        with contextlib.suppress(ValueError):
            files.load(path)


def test_a_pickle_is_refused(tmp_path):
    np.savez(tmp_path / "x.npz", a=np.array([{}], dtype=object))
    with pytest.raises(ValueError, match="'a': expected a whole tensor"):
        files.load(tmp_path / "x.npz")


@pytest.mark.parametrize("name", ["x.npz", "x.safetensors"])
def test_a_file_that_is_not_what_its_name_says(tmp_path, name):
    (tmp_path / name).write_text("These are not the tensors you are looking for." * 9)
    with pytest.raises(ValueError, match=f"{name}: expected a whole"):
        files.load(tmp_path / name)


def test_other_names_are_refused(tmp_path):
    (tmp_path / "x.pt").write_bytes(b"PK")
    with pytest.raises(ValueError, match=r"ends in \.npz or \.safetensors"):
        files.load(tmp_path / "x.pt")
    with pytest.raises(ValueError, match=r"ends in \.npz or \.safetensors"):
        files.save(tmp_path / "y.pt", {"a": jnp.ones(2)})
    with pytest.raises(FileNotFoundError, match="nowhere"):
        files.load(tmp_path / "nowhere.npz")


def test_the_extra_is_named(tmp_path, monkeypatch):
    from bmrpruner.files import formats

    with pytest.raises(ImportError, match=r"pip install 'bmrpruner\[safetensors\]'"):
        formats.optional("no_such_module_at_all", "safetensors")


def test_an_archive_without_arrays_is_named(tmp_path):
    np.savez(tmp_path / "none.npz")
    with pytest.raises(ValueError, match=r"none\.npz: expected tensors in it, got none"):
        files.load(tmp_path / "none.npz")
