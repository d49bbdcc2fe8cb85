"""Runs a program and stops at every product or convolution with a parameter."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import lax

from bmrpruner._tree import Key
from bmrpruner.structure.control import leading
from bmrpruner.structure.convolution import specs
from bmrpruner.structure.ir import CUSTOM, Atom, Block, Lit, Op, Program, Var, unchanged, walk_all
from bmrpruner.structure.origins import LAYOUT, SAME, moved
from bmrpruner.structure.products import roles

LINEAR = ("dot_general", "conv_general_dilated")


class Use(NamedTuple):
    """One use of a layer.

    Attributes:
      key: The parameter leaf.
      shape: The leaf's shape.
      positions: Integers (outputs, inputs): the flat position of each weight in the leaf.
      rows: The inputs (rows, inputs).
      dtype: Of the outputs.
      primitive: The primitive's name.
    """

    key: Key
    shape: tuple[int, ...]
    positions: np.ndarray
    rows: Any
    dtype: Any
    primitive: str


class Origin(NamedTuple):
    """The leaf that a variable is a layout of, and the flat position of each entry."""

    leaf: int
    places: np.ndarray


class Value(NamedTuple):
    """A variable's value, where it comes from, and whether it depends on an argument."""

    array: Any
    origin: Origin | None = None
    dynamic: bool = False


Env = dict[Var, Value]


@dataclasses.dataclass(eq=False)
class Tap:
    """Runs a program at its own shapes, scans with layers unrolled.

    Attributes:
      program: The program.
      use: Is told of every use of a layer; what it returns is added to the outputs, if anything.
      left_out: Collects leaves that are multiplied with in other ways, and how.
    """

    program: Program
    use: Callable[[Use], Any]
    left_out: dict[Key, str]

    def run(self, arrays: Sequence[Any]) -> list[Any]:
        """The outputs, from the parameters' and arguments' arrays."""
        own = len(self.program.params)
        env = {var: Value(x) for var, x in self.program.consts}
        inputs = []
        for i, (var, x) in enumerate(zip(self.program.block.inputs, arrays, strict=True)):
            size = int(np.prod(var.shape, dtype=np.int64))
            origin = Origin(i, np.arange(size).reshape(var.shape)) if i < own else None
            inputs.append(Value(x, origin, i >= own))
        return [v.array for v in self.block(self.program.block, inputs, env)]

    def block(self, block: Block, inputs: Sequence[Value], outer: Env) -> list[Value]:
        """The outputs of a block."""
        env = {**outer, **dict(zip(block.inputs, inputs, strict=True))}
        self.ops(block.ops, env)
        return [_read(v, env) for v in block.outputs]

    def ops(self, ops: list[Op], env: Env) -> None:
        """Add the outputs of operations to `env`."""
        for op in ops:
            inputs = [_read(v, env) for v in op.inputs]
            if op.ops is not None and op.name not in CUSTOM:
                self.ops(op.ops, env)
                continue
            if op.name == "scan" and any(o.name in LINEAR for o in walk_all(op.blocks[0].ops)):
                out = self.scan(op, inputs, env)
            elif op.name in LINEAR:
                out = [self.linear(op, inputs)]
            else:
                out = self.other(op, inputs)
            for var, value in zip(op.outputs if op.ops is None else op.results, out, strict=True):
                if isinstance(var, Var):
                    env[var] = value

    def other(self, op: Op, inputs: list[Value]) -> list[Value]:
        """Any other operation; layout keeps the origin."""
        inner = [o for block in op.blocks for o in walk_all(block.ops)]
        if any(o.name in LINEAR for o in [*inner, *walk_all(op.ops or [])]):
            for v in inputs:
                if len(v.array.shape) > 1:
                    self._leave_out(v, f"within {op.name}")
        arrays = unchanged(op.eqn)(*(v.array for v in inputs))
        dynamic = any(v.dynamic for v in inputs) or bool(op.eqn.effects)
        origins: list[Origin | None] = [None] * len(arrays)
        first = inputs[0].origin if inputs else None
        if op.name in LAYOUT + SAME and first is not None:
            origins = [Origin(first.leaf, index) for index in moved(op, first.places)]
        return [Value(x, o, dynamic) for x, o in zip(arrays, origins, strict=True)]

    def _leave_out(self, v: Value, why: str) -> None:
        if v.origin is not None:
            self.left_out.setdefault(self.program.params[v.origin.leaf][0], why)

    def scan(self, op: Op, inputs: list[Value], env: Env) -> list[Value]:
        """A scan, iteration by iteration."""
        n, m = leading(op)
        dynamic = any(v.dynamic for v in inputs)
        carry = [v._replace(dynamic=v.dynamic or dynamic) for v in inputs[n : n + m]]
        rows: list[list[Value]] = []
        length = op.params["length"]
        steps = range(length)[:: -1 if op.params["reverse"] else 1]
        for step in steps:
            slices = [_slice(v, step) for v in inputs[n + m :]]
            out = self.block(op.blocks[0], [*inputs[:n], *carry, *slices], _constants(self, env))
            carry = [v._replace(dynamic=v.dynamic or dynamic) for v in out[:m]]
            rows.append(out[m:])
        rows = rows[:: -1 if op.params["reverse"] else 1]
        if not rows:
            return [Value(x, None, True) for x in unchanged(op.eqn)(*(v.array for v in inputs))]
        columns = list(zip(*rows, strict=True))
        stacked = [Value(jnp.stack([v.array for v in column]), None, dynamic) for column in columns]
        return [*carry, *stacked]

    def linear(self, op: Op, inputs: list[Value]) -> Value:
        """A product or convolution: of a layer if one operand is a laid out parameter."""
        out = unchanged(op.eqn)(*(v.array for v in inputs))[0]
        left, right = inputs
        side = 1 if right.origin is not None else 0
        weights, other = inputs[side], inputs[1 - side]
        result = Value(out, None, left.dynamic or right.dynamic)
        if weights.origin is None or other.origin is not None or not other.dynamic:
            return result
        why = _obstacle(op, side, weights.origin)
        if why is not None:
            self._leave_out(weights, why)
            return result
        split = _dot if op.name == "dot_general" else _conv
        positions, rows, order = split(op, side, weights.origin.places, other.array)
        key, var = self.program.params[weights.origin.leaf]
        probe = self.use(Use(key, var.shape, positions, rows, out.dtype, op.name))
        if probe is not None:
            shape = tuple(out.shape[i] for i in order)
            out = out + jnp.transpose(probe.reshape(shape), np.argsort(order).tolist()).astype(
                out.dtype
            )
        return result._replace(array=out)


def _constants(tap: Tap, env: Env) -> Env:
    return {var: env[var] for var, _ in tap.program.consts}


def _read(atom: Atom, env: Env) -> Value:
    return Value(atom.value) if isinstance(atom, Lit) else env[atom]


def _slice(v: Value, step: int) -> Value:
    origin = v.origin
    if origin is not None:
        origin = Origin(origin.leaf, origin.places[min(step, len(origin.places) - 1)])
    return Value(v.array[step], origin, v.dynamic)


def _obstacle(op: Op, side: int, origin: Origin) -> str | None:
    """Why an operation is no layer."""
    if op.name == "dot_general" and roles(op).batch[side]:
        return "batched weights"
    if op.name != "dot_general":
        if side == 0:
            return "convolved as an image"
        if op.params["feature_group_count"] != 1 or op.params["batch_group_count"] != 1:
            return "grouped convolution"
    if origin.places.shape != op.inputs[side].shape:
        return "repeated weights"
    return None


def _dot(op: Op, side: int, index: np.ndarray, other: Any) -> tuple[np.ndarray, Any, list[int]]:
    """Positions (outputs, inputs), rows, and the output's axes in the order rows, outputs."""
    by = roles(op)
    free, mine = by.free[side], by.contracted[side]
    positions = index.transpose(*free, *mine)
    inputs = int(np.prod([index.shape[i] for i in mine], dtype=np.int64))
    places = by.free[1 - side]
    rows = jnp.transpose(other, (*places, *by.contracted[1 - side])).reshape(-1, inputs)
    first = list(range(len(by.free[0])))
    second = list(range(len(first), len(first) + len(by.free[1])))
    order = first + second if side == 1 else second + first
    return positions.reshape(-1, inputs), rows, order


def _conv(op: Op, side: int, index: np.ndarray, other: Any) -> tuple[np.ndarray, Any, list[int]]:
    """The same with patches as rows."""
    where, options = specs(op), op.params
    outputs, features, *space = where.rhs_spec
    positions = index.transpose(outputs, features, *space).reshape(index.shape[outputs], -1)
    patches = lax.conv_general_dilated_patches(
        other,
        [index.shape[i] for i in space],
        options["window_strides"],
        options["padding"],
        options["lhs_dilation"],
        options["rhs_dilation"],
        where,
        precision=lax.Precision.HIGHEST,
    )
    batch, channel, *places = where.out_spec
    order = [batch, *places, channel]
    return positions, jnp.transpose(patches, order).reshape(-1, positions.shape[1]), order
