"""Matrix products: dot_general."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from bmrpruner.structure.ir import Op
from bmrpruner.structure.known import Known, clean, plain_dtype, stretch
from bmrpruner.structure.nodes import Axes
from bmrpruner.structure.rules import RULES, Rule, run_same


class Roles(NamedTuple):
    """The axes of both operands by what a product does with them."""

    contracted: tuple[tuple[int, ...], tuple[int, ...]]
    batch: tuple[tuple[int, ...], tuple[int, ...]]
    free: tuple[tuple[int, ...], tuple[int, ...]]


def roles(op: Op) -> Roles:
    """The roles of the axes of a dot_general."""
    contracted, batch = op.params["dimension_numbers"]
    used = [{*c, *b} for c, b in zip(contracted, batch, strict=True)]
    ranks = [len(v.shape) for v in op.inputs]
    left, right = (
        tuple(i for i in range(n) if i not in u) for n, u in zip(ranks, used, strict=True)
    )
    pairs = [(tuple(map(int, a)), tuple(map(int, b))) for a, b in (contracted, batch)]
    return Roles(pairs[0], pairs[1], (left, right))


def connect(op: Op, axes: Axes) -> None:
    """Contracted axes pair up; batch and free axes are those of the output."""
    (left, right), out, by = op.inputs, op.outputs[0], roles(op)
    for i, j in zip(*by.contracted, strict=True):
        axes.same(axes.axis(left, i), axes.axis(right, j))
    for k, (i, j) in enumerate(zip(*by.batch, strict=True)):
        axes.same(axes.axis(out, k), axes.axis(left, i))
        axes.same(axes.axis(out, k), axes.axis(right, j))
    places = [(left, i) for i in by.free[0]] + [(right, j) for j in by.free[1]]
    for k, (atom, i) in enumerate(places, len(by.batch[0])):
        axes.same(axes.axis(out, k), axes.axis(atom, i))


def dot(op: Op, left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """The product of two arrays in which axes may have size 1 because nothing changes there."""
    by = roles(op)
    shapes = [v.shape for v in op.inputs]
    arrays = []
    for side, array in enumerate((left, right)):
        other = (right, left)[side]
        size = list(array.shape)
        for i in by.contracted[side]:
            size[i] = shapes[side][i]
        for i, j in zip(by.batch[side], by.batch[1 - side], strict=True):
            size[i] = max(array.shape[i], other.shape[j])
        array = np.broadcast_to(array, size)
        order = (*by.batch[side], *by.free[side], *by.contracted[side])
        moved = array.transpose(order)
        batch, free = len(by.batch[side]), len(by.free[side])
        arrays.append((moved, batch, free))
    (a, n, fa), (b, _, fb) = arrays
    lead, rows, columns = a.shape[:n], a.shape[n : n + fa], b.shape[n : n + fb]
    inner = int(np.prod(a.shape[n + fa :], dtype=int))
    count = int(np.prod(lead, dtype=int))
    a2 = a.reshape(count, int(np.prod(rows, dtype=int)), inner)
    b2 = b.reshape(count, int(np.prod(columns, dtype=int)), inner)
    out = np.matmul(a2, b2.transpose(0, 2, 1))
    return out.reshape(*lead, *rows, *columns)


def exact(array: np.ndarray) -> np.ndarray:
    """At least float32, in which products are summed."""
    if array.dtype == bool or array.dtype.itemsize < 4 or not array.dtype.isbuiltin:
        return array.astype(np.float32)
    return array


def know(op: Op, inputs: list[Known]) -> list[Known]:
    """An output is known where each of its terms is zero or known."""
    left, right = inputs
    by = roles(op)
    dtype = plain_dtype(op.outputs[0].dtype)
    if left.known.size == 1 and not left.known.any():
        known = ~_spread(op, _any(~right.zero, by.contracted[1]))
        return [Known(np.zeros(known.shape, dtype), known)]
    if left.complete and right.complete:
        with np.errstate(all="ignore"):
            value = dot(op, exact(left.value), exact(right.value)).astype(dtype)
        return [Known(value, np.ones((1,) * value.ndim, bool))]
    unsure = dot(op, exact(~left.known), exact(~right.zero))
    if not right.complete:
        unsure = unsure + dot(op, exact(left.known & ~left.zero), exact(~right.known))
    known = unsure == 0
    if not known.any():
        return [clean(np.zeros((1,) * known.ndim, dtype), np.zeros((1,) * known.ndim, bool))]
    with np.errstate(all="ignore"):
        value = dot(op, exact(left.value), exact(right.value)).astype(dtype)
    return [clean(value, known)]


def _any(flags: Any, axes: tuple[int, ...]) -> Any:
    return flags.any(axes, keepdims=True) if axes else flags


def _spread(op: Op, right: np.ndarray) -> np.ndarray:
    """Flags of the right operand, its contracted axes of size 1, in the output's axes."""
    by = roles(op)
    flags = right.transpose(*by.batch[1], *by.free[1], *by.contracted[1])
    batch, free = (
        flags.shape[: len(by.batch[1])],
        flags.shape[len(by.batch[1]) : flags.ndim - len(by.contracted[1])],
    )
    return flags.reshape(*batch, *(1,) * len(by.free[0]), *free)


def suspects(inputs: list[Known], op: Op, keep: list[list[Any]]) -> tuple[Any, Any]:
    """The terms of a product that are neither zero nor known, and those that are not zero.

    Args:
      inputs: What is known of both operands.
      op: The dot_general.
      keep: For each operand, for each axis, booleans: the indices that are left, all where
        contracted.

    Returns:
      Two boolean arrays over the contracted axes: whether some term that reaches the output is
      neither zero nor known, and whether some term is not zero.
    """
    by = roles(op)
    shapes = [v.shape for v in op.inputs]
    parts = []
    for side, k in enumerate(inputs):
        sure = k.known & np.isfinite(exact(k.value))
        flags = []
        for flag in (~k.zero, ~sure):
            for i in by.free[side]:
                if flag.shape[i] != 1:
                    flag = np.compress(keep[side][i], flag, i)
                elif not keep[side][i].any():
                    flag = flag & False
            flag = _any(flag, by.free[side])
            moved = flag.transpose(*by.batch[side], *by.contracted[side], *by.free[side])
            order = moved.reshape(moved.shape[: len(by.batch[side]) + len(by.contracted[side])])
            sizes = [shapes[side][i] for i in (*by.batch[side], *by.contracted[side])]
            n = len(by.batch[side])
            flags.append(stretch(order, range(n, len(sizes)), sizes))
        parts.append(flags)
    (live_left, unsure_left), (live_right, unsure_right) = parts
    bad = (unsure_left & live_right) | (live_left & unsure_right)
    live = live_left & live_right
    n = len(by.batch[0])
    for axis in range(n):
        own = keep[0][by.batch[0][axis]]
        if bad.shape[axis] != 1:
            bad = np.where(own.reshape((-1,) + (1,) * (bad.ndim - axis - 1)), bad, False)
        if live.shape[axis] != 1:
            live = np.where(own.reshape((-1,) + (1,) * (live.ndim - axis - 1)), live, False)
    return bad.any(tuple(range(n))), live.any(tuple(range(n)))


RULES["dot_general"] = Rule(connect, know, run_same)
