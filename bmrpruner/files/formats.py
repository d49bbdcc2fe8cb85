"""Read and write tensors by name: `.npz` and `.safetensors` files; read orbax directories."""

from __future__ import annotations

import importlib
import json
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bmrpruner._tree import is_array, join, keyed_leaves
from bmrpruner.files.atomic import atomic_write, refuse_existing

# The member of an .npz archive that holds its metadata, which the format has no place for.
_METADATA = "__metadata__"
_SPOILED = (
    *(ValueError, OSError, EOFError, KeyError, SyntaxError, RuntimeError, MemoryError),
    *(zipfile.BadZipFile, zlib.error),
)


class Tensors(NamedTuple):
    """What a file holds.

    Attributes:
      arrays: The tensors by name.
      metadata: Text by name.
    """

    arrays: dict[str, np.ndarray]
    metadata: dict[str, str]


def read_tensors(path: Path | str) -> Tensors:
    """Read all tensors of a file, by name, and its metadata.

    Args:
      path: A `.npz` or `.safetensors` file, or a directory that orbax wrote.

    Returns:
      `arrays` and `metadata`, both by name.

    Raises:
      FileNotFoundError: If there is no such file.
      ValueError: If it is not what its name says, truncated, or without tensors.
      ImportError: If reading it needs a package that is not installed.

    Example:
      >>> import tempfile
      >>> path = Path(tempfile.mkdtemp(), 'net.npz')
      >>> write_tensors(path, {'dense/kernel': np.ones((2, 3))}, {'author': 'Thomas'})
      >>> tensors = read_tensors(path)
      >>> tensors.arrays['dense/kernel'].shape, tensors.metadata
      ((2, 3), {'author': 'Thomas'})
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(
            f"{path}: expected a .npz or .safetensors file or an orbax directory, got none."
        )
    if path.is_dir():
        tensors = _read_orbax(path)
    elif _suffix(path) == ".npz":
        tensors = _read_npz(path)
    else:
        tensors = _read_safetensors(path)
    if not tensors.arrays:
        raise ValueError(f"{path}: expected tensors in it, got none.")
    return tensors


def write_tensors(
    path: Path | str,
    arrays: dict[str, np.ndarray],
    metadata: dict[str, str] | None = None,
    force: bool = False,
) -> None:
    """Write tensors by name: the whole file, or nothing.

    Args:
      path: What to write; the suffix, `.npz` (compressed) or `.safetensors`, says how.
      arrays: The tensors.
      metadata: Text by name.
      force: Replace an existing file; see `atomic_write`.

    Raises:
      FileExistsError: If the file exists, unless `force`.
      ValueError: If the suffix is another.
      ImportError: If safetensors is not installed.

    Example:
      >>> import tempfile
      >>> write_tensors(Path(tempfile.mkdtemp(), 'net.npz'), {'w': np.ones(3, 'float32')})
    """
    path = Path(path)
    check_writable(path, force)
    write = _write_npz if _suffix(path) == ".npz" else _write_safetensors
    with atomic_write(path, force) as temporary:
        write(temporary, arrays, metadata or {})


def check_writable(path: Path, force: bool) -> None:
    """Raise what `write_tensors` would raise about the name, before there is work to lose.

    Args:
      path: What to write.
      force: Whether an existing file may be replaced.

    Raises:
      FileExistsError: If the file exists, unless `force`.
      ValueError: If the suffix is another than `.npz` and `.safetensors`.
      ImportError: If safetensors is needed and not installed.

    Example:
      >>> check_writable(Path('net.h5'), force=False)
      Traceback (most recent call last):
      ValueError: net.h5: expected a name that ends in .npz or .safetensors, got '.h5'.
    """
    if _suffix(path) == ".safetensors":
        optional("safetensors.numpy", "safetensors")
    refuse_existing(path, force)


def optional(module: str, extra: str) -> Any:
    """Import a module that an optional extra installs.

    Args:
      module: The name to import.
      extra: The extra that installs it.

    Raises:
      ImportError: If it is not installed; the message names the extra.

    Example:
      >>> optional('json', 'anything').dumps(1)
      '1'
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(
            f"{module.partition('.')[0]} is not installed: pip install 'bmrpruner[{extra}]'."
        ) from error


def _suffix(path: Path) -> str:
    if path.suffix not in (".npz", ".safetensors"):
        raise ValueError(
            f"{path}: expected a name that ends in .npz or .safetensors, got {path.suffix!r}."
        )
    return path.suffix


def _read_npz(path: Path) -> Tensors:
    if not zipfile.is_zipfile(path):
        raise ValueError(f"{path}: expected a whole .npz archive, got another file or a part.")
    with path.open("rb") as file:
        try:
            archive = np.load(file, allow_pickle=False)
        except _SPOILED as error:
            raise ValueError(f"{path}: expected a whole .npz archive, got {error}") from error
        arrays = {name: _read_member(path, archive, name) for name in archive.files}
    text = str(arrays.pop(_METADATA, "{}"))
    try:
        return Tensors(arrays, json.loads(text))
    except ValueError as error:
        raise ValueError(f"{path}: metadata: expected JSON, got {text[:40]!r}: {error}") from error


def _read_member(path: Path, archive: Any, name: str) -> np.ndarray:
    try:
        array = archive[name]
    except _SPOILED as error:
        raise ValueError(f"{path}: {name!r}: expected a whole tensor, got {error}") from error
    if not isinstance(array, np.ndarray):
        raise ValueError(f"{path}: {name!r}: expected a tensor, got a {type(array).__name__}.")
    return _native(array)


def _native(array: np.ndarray) -> np.ndarray:
    """Convert to the machine's order of bytes, and what NumPy wrote as V2 to bfloat16."""
    if array.dtype == np.dtype("V2"):
        return array.view(jnp.bfloat16)
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def _write_npz(path: Path, arrays: dict[str, np.ndarray], metadata: dict[str, str]) -> None:
    members = dict(arrays)
    if metadata:
        members[_METADATA] = np.array(json.dumps(metadata))
    with zipfile.ZipFile(path, "w") as archive:
        for name, array in members.items():
            member = zipfile.ZipInfo(f"{name}.npy")
            member.compress_type = _compression(array)
            with archive.open(member, "w", force_zip64=True) as file:
                np.lib.format.write_array(file, array, allow_pickle=False)


def _compression(array: np.ndarray) -> int:
    """Choose bzip2 for arrays of many zeros, which it writes in half the bytes of deflate."""
    is_sparse = array.dtype.kind != "U" and np.count_nonzero(array) < 0.6 * array.size
    return zipfile.ZIP_BZIP2 if is_sparse else zipfile.ZIP_DEFLATED


def _read_safetensors(path: Path) -> Tensors:
    safetensors = optional("safetensors", "safetensors")
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            names = list(file.keys())
            return Tensors({name: file.get_tensor(name) for name in names}, file.metadata() or {})
    except safetensors.SafetensorError as error:
        raise ValueError(
            f"{path}: expected a whole .safetensors file, got {_missing_tensor(path) or error}."
        ) from error


def _missing_tensor(path: Path) -> str:
    """Name the first tensor of which the header promises more than the file holds, if there is."""
    raw = path.read_bytes()
    try:
        (length,) = struct.unpack("<Q", raw[:8])
        header = json.loads(raw[8 : 8 + length])
        ends = {name: h["data_offsets"][1] for name, h in header.items() if name != _METADATA}
    except (struct.error, ValueError, TypeError, KeyError, AttributeError, IndexError):
        return ""
    missing = [name for name in ends if ends[name] > len(raw) - 8 - length]
    first = min(missing, key=ends.__getitem__, default="")
    return f"one that ends within tensor {first!r}" if first else ""


def _write_safetensors(path: Path, arrays: dict[str, np.ndarray], metadata: dict[str, str]) -> None:
    contiguous = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    optional("safetensors.numpy", "safetensors").save_file(contiguous, path, metadata or None)


def _read_orbax(path: Path) -> Tensors:
    orbax = optional("orbax.checkpoint", "orbax")
    # A checkpoint manager puts each item into a directory of its own.
    item = path / "default" if (path / "default").is_dir() else path
    if not (item / "_METADATA").is_file():
        raise ValueError(f"{path}: expected a whole orbax checkpoint, got one without _METADATA.")
    checkpointer = orbax.PyTreeCheckpointer()
    try:
        structure = checkpointer.metadata(item.resolve()).item_metadata.tree
        as_numpy = jax.tree.map(lambda _: orbax.RestoreArgs(restore_type=np.ndarray), structure)
        tree = checkpointer.restore(item.resolve(), restore_args=as_numpy)
    except (*_SPOILED, TypeError, AttributeError) as error:
        first_line = str(error).partition("\n")[0]
        raise ValueError(f"{path}: expected a whole orbax checkpoint, got {first_line}") from error
    leaves = [(join(key), leaf) for key, leaf in keyed_leaves(tree) if is_array(leaf)]
    return Tensors({name: np.asarray(leaf) for name, leaf in leaves}, {})
