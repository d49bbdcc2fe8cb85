"""What constant units that go would have added: folded into a bias, or kept as a constant."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from bmrpruner.structure import sums
from bmrpruner.structure.decisions import Decisions
from bmrpruner.structure.ir import Op, Program, Var, walk_all
from bmrpruner.structure.origins import LAYOUT, SAME, Origins, holds, moved
from bmrpruner.structure.rules import Facts

TOLERANCE = 1e-6


class Shift(NamedTuple):
    """An addition to a leaf: what is added to the entries at some flat positions."""

    leaf: int
    positions: np.ndarray
    values: np.ndarray


def offsets(
    program: Program, facts: Facts, decisions: Decisions, taken: np.ndarray, ghosts: Any
) -> dict[Op, list[np.ndarray]]:
    """For each sum that loses known terms, what they add to its output, once per context."""
    found: dict[Op, list[np.ndarray]] = {}
    for op in walk_all(program.block.ops):
        if op.name not in sums.KINDS or op in ghosts:
            continue
        many = [sums.offset(op, k, decisions, taken) for k in sums.contexts(op, facts)]
        if any(x is not None for x in many):
            shape = np.broadcast_shapes(*(x.shape for x in many if x is not None))
            zero = np.zeros(shape, np.float32)
            found[op] = [np.broadcast_to(zero if x is None else x, shape) for x in many]
    return found


def fold(op: Op, many: list[np.ndarray], origins: Origins) -> list[Shift] | None:
    """Move an offset into the bias that is added to the output; None if there is none.

    The way from the operation to the addition may reshape, and add other things, but not round, and
    nothing else may read what is on it; the bias is a leaf that is read nowhere else, is not less
    precise than the sum, and gets the same offset wherever it is added.
    """
    if op in origins.custom:
        return None  # its derivative rule computes the same sum again
    var = op.outputs[0]
    while True:
        use = origins.single_use(var)
        if use is None or use.name not in (*LAYOUT, *SAME, "add", "add_any", "sub"):
            return None
        if use in origins.custom or _rounds(use, var):
            return None  # a derivative rule reads the sum, too
        if use.name in ("add", "add_any", "sub"):
            other = use.inputs[1 if use.inputs[0] is var else 0]
            if use.name == "sub" and use.inputs[0] is not var:
                return None
            found = origins.of(other, held=use.outputs[0].dtype)
            if found is not None:
                sign = -1 if use.name == "sub" else 1
                return _shifts(*found, [sign * x for x in many], _size(origins, found[0]))
            if other is var or len(other.shape) != len(var.shape):
                return None
        elif len(use.outputs) != 1:
            return None
        else:
            many = [moved(use, x)[0] for x in many]
        var = use.outputs[0]


def _rounds(op: Op, var: Var) -> bool:
    """Whether an operation may change the numbers it reads: it is not linear then."""
    if op.name == "convert_element_type":
        return not holds(op.outputs[0].dtype, var.dtype)
    return op.name == "reduce_precision"


def _size(origins: Origins, leaf: int) -> int:
    var = next(v for v, i in origins.leaves.items() if i == leaf)
    return int(np.prod(var.shape, dtype=np.int64))


def _shifts(leaf: int, positions: list[np.ndarray], many: list[np.ndarray], size: int) -> Any:
    """One shift for each context; None if the leaf would not get the same everywhere."""
    if len(positions) == 1 and any((x != many[0]).any() for x in many[1:]):
        return None
    if len(positions) not in (1, len(many)) and len(many) != 1:
        return None
    if len(np.unique(np.concatenate([p.ravel() for p in positions]))) != size:
        return None
    if sum(p.size for p in positions) != size:
        return None
    shifts = []
    for i, place in enumerate(positions):
        x = many[i % len(many)]
        if np.broadcast_shapes(place.shape, x.shape) != place.shape:
            return None
        shifts.append(Shift(leaf, place, np.broadcast_to(x, place.shape)))
    return shifts


def apply(array: np.ndarray, shifts: list[Shift]) -> np.ndarray:
    """A leaf's values with shifts added."""
    flat = array.astype(np.result_type(array.dtype, np.float32)).ravel()
    for shift in shifts:
        flat[shift.positions.ravel()] += shift.values.ravel()
    return flat.reshape(array.shape).astype(array.dtype)


def rest(many: list[np.ndarray] | None, folded: list[np.ndarray] | None) -> list[np.ndarray] | None:
    """What is left of an offset when a part of it is in a bias; None for nothing."""
    if folded is not None:
        many = many or [np.zeros((1,) * folded[0].ndim, folded[0].dtype)]
        count = max(len(many), len(folded))
        many = [many[i % len(many)] for i in range(count)]
        many = [x - folded[i % len(folded)] for i, x in enumerate(many)]
        scale = max(float(np.abs(x).max()) for x in folded)
        if all((np.abs(x) <= TOLERANCE * scale).all() for x in many):
            return None
    return many


def cut(many: list[np.ndarray], op: Op, decisions: Decisions, taken: np.ndarray) -> Any:
    """Offsets without what has gone from the output; one more axis in front for contexts."""
    small = []
    for x in many:
        for i in range(x.ndim):
            if x.shape[i] != 1:
                x = np.compress(~decisions.gone(op.outputs[0], i, taken), x, i)
        small.append(x)
    return small[0] if len(small) == 1 else np.stack(small)
