"""From edges and products to decisions: what each index of an axis goes with."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np

from bmrpruner.structure.ir import Atom
from bmrpruner.structure.nodes import Axes

_FIRST = ("input", "output")


@dataclasses.dataclass(eq=False)
class Decisions:
    """What can go, and what goes with it.

    Attributes:
      axes: The axes of the program.
      reasons: For each decision, None or why it cannot be taken.
      causes: For each axis, an array (size, k) of decisions: an index goes where one of its
        decisions is taken; -1 fills up.
    """

    axes: Axes
    reasons: list[str | None]
    causes: dict[int, np.ndarray]

    def of(self, atom: Atom, i: int) -> np.ndarray:
        """The decisions (size, k) of the indices of an axis."""
        axis = self.axes.axis(atom, i)
        if axis is None or axis not in self.causes:
            return np.full((atom.shape[i], 1), -1)
        return self.causes[axis]

    def gone(self, atom: Atom, i: int, taken: np.ndarray) -> np.ndarray:
        """Which indices of an axis go when the decisions `taken` (booleans) are."""
        return np.append(taken, False)[self.of(atom, i)].any(axis=1)


def decide(axes: Axes) -> Decisions:
    """Solve what the operations said about the axes."""
    from scipy.sparse import coo_array, csgraph  # slow to import

    axes.align()
    _freeze_whole(axes)
    roots = sorted({axes.find(a) for a in range(len(axes.sizes))})
    starts = dict(
        zip(roots, itertools.accumulate([axes.sizes[r] for r in roots], initial=0), strict=False)
    )
    total = sum(axes.sizes[r] for r in roots)
    nodes = {r: starts[r] + np.arange(axes.sizes[r]) for r in roots}
    pairs = [(nodes[axes.find(a)][ia], nodes[axes.find(b)][ib]) for a, ia, b, ib in axes.links]
    left, right = (
        (np.concatenate([[0], *side]) for side in zip(*pairs, strict=True)) if pairs else ([0], [0])
    )
    graph = coo_array((np.ones(len(left), bool), (left, right)), shape=(total, total))
    label = csgraph.connected_components(graph, directed=False)[1]
    rows = _rows(axes, {r: label[nodes[r]] for r in roots})
    classes = _Classes(rows)
    classes.solve()
    reasons = _frozen(axes, {r: label[nodes[r]] for r in roots}, classes)
    numbers: dict[int, int] = {}
    causes = {}
    for root in roots:
        lists = [
            [numbers.setdefault(c, len(numbers)) for c in classes.causes(int(n))]
            for n in label[nodes[root]]
        ]
        width = max(map(len, lists), default=1)
        padded = [own + [-1] * (width - len(own)) for own in lists]
        causes[root] = np.array(padded, int).reshape(len(lists), width)
    return Decisions(axes, [reasons.get(c) for c in numbers], causes)


def _freeze_whole(axes: Axes) -> None:
    """A product of axes that stay as a whole stays, and needs no rows; the same backwards."""
    while True:
        whole = {axes.find(a): reason for a, i, reason in axes.frozen if len(i) == axes.sizes[a]}
        known = len(whole)
        for merged, factors in axes.products:
            if axes.find(merged) in whole:
                new = [(f, whole[axes.find(merged)]) for f in factors]
            elif all(axes.find(f) in whole for f in factors):
                new = [(merged, whole[axes.find(factors[0])])]
            else:
                continue
            for axis, reason in new:
                if axes.find(axis) not in whole:
                    axes.freeze(axis, reason)
                    whole[axes.find(axis)] = reason
        if len(whole) == known:
            break
    axes.products = [(m, f) for m, f in axes.products if axes.find(m) not in whole]


def _rows(axes: Axes, label: dict[int, np.ndarray]) -> list[tuple[int, tuple[int, ...]]]:
    """The classes of each merged index, and those of its factors."""
    rows = set()
    for merged, factors in axes.products:
        grid = np.indices([axes.sizes[f] for f in factors]).reshape(len(factors), -1)
        columns = [
            label[axes.find(f)][index].tolist() for f, index in zip(factors, grid, strict=True)
        ]
        rows |= set(zip(label[axes.find(merged)].tolist(), zip(*columns, strict=True), strict=True))
    return sorted(rows)


class _Classes:
    """Classes of indices, some of which go where one of several others goes."""

    def __init__(self, rows: list[tuple[int, tuple[int, ...]]]) -> None:
        self.rows = rows
        self.changed = False
        self.parent: dict[int, int] = {}
        self.parts: dict[int, tuple[int, ...]] = {}
        self.known: dict[int, tuple[int, ...]] = {}

    def find(self, c: int) -> int:
        while c in self.parent:
            c = self.parent[c]
        return c

    def unite(self, *many: int) -> None:
        first = self.find(many[0])
        for other in many[1:]:
            if (root := self.find(other)) != first:
                self.parent[root] = first
                self.changed = True

    def solve(self) -> None:
        """Unite what clashes until every class has one set of causes."""
        self.changed = True
        while self.changed:
            self.changed, self.known, self.parts = False, {}, {}
            for merged, factors in self.rows:
                self.parts.setdefault(self.find(merged), factors)
            for merged, factors in self.rows:
                self.check(merged, factors)

    def check(self, merged: int, factors: tuple[int, ...]) -> None:
        """Unite the causes of a row with those of its class where they differ."""
        mine = tuple(dict.fromkeys(self.find(c) for f in factors for c in self.flat(f)))
        known = self.causes(merged)
        if set(mine) == set(known):
            return
        if len(mine) == len(known):
            for a, b in zip(mine, known, strict=True):
                self.unite(a, b)
        else:
            self.unite(*mine, *known)

    def flat(self, c: int, above: tuple[int, ...] = ()) -> tuple[int, ...]:
        """The classes that a class goes with, in order; a class within itself is united."""
        root = self.find(c)
        if root in above:
            self.unite(*above)
            return (root,)
        if root not in self.parts:
            return (root,)
        if root not in self.known:
            parts = [x for f in self.parts[root] for x in self.flat(f, (*above, root))]
            self.known[root] = tuple(dict.fromkeys(parts))
        return self.known[root]

    def causes(self, c: int) -> tuple[int, ...]:
        """The decisions of a class."""
        return tuple(dict.fromkeys(self.find(x) for x in self.flat(c)))


def _frozen(axes: Axes, label: dict[int, np.ndarray], classes: _Classes) -> dict[int, str]:
    """Why decisions cannot be taken; 'input' and 'output' before a primitive's name."""
    reasons: dict[int, str] = {}
    for axis, indices, reason in axes.frozen:
        for c in set(label[axes.find(axis)][indices].tolist()):
            for cause in classes.causes(c):
                old = reasons.get(cause)
                if old is None or (reason in _FIRST and old not in _FIRST):
                    reasons[cause] = reason
    return reasons
