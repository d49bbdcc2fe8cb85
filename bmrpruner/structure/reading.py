"""Traces a function and reads its jaxpr into a program."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from bmrpruner._tree import PyTree, is_array, keyed_leaves
from bmrpruner.structure.ir import (
    CUSTOM,
    REMAT,
    Atom,
    Block,
    Lit,
    Op,
    Program,
    Var,
    leaf_arrays,
    unchanged,
    walk,
    with_arrays,
)

INLINED = {"jit", "pjit", "closed_call", "core_call", "core_closed_call", "xla_call"}


def trace(fn: Callable[..., Any], params: PyTree, args: tuple[Any, ...]) -> Program:
    """The program of `fn(params, *args)`.

    Raises:
      TypeError: If the function does not trace; the message has JAX's own.
    """
    keys = [key for key, leaf in keyed_leaves(params) if is_array(leaf)]
    inputs = [_abstract(x) for x in leaf_arrays(params) + leaf_arrays(args)]
    out_tree = None

    def flat(*arrays: Any) -> Any:
        nonlocal out_tree
        own, rest = arrays[: len(keys)], arrays[len(keys) :]
        out = fn(with_arrays(params, own), *with_arrays(args, rest))
        leaves, out_tree = jax.tree.flatten(out)
        return leaves

    try:
        closed = jax.make_jaxpr(flat)(*inputs)
    except Exception as error:
        raise TypeError(
            "fn: expected a function that JAX can trace with these params and args, got "
            f"{type(error).__name__}: {error}"
        ) from error
    reader = _Reader()
    block = reader.block(closed)
    own = list(zip(keys, block.inputs[: len(keys)], strict=True))
    return Program(block, own, block.inputs[len(keys) :], reader.consts, out_tree)


def _abstract(x: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(x.shape, x.dtype, weak_type=getattr(x, "weak_type", False))


class _Reader:
    """Reads jaxprs; every use of a shared one gets variables of its own."""

    def __init__(self) -> None:
        self.consts: list[tuple[Var, Any]] = []
        self.in_rule = False

    def block(self, closed: Any) -> Block:
        """A closed jaxpr as a block of its own."""
        inputs = [_var(v) for v in closed.jaxpr.invars]
        ops: list[Op] = []
        outputs = self.inline(closed.jaxpr, closed.consts, inputs, ops)
        return Block(inputs, outputs, _needed(ops, outputs))

    def inline(self, jaxpr: Any, consts: Sequence, inputs: Sequence[Atom], ops: list) -> list[Atom]:
        """Append the operations of `jaxpr` on `inputs` to `ops`; return what it returns."""
        from jax.extend.core import Literal  # slow to import

        env: dict[Any, Atom] = dict(zip(jaxpr.invars, inputs, strict=True))
        env |= {var: self.const(value) for var, value in zip(jaxpr.constvars, consts, strict=True)}

        def read(atom: Any) -> Atom:
            if not isinstance(atom, Literal):
                return env[atom]
            return Lit(np.asarray(atom.val)) if np.ndim(atom.val) == 0 else self.const(atom.val)

        for eqn in jaxpr.eqns:
            results = self.equation(eqn, [read(v) for v in eqn.invars], ops)
            env |= dict(zip(eqn.outvars, results, strict=True))
        return [read(v) for v in jaxpr.outvars]

    def const(self, value: Any) -> Var:
        """The variable of an array that the function closes over."""
        array = value if is_array(value) else np.asarray(value)  # random keys are no NumPy arrays
        var = Var(tuple(array.shape), array.dtype)
        self.consts.append((var, value))
        return var

    def equation(self, eqn: Any, inputs: list[Atom], ops: list[Op]) -> Sequence[Atom]:
        """Append one equation; return what stands for its outputs."""
        name, params = eqn.primitive.name, eqn.params
        inner = params.get("jaxpr", params.get("call_jaxpr", params.get("fun_jaxpr")))
        if name in INLINED and inner is not None:
            return self.inline(*_opened(inner), inputs, ops)
        if name in REMAT | CUSTOM and inner is not None:
            return self.call(eqn, inner, inputs, ops)
        op = Op(name, inputs, [_var(v) for v in eqn.outvars], eqn)
        if name == "scan":
            op.blocks = [self.block(params["jaxpr"])]
        elif name == "while":
            op.blocks = [self.block(params["cond_jaxpr"]), self.block(params["body_jaxpr"])]
        elif name == "cond":
            op.blocks = [self.block(branch) for branch in params["branches"]]
        ops.append(op)
        return op.outputs

    def call(self, eqn: Any, inner: Any, inputs: list[Atom], ops: list[Op]) -> Sequence[Atom]:
        """A remat or custom derivative: a call whose operations use the caller's variables."""
        body: list[Op] = []
        results = self.inline(*_opened(inner), inputs, body)
        if eqn.primitive.name in CUSTOM and self.in_rule:
            ops += body  # within a derivative rule, second derivatives are those of the operations
            return results
        made = {out for op in body for out in op.outputs}
        outputs = list(dict.fromkeys(v for v in results if isinstance(v, Var) and v in made))
        op = Op(eqn.primitive.name, inputs, outputs, eqn, body, results)
        if op.name in CUSTOM:
            self.in_rule = True
            op.blocks = [self.block(_rule(eqn))]
            self.in_rule = False
        ops.append(op)
        return results


def _rule(eqn: Any) -> Any:
    """The closed jaxpr of a custom derivative, by differentiating the one equation.

    For a jvp rule it maps primals and the tangents of floating-point inputs to outputs and the
    tangents of floating-point outputs; for a vjp rule, primals and cotangents to cotangents.
    """
    call = unchanged(eqn)
    primals = [jax.ShapeDtypeStruct(v.aval.shape, v.aval.dtype) for v in eqn.invars]
    n = len(primals)
    where = [i for i, x in enumerate(primals) if np.issubdtype(_np(x.dtype), np.inexact)]

    def of_floats(*arrays: Any) -> Any:
        xs = list(arrays[:n])

        def part(*floats: Any) -> Any:
            full = list(xs)
            for i, x in zip(where, floats, strict=True):
                full[i] = x
            return [y for y in call(*full) if _is_float(y)]

        floats, rest = [xs[i] for i in where], arrays[n:]
        if eqn.primitive.name == "custom_jvp_call":
            return call(*xs), jax.jvp(part, floats, list(rest))[1]
        return jax.vjp(part, *floats)[1](list(rest))

    outs = [v.aval for v in eqn.outvars if _is_float(v.aval)]
    more = [primals[i] for i in where] if eqn.primitive.name == "custom_jvp_call" else outs
    return jax.make_jaxpr(of_floats)(*primals, *more)


def _is_float(x: Any) -> bool:
    return np.issubdtype(_np(x.dtype), np.inexact)


def _np(dtype: Any) -> Any:
    return np.float32 if str(dtype) == "bfloat16" or "float8" in str(dtype) else np.dtype(dtype)


def _opened(jaxpr: Any) -> tuple[Any, Sequence[Any]]:
    from jax.extend.core import ClosedJaxpr  # slow to import

    return (jaxpr.jaxpr, jaxpr.consts) if isinstance(jaxpr, ClosedJaxpr) else (jaxpr, ())


def _var(v: Any) -> Var:
    return Var(tuple(getattr(v.aval, "shape", ())), getattr(v.aval, "dtype", None))


def _needed(ops: list[Op], outputs: Sequence[Atom]) -> list[Op]:
    """The operations that the outputs or an effect need."""
    live = {id(v) for v in outputs}
    kept = []
    for op in reversed(ops):
        if op.eqn.effects or any(id(v) in live for v in op.outputs):
            if op.ops is not None and op.name in REMAT:
                op.outputs = [v for v in op.outputs if id(v) in live]
                op.ops = _needed(op.ops, op.outputs)
            kept.append(op)
            live |= {id(v) for v in op.inputs} | {id(v) for v in _read_inside(op)}
    return kept[::-1]


def _read_inside(op: Op) -> list[Atom]:
    return [v for inner in walk(op.ops or []) for v in inner.inputs]
