"""Floating-point operations of products and convolutions, of a program and of its parameters."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from bmrpruner._tree import Key, PyTree
from bmrpruner.structure.control import leading
from bmrpruner.structure.decisions import Decisions
from bmrpruner.structure.ir import Atom, Op, Program, Var
from bmrpruner.structure.model import see
from bmrpruner.structure.products import roles

Shape = Callable[[Atom], tuple[int, ...]]
_ARGUMENT = -1  # what depends on an argument, in place of the number of a leaf


def entry_flops(fn: Callable[..., Any], params: PyTree, *args: Any) -> dict[Any, float]:
    """What one entry of each parameter costs: two FLOPs for each time that it is multiplied with.

    Handed to `sparsity_types.Group` as `cost`, it makes a sparsity a share of the FLOPs that
    `Report.flops` counts: those of dot_general and conv_general_dilated, loops by their lengths.
    A product without a parameter, such as that of queries and keys, gets smaller with some axes of
    parameters, and its cost is that of one index of these. What is added or scaled costs nothing.

    Args:
      fn: Any function that JAX can trace, of the parameters and other arguments.
      params: Pytree of arrays or of `jax.ShapeDtypeStruct`s; other leaves are passed through.
      *args: Pytrees of arrays or of shapes; costs are those of one call with them.

    Returns:
      The FLOPs of one entry by the key path of its leaf, and of one index by a frozenset of axes,
      pairs of a key path and a number; times sizes and lengths, they add up to those of the call.

    Raises:
      TypeError: If the function does not trace.

    Example:
      >>> import jax
      >>> fn = lambda p, x: jax.nn.relu(x @ p['w1'] + p['b1']) @ p['w2']
      >>> shape = jax.ShapeDtypeStruct
      >>> params = {'w1': shape((4, 8), 'float32'), 'b1': shape((8,), 'float32'),
      ...           'w2': shape((8, 3), 'float32')}
      >>> entry_flops(fn, params, shape((5, 4), 'float32'))
      {('b1',): 0.0, ('w1',): 10.0, ('w2',): 10.0}

    With it, a target is a share of the FLOPs:
      >>> from bmrpruner import sparsity_types, structure
      >>> model = (fn, params, shape((5, 4), 'float32'))
      >>> kind = sparsity_types.Group(structure.dependency_groups(*model), entry_flops(*model))
    """
    program, decisions = see(fn, params, args)
    leaves = [var for _, var in program.params]
    owned = _axes(program, decisions)
    sources = _sources(program)
    found: dict[Any, float] = {key: 0.0 for key, _ in program.params}
    for op, times in counted(program.block.ops, _whole):
        own = [sources[v] for v in op.inputs if sources.get(v, _ARGUMENT) != _ARGUMENT]
        if own:
            leaf = max(own, key=lambda i: math.prod(leaves[i].shape))
            where: Any = program.params[leaf][0]
            size = math.prod(leaves[leaf].shape)
        else:
            where, size = _cover(_free(op.inputs, decisions), owned)
        found[where] = found.get(where, 0.0) + times * of_op(op, _whole) / max(1, size)
    return found


def flops(program: Program, shape: Shape) -> int:
    """The FLOPs of a call: loops by their lengths, of branches those of the dearest."""
    return sum(times * of_op(op, shape) for op, times in counted(program.block.ops, shape))


def counted(ops: list[Op], shape: Shape) -> Iterator[tuple[Op, int]]:
    """The products and convolutions, and how often each runs."""
    for op in ops:
        if op.ops is not None:
            yield from counted(op.ops, shape)
        elif op.name == "scan":
            for inner, times in counted(op.blocks[0].ops, shape):
                yield inner, times * op.params["length"]
        elif op.blocks:
            bodies = [list(counted(block.ops, shape)) for block in op.blocks]
            yield from max(bodies, key=lambda body: sum(n * of_op(o, shape) for o, n in body))
        elif op.name in ("dot_general", "conv_general_dilated"):
            yield op, 1


def of_op(op: Op, shape: Shape) -> int:
    """The FLOPs of one product or convolution: two for each multiply-add."""
    if op.name == "dot_general":
        left = shape(op.inputs[0])
        terms = math.prod(left[i] for i in roles(op).contracted[0])
    else:
        kernel, spec = shape(op.inputs[1]), op.params["dimension_numbers"].rhs_spec
        terms = math.prod(n for i, n in enumerate(kernel) if i != spec[0])
    return 2 * terms * math.prod(shape(op.outputs[0]))


def _whole(atom: Atom) -> tuple[int, ...]:
    return atom.shape


def _axes(program: Program, decisions: Decisions) -> list[tuple[Key, int, int, set[int]]]:
    """The axes of parameters that can get smaller: key path, number, length, decisions."""
    found = []
    for key, var in program.params:
        for i, length in enumerate(var.shape):
            own = _decisions(var, i, decisions)
            if own:
                found.append((key, i, length, own))
    return found


def _free(atoms: Sequence[Atom], decisions: Decisions) -> set[int]:
    """The decisions that can make some variables smaller."""
    axes = [(atom, i) for atom in atoms for i in range(len(atom.shape))]
    return set().union(*(_decisions(atom, i, decisions) for atom, i in axes))


def _decisions(atom: Atom, i: int, decisions: Decisions) -> set[int]:
    found = set(decisions.of(atom, i).ravel().tolist())
    return {d for d in found if d >= 0 and decisions.reasons[d] is None}


def _cover(
    own: set[int], owned: list[tuple[Key, int, int, set[int]]]
) -> tuple[frozenset[tuple[Key, int]], int]:
    """Axes of parameters that some decisions make smaller, and no others; how long they are.

    A decision that no such axis has is left out: what it makes smaller counts as whole.
    """
    found, size = [], 1
    while own:
        fitting = [axis for axis in owned if axis[3] <= own]
        if not fitting:
            break
        key, i, length, part = max(fitting, key=lambda axis: len(axis[3]))
        found.append((key, i))
        own, size = own - part, size * length
    return frozenset(found), size


def _sources(program: Program) -> dict[Atom, int]:
    """For each variable that depends on parameters only, the number of the largest of them.

    Those that depend on an argument have `_ARGUMENT`; those that depend on nothing are left out.
    """
    found: dict[Atom, int] = {var: i for i, (_, var) in enumerate(program.params)}
    found |= dict.fromkeys(program.args, _ARGUMENT)
    sizes = [math.prod(var.shape) for _, var in program.params]
    _follow(program.block.ops, found, sizes)
    return found


def _follow(ops: list[Op], found: dict[Atom, int], sizes: list[int]) -> None:
    for op in ops:
        if op.ops is not None:
            _follow(op.ops, found, sizes)
            continue
        inputs = [found[v] for v in op.inputs if v in found]
        source = max(inputs, key=lambda i: sizes[i]) if inputs else None
        if _ARGUMENT in inputs:
            source = _ARGUMENT
        for inner, outer in _entries(op):
            # What a loop carries depends on all that the loop reads.
            own = source if outer is None else found.get(outer)
            if own is not None:
                found[inner] = own
        for block in op.blocks:
            _follow(block.ops, found, sizes)
        if source is not None:
            found |= dict.fromkeys(op.outputs, source)


def _entries(op: Op) -> Iterator[tuple[Var, Atom | None]]:
    """The inputs of a loop's or branch's body and what they are; None for what a loop carries."""
    if op.name == "scan":
        n, m = leading(op)
        outer = [*op.inputs[:n], *[None] * m, *op.inputs[n + m :]]
        yield from zip(op.blocks[0].inputs, outer, strict=True)
    elif op.name == "while":
        n, m = op.params["cond_nconsts"], op.params["body_nconsts"]
        carried = [None] * (len(op.inputs) - n - m)
        for block, own in zip(op.blocks, (op.inputs[:n], op.inputs[n : n + m]), strict=True):
            yield from zip(block.inputs, [*own, *carried], strict=True)
    elif op.name == "cond":
        for block in op.blocks:
            yield from zip(block.inputs, op.inputs[1:], strict=True)
