"""Sums of terms that are not constant but equal for all indices that go.

A variance sums (x - mean)². A channel that is constant adds (c - mean)² to it, which changes with
the arguments, but is an element-wise expression of constants and of values without that axis. Such
terms are computed as the function runs: one for each different constant, times their number.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import lax

from bmrpruner.structure.decisions import Decisions
from bmrpruner.structure.elementwise import NAMES
from bmrpruner.structure.ir import Atom, Lit, Op, Var
from bmrpruner.structure.rules import Facts, Plan, bind, read

_ELEMENTWISE = frozenset(NAMES)


class Producers:
    """Which operation of the same block, and of the same call, made a variable."""

    def __init__(self, ops: list[Op]) -> None:
        self.of: dict[Var, tuple[Op, int]] = {}
        self.scope: dict[Op, int] = {}
        self._enter(ops)

    def _enter(self, ops: list[Op]) -> None:
        for op in ops:
            self.scope[op] = id(ops)
            if op.ops is not None:
                self._enter(op.ops)
            else:
                self.of |= {v: (op, id(ops)) for v in op.outputs}
            for block in op.blocks:
                self._enter(block.ops)

    def beside(self, atom: Atom, scope: int) -> Op | None:
        """The operation that made a variable, if it is in this scope."""
        op, own = self.of.get(atom, (None, 0)) if isinstance(atom, Var) else (None, 0)
        return op if own == scope else None


def same_everywhere(atom: Atom, axis: int, facts: Facts) -> np.ndarray:
    """Which indices of an axis hold known values that are the same in all contexts."""
    many = facts[atom]  # type: ignore[index]
    first = many[0]
    flags = first.known & np.isfinite(first.value)
    for k in many[1:]:
        flags = flags & k.known & (k.value == first.value)
    others = tuple(i for i in range(flags.ndim) if i != axis)
    return np.broadcast_to(flags.all(others), (atom.shape[axis],))


def _invariant(atom: Atom, axis: int, op: Op | None) -> bool:
    """Whether nothing changes along an axis, whatever the arguments."""
    if isinstance(atom, Lit) or not atom.shape or atom.shape[axis] == 1:
        return True
    if op is None or op.name != "broadcast_in_dim":
        return False
    where = op.params["broadcast_dimensions"]
    return axis not in where or op.inputs[0].shape[where.index(axis)] == 1


def expressible(atom: Atom, axis: int, scope: int, facts: Facts, made: Producers) -> np.ndarray:
    """For each index of an axis, whether its slice is such an expression."""
    op = made.beside(atom, scope)
    if _invariant(atom, axis, op):
        return np.ones(1, bool)
    known = same_everywhere(atom, axis, facts)
    if op is None or op.name not in _ELEMENTWISE:
        return known
    parts = [expressible(v, axis, scope, facts, made) for v in op.inputs]
    return known | np.logical_and.reduce(np.broadcast_arrays(*parts, known)[:-1])


class Ghost(NamedTuple):
    """The terms that have gone from a sum over one axis.

    Attributes:
      axis: The axis.
      atom: What is summed.
      constants: For the variables of the expression whose values are known, one slice for each
        different combination.
      counts: How many indices have each combination.
      made: Which operation made which variable, for the rest of the expression.
    """

    axis: int
    atom: Atom
    constants: dict[Var, np.ndarray]
    counts: np.ndarray
    made: Producers
    scope: int


def ghost(
    op: Op, axis: int, facts: Facts, made: Producers, decisions: Decisions, taken: Any
) -> Ghost:
    """The terms that an axis loses when the decisions `taken` are."""
    scope, source = made.scope[op], op.inputs[0]
    which = np.flatnonzero(decisions.gone(source, axis, taken))
    leaves: dict[Var, np.ndarray] = {}

    def collect(atom: Atom) -> None:
        maker = made.beside(atom, scope)
        if _invariant(atom, axis, maker) or atom in leaves:
            return
        assert isinstance(atom, Var)
        if same_everywhere(atom, axis, facts)[which].all():
            value = facts[atom][0].value
            for i in range(value.ndim):
                if i == axis:
                    value = np.broadcast_to(value, _with(value.shape, i, atom.shape[i])).take(
                        which, i
                    )
                elif value.shape[i] != 1:
                    value = np.compress(~decisions.gone(atom, i, taken), value, i)
            leaves[atom] = value
            return
        assert maker is not None
        for part in maker.inputs:
            collect(part)

    collect(source)
    columns = [np.moveaxis(v, axis, 0).reshape(len(which), -1) for v in leaves.values()]
    table = np.concatenate([np.zeros((len(which), 1)), *columns], axis=1)
    first, counts = np.unique(table, axis=0, return_index=True, return_counts=True)[1:]
    return Ghost(
        axis, source, {v: a.take(first, axis) for v, a in leaves.items()}, counts, made, scope
    )


def _with(shape: tuple[int, ...], axis: int, size: int) -> tuple[int, ...]:
    return (*shape[:axis], size, *shape[axis + 1 :])


def evaluate(g: Ghost, op: Op, env: dict[Var, Any], plan: Plan) -> Any:
    """The sum of the terms that have gone, in the shape of the reduction's output."""
    done: dict[Var, Any] = {}

    def value(atom: Atom) -> Any:
        if isinstance(atom, Lit):
            return atom.value
        if atom in g.constants:
            return jnp.asarray(g.constants[atom])
        maker = g.made.beside(atom, g.scope)
        if not atom.shape or atom.shape[g.axis] == 1:
            return env[atom]
        if maker is not None and _invariant(atom, g.axis, maker):
            shape = _with(plan.shape(atom), g.axis, 1)
            return lax.broadcast_in_dim(
                read(maker.inputs[0], env), shape, maker.params["broadcast_dimensions"]
            )
        if atom not in done:
            assert maker is not None
            parts = [value(v) for v in maker.inputs]
            shape = np.broadcast_shapes(*(jnp.shape(p) for p in parts))
            full = [p if jnp.ndim(p) == 0 else jnp.broadcast_to(p, shape) for p in parts]
            done[atom] = bind(maker, full)[0]
        return done[atom]

    axes = tuple(int(i) for i in op.params["axes"])
    terms = jnp.asarray(value(g.atom))
    shape = _with(plan.shape(g.atom), g.axis, len(g.counts))
    weights = jnp.asarray(g.counts, terms.dtype).reshape(_with((1,) * len(shape), g.axis, -1))
    missing = [i for i in axes if i != g.axis and terms.shape[i] != shape[i]]
    times = math.prod(shape[i] for i in missing)
    terms = jnp.broadcast_to(terms, _with(terms.shape, g.axis, len(g.counts)))
    total = jnp.sum(terms * weights, axis=axes) * times
    return jnp.broadcast_to(total, [n for i, n in enumerate(shape) if i not in axes])
