"""Which decisions can be taken without changing what the function computes."""

from __future__ import annotations

import dataclasses

import numpy as np

from bmrpruner.structure import ghosts, sums
from bmrpruner.structure.decisions import Decisions
from bmrpruner.structure.ir import Lit, Op, Program, Var, walk_all
from bmrpruner.structure.rules import Facts


@dataclasses.dataclass(eq=False)
class Removal:
    """The search for all that can go at once.

    It begins with every candidate and gives back those of which some term, of a sum whose result
    is needed, is neither zero nor known, until nothing is left to give back. What is left over is
    the largest set that can go: units in a circle go together, and weights towards units that go
    do not count.

    Attributes:
      taken: For each decision, whether it is taken.
      stays: For each decision that was given back, the operation that needs it.
      ghosts: Sums whose missing terms are computed as the function runs, and over which axis.
      emptied: The axes of which every index could have gone; one was kept.
    """

    program: Program
    decisions: Decisions
    facts: Facts
    taken: np.ndarray
    stays: dict[int, Op] = dataclasses.field(default_factory=dict)
    ghosts: dict[Op, int] = dataclasses.field(default_factory=dict)
    emptied: set[int] = dataclasses.field(default_factory=set)

    def __post_init__(self) -> None:
        ops = [op for op in walk_all(self.program.block.ops) if op.name in sums.KINDS]
        self.made = ghosts.Producers(self.program.block.ops)
        self.dynamic = _dynamic(self.program)
        self.sites = [op for op in ops if self._causes(op).any()]
        self.flowing = np.zeros(len(self.taken) + 1, bool)
        for op in self.sites:
            if self._is_dynamic(op):
                self.flowing[np.flatnonzero(self._causes(op))] = True

    def _causes(self, op: Op) -> np.ndarray:
        flags = np.zeros(len(self.taken) + 1, bool)
        for i in sums.KINDS[op.name].summed(op)[0]:
            flags[self.decisions.of(op.inputs[0], i)] = True
        return flags[:-1]

    def _is_dynamic(self, op: Op) -> bool:
        return any(v in self.dynamic for v in op.inputs if isinstance(v, Var))

    def settle(self) -> None:
        """Give back until nothing changes."""
        while True:
            before = self.taken.copy()
            static = np.zeros(len(self.taken) + 1, bool)
            for op in reversed(self.sites):
                if (self._causes(op) & self.taken).any():
                    self._check(op, static)
            self.taken &= ~(static[:-1] & ~self.flowing[:-1])
            if (before == self.taken).all():
                self._keep_one()
            if (before == self.taken).all():
                return

    def _check(self, op: Op, static: np.ndarray) -> None:
        """Give back what one sum needs; note which constant terms no argument reaches."""
        self.ghosts.pop(op, None)
        kind = sums.KINDS[op.name]
        left = sums.keep(op, self.decisions, self.taken)
        axes = kind.summed(op)[0]
        for inputs in sums.contexts(op, self.facts):
            bad, live = kind.suspects(inputs, op, left)
            if op.name == "reduce_sum" and (bad & sums.gone(op, self.decisions, self.taken)).any():
                bad = self._without_ghosts(op, bad, axes)
            self._give_back(op, axes, bad)
            if not self._is_dynamic(op):
                for k, i in enumerate(axes):
                    flags = live.any(tuple(j for j in range(live.ndim) if j != k))
                    static[self.decisions.of(op.inputs[0], i)[flags]] = True

    def _without_ghosts(self, op: Op, bad: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
        """Terms that can be computed as the function runs are not missed."""
        source = op.inputs[0]
        touched = [i for i in axes if self.decisions.gone(source, i, self.taken).any()]
        if len(touched) != 1:
            return bad
        flags = ghosts.expressible(source, touched[0], self.made.scope[op], self.facts, self.made)
        flags = np.broadcast_to(flags, (source.shape[touched[0]],))
        self.ghosts[op] = touched[0]
        where = [-1 if i == touched[0] else 1 for i in axes]
        return bad & ~flags.reshape(where)

    def _give_back(self, op: Op, axes: tuple[int, ...], bad: np.ndarray) -> None:
        for k, i in enumerate(axes):
            flags = bad.any(tuple(j for j in range(bad.ndim) if j != k))
            needed = self.decisions.of(op.inputs[0], i)[flags]
            for d in np.unique(needed[needed >= 0]):
                if self.taken[d]:
                    self.taken[d] = False
                    self.stays[int(d)] = op

    def _keep_one(self) -> None:
        """Every axis keeps at least one index."""
        extended = np.append(self.taken, False)
        for axis, causes in self.decisions.causes.items():
            if len(causes) and extended[causes].any(1).all():
                self.emptied.add(axis)
                first = causes[0][causes[0] >= 0]
                self.taken[first] = False
                extended[first] = False


def _dynamic(program: Program) -> set[Var]:
    """The variables that depend on an argument, those of loops and branches included."""
    found = set(program.args)

    def visit(ops: list[Op]) -> None:
        for op in ops:
            if op.ops is not None:
                visit(op.ops)
            inputs = [v for v in op.inputs if not isinstance(v, Lit)]
            if any(v in found for v in inputs) or (not inputs and op.eqn.effects):
                found.update(op.outputs)
                for block in op.blocks:
                    found.update(block.inputs)
            for block in op.blocks:
                visit(block.ops)

    visit(program.block.ops)
    return found
