"""Runs a program, on arrays of the original shapes or on what is left of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from bmrpruner.structure import ghosts
from bmrpruner.structure.control import leading
from bmrpruner.structure.ir import CUSTOM, Atom, Block, Op, Var, walk_all
from bmrpruner.structure.rules import Plan, read, rule_of

Env = dict[Var, Any]
_FLOAT0 = jax.dtypes.float0


def run_block(block: Block, inputs: Sequence[Any], plan: Plan) -> list[Any]:
    """The outputs of a block, from inputs as small as the plan says."""
    env: Env = {**plan.consts, **dict(zip(block.inputs, inputs, strict=True))}
    run_ops(block.ops, env, plan)
    return [read(v, env) for v in block.outputs]


def run_ops(ops: list[Op], env: Env, plan: Plan) -> None:
    """Add the outputs of all operations to `env`."""
    for op in ops:
        values = [read(v, env) for v in op.inputs]
        if op.ops is not None:
            out = _CALLS["custom" if op.name in CUSTOM else "remat"](op, values, env, plan)
            env.update(zip(op.outputs, out, strict=True))
            continue
        run = _FLOW.get(op.name)
        new = run(op, values, plan) if run else rule_of(op).run(op, values, plan)
        out = _corrected(op, list(new), env, plan)
        env.update(zip(op.outputs, out, strict=True))


def _corrected(op: Op, out: list[Any], env: Env, plan: Plan) -> list[Any]:
    """With what the terms that have gone would have added."""
    if op in plan.offsets:
        out[0] = out[0] + jnp.asarray(plan.offsets[op]).astype(out[0].dtype)
    if op in plan.ghosts:
        out[0] = out[0] + ghosts.evaluate(plan.ghosts[op], op, env, plan).astype(out[0].dtype)
    return out


def _remat(op: Op, values: list[Any], env: Env, plan: Plan) -> list[Any]:
    atoms = list(dict.fromkeys(v for v in op.inputs if isinstance(v, Var)))

    def body(*inputs: Any) -> list[Any]:
        own = {**env, **dict(zip(atoms, inputs, strict=True))}
        run_ops(op.ops or [], own, plan)
        return [own[v] for v in op.outputs]

    options = {"prevent_cse": op.params["prevent_cse"], "policy": op.params["policy"]}
    return jax.checkpoint(body, **options)(*(env[v] for v in atoms))


def _custom(op: Op, values: list[Any], env: Env, plan: Plan) -> list[Any]:
    """A function with a derivative rule, both at the small shapes."""

    def primal(*inputs: Any) -> list[Any]:
        own = {**env, **_bound(op.inputs, inputs)}
        run_ops(op.ops or [], own, plan)
        return [read(v, own) for v in op.results]

    rule = op.blocks[0]
    floats = [i for i, x in enumerate(values) if _is_float(x)]

    def jvp(primals: Any, tangents: Any) -> Any:
        moved = [_tangent(x, t) for x, t in zip(primals, tangents, strict=True)]
        out = run_block(rule, [*primals, *(moved[i] for i in floats)], plan)
        results, given = out[: len(op.results)], iter(out[len(op.results) :])
        return results, [
            next(given) if _is_float(y) else np.zeros(np.shape(y), _FLOAT0) for y in results
        ]

    def forward(*inputs: Any) -> Any:
        return primal(*inputs), inputs

    def backward(inputs: Any, cotangents: Any) -> Any:
        given = [c for c in cotangents if getattr(c, "dtype", None) != _FLOAT0]
        out = iter(run_block(rule, [*inputs, *given], plan))
        return tuple(next(out) if _is_float(x) else np.zeros(np.shape(x), _FLOAT0) for x in inputs)

    call: Any
    if op.name == "custom_jvp_call":
        call = jax.custom_jvp(primal)
        call.defjvp(jvp)
    else:
        call = jax.custom_vjp(primal)
        call.defvjp(forward, backward)
    found = dict(zip(op.results, call(*values), strict=True))
    return [found[v] for v in op.outputs]


def _bound(atoms: Sequence[Atom], values: Sequence[Any]) -> Env:
    return {v: x for v, x in zip(atoms, values, strict=True) if isinstance(v, Var)}


def _is_float(x: Any) -> bool:
    return jnp.issubdtype(jnp.result_type(x), jnp.inexact)


def _tangent(x: Any, t: Any) -> Any:
    return t if getattr(t, "dtype", None) != _FLOAT0 else None


def _scan(op: Op, values: list[Any], plan: Plan) -> list[Any]:
    body, (n, m) = op.blocks[0], leading(op)
    length = op.params["length"]
    inner = [o for o in walk_all(body.ops) if o in plan.offsets]
    stacked = {o: plan.offsets[o] for o in inner if op in plan.unrolled}

    def step(carry: Any, slices: Any) -> Any:
        xs, extra = slices
        own = plan._replace(offsets={**plan.offsets, **dict(zip(stacked, extra, strict=True))})
        out = run_block(body, [*values[:n], *carry, *xs], own)
        return out[:m], out[m:]

    extra = [jnp.asarray(x).reshape(length, -1, *x.shape[1:]) for x in stacked.values()]
    extra = [x[:, 0] if x.shape[1] == 1 else x for x in extra]
    options = {k: op.params[k] for k in ("reverse", "unroll")}
    carry, ys = lax.scan(step, values[n : n + m], (values[n + m :], extra), length, **options)
    return [*carry, *ys]


def _while(op: Op, values: list[Any], plan: Plan) -> list[Any]:
    condition, body = op.blocks
    n, m = op.params["cond_nconsts"], op.params["body_nconsts"]

    def test(carry: Any) -> Any:
        return run_block(condition, [*values[:n], *carry], plan)[0]

    def step(carry: Any) -> Any:
        return run_block(body, [*values[n : n + m], *carry], plan)

    return list(lax.while_loop(test, step, values[n + m :]))


def _cond(op: Op, values: list[Any], plan: Plan) -> list[Any]:
    def branch(block: Block) -> Callable[..., list[Any]]:
        return lambda *inputs: run_block(block, inputs, plan)

    return list(lax.switch(values[0], [branch(block) for block in op.blocks], *values[1:]))


_FLOW = {"scan": _scan, "while": _while, "cond": _cond}
_CALLS = {"remat": _remat, "custom": _custom}
