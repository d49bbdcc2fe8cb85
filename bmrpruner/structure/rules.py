"""What each primitive does to axes and to known values, and how it runs on smaller arrays."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from bmrpruner.structure.decisions import Decisions
from bmrpruner.structure.ir import Atom, Lit, Op, Var, unchanged
from bmrpruner.structure.known import Known, constant, full, unknown
from bmrpruner.structure.nodes import Axes

COMPUTED = 1 << 22  # entries: larger arrays that are known in full are not computed


class Plan(NamedTuple):
    """How a program becomes smaller.

    Attributes:
      decisions: What can go.
      taken: For each decision, whether it is taken.
      offsets: For an operation, what to add to its first output, one array for each context.
      ghosts: For a reduction, what the axes that went add to it.
      unrolled: The scans whose iterations are contexts of their own.
      consts: What is left of the arrays that the function closes over.
    """

    decisions: Decisions
    taken: np.ndarray
    offsets: dict[Op, Any]
    ghosts: dict[Op, Any]
    unrolled: set[Op]
    consts: dict[Var, Any]

    def gone(self, atom: Atom, axis: int) -> np.ndarray:
        """Which indices of an axis have gone."""
        return self.decisions.gone(atom, axis, self.taken)

    def kept(self, atom: Atom, axis: int) -> np.ndarray:
        """The indices of an axis that are left."""
        return np.flatnonzero(~self.gone(atom, axis))

    def shape(self, atom: Atom) -> tuple[int, ...]:
        """The shape that is left."""
        return tuple(len(self.kept(atom, i)) for i in range(len(atom.shape)))

    def touched(self, atoms: Iterable[Atom]) -> bool:
        """Whether any axis of these variables gets smaller."""
        return any(self.gone(v, i).any() for v in atoms for i in range(len(v.shape)))


class Rule(NamedTuple):
    """One primitive.

    Attributes:
      connect: Tells the axes which indices go together and which must stay.
      know: What is known of the outputs, from what is known of the inputs.
      run: Computes the outputs from smaller inputs.
    """

    connect: Callable[[Op, Axes], None]
    know: Callable[[Op, list[Known]], list[Known]]
    run: Callable[[Op, list[Any], Plan], Sequence[Any]]


RULES: dict[str, Rule] = {}


def rule_of(op: Op) -> Rule:
    """The rule of an operation; an unknown primitive freezes all that it touches."""
    return RULES.get(op.name, OPAQUE)


def freeze(op: Op, axes: Axes) -> None:
    """All axes of all inputs and outputs must stay."""
    axes.freeze_all([*op.inputs, *op.outputs], op.name)


def bind(op: Op, values: Sequence[Any], **changed: Any) -> list[Any]:
    """The primitive on these values, with some of its parameters changed."""
    out = op.eqn.primitive.bind(*values, **{**op.params, **changed})
    return list(out) if op.eqn.primitive.multiple_results else [out]


def run_same(op: Op, values: Sequence[Any], plan: Plan) -> list[Any]:
    """The primitive with its parameters as they are."""
    return bind(op, values)


def run_original(op: Op, values: Sequence[Any], plan: Plan) -> list[Any]:
    """The equation as it was traced, whatever its parameters hold."""
    return unchanged(op.eqn)(*values)


def nothing(op: Op, known: Sequence[Known] = ()) -> list[Known]:
    """Nothing is known of the outputs."""
    return [unknown(len(v.shape), v.dtype) for v in op.outputs]


def computed(op: Op, known: list[Known]) -> list[Known]:
    """The outputs where every input is known in full and they are not too large."""
    sizes = [int(np.prod(v.shape)) for v in [*op.inputs, *op.outputs]]
    if op.eqn.effects or max(sizes) > COMPUTED or not all(k.complete for k in known):
        return nothing(op)
    values = [full(k, v.shape) for k, v in zip(known, op.inputs, strict=True)]
    try:
        with jax.ensure_compile_time_eval(), np.errstate(all="ignore"):
            return [constant(y) for y in bind(op, values)]
    except Exception:  # a primitive that does not run here, on NumPy arrays: nothing is known
        return nothing(op)


OPAQUE = Rule(freeze, nothing, run_original)


def connect(ops: list[Op], axes: Axes) -> None:
    """Let all operations of a block speak."""
    for op in ops:
        if op.ops is None:
            rule_of(op).connect(op, axes)
        else:
            connect(op.ops, axes)
            RULES[op.name].connect(op, axes)


def read(atom: Atom, env: dict[Var, Any]) -> Any:
    """The value of a variable or scalar."""
    return atom.value if isinstance(atom, Lit) else env[atom]


def read_known(atom: Atom, env: dict[Var, Known]) -> Known:
    """What is known of a variable or scalar."""
    return constant(atom.value) if isinstance(atom, Lit) else env[atom]


Facts = dict[Var, list[Known]]
"""What is known of each variable, once for every context: iterations of unrolled loops differ."""


class Knower(NamedTuple):
    """Runs what is known through blocks.

    Attributes:
      consts: What is known of the arrays that the function closes over.
      facts: Collects what is known, or None.
      unrolled: Collects the scans whose iterations are told apart.
    """

    consts: dict[Var, Known]
    facts: Facts | None
    unrolled: set[Op]

    def run(self, ops: list[Op], env: dict[Var, Known]) -> None:
        """Add to `env` what is known of the outputs of all operations."""
        for op in ops:
            inputs = [read_known(v, env) for v in op.inputs]
            if op.ops is not None:
                self.run(op.ops, env)
                for rule in op.blocks:
                    more = [unknown(len(v.shape), v.dtype) for v in rule.inputs[len(inputs) :]]
                    self.block(rule, [*inputs, *more])
                continue
            if op.name in BLOCKS:
                out = BLOCKS[op.name](op, inputs, self)
            else:
                out = rule_of(op).know(op, inputs)
            for var, known in zip(op.outputs, out, strict=True):
                self.note(var, known, env)

    def note(self, var: Var, known: Known, env: dict[Var, Known]) -> None:
        """Set what is known of one variable."""
        env[var] = known
        if self.facts is not None:
            self.facts.setdefault(var, []).append(known)

    def block(self, block: Any, inputs: list[Known]) -> list[Known]:
        """What is known of a block's outputs."""
        env = dict(self.consts)
        for var, known in zip(block.inputs, inputs, strict=True):
            self.note(var, known, env)
        self.run(block.ops, env)
        return [read_known(v, env) for v in block.outputs]

    def collect(self, steps: list[Knower]) -> None:
        """Take over what the iterations of a loop collected, in the order of their slices."""
        for step in steps:
            for var, known in (step.facts or {}).items():
                if self.facts is not None:
                    self.facts.setdefault(var, []).extend(known)

    def quiet(self) -> Knower:
        """The same without collecting."""
        return self._replace(facts=None)


BLOCKS: dict[str, Callable[[Op, list[Known], Knower], list[Known]]] = {}
"""What is known of the outputs of control flow."""
