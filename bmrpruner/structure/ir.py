"""The program of a function: variables, operations, and blocks of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax

from bmrpruner._tree import Key, PyTree, is_array, is_none

REMAT = {"remat", "remat2", "checkpoint"}
CUSTOM = {"custom_jvp_call", "custom_vjp_call", "custom_vjp_call_jaxpr"}


@dataclasses.dataclass(eq=False, frozen=True)
class Var:
    """A variable of a program: the shape and dtype of one array."""

    shape: tuple[int, ...]
    dtype: Any


@dataclasses.dataclass(eq=False, frozen=True)
class Lit:
    """A scalar written into the program."""

    value: Any

    @property
    def shape(self) -> tuple[int, ...]:
        """Always that of a scalar."""
        return ()


Atom = Var | Lit


@dataclasses.dataclass(eq=False)
class Block:
    """A piece of program with variables of its own: the body of a loop, a branch, a rule."""

    inputs: list[Var]
    outputs: list[Atom]
    ops: list[Op]


@dataclasses.dataclass(eq=False)
class Op:
    """One operation.

    Attributes:
      name: The primitive's name.
      inputs: What it reads.
      outputs: The variables it defines.
      eqn: The jaxpr's equation.
      ops: For a call (remat, custom derivative): its operations, on the caller's variables.
      results: For a call: all that it returns, in order.
      blocks: For control flow its bodies; for a custom derivative its rule.
    """

    name: str
    inputs: list[Atom]
    outputs: list[Var]
    eqn: Any
    ops: list[Op] | None = None
    results: list[Atom] = dataclasses.field(default_factory=list)
    blocks: list[Block] = dataclasses.field(default_factory=list)

    @property
    def params(self) -> dict[str, Any]:
        """The parameters of the primitive."""
        return self.eqn.params


@dataclasses.dataclass(eq=False)
class Program:
    """A traced function: its operations, and which variables are parameters and arguments."""

    block: Block
    params: list[tuple[Key, Var]]
    args: list[Var]
    consts: list[tuple[Var, Any]]
    out_tree: Any


def leaf_arrays(tree: PyTree) -> list[Any]:
    """The array leaves of `tree`, in order; None and other leaves are left out."""
    return [leaf for leaf in jax.tree.leaves(tree, is_leaf=is_none) if is_array(leaf)]


def with_arrays(tree: PyTree, arrays: Sequence[Any]) -> PyTree:
    """`tree` with its array leaves replaced, in order."""
    structure: Any
    leaves, structure = jax.tree.flatten(tree, is_leaf=is_none)
    fresh = iter(arrays)
    return structure.unflatten([next(fresh) if is_array(x) else x for x in leaves])


def walk(ops: list[Op]) -> Iterator[Op]:
    """The operations of a block, those of calls in place of the calls; not those of its blocks."""
    for op in ops:
        if op.ops is None:
            yield op
        else:
            yield from walk(op.ops)


def walk_all(ops: list[Op]) -> Iterator[Op]:
    """All operations, calls left out, those of inner blocks included."""
    for op in ops:
        if op.ops is None:
            yield op
        else:
            yield from walk_all(op.ops)
        for block in op.blocks:
            yield from walk_all(block.ops)


def unchanged(eqn: Any) -> Callable[..., list[Any]]:
    """The function of one equation's inputs, literals included, that computes its outputs."""

    def call(*values: Any) -> list[Any]:
        options = eqn.primitive.get_bind_params(eqn.params)
        functions = ()
        if isinstance(options, tuple):  # before JAX 0.10, functions came apart
            functions, options = options
        out = eqn.primitive.bind(*functions, *values, **options)
        return list(out) if eqn.primitive.multiple_results else [out]

    return call
