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


def shrink(tree: PyTree, kept: Kept, shapes: dict[Key, tuple[int, ...]]) -> PyTree:
    """Cut every array of `tree` that belongs to a parameter, as the parameter was.

    An array belongs to the parameter whose key path its own ends in: `mu/dense/kernel` of an Adam
    state to `dense/kernel`. It has the parameter's shape, or that of its packed mask.

    Args:
      tree: An optimizer state, masks, moments of a posterior.
      kept: For each parameter leaf, the indices of each axis that are left.
      shapes: For each parameter leaf, its shape before.

    Returns:
      The tree with smaller arrays; scalars, and what belongs to no parameter, are as they were.

    Raises:
      ValueError: If an array that belongs to a parameter that got smaller has another shape.

    Example:
      >>> kept = {('w',): (np.array([0, 2]),)}
      >>> shrink({'mu': {'w': np.arange(3)}, 'count': np.array(7)}, kept, {('w',): (3,)})
      {'count': array(7), 'mu': {'w': array([0, 2])}}
    """
    structure: Any
    leaves, structure = jax.tree.flatten(tree, is_leaf=is_none)
    return structure.unflatten(
        [_cut(key, x, kept, shapes) for key, x in zip(leaf_keys(tree), leaves, strict=True)]
    )


def _cut(path: Key, leaf: Any, kept: Kept, shapes: dict[Key, tuple[int, ...]]) -> Any:
    if not is_array(leaf) or leaf.ndim == 0:
        return leaf
    suffixes = (path[i:] for i in range(len(path) + 1))
    key = next((s for s in suffixes if s in kept), None)
    if key is None:
        return leaf
    shape, own = shapes[key], kept[key]
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
