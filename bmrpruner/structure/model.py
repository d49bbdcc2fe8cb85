"""A function and its parameters, seen through: program, decisions, and what is known."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from bmrpruner._tree import PyTree
from bmrpruner.structure import (
    along,
    control,
    convolution,
    elementwise,
    pieces,
    products,
    shapes,
    sums,
)
from bmrpruner.structure.decisions import Decisions, decide
from bmrpruner.structure.ir import Program, Var, walk_all
from bmrpruner.structure.known import Known, constant, unknown
from bmrpruner.structure.nodes import Axes
from bmrpruner.structure.reading import trace
from bmrpruner.structure.rules import Facts, Knower, connect

# Importing them adds their rules to RULES.
RULE_FILES = (
    along,
    control,
    convolution,
    elementwise,
    pieces,
    products,
    shapes,
)


def see(fn: Callable[..., Any], params: PyTree, args: tuple[Any, ...]) -> tuple[Program, Decisions]:
    """Trace a function and find out what goes together."""
    program = trace(fn, params, args)
    decisions = decide(connected(program))
    summed = np.zeros(len(decisions.reasons) + 1, bool)
    for op in walk_all(program.block.ops):
        if op.name in sums.KINDS:
            for i in sums.KINDS[op.name].summed(op)[0]:
                summed[decisions.of(op.inputs[0], i)] = True
    for d in np.flatnonzero(~summed[:-1]):
        decisions.reasons[d] = decisions.reasons[d] or "unused"
    return program, decisions


def connected(program: Program) -> Axes:
    """The axes of a program, with all that its operations say about them."""
    axes = Axes()
    connect(program.block.ops, axes)
    axes.freeze_all(program.args, "input")
    axes.freeze_all(program.block.outputs, "output")
    used = {v for op in walk_all(program.block.ops) for v in op.inputs}
    used |= {v for op in program.block.ops for v in op.inputs} | set(program.block.outputs)
    axes.freeze_all([var for _, var in program.params if var not in used], "unused")
    return axes


def know(program: Program, arrays: list[Any]) -> tuple[Facts, set[Any]]:
    """What is known of every variable, given the parameters' values.

    Returns:
      The facts, and the scans whose iterations are contexts of their own.
    """
    consts = {var: _constant(var, value) for var, value in program.consts}
    facts: Facts = {var: [known] for var, known in consts.items()}
    knower = Knower(consts, facts, set())
    inputs = [_constant(v, x) for (_, v), x in zip(program.params, arrays, strict=True)]
    knower.block(program.block, inputs + [unknown(len(v.shape), v.dtype) for v in program.args])
    return facts, knower.unrolled


def _constant(var: Var, value: Any) -> Known:
    try:
        return constant(np.asarray(value))
    except Exception:  # random keys have no values that NumPy can hold
        return unknown(len(var.shape), var.dtype)
