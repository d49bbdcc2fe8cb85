"""Writing a file as a whole or not at all."""

import jax.numpy as jnp
import pytest

from bmrpruner import files


def write_half(path):
    with files.atomic_write(path, force=True) as temporary:
        temporary.write_bytes(b"half")
        raise RuntimeError("the disk is full")


def test_nothing_is_replaced_and_nothing_is_half_written(tmp_path):
    path = tmp_path / "net.npz"
    files.save(path, {"a": jnp.ones(2)})
    with pytest.raises(FileExistsError, match="--force"):
        files.save(path, {"a": jnp.zeros(2)})
    with pytest.raises(RuntimeError, match="disk"):
        write_half(path)
    assert files.load(path).params["a"].tolist() == [1.0, 1.0]
    assert [p.name for p in tmp_path.iterdir()] == ["net.npz"]
    files.save(path, {"a": jnp.zeros(2)}, force=True)
    assert files.load(path).params["a"].tolist() == [0.0, 0.0]


def test_a_link_to_nothing_is_there(tmp_path):
    link, target = tmp_path / "net.npz", tmp_path / "elsewhere.npz"
    link.symlink_to(target)
    with pytest.raises(FileExistsError, match=r"net\.npz: expected a new name"):
        files.save(link, {"a": jnp.ones(2)})
    assert link.is_symlink()
    assert not target.exists()


def test_a_link_is_replaced_and_its_target_is_not(tmp_path):
    link, target = tmp_path / "net.npz", tmp_path / "elsewhere.npz"
    target.write_text("precious")
    link.symlink_to(target)
    with pytest.raises(FileExistsError, match="--force"):
        files.save(link, {"a": jnp.ones(2)})
    files.save(link, {"a": jnp.ones(2)}, force=True)
    assert not link.is_symlink()
    assert files.load(link).params["a"].tolist() == [1.0, 1.0]
    assert target.read_text() == "precious"


def test_a_directory_is_not_replaced(tmp_path):
    (tmp_path / "net.npz").mkdir()
    with pytest.raises(FileExistsError, match="expected the name of a file, got a directory"):
        files.save(tmp_path / "net.npz", {"a": jnp.ones(2)}, force=True)
