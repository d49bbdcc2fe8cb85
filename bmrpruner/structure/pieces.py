"""Primitives that take and join pieces of axes: slice, split, concatenate, pad, iota."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax

from bmrpruner.structure.ir import Atom, Op
from bmrpruner.structure.known import Known, expand, meet_along, unknown
from bmrpruner.structure.nodes import Axes
from bmrpruner.structure.rules import RULES, Plan, Rule, bind, run_same


def _pieces(op: Op) -> list[list[slice]]:
    """For each output of slice or split, the slice of each input axis."""
    source = op.inputs[0].shape
    if op.name == "slice":
        strides = op.params["strides"] or [1] * len(source)
        bounds = zip(op.params["start_indices"], op.params["limit_indices"], strides, strict=True)
        return [[slice(int(a), int(b), int(s)) for a, b, s in bounds]]
    ends = np.cumsum([0, *op.params["sizes"]]).tolist()
    whole = [slice(0, n, 1) for n in source]
    axis = op.params["axis"]
    return [
        [*whole[:axis], slice(a, b, 1), *whole[axis + 1 :]] for a, b in itertools.pairwise(ends)
    ]


def connect_slice(op: Op, axes: Axes) -> None:
    """The indices that a slice takes; a strided one needs all of its axis."""
    source = op.inputs[0]
    for out, pieces in zip(op.outputs, _pieces(op), strict=True):
        for i, piece in enumerate(pieces):
            a, b = axes.axis(source, i), axes.axis(out, i)
            taken = np.arange(source.shape[i])[piece]
            if piece.step != 1:
                axes.freeze(a, op.name)
                axes.freeze(b, op.name)
            elif len(taken) == source.shape[i]:
                axes.same(a, b)
            else:
                axes.link(a, taken, b, np.arange(len(taken)), op.name)


def know_slice(op: Op, inputs: list[Known]) -> list[Known]:
    """The slices of what is known."""

    def cut(array: np.ndarray, pieces: list[slice]) -> np.ndarray:
        own = [slice(None) if n == 1 else p for n, p in zip(array.shape, pieces, strict=True)]
        return array[tuple(own)]

    return [Known(*(cut(a, pieces) for a in inputs[0])) for pieces in _pieces(op)]


def run_slice(op: Op, values: Sequence[Any], plan: Plan) -> list[Any]:
    """The slices between the same neighbours."""
    source = op.inputs[0]
    before = [np.cumsum([0, *~plan.gone(source, i)]) for i in range(len(source.shape))]
    out = []
    for pieces in _pieces(op):
        starts = [int(c[p.start]) for c, p in zip(before, pieces, strict=True)]
        limits = [int(c[p.stop]) for c, p in zip(before, pieces, strict=True)]
        out.append(lax.slice(values[0], starts, limits, [p.step for p in pieces]))
    return out


def connect_concatenate(op: Op, axes: Axes) -> None:
    """Each input takes its own place."""
    out, axis, start = op.outputs[0], op.params["dimension"], 0
    for atom in op.inputs:
        for i in range(len(out.shape)):
            if i != axis:
                axes.same(axes.axis(out, i), axes.axis(atom, i))
        size = atom.shape[axis]
        place = start + np.arange(size)
        whole = axes.axis(out, axis)
        axes.link(axes.axis(atom, axis), np.arange(size), whole, place, op.name)
        start += size


def know_concatenate(op: Op, inputs: list[Known]) -> list[Known]:
    """One behind the other."""
    axis = op.params["dimension"]

    def join(arrays: Sequence[np.ndarray]) -> np.ndarray:
        rank = range(arrays[0].ndim)
        sizes = [max(a.shape[i] for a in arrays) for i in rank]
        shapes = [[v.shape[axis] if i == axis else sizes[i] for i in rank] for v in op.inputs]
        return np.concatenate(
            [np.broadcast_to(a, s) for a, s in zip(arrays, shapes, strict=True)], axis
        )

    return [Known(join([k.value for k in inputs]), join([k.known for k in inputs]))]


def _padding(op: Op) -> list[tuple[int, int, int]]:
    return [tuple(int(x) for x in p) for p in op.params["padding_config"]]  # type: ignore[misc]


def connect_pad(op: Op, axes: Axes) -> None:
    """Input indices take their places; the padded ones are new."""
    source, out = op.inputs[0], op.outputs[0]
    for i, (low, high, inner) in enumerate(_padding(op)):
        a, b = axes.axis(source, i), axes.axis(out, i)
        if (low, high, inner) == (0, 0, 0):
            axes.same(a, b)
        elif low < 0 or high < 0 or inner:
            axes.freeze(a, op.name)
            axes.freeze(b, op.name)
        else:
            axes.link(a, np.arange(source.shape[i]), b, low + np.arange(source.shape[i]), op.name)


def know_pad(op: Op, inputs: list[Known]) -> list[Known]:
    """The padding's value is known where it is a constant."""
    padded = [i for i, p in enumerate(_padding(op)) if p != (0, 0, 0)]
    if any(x < 0 for p in _padding(op) for x in p):
        return [unknown(len(op.outputs[0].shape), op.outputs[0].dtype)]
    source = expand(inputs[0], padded, op.inputs[0].shape)

    def place(array: np.ndarray, edge: np.ndarray) -> np.ndarray:
        shape = [op.outputs[0].shape[i] if i in padded else n for i, n in enumerate(array.shape)]
        out = np.full(shape, edge, array.dtype)
        out[
            tuple(
                slice(lo, lo + n + (n - 1) * k, k + 1)
                for n, (lo, _, k) in zip(array.shape, _padding(op), strict=True)
            )
        ] = array
        return out

    return [Known(place(source.value, inputs[1].value), place(source.known, inputs[1].known))]


def run_pad(op: Op, values: Sequence[Any], plan: Plan) -> list[Any]:
    """As much padding as is left of it."""
    config = []
    for i, (low, high, inner) in enumerate(_padding(op)):
        kept = ~plan.gone(op.outputs[0], i)
        few = inner or low < 0 or high < 0
        config.append(
            (low, high, inner)
            if few
            else (int(kept[:low].sum()), int(kept[len(kept) - high :].sum()), 0)
        )
    return bind(op, values, padding_config=tuple(config))


def connect_iota(op: Op, axes: Axes) -> None:
    """Its axes are free: what is left of it is computed."""


def know_iota(op: Op, inputs: list[Known]) -> list[Known]:
    """The numbers along one axis."""
    shape, axis = op.params["shape"], op.params["dimension"]
    own = [n if i == axis else 1 for i, n in enumerate(shape)]
    value = np.arange(shape[axis]).astype(op.params["dtype"]).reshape(own)
    return [Known(value, np.ones((1,) * len(own), bool))]


def run_iota(op: Op, values: Sequence[Any], plan: Plan) -> list[Any]:
    """The numbers that are left."""
    out, axis = op.outputs[0], op.params["dimension"]
    if not plan.touched([out]):
        return bind(op, values)
    kept = jnp.asarray(plan.kept(out, axis), op.params["dtype"])
    return [lax.broadcast_in_dim(kept, plan.shape(out), (axis,))]


def whole_axes(op: Op, axes: Axes, small: Atom, large: Atom, out: Atom) -> None:
    """Axes that a dynamic slice takes as a whole; the others must stay."""
    for i in range(len(large.shape)):
        a, b, c = axes.axis(large, i), axes.axis(small, i), axes.axis(out, i)
        if small.shape[i] == large.shape[i]:
            axes.same(a, b)
            axes.same(a, c)
        else:
            for axis in (a, b, c):
                axes.freeze(axis, op.name)


def connect_dynamic_slice(op: Op, axes: Axes) -> None:
    """Whole axes stay as they are."""
    whole_axes(op, axes, op.outputs[0], op.inputs[0], op.outputs[0])


def know_dynamic_slice(op: Op, inputs: list[Known]) -> list[Known]:
    """Along the sliced axes, what all slices share, or the slice at a known place."""
    k = inputs[0]
    for i, size in enumerate(op.params["slice_sizes"]):
        n = op.inputs[0].shape[i]
        if size != n and k.value.shape[i] == k.known.shape[i] == 1:
            continue
        if size != n:
            start = inputs[1 + i]
            own = expand(k, [i], op.inputs[0].shape)
            if start.complete:
                first = min(max(int(start.value), 0), n - size)
                k = Known(*(a.take(range(first, first + size), i) for a in own))
            else:
                k = meet_along(own, i)
    return [k]


def run_dynamic_slice(op: Op, values: Sequence[Any], plan: Plan) -> list[Any]:
    """Of the smaller size."""
    return bind(op, values, slice_sizes=plan.shape(op.outputs[0]))


def connect_update(op: Op, axes: Axes) -> None:
    """Whole axes stay as they are."""
    whole_axes(op, axes, op.inputs[1], op.inputs[0], op.outputs[0])


def know_update(op: Op, inputs: list[Known]) -> list[Known]:
    """Known where both have the same value everywhere along the updated axes."""
    old, new = inputs[:2]
    for i, (m, n) in enumerate(zip(op.inputs[0].shape, op.inputs[1].shape, strict=True)):
        if m != n:
            old, new = (
                meet_along(expand(k, [i], v.shape), i)
                for k, v in zip((old, new), op.inputs[:2], strict=True)
            )
    same = old.known & new.known & (old.value == new.value)
    return [Known(np.where(same, old.value, np.zeros((), old.value.dtype)), same)]


RULES |= {
    "slice": Rule(connect_slice, know_slice, run_slice),
    "split": Rule(connect_slice, know_slice, run_slice),
    "concatenate": Rule(connect_concatenate, know_concatenate, run_same),
    "pad": Rule(connect_pad, know_pad, run_pad),
    "iota": Rule(connect_iota, know_iota, run_iota),
    "dynamic_slice": Rule(connect_dynamic_slice, know_dynamic_slice, run_dynamic_slice),
    "dynamic_update_slice": Rule(connect_update, know_update, run_same),
}
