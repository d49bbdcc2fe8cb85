"""What of a function and its parameters goes, and the plans for running what is left."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import numpy as np

from bmrpruner._tree import PyTree, is_none, join
from bmrpruner.structure import corrections, ghosts, sums
from bmrpruner.structure.cutting import cut
from bmrpruner.structure.decisions import Decisions
from bmrpruner.structure.forms import form, is_weak
from bmrpruner.structure.ir import Op, Program, leaf_arrays, walk_all, with_arrays
from bmrpruner.structure.model import know, see
from bmrpruner.structure.origins import Origins
from bmrpruner.structure.removal import Removal
from bmrpruner.structure.rules import Plan


class Folded(NamedTuple):
    """A sum that a bias is added to.

    Attributes:
      offset: What has moved from it into the bias, once per context; None for nothing.
      way: What a one in its output adds to the bias.
    """

    offset: list[np.ndarray] | None
    way: list[Any]

    def fits(self, op: Op, way: list[Any]) -> bool:
        """Whether a sum of another program can take the place of this one."""
        shape = op.outputs[0].shape
        return _same_way(way, self.way) and all(
            x.ndim == len(shape) and np.broadcast_shapes(x.shape, shape) == shape
            for x in self.offset or []
        )


class Source:
    """A function with parameters, and the parts of the parameters that go."""

    def __init__(self, fn: Any, params: PyTree, args: tuple[Any, ...], masked: bool) -> None:
        self.fn, self.params = fn, params
        self.arg_tree: Any = jax.tree.structure(args, is_leaf=is_none)
        self.arrays = leaf_arrays(params)
        self.program, self.decisions = see(fn, params, args)
        self.form = form(params, args)
        facts, unrolled = know(self.program, self.arrays)
        self.removal = self._remove(self.program, self.decisions, facts, self._candidates())
        self.taken = self.removal.taken
        if masked:
            self._check_emptied()
        self.keys = [key for key, _ in self.program.params]
        self.kept = self._kept(self.decisions, self.program, self.taken)
        self.folded, self.shifts = self._fold(facts)
        self.plan = self._plan(self.program, self.decisions, self.removal, facts, unrolled)

    def _candidates(self) -> np.ndarray:
        """The decisions that have a part of a parameter and are not frozen."""
        flags = np.zeros(len(self.decisions.reasons) + 1, bool)
        for _, var in self.program.params:
            for i in range(len(var.shape)):
                flags[self.decisions.of(var, i)] = True
        flags = flags[:-1] & np.array([r is None for r in self.decisions.reasons], bool)
        if not flags.any() and self.program.params:
            names = sorted({r for r in self.decisions.reasons if r})
            raise ValueError(
                "fn: expected an axis of a parameter that is not frozen, got only axes that are: "
                + ", ".join(names)
            )
        return flags

    @staticmethod
    def _remove(program: Program, decisions: Decisions, facts: Any, start: np.ndarray) -> Removal:
        removal = Removal(program, decisions, facts, start.copy())
        removal.settle()
        return removal

    def _check_emptied(self) -> None:
        for key, var in self.program.params:
            for i in range(len(var.shape)):
                if self.decisions.axes.axis(var, i) in self.removal.emptied:
                    raise ValueError(
                        f"masks: expected at least one unit left on axis {i} of {join(key)!r}, "
                        f"got none of {var.shape[i]}."
                    )

    @staticmethod
    def _kept(decisions: Decisions, program: Program, taken: np.ndarray) -> list[Any]:
        return [
            tuple(np.flatnonzero(~decisions.gone(var, i, taken)) for i in range(len(var.shape)))
            for _, var in program.params
        ]

    def _fold(self, facts: Any) -> tuple[dict[int, list[Folded]], dict[int, Any]]:
        """Which offsets move into which leaves, and the leaves' shifts."""
        origins = Origins(self.program)
        found = corrections.offsets(
            self.program, facts, self.decisions, self.taken, self.removal.ghosts
        )
        folded: dict[int, list[Folded]] = {}
        shifts: dict[int, Any] = {}
        for leaf, many in _biases(self.program).items():
            holds_complex = np.iscomplexobj(self.arrays[leaf])
            own = [
                corrections.fold(op, found[op], origins)
                if op in found and (holds_complex or not any(map(np.iscomplexobj, found[op])))
                else None
                for op, _ in many
            ]
            if any(own):
                folded[leaf] = [
                    Folded(found[op] if x else None, way)
                    for (op, way), x in zip(many, own, strict=True)
                ]
                shifts[leaf] = [shift for x in own if x for shift in x]
        return folded, shifts

    def _inside(self, program: Program) -> dict[Op, list[np.ndarray]]:
        """What biases have taken over of the sums, which are told by the bias they meet."""
        biases = _biases(program) if self.folded else {}
        inside: dict[Op, list[np.ndarray]] = {}
        for leaf, own in self.folded.items():
            left = list(biases.get(leaf, []))
            for x in own:
                met = next((m for m in left if x.fits(*m)), None)
                if met is not None:
                    left.remove(met)
                    inside |= {met[0]: x.offset} if x.offset else {}
                elif x.offset:
                    raise ValueError(
                        f"args: expected a call that adds {join(self.keys[leaf])!r} to the same "
                        "sums as the one that the function was compacted with, got one that does "
                        "not; compact the function with these arguments."
                    )
        return inside

    def _plan(
        self, program: Program, decisions: Decisions, removal: Removal, facts: Any, unrolled: Any
    ) -> Plan:
        taken = removal.taken
        found = corrections.offsets(program, facts, decisions, taken, removal.ghosts)
        inside = self._inside(program)
        offsets = {}
        for op in {**found, **inside}:
            rest = corrections.rest(found.get(op), inside.get(op))
            if rest is not None:
                offsets[op] = corrections.cut(rest, op, decisions, taken)
        haunted = {
            op: ghosts.ghost(op, axis, facts, removal.made, decisions, taken)
            for op, axis in removal.ghosts.items()
            if decisions.gone(op.inputs[0], axis, taken).any()
        }
        plan = Plan(decisions, taken, offsets, haunted, unrolled, {})
        consts = {
            v: cut(x, tuple(plan.kept(v, i) for i in range(len(v.shape))))
            for v, x in program.consts
        }
        return plan._replace(consts=consts)

    def replan(self, params: PyTree, args: tuple[Any, ...]) -> tuple[Program, Plan]:
        """The plan for a call of another form: the same parameters go, or it is an error."""
        shapes = [
            jax.ShapeDtypeStruct(x.shape, own.dtype, weak_type=is_weak(x) and x.dtype == own.dtype)
            for x, own in zip(self.arrays, leaf_arrays(params), strict=True)
        ]
        program, decisions = see(self.fn, with_arrays(params, shapes), args)
        facts, unrolled = know(program, self.arrays)
        start = self._same_parts(program, decisions)
        removal = self._remove(program, decisions, facts, start)
        kept = self._kept(decisions, program, removal.taken)
        same = all(
            np.array_equal(a, b)
            for mine, own in zip(kept, self.kept, strict=True)
            for a, b in zip(mine, own, strict=True)
        )
        if not same:
            raise ValueError(
                "args: expected shapes for which the same units can go, got shapes that need more; "
                "compact the function with these arguments."
            )
        return program, self._plan(program, decisions, removal, facts, unrolled)

    def _same_parts(self, program: Program, decisions: Decisions) -> np.ndarray:
        """The decisions of which every part of a parameter has gone."""
        owned = np.zeros(len(decisions.reasons) + 1, bool)
        needed = owned.copy()
        for (_, var), kept in zip(program.params, self.kept, strict=True):
            for i, own in enumerate(kept):
                causes = decisions.of(var, i)
                owned[causes] = True
                needed[causes[own]] = True
        frozen = np.array([r is not None for r in decisions.reasons], bool)
        return owned[:-1] & ~needed[:-1] & ~frozen


def _biases(program: Program) -> dict[int, list[tuple[Op, list[Any]]]]:
    """For each leaf that is added to sums: these, and what a one in each adds to the leaf."""
    origins = Origins(program)
    found: dict[int, list[tuple[Op, list[Any]]]] = {}
    for op in walk_all(program.block.ops):
        if op.name in sums.KINDS:
            one = np.ones((1,) * len(op.outputs[0].shape), np.float32)
            if way := corrections.fold(op, [one], origins):
                found.setdefault(way[0].leaf, []).append((op, way))
    return found


def _same_way(a: list[Any], b: list[Any]) -> bool:
    return len(a) == len(b) and all(
        np.array_equal(x.positions.ravel(), y.positions.ravel())
        and np.array_equal(x.values.ravel(), y.values.ravel())
        for x, y in zip(a, b, strict=True)
    )
