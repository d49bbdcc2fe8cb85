"""Primitives that rearrange axes: broadcast, reshape, transpose, squeeze, reverse, tile, stack."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from jax import lax

from bmrpruner.structure.ir import Op
from bmrpruner.structure.known import Known, expand, unknown
from bmrpruner.structure.nodes import Axes
from bmrpruner.structure.rules import RULES, Plan, Rule, bind, run_same


def connect_broadcast(op: Op, axes: Axes) -> None:
    """An input axis that keeps its size is the output's; new axes are free."""
    source, out = op.inputs[0], op.outputs[0]
    for i, j in enumerate(op.params["broadcast_dimensions"]):
        if source.shape[i] == out.shape[j]:
            axes.same(axes.axis(source, i), axes.axis(out, j))


def know_broadcast(op: Op, inputs: list[Known]) -> list[Known]:
    """New axes have size 1: nothing changes along them."""
    shape = [1] * len(op.outputs[0].shape)

    def move(array: np.ndarray) -> np.ndarray:
        own = list(shape)
        for n, j in zip(array.shape, op.params["broadcast_dimensions"], strict=True):
            own[j] = n
        return array.reshape(own)

    return [Known(*map(move, inputs[0]))]


def run_broadcast(op: Op, values: Sequence[Any], plan: Plan) -> list[Any]:
    """To the smaller shape."""
    where = op.params["broadcast_dimensions"]
    return [lax.broadcast_in_dim(values[0], plan.shape(op.outputs[0]), where)]


def blocks(before: Sequence[int], after: Sequence[int]) -> list[tuple[list[int], list[int]]]:
    """The smallest pairs of neighbouring axes that a reshape turns into each other."""
    pairs, i, j = [], 0, 0
    while i < len(before) or j < len(after):
        left: list[int] = []
        right: list[int] = []
        m, n = 1, 1
        while True:
            if i < len(before) and (m <= n or j >= len(after)):
                m, left, i = m * before[i], [*left, i], i + 1
            else:
                n, right, j = n * after[j], [*right, j], j + 1
            if m == n and left and right:
                break
            if i == len(before) and j == len(after):
                break
        pairs.append((left, right))
    return pairs


def connect_reshape(op: Op, axes: Axes) -> None:
    """Neighbouring axes and their product."""
    source, out = op.inputs[0], op.outputs[0]
    if 0 in source.shape or op.params.get("dimensions") is not None:
        axes.freeze_all([source, out], op.name)
        return
    for left, right in blocks(source.shape, out.shape):
        before = [axes.axis(source, i) for i in left]
        axes.reshape(before, [axes.axis(out, j) for j in right], op.name)


def know_reshape(op: Op, inputs: list[Known]) -> list[Known]:
    """Blocks of axes along which nothing changes keep size 1."""
    source, out = op.inputs[0].shape, op.outputs[0].shape
    if 0 in source:
        return [unknown(len(out), op.outputs[0].dtype)]

    def move(array: np.ndarray) -> np.ndarray:
        shape = [1] * len(out)
        axes = []
        for left, right in blocks(source, out):
            if any(array.shape[i] != 1 for i in left):
                axes += left
                for j in right:
                    shape[j] = out[j]
        return expand(Known(array, array), axes, source).value.reshape(shape)

    return [Known(*map(move, inputs[0]))]


def run_reshape(op: Op, values: Sequence[Any], plan: Plan) -> list[Any]:
    """To the smaller shape."""
    return [lax.reshape(values[0], plan.shape(op.outputs[0]))]


def connect_transpose(op: Op, axes: Axes) -> None:
    """The same axes in another order."""
    for j, i in enumerate(op.params["permutation"]):
        axes.same(axes.axis(op.outputs[0], j), axes.axis(op.inputs[0], i))


def know_transpose(op: Op, inputs: list[Known]) -> list[Known]:
    """In another order."""
    return [Known(*(a.transpose(op.params["permutation"]) for a in inputs[0]))]


def connect_squeeze(op: Op, axes: Axes) -> None:
    """The axes that are left."""
    left = [i for i in range(len(op.inputs[0].shape)) if i not in _squeezed(op)]
    for j, i in enumerate(left):
        axes.same(axes.axis(op.outputs[0], j), axes.axis(op.inputs[0], i))


def _squeezed(op: Op) -> list[int]:
    rank = len(op.inputs[0].shape)
    return [d % rank for d in op.params["dimensions"]]


def know_squeeze(op: Op, inputs: list[Known]) -> list[Known]:
    """Without the axes of size 1."""
    return [Known(*(a.squeeze(tuple(_squeezed(op))) for a in inputs[0]))]


def connect_reverse(op: Op, axes: Axes) -> None:
    """Reversed axes go in reverse order."""
    for i, size in enumerate(op.inputs[0].shape):
        a, b = axes.axis(op.inputs[0], i), axes.axis(op.outputs[0], i)
        if i in op.params["dimensions"]:
            axes.link(a, np.arange(size), b, np.arange(size)[::-1], op.name)
        else:
            axes.same(a, b)


def know_reverse(op: Op, inputs: list[Known]) -> list[Known]:
    """In reverse order."""
    return [Known(*(np.flip(a, op.params["dimensions"]) for a in inputs[0]))]


def connect_tile(op: Op, axes: Axes) -> None:
    """Index (copy, i) of an output axis goes where the copy or i goes."""
    for i, reps in enumerate(op.params["reps"]):
        copies = None if reps == 1 else axes.fresh(reps)
        axes.product(axes.axis(op.outputs[0], i), [copies, axes.axis(op.inputs[0], i)])


def know_tile(op: Op, inputs: list[Known]) -> list[Known]:
    """Copies; of an axis along which nothing changes, none."""
    source = op.inputs[0].shape
    varies = [i for i, n in enumerate(inputs[0].value.shape) if n != 1 or source[i] == 1 != n]
    reps = [r if i in varies else 1 for i, r in enumerate(op.params["reps"])]
    return [Known(*(np.tile(a, reps) for a in expand(inputs[0], varies, source)))]


def run_tile(op: Op, values: Sequence[Any], plan: Plan) -> list[Any]:
    """As many copies as are left."""
    sizes = zip(plan.shape(op.outputs[0]), values[0].shape, strict=True)
    return bind(op, values, reps=tuple(n // m for n, m in sizes))


def connect_stack(op: Op, axes: Axes) -> None:
    """The new axis must stay; the others are one."""
    out, new = op.outputs[0], op.params["axis"]
    axes.freeze(axes.axis(out, new), op.name)
    for atom in op.inputs:
        for i in range(len(atom.shape)):
            axes.same(axes.axis(atom, i), axes.axis(out, i + (i >= new)))


def know_stack(op: Op, inputs: list[Known]) -> list[Known]:
    """One behind the other."""
    new = op.params["axis"]
    arrays = []
    for part in zip(*inputs, strict=True):
        shape = np.broadcast_shapes(*(a.shape for a in part))
        arrays.append(np.stack([np.broadcast_to(a, shape) for a in part], new))
    return [Known(*arrays)]


def connect_unstack(op: Op, axes: Axes) -> None:
    """The axis that is taken apart must stay; the others are one."""
    source, gone = op.inputs[0], op.params["axis"]
    axes.freeze(axes.axis(source, gone), op.name)
    for out in op.outputs:
        for i in range(len(out.shape)):
            axes.same(axes.axis(out, i), axes.axis(source, i + (i >= gone)))


def know_unstack(op: Op, inputs: list[Known]) -> list[Known]:
    """The slices of what is known."""
    gone = op.params["axis"]
    own = expand(inputs[0], [gone], op.inputs[0].shape)
    return [Known(*(a.take(i, gone) for a in own)) for i in range(len(op.outputs))]


RULES |= {
    "broadcast_in_dim": Rule(connect_broadcast, know_broadcast, run_broadcast),
    "reshape": Rule(connect_reshape, know_reshape, run_reshape),
    "transpose": Rule(connect_transpose, know_transpose, run_same),
    "squeeze": Rule(connect_squeeze, know_squeeze, run_same),
    "rev": Rule(connect_reverse, know_reverse, run_same),
    "tile": Rule(connect_tile, know_tile, run_tile),
    "stack": Rule(connect_stack, know_stack, run_same),
    "unstack": Rule(connect_unstack, know_unstack, run_same),
}
