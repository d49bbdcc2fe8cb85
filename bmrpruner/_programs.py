"""Functions that are compiled once for each program that tracing them yields.

`jax.jit` knows a function by its identity, which fails twice for a function that the user hands in:
one that was made anew compiles again although it computes the same, and one whose model has changed
since (a bound method, a closure) may not be compiled again although it computes something else. So
a function is traced at each use, and what is compiled is found by the program.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from bmrpruner.structure.ir import CUSTOM


class Program:
    """A jaxpr that equals another if both compute the same; hashable."""

    def __init__(self, jaxpr: Any) -> None:
        self.jaxpr = jaxpr
        self._parts = _parts(jaxpr)
        self._hash = hash(self._parts)

    def __eq__(self, other: object) -> bool:
        """Whether the operations and what they are applied to are the same."""
        return isinstance(other, Program) and self._parts == other._parts

    def __hash__(self) -> int:
        """Of all that is compared."""
        return self._hash


def compiled(fn: Callable[..., Any]) -> Callable[..., Any]:
    """A function of trees of arrays, compiled; not again for a program that has been compiled.

    Arrays that the function closes over are arguments of what is compiled.

    Args:
      fn: It must not change from the first call of what is returned to the last one.

    Returns:
      A function of the same arguments.
    """
    traced: dict[Any, Any] = {}

    def call(*args: Any) -> Any:
        leaves, structure = jax.tree.flatten(args)
        shapes = structure, tuple(jax.typeof(leaf) for leaf in leaves)
        if shapes not in traced:
            # A function of its own: JAX remembers what it has traced.
            closed, out = jax.make_jaxpr(lambda *own: fn(*own), return_shape=True)(*args)
            traced[shapes] = Program(closed.jaxpr), closed.consts, jax.tree.structure(out)
        program, consts, out_structure = traced[shapes]
        return out_structure.unflatten(_run(program, consts, leaves))

    return call


@functools.partial(jax.jit, static_argnums=0)
def _run(program: Program, consts: list[Any], leaves: list[Any]) -> list[Any]:
    return jax.core.eval_jaxpr(program.jaxpr, consts, *leaves)


def _parts(jaxpr: Any) -> Any:
    """All that a jaxpr computes with, its variables numbered in the order of appearance."""
    from jax.extend.core import Literal  # slow to import

    numbers: dict[Any, int] = {}

    def named(variables: Any) -> Any:
        numbers.update((v, len(numbers) + i) for i, v in enumerate(variables))
        return tuple(v.aval for v in variables)

    def read(atom: Any) -> Any:
        return (atom.aval, _literal(atom.val)) if isinstance(atom, Literal) else numbers[atom]

    inputs = named(jaxpr.constvars), named(jaxpr.invars)
    steps = tuple(
        (
            eqn.primitive,
            tuple(map(read, eqn.invars)),
            _options(eqn),
            eqn.ctx,
            named(eqn.outvars),
        )
        for eqn in jaxpr.eqns
    )
    return inputs, steps, tuple(map(read, jaxpr.outvars))


def _literal(value: Any) -> Any:
    return np.asarray(value).tobytes() if np.ndim(value) == 0 else id(value)


def _options(eqn: Any) -> Any:
    """An operation's parameters; without rules of derivatives, as programs are only run."""
    options = sorted(eqn.params.items())
    if eqn.primitive.name in CUSTOM:
        options = [(name, value) for name, value in options if _is_jaxpr(value)]
    return tuple((name, _value(value)) for name, value in options)


def _is_jaxpr(value: Any) -> bool:
    return hasattr(value, "eqns")


def _value(value: Any) -> Any:
    """What to compare of a parameter: programs by their parts, objects as they compare themselves.

    Something that cannot be hashed equals only itself; the program keeps it alive.
    """
    if _is_jaxpr(value):
        inner = getattr(value, "jaxpr", value)
        return _parts(inner), tuple(map(id, getattr(value, "consts", ())))
    if type(value) in (tuple, list):
        return tuple(map(_value, value))
    try:
        hash(value)
    except TypeError:
        return type(value), id(value)
    return type(value), value
