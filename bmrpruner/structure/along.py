"""Primitives that work along axes: reductions, cumulative sums, sorting, FFT, windows, gather."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from bmrpruner.structure.ir import Op
from bmrpruner.structure.known import Known, clean, expand, meet_along, plain_dtype, unknown
from bmrpruner.structure.nodes import Axes
from bmrpruner.structure.rules import RULES, Plan, Rule, bind, computed, run_same

REDUCTIONS = ("reduce_max", "reduce_min", "reduce_prod", "reduce_and", "reduce_or", "reduce_xor")
CUMULATIVE = ("cumsum", "cumprod", "cummax", "cummin", "cumlogsumexp")
WINDOWS = ("reduce_window_sum", "reduce_window_max", "reduce_window_min")


def connect_sum(op: Op, axes: Axes) -> None:
    """The axes that are not summed are the output's."""
    left = [i for i in range(len(op.inputs[0].shape)) if i not in op.params["axes"]]
    for j, i in enumerate(left):
        axes.same(axes.axis(op.outputs[0], j), axes.axis(op.inputs[0], i))


def know_sum(op: Op, inputs: list[Known]) -> list[Known]:
    """Known where all that is summed is."""
    axes = tuple(int(i) for i in op.params["axes"])
    k, dtype = inputs[0], plain_dtype(op.outputs[0].dtype)
    known = k.known.all(axes)
    if not known.any():
        return [unknown(len(op.outputs[0].shape), op.outputs[0].dtype)]
    sizes = [(op.inputs[0].shape[i], max(k.value.shape[i], 1)) for i in axes]
    times = np.prod([whole / own for whole, own in sizes], dtype=np.float64)
    wide = k.value.astype(np.float64) if np.issubdtype(dtype, np.floating) else k.value
    return [clean((wide.sum(axes) * times).astype(dtype), known)]


def connect_reduction(op: Op, axes: Axes) -> None:
    """The reduced axes must stay."""
    connect_sum(op, axes)
    for i in op.params["axes"]:
        axes.freeze(axes.axis(op.inputs[0], i), op.name)


def know_reduction(op: Op, inputs: list[Known]) -> list[Known]:
    """The largest or smallest of what is known."""
    axes = tuple(int(i) for i in op.params["axes"])
    k = inputs[0]
    same = {"reduce_max": np.max, "reduce_min": np.min}.get(op.name)
    if same is None or k.value.size == 0:
        return computed(op, inputs)
    return [clean(same(k.value, axis=axes), k.known.all(axes))]


def along(where: Callable[[Op], Sequence[int]]) -> Callable[[Op, Axes], None]:
    """Connects primitives whose outputs have the input's rank: some axes must stay."""

    def connect(op: Op, axes: Axes) -> None:
        needed = {i % len(op.inputs[0].shape) for i in where(op)}
        for atom in [*op.inputs, *op.outputs]:
            for i in range(len(op.inputs[0].shape)):
                a, b = axes.axis(atom, i), axes.axis(op.inputs[0], i)
                if i in needed:
                    axes.freeze(a, op.name)
                else:
                    axes.same(a, b)

    return connect


def _last(op: Op, n: int) -> range:
    rank = len(op.inputs[0].shape)
    return range(rank - n, rank)


def _windowed(op: Op) -> list[int]:
    p = op.params
    rank = len(op.inputs[0].shape)
    one = (1,) * rank
    options = [p["window_dimensions"], p.get("window_strides") or one]
    options += [p.get("base_dilation") or one, p.get("window_dilation") or one]
    padding = p.get("padding") or ((0, 0),) * rank
    return [
        i for i in range(rank) if any(o[i] != 1 for o in options) or tuple(padding[i]) != (0, 0)
    ]


def know_window(op: Op, inputs: list[Known]) -> list[Known]:
    """A constant that fills all windows is the maximum of each, and a sum as often as they hold."""
    windowed = _windowed(op)
    k = inputs[0]
    if all(k.value.shape[i] == k.known.shape[i] == 1 for i in windowed):
        if op.name != "reduce_window_sum" and _reached(op):
            return [k]
        if op.name == "reduce_window_sum" and _filled(op):
            times = math.prod(op.params["window_dimensions"])
            return [clean((k.value * times).astype(k.value.dtype), k.known)]
    shape = [1 if i in windowed else n for i, n in enumerate(k.known.shape)]
    zero = k.zero.all(tuple(windowed), keepdims=True)
    known = zero if op.name == "reduce_window_sum" else np.zeros(shape, bool)
    return [Known(np.zeros(shape, plain_dtype(op.outputs[0].dtype)), known)]


def _filled(op: Op) -> bool:
    """Whether windows hold nothing but entries: no padding, no zeros between them."""
    padding, dilation = op.params.get("padding") or (), op.params.get("base_dilation") or ()
    return not any(map(any, padding)) and all(n == 1 for n in dilation)


def _reached(op: Op) -> bool:
    """Whether every window holds an entry: none fits into the padding or between entries."""
    p = op.params
    gaps = [*(p.get("base_dilation") or ()), *(p.get("window_dilation") or ())]
    padding = p.get("padding") or ((0, 0),) * len(p["window_dimensions"])
    pairs = zip(padding, p["window_dimensions"], strict=True)
    return all(n == 1 for n in gaps) and all(max(pad) < n for pad, n in pairs)


def connect_gather(op: Op, axes: Axes) -> None:
    """Rows that are picked must stay; axes taken as a whole and those of the indices go on."""
    operand, indices, out = op.inputs[0], op.inputs[1], op.outputs[0]
    d, sizes = op.params["dimension_numbers"], op.params["slice_sizes"]
    batching = tuple(getattr(d, "operand_batching_dims", ()))
    window = [i for i in range(len(operand.shape)) if i not in (*d.collapsed_slice_dims, *batching)]
    for i, j in zip(window, d.offset_dims, strict=True):
        a, b = axes.axis(operand, i), axes.axis(out, j)
        if sizes[i] == operand.shape[i]:
            axes.same(a, b)
        else:
            axes.freeze(a, op.name)
            axes.freeze(b, op.name)
    for i in d.collapsed_slice_dims:
        axes.freeze(axes.axis(operand, i), op.name)
    axes.freeze(axes.axis(indices, len(indices.shape) - 1), op.name)
    rest = [j for j in range(len(out.shape)) if j not in d.offset_dims]
    for k, j in enumerate(rest):
        axes.same(axes.axis(indices, k), axes.axis(out, j))
    for i, k in zip(batching, getattr(d, "start_indices_batching_dims", ()), strict=True):
        axes.same(axes.axis(operand, i), axes.axis(indices, k))


def know_gather(op: Op, inputs: list[Known]) -> list[Known]:
    """What all rows share, and what stands for rows out of bounds, if that is a number."""
    d, sizes = op.params["dimension_numbers"], op.params["slice_sizes"]
    k, operand, out = inputs[0], op.inputs[0], op.outputs[0]
    batching = tuple(getattr(d, "operand_batching_dims", ()))
    for i in range(len(operand.shape)):
        if i in batching or sizes[i] != operand.shape[i]:
            k = meet_along(k, i)
    kept = [i for i in range(len(operand.shape)) if i not in (*d.collapsed_slice_dims, *batching)]
    fill = op.params.get("fill_value")
    if fill is not None and not np.isnan(fill) and not _in_bounds(op, inputs[1]):
        k = clean(k.value, k.known & (k.value == fill))
    shape = [1] * len(out.shape)

    def move(array: np.ndarray) -> np.ndarray:
        own = list(shape)
        for i, j in zip(kept, d.offset_dims, strict=True):
            own[j] = array.shape[i]
        return array.reshape(own)

    return [Known(move(k.value), move(k.known))]


def _in_bounds(op: Op, indices: Known) -> bool:
    if not indices.complete:
        return False
    d, operand = op.params["dimension_numbers"], op.inputs[0]
    top = [operand.shape[i] - op.params["slice_sizes"][i] for i in d.start_index_map]
    return bool(((indices.value >= 0) & (indices.value <= np.array(top))).all())


def run_gather(op: Op, values: Sequence[Any], plan: Plan) -> list[Any]:
    """With the smaller sizes of the axes taken as a whole."""
    pairs = zip(op.params["slice_sizes"], op.inputs[0].shape, plan.shape(op.inputs[0]), strict=True)
    return bind(op, values, slice_sizes=tuple(n if s == m else s for s, m, n in pairs))


def connect_scatter(op: Op, axes: Axes) -> None:
    """Axes that updates fill as a whole go on; the others must stay."""
    operand, indices, updates = op.inputs
    d = op.params["dimension_numbers"]
    batching = tuple(getattr(d, "operand_batching_dims", ()))
    skipped = (*d.inserted_window_dims, *batching)
    window = [i for i in range(len(operand.shape)) if i not in skipped]
    whole = {}
    for i, j in zip(window, d.update_window_dims, strict=True):
        if updates.shape[j] == operand.shape[i]:
            whole[i] = j
    for i in range(len(operand.shape)):
        a, c = axes.axis(operand, i), axes.axis(op.outputs[0], i)
        axes.same(a, c)
        if i in whole:
            axes.same(a, axes.axis(updates, whole[i]))
        else:
            axes.freeze(a, op.name)
    for j in range(len(updates.shape)):
        if j not in whole.values():
            axes.freeze(axes.axis(updates, j), op.name)
    axes.freeze_all([indices], op.name)


def know_scatter(op: Op, inputs: list[Known]) -> list[Known]:
    """Where the operand and all updates are zero, so is the result."""
    d, operand = op.params["dimension_numbers"], op.inputs[0]
    batching = tuple(getattr(d, "operand_batching_dims", ()))
    window = [i for i in range(len(operand.shape)) if i not in (*d.inserted_window_dims, *batching)]
    zero, new = inputs[0].zero, inputs[2].zero
    shape = [1] * len(operand.shape)
    moved = new.all(
        tuple(j for j in range(new.ndim) if j not in d.update_window_dims), keepdims=True
    )
    for i, j in zip(window, d.update_window_dims, strict=True):
        if op.inputs[2].shape[j] == operand.shape[i]:
            shape[i] = moved.shape[j]
        else:
            moved = moved.all(j, keepdims=True)
    known = zero & moved.reshape(shape)
    return [Known(np.zeros(known.shape, inputs[0].value.dtype), known)]


def computed_or_zero(op: Op, inputs: list[Known]) -> list[Known]:
    """A cumulative sum of zeros is zero; otherwise only what is known in full is computed."""
    axis = op.params["axis"]
    zero = expand(inputs[0], [axis], op.inputs[0].shape).zero.all(axis, keepdims=True)
    if op.name == "cumsum" and zero.any():
        return [Known(np.zeros(zero.shape, plain_dtype(op.outputs[0].dtype)), zero)]
    return computed(op, inputs)


RULES["reduce_sum"] = Rule(connect_sum, know_sum, run_same)
for _name in REDUCTIONS:
    RULES[_name] = Rule(connect_reduction, know_reduction, run_same)
for _name in ("argmax", "argmin"):
    RULES[_name] = Rule(connect_reduction, computed, run_same)
for _name in CUMULATIVE:
    RULES[_name] = Rule(along(lambda op: [op.params["axis"]]), computed_or_zero, run_same)
for _name in WINDOWS:
    RULES[_name] = Rule(along(_windowed), know_window, run_same)
RULES |= {
    "sort": Rule(along(lambda op: [op.params["dimension"]]), computed, run_same),
    "top_k": Rule(along(lambda op: [op.params.get("axis", -1)]), computed, run_same),
    "fft": Rule(along(lambda op: _last(op, len(op.params["fft_lengths"]))), computed, run_same),
    "gather": Rule(connect_gather, know_gather, run_gather),
    "scatter": Rule(connect_scatter, know_scatter, run_same),
    "scatter-add": Rule(connect_scatter, know_scatter, run_same),
}
