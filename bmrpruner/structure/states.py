"""Trees that go with parameters: optimizer states, masks and posteriors, cut as these were."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from bmrpruner._masks import pack, unpack
from bmrpruner._tree import Key, PyTree, is_array, is_none, join, leaf_keys
from bmrpruner.structure.cutting import cut

Kept = dict[Key, tuple[np.ndarray, ...]]


def shrink(tree: PyTree, params: PyTree, kept: Kept, shapes: dict[Key, tuple[int, ...]]) -> PyTree:
    """Cut every array of `tree` that belongs to a parameter, as the parameter was.

    A part of `tree` that has the structure of `params` is cut leaf by leaf. Elsewhere an array
    belongs to the parameter whose key path its own ends in: `mu/dense/kernel` of an Adam state of
    some leaves to `dense/kernel`. It has the parameter's shape, or that of its packed mask.

    Args:
      tree: An optimizer state, masks, moments of a posterior.
      params: The parameters; only their structure matters.
      kept: For each parameter leaf, the indices of each axis that are left.
      shapes: For each parameter leaf, its shape before.

    Returns:
      The tree with smaller arrays; scalars, and what belongs to no parameter, are as they were.

    Raises:
      ValueError: If an array that belongs to a parameter that got smaller has another shape.

    Example:
      >>> kept, params = {('w',): (np.array([0, 2]),)}, {'w': np.arange(3)}
      >>> shrink({'mu': {'w': np.arange(3)}, 'count': np.array(7)}, params, kept, {('w',): (3,)})
      {'count': array(7), 'mu': {'w': array([0, 2])}}
    """
    structure: Any
    leaves, structure = jax.tree.flatten(tree, is_leaf=is_none)
    paths = leaf_keys(tree)
    owners = _owners(tree, params, kept)
    return structure.unflatten(
        [
            leaf if key is None else _cut(path, key, leaf, kept[key], shapes[key])
            for path, key, leaf in zip(paths, owners, leaves, strict=True)
        ]
    )


def _owners(tree: PyTree, params: PyTree, kept: Kept) -> list[Key | None]:
    """The parameter that each leaf of `tree` belongs to."""
    structure: Any = jax.tree.structure(params, is_leaf=is_none)

    def is_like(node: Any) -> bool:
        return jax.tree.structure(node, is_leaf=is_none) == structure

    parts = jax.tree.leaves(tree, is_leaf=lambda node: node is None or is_like(node))
    inner = [leaf_keys(part) if is_like(part) else [None] for part in parts]
    return [
        _ending(path, kept) if key is None else key if key in kept else None
        for path, key in zip(leaf_keys(tree), (key for keys in inner for key in keys), strict=True)
    ]


def _ending(path: Key, kept: Kept) -> Key | None:
    """The parameter with the longest key path that `path` ends in."""
    return next((path[i:] for i in range(len(path) + 1) if path[i:] in kept), None)


def _cut(path: Key, key: Key, leaf: Any, own: tuple[np.ndarray, ...], shape: Any) -> Any:
    if not is_array(leaf) or leaf.ndim == 0:
        return leaf
    if leaf.shape == shape:
        return cut(leaf, own)
    if all(len(k) == n for k, n in zip(own, shape, strict=True)):
        return leaf
    size = int(np.prod(shape, dtype=np.int64))
    if leaf.shape == (-(-size // 8),) and leaf.dtype == np.uint8:
        return pack(cut(unpack(leaf, shape), own))
    raise ValueError(
        f"tree: expected shape {shape} at {join(path)!r}, that of the parameter {join(key)!r}, "
        f"got {leaf.shape}."
    )


def is_posterior(tree: PyTree) -> bool:
    """Whether a tree is a Gaussian over the parameters: a dataclass of means and precisions."""
    names = {f.name for f in dataclasses.fields(tree)} if dataclasses.is_dataclass(tree) else set()
    return {"mean", "precision"} <= names


def with_mean(posterior: Any, change: Callable[[PyTree], PyTree]) -> Any:
    """A posterior with another mean."""
    return dataclasses.replace(posterior, mean=change(posterior.mean))
