"""Physical compaction: the function and the parameters without what is exactly removable."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any

import jax
import numpy as np

from bmrpruner._masks import checked_plain
from bmrpruner._tree import PyTree, align, is_array, is_none, join, keyed_leaves
from bmrpruner.structure import corrections
from bmrpruner.structure.cutting import cut, like
from bmrpruner.structure.evaluate import run_block
from bmrpruner.structure.flops import flops
from bmrpruner.structure.forms import call_key, form
from bmrpruner.structure.groups import grouped
from bmrpruner.structure.ir import Program, leaf_arrays, walk_all, with_arrays
from bmrpruner.structure.report import Report, group_reports
from bmrpruner.structure.rules import Plan
from bmrpruner.structure.source import Source
from bmrpruner.structure.states import Kept, is_posterior, shrink, with_mean


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
    return Compacted(Source(fn, params, args, masks is not None))


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

    def __init__(self, source: Source) -> None:
        self._source = source
        self._runs: dict[Hashable, Any] = {}
        self._calls: dict[Hashable, Callable[[list[Any]], Any]] = {}
        self.kept: Kept = dict(zip(source.keys, source.kept, strict=True))
        shifted = leaf_arrays(self._shifted(source.params))
        self.params = with_arrays(
            source.params,
            [cut(x, kept) for x, kept in zip(shifted, source.kept, strict=True)],
        )
        self.report = report(source, self.params)
        self._remember(source.form, source.program, source.plan)

    def __call__(self, *args: Any) -> Any:
        """`fn(self.params, *args)`."""
        return self.fn(self.params, *args)

    def shrink(self, tree: PyTree) -> PyTree:
        """Cut an optimizer state, masks, or a posterior as the parameters were cut.

        Args:
          tree: Any pytree of which some arrays belong to parameters: they are in a part that has
            the structure of the parameters, or their key paths end in the parameter's, and they
            have its shape, or that of its packed mask. The means of a `DiagonalGaussian` also get
            the constants that moved into biases.

        Returns:
          The same with smaller arrays, to go on training or sampling with.

        Raises:
          ValueError: If an array that belongs to a smaller parameter has another shape.

        Example:
          >>> import jax.numpy as jnp
          >>> import optax
          >>> params = {'w1': jnp.array([[1., 0.]]), 'w2': jnp.ones((2, 1))}
          >>> fn = lambda p, x: jnp.sin(x @ p['w1']) @ p['w2']
          >>> state = compact(fn, params, jnp.ones((5, 1))).shrink(optax.adam(0.1).init(params))
          >>> state[0].mu['w2'].shape
          (1, 1)
        """
        source = self._source
        shapes = {key: x.shape for key, x in zip(source.keys, source.arrays, strict=True)}
        if is_posterior(tree):
            tree = with_mean(tree, self._shifted)
        return shrink(tree, source.params, self.kept, shapes)

    def _shifted(self, params: PyTree) -> PyTree:
        shifts = self._source.shifts
        arrays = [
            like(x, corrections.apply(np.asarray(x), shifts[i])) if i in shifts else x
            for i, x in enumerate(leaf_arrays(params))
        ]
        return with_arrays(params, arrays)

    def kept_tree(self) -> dict[str, Any]:
        """`kept` as nested dicts of arrays, by the parts of key paths, then axes: for files.

        Example:
          >>> import jax.numpy as jnp
          >>> params = {'a': {'w1': jnp.array([[1., 0.]])}, 'w2': jnp.ones((2, 1))}
          >>> fn = lambda p, x: jnp.sin(x @ p['a']['w1']) @ p['w2']
          >>> compact(fn, params, jnp.ones((5, 1))).kept_tree()['a']['w1']
          {'0': array([0]), '1': array([0])}
        """
        tree: dict[str, Any] = {}
        for key, axes in self.kept.items():
            place = tree
            for part in key:
                place = place.setdefault(part, {})
            place.update({str(i): own for i, own in enumerate(axes)})
        return tree

    def fn(self, params: PyTree, *args: Any) -> Any:
        """What the original function computes, from smaller parameters.

        Args:
          params: Pytree like `self.params`.
          *args: As for the original function: the same structure; other shapes are traced anew,
            once each.

        Returns:
          What the original function returns.

        Raises:
          ValueError: If `params` or `args` have another structure, `params` other shapes, or `args`
            symbolic ones; if for these shapes other units would go, or a leaf that constants moved
            into is added to other sums or in parts.
          TypeError: If a leaf of `params` is an array and was none, as Python numbers under jit, or
            the other way round.
        """
        leaves, tree = jax.tree.flatten((params, args))
        key = call_key(tree, leaves)
        call = self._calls.get(key) if key is not None else None
        if call is None:
            call = self._prepare(params, args, leaves)
            if key is not None:
                self._calls[key] = call
        return call(leaves)

    def _prepare(self, params: PyTree, args: Any, leaves: list[Any]) -> Callable[[list[Any]], Any]:
        """Check a call of a new form, plan it if its shapes are new, and say how it runs."""
        source = self._source
        self._check_params(params)
        structure: Any = jax.tree.structure(args, is_leaf=is_none)
        if structure != source.arg_tree:
            raise ValueError(f"args: expected the structure {source.arg_tree}, got {structure}.")
        for x in leaf_arrays(args):
            if not all(isinstance(n, int) for n in x.shape):
                raise ValueError(
                    f"args: expected shapes of numbers, got {x.shape}; structure.save_function "
                    "with any_batch=True writes a function of any number of rows."
                )
        own = form(params, args)
        if own not in self._runs:
            self._remember(own, *source.replan(params, args))
        run, out_tree = self._runs[own]
        places = [i for i, x in enumerate(leaves) if is_array(x)]
        others = [x for x in leaves if not is_array(x)]  # alive as long as their ids are keys

        def call(leaves: list[Any], _: Any = others) -> Any:
            return out_tree.unflatten(run([leaves[i] for i in places]))

        return call

    def _check_params(self, params: PyTree) -> None:
        """Raise an error that names the leaf unless `params` is like `self.params`."""
        structure: Any = jax.tree.structure(self.params, is_leaf=is_none)
        parts = align("params", params, structure, "small.params")
        for (name, own), x in zip(keyed_leaves(self.params), parts, strict=True):
            if is_array(own) != is_array(x) or (own is None) != (x is None):
                raise TypeError(
                    f"params: expected what the function was compacted with at {join(name)!r}, "
                    f"{_kind(own)}, got {_kind(x)}. Hand compact arrays instead of numbers to "
                    "call the function under jit and grad."
                )
            if is_array(own) and x.shape != own.shape:
                raise ValueError(
                    f"params: expected shape {own.shape} at {join(name)!r}, got {x.shape}."
                )

    def _remember(self, own: Hashable, program: Program, plan: Plan) -> None:
        def run(values: list[Any]) -> list[Any]:
            return run_block(program.block, values, plan)

        self._runs[own] = (jax.jit(run), program.out_tree)


def _kind(x: Any) -> str:
    return "an array" if is_array(x) else "None" if x is None else f"a {type(x).__name__}"


def report(source: Source, params: PyTree) -> Report:
    """What became of everything."""
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


def _notes(source: Source) -> tuple[str, ...]:
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
