"""Element-wise primitives: output entry i depends on entry i of each input."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bmrpruner.structure.ir import Op, Var
from bmrpruner.structure.known import Known, clean, plain_dtype
from bmrpruner.structure.nodes import Axes
from bmrpruner.structure.rules import RULES, Rule, bind, computed, freeze, nothing, run_same

NAMES = (
    "abs",
    "acos",
    "acosh",
    "add",
    "add_any",
    "and",
    "asin",
    "asinh",
    "atan",
    "atan2",
    "atanh",
    "bessel_i0e",
    "bessel_i1e",
    "cbrt",
    "ceil",
    "clamp",
    "clz",
    "complex",
    "conj",
    "convert_element_type",
    "copy",
    "copy_p",
    "cos",
    "cosh",
    "digamma",
    "div",
    "eq",
    "erf",
    "erf_inv",
    "erfc",
    "exp",
    "exp2",
    "expm1",
    "floor",
    "ge",
    "gt",
    "igamma",
    "igammac",
    "imag",
    "integer_pow",
    "is_finite",
    "le",
    "lgamma",
    "log",
    "log1p",
    "logistic",
    "lt",
    "max",
    "min",
    "mul",
    "ne",
    "neg",
    "nextafter",
    "not",
    "or",
    "polygamma",
    "population_count",
    "pow",
    "real",
    "reduce_precision",
    "regularized_incomplete_beta",
    "rem",
    "round",
    "rsqrt",
    "select_n",
    "shift_left",
    "shift_right_arithmetic",
    "shift_right_logical",
    "sign",
    "sin",
    "sinh",
    "sqrt",
    "square",
    "stop_gradient",
    "sub",
    "tan",
    "tanh",
    "xor",
)
IDENTITY = ("device_put", "name", "optimization_barrier", "sharding_constraint")

NUMPY: dict[str, Callable[..., Any]] = {
    "abs": np.abs,
    "add": np.add,
    "add_any": np.add,
    "and": np.bitwise_and,
    "copy": lambda x: x,
    "copy_p": lambda x: x,
    "cos": np.cos,
    "div": lambda x, y: x / y if np.issubdtype(x.dtype, np.inexact) else None,
    "eq": np.equal,
    "exp": np.exp,
    "expm1": np.expm1,
    "ge": np.greater_equal,
    "gt": np.greater,
    "is_finite": np.isfinite,
    "le": np.less_equal,
    "log": np.log,
    "log1p": np.log1p,
    "logistic": lambda x: (1 / (1 + np.exp(-x))).astype(x.dtype),
    "lt": np.less,
    "max": np.maximum,
    "min": np.minimum,
    "mul": np.multiply,
    "ne": np.not_equal,
    "neg": np.negative,
    "not": np.bitwise_not,
    "or": np.bitwise_or,
    "rsqrt": lambda x: (1 / np.sqrt(x)).astype(x.dtype),
    "sin": np.sin,
    "sqrt": np.sqrt,
    "square": np.square,
    "stop_gradient": lambda x: x,
    "sub": np.subtract,
    "tanh": np.tanh,
}


def connect(op: Op, axes: Axes) -> None:
    """Axes of equal size at the same position are one; scalars and size 1 are broadcast."""
    for output in op.outputs:
        for atom in op.inputs:
            if isinstance(atom, Var) and len(atom.shape) == len(output.shape):
                for i in range(len(output.shape)):
                    axes.same(axes.axis(output, i), axes.axis(atom, i))


def know(op: Op, inputs: list[Known]) -> list[Known]:
    """The primitive on the known values; a factor of zero makes the product known."""
    if _asks_for_nan(op):
        return nothing(op)
    known = np.asarray(True)
    for k in inputs:
        known = known & k.known
    absorbed = _absorbed(op, inputs)
    if absorbed is not None:
        known = known | absorbed
    rank = len(op.outputs[0].shape)
    known = known.reshape((1,) * (rank - known.ndim) + known.shape)
    if not known.any():
        return [
            clean(
                np.zeros((1,) * rank, plain_dtype(op.outputs[0].dtype)),
                known[(slice(0, 1),) * rank],
            )
        ]
    value = apply(op, [k.value for k in inputs])
    if op.name == "select_n":
        value, known = _select(inputs, value, known)
    if op.name == "div":
        value = np.where(inputs[0].zero & ~inputs[1].known, np.zeros((), value.dtype), value)
    return [clean(value.reshape((1,) * (rank - value.ndim) + value.shape), known)]


def apply(op: Op, values: list[np.ndarray]) -> np.ndarray:
    """An element-wise primitive on NumPy arrays that broadcast against each other."""
    dtype = plain_dtype(op.outputs[0].dtype)
    with np.errstate(all="ignore"):
        out = None
        if op.name == "integer_pow":
            out = values[0] ** op.params["y"] if op.params["y"] >= 0 else None
        elif op.name == "convert_element_type":
            out = values[0].astype(dtype) if _as_numpy(values[0].dtype, dtype) else None
        elif op.name == "select_n":
            which = values[0].astype(np.int32)
            out = np.select([which == i for i in range(len(values) - 1)], values[1:])
        elif op.name in NUMPY:
            out = NUMPY[op.name](*values)
        if out is None:
            shape = np.broadcast_shapes(*(v.shape for v in values))
            with jax.ensure_compile_time_eval():
                out = np.asarray(bind(op, [np.broadcast_to(v, shape) for v in values])[0])
    return np.asarray(out).astype(dtype, copy=False)


def _asks_for_nan(op: Op) -> bool:
    """Whether the output tells where NaN is.

    A zero that is known may be NaN for some arguments: times infinity, or in rows out of bounds.
    """
    return op.name == "is_finite" or (op.name in ("eq", "ne") and op.inputs[0] is op.inputs[1])


def _as_numpy(old: Any, new: Any) -> bool:
    """Whether NumPy converts as XLA does, whose integers saturate where NumPy's wrap."""
    return not (jnp.issubdtype(old, jnp.inexact) and jnp.issubdtype(new, jnp.integer))


def _absorbed(op: Op, inputs: list[Known]) -> np.ndarray | None:
    """Where one input alone decides the output: zero times anything finite."""
    if op.name == "mul":
        return inputs[0].zero | inputs[1].zero
    if op.name == "div" and np.issubdtype(inputs[0].value.dtype, np.inexact):
        return inputs[0].zero
    if op.name == "and" and inputs[0].value.dtype == bool:
        return inputs[0].zero | inputs[1].zero
    if op.name == "select_n":
        return np.asarray(inputs[0].known | _same_cases(inputs))
    return None


def _same_cases(inputs: list[Known]) -> np.ndarray:
    first = inputs[1]
    same = first.known
    for k in inputs[2:]:
        same = same & k.known & (k.value == first.value)
    return same


def _select(inputs: list[Known], value: np.ndarray, known: np.ndarray) -> tuple[Any, Any]:
    """A known choice is known where the chosen case is; equal cases need no choice."""
    which = inputs[0].value.astype(np.int32)
    cases = [which == i for i in range(len(inputs) - 1)]
    chosen = np.select(cases, [k.known for k in inputs[1:]], default=False)
    same = _same_cases(inputs)
    value = np.where(same, inputs[1].value, value)
    return value, (inputs[0].known & chosen) | np.broadcast_to(same, known.shape)


def connect_identity(op: Op, axes: Axes) -> None:
    """Each output is its input."""
    for output, atom in zip(op.outputs, op.inputs, strict=True):
        for a, b in zip(axes.all(output), axes.all(atom), strict=True):
            axes.same(a, b)


def connect_bits(op: Op, axes: Axes) -> None:
    """Bits read as another type: element-wise where the width stays."""
    if len(op.inputs[0].shape) == len(op.outputs[0].shape):
        connect(op, axes)
    else:
        freeze(op, axes)


for _name in NAMES:
    RULES[_name] = Rule(connect, know, run_same)
for _name in IDENTITY:
    RULES[_name] = Rule(connect_identity, lambda op, inputs: list(inputs), run_same)
RULES["bitcast_convert_type"] = Rule(connect_bits, computed, run_same)
