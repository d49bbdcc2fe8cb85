"""Where the entries of a variable come from: the positions in a parameter leaf, by layout only."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np

from bmrpruner.structure.control import leading
from bmrpruner.structure.ir import CUSTOM, Atom, Block, Op, Program, Var
from bmrpruner.structure.known import Known
from bmrpruner.structure.rules import RULES

LAYOUT = ("reshape", "transpose", "squeeze", "broadcast_in_dim", "slice", "split", "rev", "unstack")
SAME = ("convert_element_type", "copy", "copy_p", "stop_gradient", "reduce_precision")


def moved(op: Op, array: np.ndarray) -> list[np.ndarray]:
    """What a layout operation makes of an array in which axes may have size 1."""
    if op.name in SAME:
        return [array]
    known = Known(array, np.ones((1,) * array.ndim, bool))
    return [k.value for k in RULES[op.name].know(op, [known])]


def holds(wide: Any, narrow: Any) -> bool:
    """Whether one floating type represents all numbers of another."""
    if not all(jnp.issubdtype(dtype, jnp.inexact) for dtype in (wide, narrow)):
        return False
    a, b = jnp.finfo(wide), jnp.finfo(narrow)
    return a.nmant >= b.nmant and a.maxexp >= b.maxexp


class Origins:
    """Follows variables back to the parameters, and forward to where they are used.

    Attributes:
      maker: The operation that made a variable.
      uses: The operations that read a variable; None stands for the output of a block.
      entry: For the input of a loop's body, the loop and the input's place.
      custom: The operations of functions that have a derivative rule of their own.
    """

    def __init__(self, program: Program) -> None:
        self.leaves = {var: i for i, (_, var) in enumerate(program.params)}
        self.maker: dict[Var, Op] = {}
        self.uses: dict[Atom, list[Op | None]] = {}
        self.entry: dict[Var, tuple[Op, int]] = {}
        self.custom: set[Op] = set()
        self._enter(program.block)

    def _enter(self, block: Block) -> None:
        for v in block.outputs:
            self.uses.setdefault(v, []).append(None)
        self._visit(block.ops)

    def _visit(self, ops: list[Op], within: bool = False) -> None:
        for op in ops:
            if op.ops is not None:
                self._visit(op.ops, within or op.name in CUSTOM)
                continue
            if within:
                self.custom.add(op)
            for v in op.inputs:
                self.uses.setdefault(v, []).append(op)
            self.maker |= {v: op for v in op.outputs}
            for block in op.blocks:
                self.entry |= {v: (op, i) for i, v in enumerate(block.inputs)}
                self._enter(block)

    def single_use(self, atom: Atom) -> Op | None:
        """The only operation that reads a variable; None if there are several, or an output."""
        uses = self.uses.get(atom, [])
        return uses[0] if len(uses) == 1 else None

    def of(self, atom: Atom, held: Any = None) -> tuple[int, list[np.ndarray]] | None:
        """The leaf that a variable is a layout of, and the flat positions of its entries.

        Args:
          atom: The variable.
          held: None, or a floating type: then every variable on the way is read only once, and
            holds all numbers of this type.

        Returns:
          The number of the leaf, and an index array for each context (iteration of the scans that
          slice the leaf); an axis along which an entry is repeated has size 1. None if the
          variable is anything else.
        """
        if not isinstance(atom, Var) or (held is not None and not self._alone(atom, held)):
            return None
        if atom in self.leaves:
            size = int(np.prod(atom.shape, dtype=np.int64))
            return self.leaves[atom], [np.arange(size).reshape(atom.shape)]
        if atom in self.entry:
            return self._through(*self.entry[atom], held)
        op = self.maker.get(atom)
        if op is None or op.name not in LAYOUT + SAME:
            return None
        if held is not None and op.name == "reduce_precision":
            return None
        found = self.of(op.inputs[0], held)
        if found is None:
            return None
        place = next(i for i, v in enumerate(op.outputs) if v is atom)
        return found[0], [moved(op, index)[place] for index in found[1]]

    def _alone(self, var: Var, held: Any) -> bool:
        return len(self.uses.get(var, [])) <= 1 and holds(var.dtype, held)

    def _through(self, op: Op, position: int, held: Any) -> tuple[int, list[np.ndarray]] | None:
        """Of an input of a scan's body."""
        if op.name != "scan" or op.params["length"] == 0:
            return None
        n, m = leading(op)
        found = None if n <= position < n + m else self.of(op.inputs[position], held)
        if found is None or position < n:
            return found
        steps = range(op.params["length"])
        return found[0], [x[min(s, x.shape[0] - 1)] for x in found[1] for s in steps]
