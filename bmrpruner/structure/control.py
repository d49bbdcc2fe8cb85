"""Control flow and calls: scan, while, cond, remat, custom derivatives."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from bmrpruner.structure.ir import CUSTOM, REMAT, Atom, Block, Op
from bmrpruner.structure.known import Known, equal, expand, meet, meet_along, unknown
from bmrpruner.structure.nodes import Axes
from bmrpruner.structure.rules import BLOCKS, RULES, Knower, Rule, connect, nothing, run_same

UNROLLED = 64  # iterations: loops over more stacked values share one account of what is known


def same_atoms(left: Sequence[Atom], right: Sequence[Atom], axes: Axes) -> None:
    """Variables in pairs are one and the same, axis by axis."""
    for a, b in zip(left, right, strict=True):
        for i in range(len(a.shape)):
            axes.same(axes.axis(a, i), axes.axis(b, i))


def leading(op: Op) -> tuple[int, int]:
    """How many inputs of a scan are constants, and how many are carried."""
    return op.params["num_consts"], op.params["num_carry"]


def connect_scan(op: Op, axes: Axes) -> None:
    """Constants and carries are those of the body; the scanned axis must stay."""
    body, (n, m) = op.blocks[0], leading(op)
    connect(body.ops, axes)
    same_atoms(op.inputs[: n + m], body.inputs[: n + m], axes)
    same_atoms(body.outputs[:m], body.inputs[n : n + m], axes)
    same_atoms(op.outputs[:m], body.outputs[:m], axes)
    pairs: list[Any] = [*zip(op.inputs, body.inputs, strict=True)][n + m :]
    pairs += [*zip(op.outputs, body.outputs, strict=True)][m:]
    for stacked, one in pairs:
        axes.freeze(axes.axis(stacked, 0), op.name)
        for i in range(len(one.shape)):
            axes.same(axes.axis(stacked, i + 1), axes.axis(one, i))


def unrolled(op: Op, stacked: list[Known]) -> bool:
    """Whether the iterations of a scan are told apart: where known stacked values differ."""
    differ = any(k.known.any() and k.value.shape[0] > 1 for k in stacked)
    return differ and op.params["length"] <= UNROLLED


def know_scan(op: Op, inputs: list[Known], knower: Knower) -> list[Known]:
    """Iteration by iteration where stacked values are known, otherwise to a fixed point."""
    body, (n, m) = op.blocks[0], leading(op)
    consts, carry, stacked = inputs[:n], inputs[n : n + m], inputs[n + m :]
    length = op.params["length"]
    if length == 0:
        knower.block(body, [unknown(len(v.shape), v.dtype) for v in body.inputs])
        return [*carry, *nothing(op)[m:]]
    if op in knower.unrolled or unrolled(op, stacked):
        return know_unrolled(op, inputs, knower)
    each = [meet_along(k, 0) for k in stacked]
    slices = [Known(k.value[0], k.known[0]) for k in each]
    carry = fixed_point(body, consts, carry, slices, knower)
    out = knower.block(body, [*consts, *carry, *slices])
    return [*carry, *(Known(k.value[None], k.known[None]) for k in out[m:])]


def know_unrolled(op: Op, inputs: list[Known], knower: Knower) -> list[Known]:
    """Iteration by iteration, again until a loop inside is unrolled in all of them or in none."""
    if knower.facts is not None:
        knower.unrolled.add(op)
    while True:
        before = len(knower.unrolled)
        steps, carry, rows = _iterations(op, inputs, knower)
        if len(knower.unrolled) == before:
            knower.collect(steps)
            return [*carry, *(stack(list(row)) for row in zip(*rows, strict=True))]


def _iterations(
    op: Op, inputs: list[Known], knower: Knower
) -> tuple[list[Knower], list[Known], list[list[Known]]]:
    """What each iteration collects, what is carried at the end, and what each puts out."""
    n, m = leading(op)
    carry = inputs[n : n + m]
    places = range(op.params["length"])
    pairs = zip(inputs[n + m :], op.inputs[n + m :], strict=True)
    full = [expand(k, [0], v.shape) for k, v in pairs]
    steps = [knower._replace(facts=None if knower.facts is None else {}) for _ in places]
    rows: list[list[Known]] = [[] for _ in places]
    for i in reversed(places) if op.params["reverse"] else places:
        slices = [Known(k.value[i], k.known[i]) for k in full]
        out = steps[i].block(op.blocks[0], [*inputs[:n], *carry, *slices])
        carry, rows[i] = out[:m], out[m:]
    return steps, carry, rows


def fixed_point(
    body: Block, consts: list[Known], carry: list[Known], rest: list[Known], knower: Knower
) -> list[Known]:
    """What is known of the carried values before and after every iteration."""
    while True:
        out = knower.quiet().block(body, [*consts, *carry, *rest])
        new = [meet(a, b) for a, b in zip(carry, out[: len(carry)], strict=True)]
        if all(equal(a, b) for a, b in zip(carry, new, strict=True)):
            return new
        carry = new


def stack(rows: list[Known]) -> Known:
    """One more axis in front, over iterations."""
    shape = np.broadcast_shapes(*(a.shape for k in rows for a in k))
    arrays = [np.stack([np.broadcast_to(k[i], shape) for k in rows]) for i in (0, 1)]
    return Known(*arrays)


def connect_while(op: Op, axes: Axes) -> None:
    """Carries are those of the condition and the body."""
    condition, body = op.blocks
    n, m = op.params["cond_nconsts"], op.params["body_nconsts"]
    for block in op.blocks:
        connect(block.ops, axes)
    carry = op.inputs[n + m :]
    same_atoms([*op.inputs[:n], *carry], condition.inputs, axes)
    same_atoms([*op.inputs[n : n + m], *carry], body.inputs, axes)
    same_atoms(body.outputs, body.inputs[m:], axes)
    same_atoms(op.outputs, body.outputs, axes)


def know_while(op: Op, inputs: list[Known], knower: Knower) -> list[Known]:
    """To a fixed point."""
    condition, body = op.blocks
    n, m = op.params["cond_nconsts"], op.params["body_nconsts"]
    carry = fixed_point(body, inputs[n : n + m], inputs[n + m :], [], knower)
    knower.block(condition, [*inputs[:n], *carry])
    knower.block(body, [*inputs[n : n + m], *carry])
    return carry


def connect_cond(op: Op, axes: Axes) -> None:
    """Inputs and outputs are those of every branch."""
    for block in op.blocks:
        connect(block.ops, axes)
        same_atoms(op.inputs[1:], block.inputs, axes)
        same_atoms(op.outputs, block.outputs, axes)


def know_cond(op: Op, inputs: list[Known], knower: Knower) -> list[Known]:
    """What all branches agree on."""
    outs = [knower.block(block, inputs[1:]) for block in op.blocks]
    result = outs[0]
    for out in outs[1:]:
        result = [meet(a, b) for a, b in zip(result, out, strict=True)]
    return result


def connect_custom(op: Op, axes: Axes) -> None:
    """The variables of a derivative rule are those of the call, tangents included."""
    rule = op.blocks[0]
    connect(rule.ops, axes)
    same_atoms(op.inputs, rule.inputs[: len(op.inputs)], axes)
    floats = [v for v in op.inputs if np.issubdtype(_dtype(v), np.inexact)]
    float_results = [v for v in op.results if np.issubdtype(_dtype(v), np.inexact)]
    more = rule.inputs[len(op.inputs) :]
    if op.name == "custom_jvp_call":
        same_atoms(floats, more, axes)
        same_atoms([*op.results, *float_results], rule.outputs, axes)
    else:
        same_atoms(float_results, more, axes)
        same_atoms(floats, rule.outputs, axes)


def _dtype(atom: Atom) -> np.dtype:
    dtype = getattr(atom, "dtype", None)
    if dtype is None:
        dtype = np.asarray(getattr(atom, "value", 0)).dtype
    return np.dtype(np.float32) if "float" in str(dtype) else np.dtype(dtype)


def _nothing_to_say(op: Op, axes: Axes) -> None:
    """A call uses the variables of its caller."""


RULES |= {name: Rule(_nothing_to_say, nothing, run_same) for name in REMAT}
RULES |= {name: Rule(connect_custom, nothing, run_same) for name in CUSTOM}
RULES |= {
    "scan": Rule(connect_scan, nothing, run_same),
    "while": Rule(connect_while, nothing, run_same),
    "cond": Rule(connect_cond, nothing, run_same),
}
BLOCKS |= {"scan": know_scan, "while": know_while, "cond": know_cond}
