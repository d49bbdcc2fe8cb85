"""Physical compaction: the function and the parameters without what is exactly removable."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any

import jax
import numpy as np

from bmrpruner._masks import checked_plain
from bmrpruner._tree import Key, PyTree, align, is_array, is_none, join, keyed_leaves
from bmrpruner.structure import corrections, ghosts, sums
from bmrpruner.structure.cutting import cut, like
from bmrpruner.structure.decisions import Decisions
from bmrpruner.structure.evaluate import run_block
from bmrpruner.structure.groups import grouped
from bmrpruner.structure.ir import Op, Program, leaf_arrays, walk_all, with_arrays
from bmrpruner.structure.model import know, see
from bmrpruner.structure.origins import Origins
from bmrpruner.structure.removal import Removal
from bmrpruner.structure.report import Report, flops, group_reports
from bmrpruner.structure.rules import Plan

Kept = dict[Key, tuple[np.ndarray, ...]]


def compact(
    fn: Callable[..., Any], params: PyTree, *args: Any, masks: PyTree | None = None
) -> Compacted:
    """Remove from a function and its parameters all units that can go exactly.

    A unit goes if every weight by which its value leaves is zero, if it is identically zero, or if
    it is constant and can be folded into what follows; nothing else goes. Constants move into the
    next bias where there is one, and stay in the function otherwise.

    Args:
      fn: Any function that JAX can trace, of the parameters and other arguments.
      params: Pytree of arrays; other leaves are passed through.
      *args: Pytrees of arrays or of `jax.ShapeDtypeStruct`s; only their shapes matter.
      masks: Pytree like `params`, 1 keep, 0 pruned, None exempt, plain or packed; applied first.

    Returns:
      The smaller function and parameters, which compute what `fn` computes with the pruned ones.

    Raises:
      TypeError: If the function does not trace, or a leaf of `params` has no values.
      ValueError: If masks do not fit or leave no unit of a layer, or if every axis is frozen.

    Example:
      >>> import jax.numpy as jnp
      >>> fn = lambda p, x: jnp.tanh(x @ p['w1'] + p['b1']) @ p['w2'] + p['b2']
      >>> params = {'w1': jnp.array([[1., 0., 2.]]), 'b1': jnp.array([0., 1., 0.]),
      ...           'w2': jnp.array([[1.], [2.], [0.]]), 'b2': jnp.array([0.])}
      >>> small = compact(fn, params, jnp.ones((5, 1)))
      >>> small.params['w1'].shape, small.params['b2']  # the second unit was always tanh(1)
      ((1, 1), Array([1.5231884], dtype=float32))
      >>> bool(jnp.allclose(small(jnp.ones((2, 1))), fn(params, jnp.ones((2, 1)))))
      True
    """
    params = _masked(_with_values(params), masks)
    return Compacted(_Source(fn, params, args, masks is not None))


def _with_values(params: PyTree) -> PyTree:
    for key, leaf in keyed_leaves(params):
        if isinstance(leaf, jax.ShapeDtypeStruct | jax.core.Tracer):
            raise TypeError(
                f"params: expected arrays with values, got a {type(leaf).__name__} at "
                f"{join(key) or '(root)'!r}."
            )
    return params


def _masked(params: PyTree, masks: PyTree | None) -> PyTree:
    """Parameters with zeros where their mask is zero, on the host; others stay as they are."""
    if masks is None:
        return params
    structure: Any = jax.tree.structure(params, is_leaf=is_none)
    parts = align("masks", masks, structure, "params")
    out = []
    for (key, leaf), mask in zip(keyed_leaves(params), parts, strict=True):
        own = checked_plain(f"masks at {join(key)!r}", mask, leaf, "its parameter")
        if own is not None:
            array = np.asarray(leaf)
            leaf = like(leaf, np.where(np.asarray(own) != 0, array, np.zeros((), array.dtype)))
        out.append(leaf)
    return structure.unflatten(out)


class _Source:
    """A function with parameters, and the parts of the parameters that go."""

    def __init__(self, fn: Any, params: PyTree, args: tuple[Any, ...], masked: bool) -> None:
        self.fn, self.params = fn, params
        self.arg_tree: Any = jax.tree.structure(args, is_leaf=is_none)
        self.static = _static(args)
        self.arrays = leaf_arrays(params)
        self.program, self.decisions = see(fn, params, args)
        facts, unrolled = know(self.program, self.arrays)
        self.removal = self._remove(self.program, self.decisions, facts, self._candidates())
        self.taken = self.removal.taken
        if masked:
            self._check_emptied()
        self.keys = [key for key, _ in self.program.params]
        self.kept = self._kept(self.decisions, self.program, self.taken)
        self.folded, self.shifts = self._fold(facts)
        self.plan = self._plan(self.program, self.decisions, self.removal, facts, unrolled)

    def _candidates(self) -> np.ndarray:
        """The decisions that have a part of a parameter and are not frozen."""
        flags = np.zeros(len(self.decisions.reasons) + 1, bool)
        for _, var in self.program.params:
            for i in range(len(var.shape)):
                flags[self.decisions.of(var, i)] = True
        flags = flags[:-1] & np.array([r is None for r in self.decisions.reasons], bool)
        if not flags.any() and self.program.params:
            names = sorted({r for r in self.decisions.reasons if r})
            raise ValueError(
                "fn: expected an axis of a parameter that is not frozen, got only axes that are: "
                + ", ".join(names)
            )
        return flags

    @staticmethod
    def _remove(program: Program, decisions: Decisions, facts: Any, start: np.ndarray) -> Removal:
        removal = Removal(program, decisions, facts, start.copy())
        removal.settle()
        return removal

    def _check_emptied(self) -> None:
        for key, var in self.program.params:
            for i in range(len(var.shape)):
                if self.decisions.axes.axis(var, i) in self.removal.emptied:
                    raise ValueError(
                        f"masks: expected at least one unit left on axis {i} of {join(key)!r}, "
                        f"got none of {var.shape[i]}."
                    )

    @staticmethod
    def _kept(decisions: Decisions, program: Program, taken: np.ndarray) -> list[Any]:
        return [
            tuple(np.flatnonzero(~decisions.gone(var, i, taken)) for i in range(len(var.shape)))
            for _, var in program.params
        ]

    def _fold(self, facts: Any) -> tuple[dict[int, Any], dict[int, Any]]:
        """Which offsets move into biases, by the sum's number, and the biases' shifts."""
        origins = Origins(self.program)
        found = corrections.offsets(
            self.program, facts, self.decisions, self.taken, self.removal.ghosts
        )
        folded: dict[int, Any] = {}
        shifts: dict[int, Any] = {}
        for number, op in enumerate(_sums(self.program)):
            if op in found and (own := corrections.fold(op, found[op], origins)):
                folded[number] = found[op]
                shifts.setdefault(own[0].leaf, []).extend(own)
        return folded, shifts

    def _plan(
        self, program: Program, decisions: Decisions, removal: Removal, facts: Any, unrolled: Any
    ) -> Plan:
        taken = removal.taken
        found = corrections.offsets(program, facts, decisions, taken, removal.ghosts)
        offsets = {}
        for number, op in enumerate(_sums(program)):
            if op in found:
                rest = corrections.rest(found[op], self.folded.get(number))
                if rest is not None:
                    offsets[op] = corrections.cut(rest, op, decisions, taken)
        haunted = {
            op: ghosts.ghost(op, axis, facts, removal.made, decisions, taken)
            for op, axis in removal.ghosts.items()
            if decisions.gone(op.inputs[0], axis, taken).any()
        }
        plan = Plan(decisions, taken, offsets, haunted, unrolled, {})
        consts = {
            v: cut(x, tuple(plan.kept(v, i) for i in range(len(v.shape))))
            for v, x in program.consts
        }
        return plan._replace(consts=consts)

    def replan(self, dtypes: list[Any], args: tuple[Any, ...]) -> tuple[Program, Plan]:
        """The plan for arguments of other shapes: the same parameters go, or it is an error."""
        shapes = [
            jax.ShapeDtypeStruct(x.shape, d) for x, d in zip(self.arrays, dtypes, strict=True)
        ]
        program, decisions = see(self.fn, with_arrays(self.params, shapes), args)
        facts, unrolled = know(program, self.arrays)
        start = self._same_parts(program, decisions)
        removal = self._remove(program, decisions, facts, start)
        kept = self._kept(decisions, program, removal.taken)
        same = all(
            np.array_equal(a, b)
            for mine, own in zip(kept, self.kept, strict=True)
            for a, b in zip(mine, own, strict=True)
        )
        if self.folded and len(_sums(program)) != len(_sums(self.program)):
            raise ValueError(
                "args: expected shapes for which the function sums as often as for those it was "
                "compacted with; compact the function with these arguments."
            )
        if not same:
            raise ValueError(
                "args: expected shapes for which the same units can go, got shapes that need more; "
                "compact the function with these arguments."
            )
        return program, self._plan(program, decisions, removal, facts, unrolled)

    def _same_parts(self, program: Program, decisions: Decisions) -> np.ndarray:
        """The decisions of which every part of a parameter has gone."""
        owned = np.zeros(len(decisions.reasons) + 1, bool)
        needed = owned.copy()
        for (_, var), kept in zip(program.params, self.kept, strict=True):
            for i, own in enumerate(kept):
                causes = decisions.of(var, i)
                owned[causes] = True
                needed[causes[own]] = True
        frozen = np.array([r is not None for r in decisions.reasons], bool)
        return owned[:-1] & ~needed[:-1] & ~frozen


def _sums(program: Program) -> list[Op]:
    """The operations that sum, in order: other shapes may add slices, but no sums."""
    return [op for op in walk_all(program.block.ops) if op.name in sums.KINDS]


class Compacted:
    """A smaller function, its parameters, and what became of the larger ones.

    Attributes:
      params: The parameters: the tree of the original ones, smaller arrays.
      kept: For each leaf, by its key path, the indices of each axis that are left.
      report: Shapes, parameters and FLOPs before and after; what stayed, and why.

    Example:
      >>> import jax.numpy as jnp
      >>> params = {'w1': jnp.array([[1., 0.]]), 'w2': jnp.ones((2, 1))}
      >>> small = compact(lambda p, x: jnp.sin(x @ p['w1']) @ p['w2'], params, jnp.ones((5, 1)))
      >>> small.kept['w1',]
      (array([0]), array([0]))
      >>> print(small.report.parameters)
      (4, 2)
    """

    def __init__(self, source: _Source) -> None:
        self._source = source
        self._runs: dict[Hashable, Any] = {}
        self.kept: Kept = dict(zip(source.keys, source.kept, strict=True))
        self.params = with_arrays(
            source.params,
            [
                cut(
                    x
                    if i not in source.shifts
                    else like(x, corrections.apply(np.asarray(x), source.shifts[i])),
                    kept,
                )
                for i, (x, kept) in enumerate(zip(source.arrays, source.kept, strict=True))
            ],
        )
        self.report = _report(source, self.params)
        self._remember([x.dtype for x in source.arrays], source.program, source.plan, source.static)

    def __call__(self, *args: Any) -> Any:
        """`fn(self.params, *args)`."""
        return self.fn(self.params, *args)

    def fn(self, params: PyTree, *args: Any) -> Any:
        """What the original function computes, from smaller parameters.

        Args:
          params: Pytree like `self.params`.
          *args: As for the original function: the same structure; other shapes are traced anew,
            once each.

        Returns:
          What the original function returns.

        Raises:
          ValueError: If `params` or `args` have another structure, or `params` other shapes.
        """
        source = self._source
        align("params", params, jax.tree.structure(self.params, is_leaf=is_none), "small.params")
        values, inputs = leaf_arrays(params), leaf_arrays(args)
        for name, kept, x in zip(source.keys, source.kept, values, strict=True):
            shape = tuple(map(len, kept))
            if x.shape != shape:
                raise ValueError(
                    f"params: expected shape {shape} at {join(name)!r}, got {x.shape}."
                )
        structure: Any = jax.tree.structure(args, is_leaf=is_none)
        if structure != source.arg_tree:
            raise ValueError(f"args: expected the structure {source.arg_tree}, got {structure}.")
        dtypes = [x.dtype for x in values]
        key = (_signature(dtypes, inputs), _static(args))
        if key not in self._runs:
            program, plan = source.replan(dtypes, args)
            self._remember(dtypes, program, plan, _static(args))
        run, out_tree = self._runs[key]
        return out_tree.unflatten(run(values, inputs))

    def _remember(self, dtypes: list[Any], program: Program, plan: Plan, static: Any) -> None:
        def run(values: list[Any], inputs: list[Any]) -> list[Any]:
            return run_block(program.block, [*values, *inputs], plan)

        shapes = [jax.ShapeDtypeStruct(v.shape, v.dtype) for v in program.args]
        self._runs[_signature(dtypes, shapes), static] = (jax.jit(run), program.out_tree)


def _signature(dtypes: list[Any], inputs: list[Any]) -> Hashable:
    return tuple(map(str, dtypes)), tuple((tuple(x.shape), str(x.dtype)) for x in inputs)


def _static(args: Any) -> Hashable:
    """The leaves of the arguments that are no arrays."""
    leaves = [x for x in jax.tree.leaves(args, is_leaf=is_none) if not is_array(x)]
    return tuple(x if isinstance(x, Hashable) else id(x) for x in leaves)


def _report(source: _Source, params: PyTree) -> Report:
    small = leaf_arrays(params)
    before, after = ([x.shape for x in arrays] for arrays in (source.arrays, small))
    groups = grouped(source.program, source.decisions)
    return Report(
        dict(zip(source.keys, zip(before, after, strict=True), strict=True)),
        (sum(x.size for x in source.arrays), sum(x.size for x in small)),
        (sum(x.nbytes for x in source.arrays), sum(x.nbytes for x in small)),
        (flops(source.program, lambda v: v.shape), flops(source.program, source.plan.shape)),
        group_reports(groups, source.decisions, source.taken, source.removal.stays),
        _notes(source),
    )


def _notes(source: _Source) -> tuple[str, ...]:
    notes = []
    summed = [
        op
        for op in walk_all(source.program.block.ops)
        if op.name == "reduce_sum"
        and any(source.plan.gone(op.inputs[0], i).any() for i in op.params["axes"])
    ]
    if summed:
        notes.append(
            "A sum over an axis that got smaller is still divided by its old length: only small.fn "
            "is exact, a smaller model of the same make divides by its own."
        )
    if source.plan.offsets:
        notes.append(
            f"{len(source.plan.offsets)} constants have no bias to go into and stay in small.fn."
        )
    return tuple(notes)
