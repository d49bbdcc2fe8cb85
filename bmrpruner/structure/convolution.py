"""Convolutions: conv_general_dilated."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from bmrpruner.structure.ir import Op
from bmrpruner.structure.known import Known, clean, expand, plain_dtype, squeeze_equal, unknown
from bmrpruner.structure.nodes import Axes
from bmrpruner.structure.products import exact
from bmrpruner.structure.rules import RULES, Plan, Rule, bind, freeze


def specs(op: Op) -> Any:
    """The axes of input, kernel and output: (batch or outputs, features, *space)."""
    return op.params["dimension_numbers"]


def groups(op: Op) -> int:
    """The number of groups of features."""
    return op.params["feature_group_count"]


def connect(op: Op, axes: Axes) -> None:
    """Channels: inputs are (group, kernel input), outputs (group, output of a group)."""
    (image, kernel), out = op.inputs, op.outputs[0]
    where = specs(op)
    if op.params["batch_group_count"] != 1:
        freeze(op, axes)
        return
    for atom, spec in ((image, where.lhs_spec), (kernel, where.rhs_spec), (out, where.out_spec)):
        for i in spec[2:]:
            axes.freeze(axes.axis(atom, i), op.name)
    axes.same(axes.axis(image, where.lhs_spec[0]), axes.axis(out, where.out_spec[0]))
    channels = axes.axis(image, where.lhs_spec[1])
    inputs = axes.axis(kernel, where.rhs_spec[1])
    outputs = axes.axis(kernel, where.rhs_spec[0])
    axes.same(outputs, axes.axis(out, where.out_spec[1]))
    if groups(op) == 1:
        axes.same(channels, inputs)
        return
    group = axes.fresh(groups(op))
    axes.product(channels, [group, inputs])
    per = kernel.shape[where.rhs_spec[0]] // groups(op)
    axes.product(outputs, [group, None if per == 1 else axes.fresh(per)])


def run(op: Op, values: Sequence[Any], plan: Plan) -> list[Any]:
    """With as many groups as are left."""
    where = specs(op)
    inputs = values[1].shape[where.rhs_spec[1]]
    return bind(
        op, values, feature_group_count=max(values[0].shape[where.lhs_spec[1]] // inputs, 1)
    )


def convolve(op: Op, image: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """The convolution of one image in full size, spatially and in its channels."""
    where = specs(op)
    size = [1 if i == where.lhs_spec[0] else n for i, n in enumerate(op.inputs[0].shape)]
    with jax.ensure_compile_time_eval():
        values = [
            exact(np.broadcast_to(image, size)),
            exact(np.broadcast_to(kernel, op.inputs[1].shape)),
        ]
        return np.asarray(bind(op, values, preferred_element_type=None)[0])


def know(op: Op, inputs: list[Known]) -> list[Known]:
    """An output is known where each of its terms is zero or known."""
    image, kernel = inputs
    where, out = specs(op), op.outputs[0]
    dtype = plain_dtype(out.dtype)
    if op.params["batch_group_count"] != 1 or image.known.shape[where.lhs_spec[0]] != 1:
        return [unknown(len(out.shape), out.dtype)]
    if not image.known.any():
        outputs = where.rhs_spec[0]
        dead: Any = expand(kernel, [outputs], op.inputs[1].shape).zero
        dead = dead.all(tuple(i for i in range(dead.ndim) if i != outputs))
        shape = [1] * len(out.shape)
        shape[where.out_spec[1]] = len(dead)
        return [Known(np.zeros(shape, dtype), dead.reshape(shape))]
    unsure = convolve(op, ~image.known, ~kernel.zero)
    if not kernel.complete:
        unsure = unsure + convolve(op, image.known & ~image.zero, ~kernel.known)
    value = convolve(op, image.value, kernel.value).astype(dtype)
    return [squeeze_equal(clean(value, unsure == 0), where.out_spec[2:])]


def suspects(inputs: list[Known], op: Op, keep: list[list[Any]]) -> tuple[Any, Any]:
    """As for products: one entry for each input channel."""
    (image, kernel), where = inputs, specs(op)
    size = op.inputs[1].shape
    outputs, features = where.rhs_spec[:2]
    n, per = groups(op), size[outputs] // groups(op)
    flags = []
    for flag in (~kernel.zero, ~(kernel.known & np.isfinite(exact(kernel.value)))):
        full = np.broadcast_to(flag, size).transpose(outputs, features, *where.rhs_spec[2:])
        flat = full.reshape(size[outputs], size[features], -1).any(2)
        flat = (flat & keep[1][outputs][:, None]).reshape(n, per, size[features])
        flags.append(flat.any(1).reshape(-1))
    live_kernel, unsure_kernel = flags
    sure = image.known & np.isfinite(exact(image.value))
    channel = where.lhs_spec[1]
    others = tuple(i for i in range(sure.ndim) if i != channel)
    live, unsure = ((~f).any(others) for f in (image.zero, sure))
    bad = (unsure & live_kernel) | (live & unsure_kernel)
    channels = (op.inputs[0].shape[channel],)
    return np.broadcast_to(bad, channels), np.broadcast_to(live & live_kernel, channels)


RULES["conv_general_dilated"] = Rule(connect, know, run)
