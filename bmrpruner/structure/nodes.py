"""Axes and their indices: which go together (edges), which are products, which must stay."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np

from bmrpruner.structure.ir import Atom, Var

Axis = int | None  # None: an axis of size 1, which always stays


class Axes:
    """The axes of all variables, and what the operations say about them.

    An axis is a number; axes that are one and the same, index by index, are united at once. An
    axis of size 1 has no number: it always stays.
    """

    def __init__(self) -> None:
        self.sizes: list[int] = []
        self.links: list[tuple[int, np.ndarray, int, np.ndarray]] = []
        self.frozen: list[tuple[int, np.ndarray, str]] = []
        self.products: list[tuple[int, tuple[int, ...]]] = []
        self.extra: dict[int, Axis] = {}
        self._parent: list[int] = []
        self._of: dict[tuple[Var, int], int] = {}

    def axis(self, atom: Atom, i: int) -> Axis:
        """The axis number `i` of a variable."""
        if atom.shape[i] == 1 or not isinstance(atom, Var):
            return None
        if (atom, i) not in self._of:
            self._of[atom, i] = self.fresh(atom.shape[i])
        return self.find(self._of[atom, i])

    def all(self, atom: Atom) -> list[Axis]:
        """All axes of a variable."""
        return [self.axis(atom, i) for i in range(len(atom.shape))]

    def fresh(self, size: int) -> int:
        """A new axis."""
        self._parent.append(len(self._parent))
        self.sizes.append(size)
        return self._parent[-1]

    def find(self, a: int) -> int:
        """The representative of the axes that `a` is united with."""
        while self._parent[a] != a:
            self._parent[a] = self._parent[self._parent[a]]
            a = self._parent[a]
        return a

    def same(self, a: Axis, b: Axis) -> None:
        """Both axes are one, index by index; nothing to say where one has size 1."""
        if a is not None and b is not None:
            assert self.sizes[a] == self.sizes[b]
            self._parent[self.find(b)] = self.find(a)

    def link(self, a: Axis, ia: np.ndarray, b: Axis, ib: np.ndarray, name: str) -> None:
        """The indices `ia` of axis `a` go where `ib` of `b` go, in pairs.

        An index that becomes an axis of size 1 always stays: `name` freezes it.
        """
        if a is not None and b is not None:
            self.links.append((a, ia, b, ib))
        elif a is not None:
            self.freeze(a, name, ia)
        elif b is not None:
            self.freeze(b, name, ib)

    def freeze(self, a: Axis, reason: str, indices: np.ndarray | None = None) -> None:
        """The indices of an axis must stay, all of them by default."""
        if a is not None:
            self.frozen.append(
                (a, np.arange(self.sizes[a]) if indices is None else indices, reason)
            )

    def freeze_all(self, atoms: Sequence[Atom], reason: str) -> None:
        """All axes of some variables must stay."""
        for atom in atoms:
            for axis in self.all(atom):
                self.freeze(axis, reason)

    def product(self, merged: Axis, factors: Sequence[Axis]) -> None:
        """Index (a, b, ...) of a merged axis, row-major, goes where a goes or b goes."""
        own = tuple(f for f in factors if f is not None)
        if len(own) == 1:
            self.same(merged, own[0])
        elif merged is not None:
            self.products.append((merged, own))

    def split(self, merged: Axis, sizes: Sequence[int]) -> list[Axis]:
        """New axes of which `merged` is the product; None for those of size 1."""
        if merged is None or sum(s != 1 for s in sizes) == 1:
            return [None if s == 1 else merged for s in sizes]
        factors = [None if s == 1 else self.fresh(s) for s in sizes]
        self.product(merged, factors)
        return factors

    def reshape(self, before: list[Axis], after: list[Axis], name: str) -> None:
        """Axes that a reshape turns into others, None for those of size 1."""
        left, right = ([a for a in axes if a is not None] for axes in (before, after))
        atoms = common_factors([[self.sizes[a] for a in axes] for axes in (left, right)])
        if atoms is None:
            for axis in left + right:
                self.freeze(axis, name)
            return
        if [self.sizes[a] for a in right] == atoms:
            left, right = right, left
        shared = left if [self.sizes[a] for a in left] == atoms else [self.fresh(s) for s in atoms]
        for axes in (left, right):
            if axes is not shared:
                for axis, part in zip(
                    axes, spans([self.sizes[a] for a in axes], atoms), strict=True
                ):
                    self.product(axis, [shared[i] for i in part])

    def align(self) -> None:
        """Make several factorisations of one axis into one: into factors common to all."""
        while True:
            by_merged: dict[int, set[tuple[int, ...]]] = {}
            for merged, factors in self.products:
                roots = tuple(self.find(f) for f in factors)
                by_merged.setdefault(self.find(merged), set()).add(roots)
            self.products = [(m, f) for m, many in by_merged.items() for f in sorted(many)]
            if not any([self._align(m, sorted(many)) for m, many in by_merged.items()]):
                return

    def _align(self, merged: int, many: list[tuple[int, ...]]) -> bool:
        sizes = [[self.sizes[f] for f in factors] for factors in many]
        atoms = common_factors(sizes) if len(many) > 1 else None
        if atoms is None:
            return False
        self.products = [(m, f) for m, f in self.products if self.find(m) != self.find(merged)]
        shared = [self.fresh(size) for size in atoms]
        self.product(merged, shared)
        for factors, own in zip(many, sizes, strict=True):
            for factor, part in zip(factors, spans(own, atoms), strict=True):
                self.product(factor, [shared[i] for i in part])
        return True


def common_factors(shapes: Sequence[Sequence[int]]) -> list[int] | None:
    """The coarsest shape of which all `shapes` merge neighbouring axes; None if there is none.

    Example:
      >>> common_factors([(6, 4), (2, 12)])
      [2, 3, 4]
    """
    marks = sorted(
        {n for shape in shapes for n in itertools.accumulate(shape[::-1], lambda a, b: a * b)}
    )
    if any(b % a for a, b in itertools.pairwise(marks)):
        return None
    return [b // a for a, b in itertools.pairwise([1, *marks])][::-1]


def spans(shape: Sequence[int], atoms: Sequence[int]) -> list[list[int]]:
    """For each axis of `shape`, which of the atoms it is the product of."""
    parts, position = [], 0
    for size in shape:
        part: list[int] = []
        while math.prod(atoms[i] for i in part) < size:
            part.append(position)
            position += 1
        parts.append(part)
    return parts
