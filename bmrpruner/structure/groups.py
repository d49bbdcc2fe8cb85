"""Dependency groups: the families of units of a model that can only go together."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from bmrpruner._tree import Key, PyTree
from bmrpruner.structure.decisions import Decisions
from bmrpruner.structure.ir import Program
from bmrpruner.structure.model import see


@dataclasses.dataclass(frozen=True, eq=False)
class Group:
    """Parallel units of a model, each of which goes as a whole or not at all.

    Attributes:
      size: How many units the group has: 64 for a layer of 64 hidden neurons.
      members: For each axis of a parameter leaf that the units own a part of: the leaf's key path
        (a tuple of strings), the axis, and integer indices of shape (size, k). Row u holds the
        indices of that axis that unit u owns.
      frozen: None where units may go, or why they cannot: `'input'`, `'output'`, the name of the
        primitive that needs them, or `'unused'` where nothing reads them.

    Example:
      >>> rows = np.arange(3)[:, None]
      >>> group = Group(3, ((("w",), 1, rows), (("b",), 0, rows)), None)
      >>> [(key, axis, indices.shape) for key, axis, indices in group.members]
      [(('w',), 1, (3, 1)), (('b',), 0, (3, 1))]
    """

    size: int
    members: tuple[tuple[Key, int, np.ndarray], ...]
    frozen: str | None = None


def dependency_groups(fn: Callable[..., Any], params: PyTree, *args: Any) -> list[Group]:
    """The families of units of `fn(params, *args)` that can only go together.

    The function is traced, never run: `params` and `args` may be `jax.ShapeDtypeStruct`s. Every
    index of every axis of the parameters belongs to a unit. A primitive that is not known freezes
    all that it touches.

    Args:
      fn: Any function that JAX can trace, of the parameters and other arguments.
      params: Pytree of arrays or of shapes; other leaves are passed through.
      *args: Pytrees of arrays or of shapes; other leaves are passed through.

    Returns:
      The groups in the order of the leaves, those that are frozen included.

    Raises:
      TypeError: If the function does not trace.

    Source: the dependency graph of Fang et al. 2023, arXiv 2301.12900; here over the axes of a
    jaxpr.

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> fn = lambda p, x: jnp.tanh(x @ p['w1'] + p['b1']) @ p['w2']
      >>> shape = jax.ShapeDtypeStruct
      >>> params = {'w1': shape((4, 8), 'float32'), 'b1': shape((8,), 'float32'),
      ...           'w2': shape((8, 3), 'float32')}
      >>> for group in dependency_groups(fn, params, shape((5, 4), 'float32')):
      ...     print(group.size, [(key, axis) for key, axis, _ in group.members], group.frozen)
      8 [(('b1',), 0), (('w1',), 1), (('w2',), 0)] None
      4 [(('w1',), 0)] input
      3 [(('w2',), 1)] output
    """
    return [group for group, _ in grouped(*see(fn, params, args))]


def grouped(program: Program, decisions: Decisions) -> list[tuple[Group, list[int]]]:
    """The groups of a program, each with the decisions that are its units, in order.

    Decisions with the same members, up to their place in them, are a group; those that share an
    index of a member, as a row and a column do, are not.
    """
    owned: dict[int, dict[tuple[int, int], list[int]]] = {}
    for leaf, (_, var) in enumerate(program.params):
        for axis in range(len(var.shape)):
            for index, causes in enumerate(decisions.of(var, axis).tolist()):
                for d in causes:
                    if d >= 0:
                        owned.setdefault(d, {}).setdefault((leaf, axis), []).append(index)
    families: dict[Any, list[int]] = {}
    for d, places in owned.items():
        alike = tuple((place, len(indices)) for place, indices in places.items())
        families.setdefault((alike, decisions.reasons[d]), []).append(d)
    return [
        (_group(program, [owned[d] for d in units], why), units)
        for (_, why), alike in families.items()
        for units in _disjoint(alike, owned)
    ]


def _disjoint(
    units: list[int], owned: dict[int, dict[tuple[int, int], list[int]]]
) -> list[list[int]]:
    """The units, each in the first group that has no index of a member in common with it."""
    groups: list[tuple[list[int], set[Any]]] = []
    for d in units:
        mine = {(place, index) for place, indices in owned[d].items() for index in indices}
        group = next((g for g in groups if g[1].isdisjoint(mine)), None)
        if group is None:
            group = ([], set())
            groups.append(group)
        group[0].append(d)
        group[1].update(mine)
    return [group for group, _ in groups]


def _group(
    program: Program, units: list[dict[tuple[int, int], list[int]]], why: str | None
) -> Group:
    members = tuple(
        (program.params[leaf][0], axis, np.array([unit[leaf, axis] for unit in units]))
        for leaf, axis in units[0]
    )
    return Group(len(units), members, why)
