"""Compacted parameters in files, with the kept indices."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from bmrpruner._tree import Key, PyTree, is_numeric, join
from bmrpruner.structure.compact import Compacted
from bmrpruner.structure.ir import leaf_arrays
from bmrpruner.structure.states import Kept


class Saved(NamedTuple):
    """What a file of a compacted model holds.

    Attributes:
      params: The parameters as nested dicts, by the parts of their names.
      kept: For each leaf, the indices of each axis that were kept.

    Example:
      >>> Saved({'w': np.ones(2)}, {('w',): (np.array([0, 3]),)}).kept['w',]
      (array([0, 3]),)
    """

    params: PyTree
    kept: Kept


def save_compacted(path: Path | str, small: Compacted, force: bool = False) -> None:
    """Write the parameters and kept indices of a compacted model: the whole file, or nothing.

    The file is one that `bmrpruner.files` reads; the indices are in its `info`. For an orbax
    checkpoint, hand orbax the tree `{'params': small.params, 'kept': small.kept_tree()}`.

    Args:
      path: The name; `.npz` or `.safetensors` says how.
      small: The compacted model.
      force: Replace an existing file.

    Raises:
      FileExistsError: If the file exists, unless `force`.
      ValueError: If the suffix is another, or two leaves have the same name.
      TypeError: If a leaf has no numbers, as random keys.

    Example:
      >>> import tempfile
      >>> import jax.numpy as jnp
      >>> from bmrpruner import compact
      >>> params = {'w1': jnp.array([[1., 0.]]), 'w2': jnp.ones((2, 1))}
      >>> small = compact(lambda p, x: jnp.sin(x @ p['w1']) @ p['w2'], params, jnp.ones((5, 1)))
      >>> path = Path(tempfile.mkdtemp(), 'small.npz')
      >>> save_compacted(path, small)
      >>> load_compacted(path).kept['w1',]
      (array([0]), array([0]))
    """
    from bmrpruner import files  # it imports posteriors, which may import this package

    names = leaf_names(small)
    tensors = {
        name: _numeric(name, x) for name, x in zip(names, leaf_arrays(small.params), strict=True)
    }
    checkpoint = files.Checkpoint(tensors, info=kept_info(small))
    files.save(path, checkpoint, force)


def leaf_names(small: Compacted) -> list[str]:
    """The names of the array leaves in files; an error if two are the same.

    Example:
      >>> import jax.numpy as jnp
      >>> from bmrpruner import compact
      >>> params = {'a': {'w1': jnp.ones((1, 2))}, 'w2': jnp.ones((2, 1))}
      >>> fn = lambda p, x: jnp.sin(x @ p['a']['w1']) @ p['w2']
      >>> leaf_names(compact(fn, params, jnp.ones((5, 1))))
      ['a/w1', 'w2']
    """
    keys: dict[str, Key] = {}
    for key in small.kept:
        if (name := join(key)) in keys:
            raise ValueError(
                f"params: expected leaves that have other names when their key paths are joined, "
                f"got {name!r} of {keys[name]} and of {key}."
            )
        keys[name] = key
    return list(keys)


def _numeric(name: str, leaf: Any) -> np.ndarray:
    if not is_numeric(leaf):
        raise TypeError(
            f"params: expected arrays of numbers, got one of {leaf.dtype} at {name!r}; "
            "jax.random.key_data gives the numbers of a key."
        )
    return np.asarray(leaf)


def kept_info(small: Compacted) -> dict[str, Any]:
    """What a file's `info` says about the indices that were kept, for `load_compacted` to read.

    Example:
      >>> import jax.numpy as jnp
      >>> from bmrpruner import compact
      >>> params = {'w1': jnp.array([[1., 0.]]), 'w2': jnp.ones((2, 1))}
      >>> kept_info(compact(lambda p, x: jnp.sin(x @ p['w1']) @ p['w2'], params, jnp.ones((5, 1))))
      {'kept': {'w1': [[0], [0]], 'w2': [[0], [0]]}, 'keys': {'w1': ['w1'], 'w2': ['w2']}}
    """
    return {
        "kept": {join(key): [own.tolist() for own in axes] for key, axes in small.kept.items()},
        "keys": {join(key): list(key) for key in small.kept},
    }


def load_compacted(path: Path | str) -> Saved:
    """Read what `save_compacted` wrote, or an orbax directory of the same.

    Args:
      path: A file, or a directory that orbax wrote.

    Returns:
      The parameters as nested dicts, and the kept indices.

    Raises:
      FileNotFoundError: If there is no such file.
      ValueError: If it holds no compacted model.

    Example:
      >>> load_compacted('nowhere.npz')
      Traceback (most recent call last):
      FileNotFoundError: nowhere.npz: expected a .npz or .safetensors file or an orbax directory, \
got none.
    """
    from bmrpruner import files

    if Path(path).is_dir():
        return _of_tensors(Path(path), files.read_tensors(path).arrays)
    checkpoint = files.load(path)
    if "kept" not in checkpoint.info:
        raise ValueError(f"{path}: expected a compacted model, got a network without kept indices.")
    keys = {name: tuple(key) for name, key in checkpoint.info["keys"].items()}
    kept = {
        keys[name]: tuple(np.array(own, np.int64) for own in axes)
        for name, axes in checkpoint.info["kept"].items()
    }
    return Saved(checkpoint.params, kept)


def _of_tensors(path: Path, arrays: dict[str, np.ndarray]) -> Saved:
    params: dict[str, Any] = {}
    axes: dict[Key, dict[int, np.ndarray]] = {}
    for name, array in arrays.items():
        head, *key = name.split("/")
        if head == "params":
            place = params
            for part in key[:-1]:
                place = place.setdefault(part, {})
            place[key[-1]] = array
        elif head == "kept":
            axes.setdefault(tuple(key[:-1]), {})[int(key[-1])] = array
    if not axes:
        raise ValueError(f"{path}: expected a compacted model, got a tree without 'kept'.")
    return Saved(params, {k: tuple(v[i] for i in sorted(v)) for k, v in axes.items()})
