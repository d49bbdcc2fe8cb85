"""What dependency groups own of a tree, what that costs, and checks of both."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from bmrpruner._checks import did_you_mean
from bmrpruner._tree import Key, PyTree, is_array, is_prunable, join, keyed_leaves

COSTS = ("units", "parameters")
Term = tuple[tuple[Key, int], ...]
"""Axes of leaves, by key path and number: what stays is the product of their shares that stay."""


def check_groups(groups: Sequence[Any]) -> None:
    """Raise unless these are dependency groups, and one of them may be pruned.

    Raises:
      TypeError: If one is no group, or its indices are no integers.
      ValueError: If all are frozen, or units of a group are not disjoint.
    """
    for i, group in enumerate(groups):
        if not all(hasattr(group, name) for name in ("size", "members", "frozen")):
            raise TypeError(
                f"groups[{i}]: expected a structure.Group, got a {type(group).__name__}."
            )
        if group.frozen is None:
            _check_group(f"groups[{i}]", group)
    if all(group.frozen is not None for group in groups):
        reasons = ", ".join(sorted({repr(group.frozen) for group in groups})) or "no groups"
        raise ValueError(f"groups: expected one that is not frozen, got only {reasons}.")


def check_cost(cost: Any) -> None:
    """Raise unless `cost` says what a sparsity is a share of.

    Raises:
      TypeError: If it is neither a string nor a mapping of key paths.
      ValueError: If it is an unknown string, or maps to other than finite numbers of which none is
        negative and one positive.
    """
    forms = "'units', 'parameters' or a mapping from key paths to the cost of one entry"
    keys = "key paths, tuples of strings, or frozensets of pairs of a key path and an axis"
    if isinstance(cost, str):
        if cost not in COSTS:
            raise ValueError(f"cost: expected {forms} (its FLOPs), got {cost!r}.")
        return
    if not isinstance(cost, Mapping):
        raise TypeError(f"cost: expected {forms}, got {cost!r}.")
    for key, value in cost.items():
        if not (_is_key(key) or (isinstance(key, frozenset) and all(map(_is_axis, key)))):
            raise TypeError(f"cost: expected {keys}, got {key!r}.")
        if not (np.ndim(value) == 0 and np.isfinite(value) and value >= 0):
            raise ValueError(f"cost[{key!r}]: expected a finite number >= 0, got {value!r}.")
    if not any(cost.values()):
        raise ValueError(f"cost: expected a leaf that costs something, got {dict(cost)}.")


def check_multiple(multiple: Any) -> None:
    """Raise a TypeError or a ValueError unless `multiple` is an integer of at least 1."""
    if isinstance(multiple, bool) or not isinstance(multiple, int | np.integer):
        raise TypeError(f"multiple: expected an integer >= 1, got {multiple!r}.")
    if multiple < 1:
        raise ValueError(f"multiple: expected an integer >= 1, got {multiple}.")


def by_leaf(group: Any) -> dict[Key, dict[int, np.ndarray]]:
    """What the units of a group own: for each leaf the indices of each axis, (size, k)."""
    found: dict[Key, dict[int, list[np.ndarray]]] = {}
    for key, axis, indices in group.members:
        found.setdefault(tuple(key), {}).setdefault(axis, []).append(indices)
    return {
        key: {axis: np.concatenate(parts, axis=1) for axis, parts in axes.items()}
        for key, axes in found.items()
    }


def shapes_of(tree: PyTree) -> dict[Key, tuple[int, ...] | None]:
    """The shape of each leaf of a tree, None for what is no array."""
    return {key: tuple(leaf.shape) if is_array(leaf) else None for key, leaf in keyed_leaves(tree)}


def owned_shapes(groups: Sequence[Any], shapes: Mapping[Key, Any]) -> dict[Key, tuple[int, ...]]:
    """The shapes of the leaves that units own a part of, of groups that are not frozen.

    Args:
      groups: `structure.Group`s.
      shapes: Of all leaves, as from `shapes_of`.

    Raises:
      ValueError: If a leaf is not there, or has not the axis or the indices that a group names.
    """
    owned = {}
    for i, group in enumerate(groups):
        for key, axes in by_leaf(group).items() if group.frozen is None else ():
            owned[key] = _shape(f"groups[{i}].members", key, shapes)
            for axis, indices in axes.items():
                _check_fits(f"groups[{i}].members", key, owned[key], axis, indices)
    return owned


def check_owned(groups: Sequence[Any], cost: Any, params: PyTree) -> None:
    """Raise a ValueError unless groups and costs fit parameters, which are floating-point."""
    leaves = dict(keyed_leaves(params))
    for key in owned_shapes(groups, shapes_of(params)):
        if not is_prunable(leaves[key]):
            raise ValueError(
                f"groups: expected units of floating-point leaves, got {join(key)!r}, of "
                f"{leaves[key].dtype}; leave out the groups that own a part of it."
            )
    cost_shares("parameters" if cost == "units" else cost, params)


def cost_shares(cost: Any, tree: PyTree) -> dict[Term, float]:
    """The shares of the whole cost, by the axes that they get smaller with.

    Args:
      cost: `'parameters'`, or the cost of one entry of each leaf by key path, or of one index of
        some axes together.
      tree: Parameters or scores; leaves that are None cost nothing.

    Raises:
      ValueError: If `cost` names a leaf or an axis that is not there.
    """
    shapes = shapes_of(tree)
    if isinstance(cost, str):
        cost = dict.fromkeys(shapes, 1.0)
    costs: dict[Term, float] = {}
    for where, price in cost.items():
        own = {key for key, _ in where} if isinstance(where, frozenset) else {where}
        if any(shapes.get(key, ()) is None for key in own):
            continue
        found = {key: _shape("cost", key, shapes) for key in own}
        term = _term(where, found)
        size = math.prod(found[key][axis] for key, axis in term)
        costs[term] = costs.get(term, 0.0) + float(price) * size
    total = math.fsum(costs.values())
    if not total:
        raise ValueError(f"cost: expected a leaf with a score that costs something, got {cost}.")
    return {term: value / total for term, value in costs.items() if value}


def _term(where: Any, shapes: Mapping[Key, Any]) -> Term:
    """Some axes in order, or all of a leaf."""
    if not isinstance(where, frozenset):
        return tuple((where, axis) for axis in range(len(shapes[where])))
    for key, axis in where:
        _check_axis("cost", key, shapes[key], axis)
    return tuple(sorted(where))


def _is_key(key: Any) -> bool:
    return isinstance(key, tuple) and all(isinstance(part, str) for part in key)


def _is_axis(pair: Any) -> bool:
    is_pair = isinstance(pair, tuple) and len(pair) == 2
    return is_pair and _is_key(pair[0]) and isinstance(pair[1], int) and pair[1] >= 0


def _shape(field: str, key: Key, shapes: Mapping[Key, Any]) -> tuple[int, ...]:
    """The shape of the array at a key path, or a ValueError that names the field."""
    names = [join(known) for known, shape in shapes.items() if shape is not None]
    if key not in shapes:
        raise ValueError(
            f"{field}: expected leaves of the parameters, got {join(key)!r}, which is not there."
            + did_you_mean(join(key), names, cutoff=0.0)
        )
    if shapes[key] is None:
        raise ValueError(
            f"{field}: expected leaves with scores, got {join(key)!r}, which has none: it is no "
            "array of floating-point numbers, or its gradient or posterior is missing."
        )
    return shapes[key]


def _check_axis(field: str, key: Key, shape: tuple[int, ...], axis: int) -> None:
    if axis >= len(shape):
        raise ValueError(
            f"{field}: expected an axis of leaf {join(key)!r}, of shape {shape}, got {axis}."
        )


def _check_fits(
    field: str, key: Key, shape: tuple[int, ...], axis: int, indices: np.ndarray
) -> None:
    _check_axis(field, key, shape, axis)
    if indices.max() >= shape[axis]:
        raise ValueError(
            f"{field}: expected indices below {shape[axis]}, the length of axis {axis} of leaf "
            f"{join(key)!r}, got {indices.max()}."
        )


def _check_group(field: str, group: Any) -> None:
    for name, given in (("size", group.size), ("members", len(group.members))):
        if given < 1:
            raise ValueError(f"{field}.{name}: expected one at least, got {given}.")
    for key, axis, indices in group.members:
        where = f"axis {axis} of leaf {join(key)!r}"
        if not isinstance(indices, np.ndarray) or not np.issubdtype(indices.dtype, np.integer):
            kind = getattr(indices, "dtype", type(indices).__name__)
            raise TypeError(f"{field}.members: expected integer indices of {where}, got {kind}.")
        if indices.ndim != 2 or len(indices) != group.size or not indices.size:
            raise ValueError(
                f"{field}.members: expected indices of {where} of shape ({group.size}, k), got "
                f"{indices.shape}."
            )
        if axis < 0 or indices.min() < 0:
            raise ValueError(
                f"{field}.members: expected axes and indices counted from 0, got {where} and "
                f"{indices.min()}."
            )
    for key, axes in by_leaf(group).items():
        for axis, indices in axes.items():
            found, counts = np.unique(indices, return_counts=True)
            if np.any(counts > 1):
                raise ValueError(
                    f"{field}.members: expected each index of axis {axis} of leaf {join(key)!r} in "
                    f"one unit, got {found[counts > 1][0]} {counts.max()} times."
                )
