"""Operations that sum over axes: only there can taking an index away change a value."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from bmrpruner.structure import convolution, products
from bmrpruner.structure.decisions import Decisions
from bmrpruner.structure.ir import Atom, Lit, Op
from bmrpruner.structure.known import Known, constant, expand, squeeze_equal, stretch
from bmrpruner.structure.products import exact
from bmrpruner.structure.rules import Facts

Flags = tuple[np.ndarray, np.ndarray]


class Kind(NamedTuple):
    """One kind of sum.

    Attributes:
      summed: For each operand, its summed axes; for both, in the same order.
      suspects: Which terms are neither zero nor known, and which are not zero, over these axes.
      total: The sum of some of the known terms, given flags over the summed axes.
    """

    summed: Callable[[Op], tuple[tuple[int, ...], ...]]
    suspects: Callable[[list[Known], Op, list[list[np.ndarray]]], Flags]
    total: Callable[[Op, list[Known], np.ndarray], Known]


def contexts(op: Op, facts: Facts) -> list[list[Known]]:
    """What is known of the inputs, once for each context that the operation runs in."""
    rows = [[constant(v.value)] if isinstance(v, Lit) else facts[v] for v in op.inputs]
    count = max(map(len, rows))
    assert all(count % len(row) == 0 for row in rows)
    return [[row[i % len(row)] for row in rows] for i in range(count)]


def gone(op: Op, decisions: Decisions, taken: np.ndarray) -> np.ndarray:
    """Which terms of a sum go, over its summed axes."""
    atom, axes = op.inputs[0], KINDS[op.name].summed(op)[0]
    flags = np.zeros((1,) * len(axes), bool)
    for k, i in enumerate(axes):
        own = decisions.gone(atom, i, taken)
        flags = flags | own.reshape((-1,) + (1,) * (len(axes) - k - 1))
    return flags


def keep(op: Op, decisions: Decisions, taken: np.ndarray) -> list[list[np.ndarray]]:
    """For each input and axis, which indices are left."""
    return [[~decisions.gone(v, i, taken) for i in range(len(v.shape))] for v in op.inputs]


def _summed_dot(op: Op) -> tuple[tuple[int, ...], ...]:
    return products.roles(op).contracted


def _total_dot(op: Op, inputs: list[Known], flags: np.ndarray) -> Known:
    axes = products.roles(op).contracted[0]
    left = _masked(inputs[0], axes, flags, op.inputs[0])
    value = products.dot(op, exact(left), exact(inputs[1].value))
    return constant(value)


def _masked(k: Known, axes: tuple[int, ...], flags: np.ndarray, atom: Atom) -> np.ndarray:
    """Values with zeros but for the flagged entries; `flags` is over `axes`, in that order."""
    order = np.argsort(axes)
    shape = [1] * len(atom.shape)
    for i, n in zip(axes, flags.shape, strict=True):
        shape[i] = n
    return np.where(flags.transpose(order).reshape(shape), k.value, np.zeros((), k.value.dtype))


def _summed_conv(op: Op) -> tuple[tuple[int, ...], ...]:
    return ((convolution.specs(op).lhs_spec[1],),)


def _suspects_conv(inputs: list[Known], op: Op, left: list[list[np.ndarray]]) -> Flags:
    if op.params["batch_group_count"] != 1:
        return (np.ones(op.inputs[0].shape[_summed_conv(op)[0][0]], bool),) * 2
    return convolution.suspects(inputs, op, left)


def _total_conv(op: Op, inputs: list[Known], flags: np.ndarray) -> Known:
    image = _masked(inputs[0], _summed_conv(op)[0], flags, op.inputs[0])
    value = convolution.convolve(op, image, inputs[1].value)
    return squeeze_equal(constant(value), convolution.specs(op).out_spec[2:])


def _summed_sum(op: Op) -> tuple[tuple[int, ...], ...]:
    return (tuple(int(i) for i in op.params["axes"]),)


def _suspects_sum(inputs: list[Known], op: Op, left: list[list[np.ndarray]]) -> Flags:
    k, axes = inputs[0], _summed_sum(op)[0]
    sure = k.known & np.isfinite(exact(k.value))
    out = []
    for flag in (~sure, ~k.zero):
        for i in range(flag.ndim):
            if i not in axes and flag.shape[i] != 1:
                flag = np.compress(left[0][i], flag, i)
        others = tuple(i for i in range(flag.ndim) if i not in axes)
        inner = np.asarray(flag.any(others)).transpose(np.argsort(np.argsort(axes)).tolist())
        out.append(stretch(inner, range(len(axes)), [op.inputs[0].shape[i] for i in axes]))
    return out[0], out[1]


def _total_sum(op: Op, inputs: list[Known], flags: np.ndarray) -> Known:
    axes = _summed_sum(op)[0]
    k = expand(inputs[0], axes, op.inputs[0].shape)
    value = exact(_masked(k, axes, flags, op.inputs[0]))
    return constant(value.sum(axes))


KINDS = {
    "dot_general": Kind(_summed_dot, products.suspects, _total_dot),
    "conv_general_dilated": Kind(_summed_conv, _suspects_conv, _total_conv),
    "reduce_sum": Kind(_summed_sum, _suspects_sum, _total_sum),
}


def offset(op: Op, inputs: list[Known], decisions: Decisions, taken: np.ndarray) -> Any:
    """What the terms that go would have added to the output; None for nothing.

    Axes along which it does not change have size 1; outputs that go have entries without meaning.
    """
    flags = gone(op, decisions, taken)
    if not flags.any():
        return None
    kind = KINDS[op.name]
    live = kind.suspects(inputs, op, keep(op, decisions, taken))[1]
    if not (live & flags).any():
        return None
    return kind.total(op, inputs, flags & live).value
