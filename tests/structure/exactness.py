"""What is asked of every model: pruned in any way, the compacted function computes the same."""

import jax
import numpy as np

import bmrpruner
from bmrpruner._tree import is_array, is_none, is_prunable, leaf_keys

TOLERANCE = 2e-5


def free(groups):
    """The groups of more than one unit whose units may go."""
    return [g for g in groups if g.frozen is None and g.size > 1]


def zeroed(params, places):
    """`params` with zeros at some indices of some axes: (key path, axis, indices)."""
    leaves, tree = jax.tree.flatten(params, is_leaf=is_none)
    keys = leaf_keys(params)
    numbers = [is_prunable(x) for x in leaves]
    arrays = {k: np.array(x) for k, x, ok in zip(keys, leaves, numbers, strict=True) if ok}
    for key, axis, indices in places:
        index = [slice(None)] * arrays[key].ndim
        index[axis] = np.unique(indices)
        arrays[key][tuple(index)] = 0
    new = [
        jax.numpy.asarray(arrays[key]) if ok else x
        for key, x, ok in zip(keys, leaves, numbers, strict=True)
    ]
    return tree.unflatten(new)


def half_dead(params, groups):
    """Every second unit of every free group is zero in all its members."""
    places = [(key, axis, indices[1::2]) for g in free(groups) for key, axis, indices in g.members]
    return zeroed(params, places)


def dead_inputs(params, groups):
    """Every second unit of every free group gets nothing but its bias; it stays a constant."""
    arrays = dict(zip(leaf_keys(params), jax.tree.leaves(params, is_leaf=is_none), strict=True))
    places = [
        (key, axis, indices[1::2])
        for g in free(groups)
        for key, axis, indices in g.members
        if arrays[key].ndim > 1 and axis == arrays[key].ndim - 1
    ]
    return zeroed(params, places)


def sprinkled(params, seed=0):
    """Half of all single weights are zero."""
    rng = np.random.default_rng(seed)

    def drop(x):
        if not is_prunable(x):
            return x
        return jax.numpy.asarray(np.asarray(x) * (rng.random(x.shape) < 0.5).astype(x.dtype))

    return jax.tree.map(drop, params, is_leaf=is_none)


def error(a, b):
    """The largest difference over the largest entry, over all outputs."""
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return max(
        float(
            np.abs(np.asarray(x) - np.asarray(y)).max()
            / max(float(np.abs(np.asarray(y)).max()), 1e-6)
        )
        for x, y in pairs
    )


FAST = {"xla_backend_optimization_level": 0}  # compiles in half the time


def quick(fn):
    """`fn` compiled, with as little work for the compiler as possible."""
    return jax.jit(fn, compiler_options=FAST)


def compacted(fn, params, args):
    """The compacted function, after a check that it computes what `fn` does."""
    small = bmrpruner.compact(fn, params, *args)
    assert jax.tree.structure(small.params) == jax.tree.structure(params)
    arrays, rest = split(small.params)
    run = quick(lambda arrays, *args: small.fn(joined(arrays, rest), *args))
    assert error(run(arrays, *args), expected(fn, params, args)) < TOLERANCE
    return small


def split(params):
    """The array leaves of `params`, and what else there is to put them back."""
    leaves, tree = jax.tree.flatten(params, is_leaf=is_none)
    return [x for x in leaves if is_array(x)], (leaves, tree)


def joined(arrays, rest):
    """`split` undone."""
    leaves, tree = rest
    fresh = iter(arrays)
    return tree.unflatten([next(fresh) if is_array(x) else x for x in leaves])


_COMPILED = {}


def expected(fn, params, args):
    """`fn(params, *args)`, compiled once for each function."""
    arrays, rest = split(params)
    if fn not in _COMPILED:
        _COMPILED.clear()
        _COMPILED[fn] = quick(lambda arrays, *args: fn(joined(arrays, rest), *args))
    return _COMPILED[fn](arrays, *args)
