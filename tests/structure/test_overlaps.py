"""Axes of equal size in one reshape: their units cross, and are groups of their own."""

import exactness
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from plain_models import normal

from bmrpruner import MagnitudePruning, compact, sparsity_types
from bmrpruner.structure import dependency_groups


def gated(*sizes):
    """A hidden layer of several axes, times its sum over each of them."""
    whole = int(np.prod(sizes))
    params = {"v": normal(5, whole), "o": normal(whole, 3)}

    def fn(p, x):
        h = (x @ p["v"]).reshape(-1, *sizes)
        for axis in range(1, h.ndim):
            h = h * h.sum(axis, keepdims=True)
        return h.reshape(-1, whole) @ p["o"]

    return fn, params, (normal(4, 5),)


def attention(size):
    """As many heads as each has dimensions."""
    params = {n: normal(6, size * size, seed=i) for i, n in enumerate("qkv")}
    params["o"] = normal(size * size, 6, seed=9)

    def fn(p, x):
        q, k, v = ((x @ p[n]).reshape(*x.shape[:2], size, size) for n in "qkv")
        a = jax.nn.softmax(jnp.einsum("bthd,bshd->bhts", q, k))
        return jnp.einsum("bhts,bshd->bthd", a, v).reshape(*x.shape[:2], -1) @ p["o"]

    return fn, params, (normal(2, 3, 6),)


def slices(*sizes):
    """What the units of each axis own of the merged axis: slices of a grid."""
    grid = np.arange(int(np.prod(sizes))).reshape(sizes)
    return [np.moveaxis(grid, i, 0).reshape(n, -1).tolist() for i, n in enumerate(sizes)]


HEADS, DIMS = slices(3, 3)
CASES = {
    "square": (gated(4, 4), {"vo": slices(4, 4)}),
    "cube": (gated(3, 3, 3), {"vo": slices(3, 3, 3)}),
    "two of three": (gated(2, 3, 2), {"vo": slices(2, 3, 2)}),
    "attention": (attention(3), {"kqvo": [HEADS], "kq": [DIMS], "vo": [DIMS]}),
}


@pytest.mark.parametrize("name", CASES)
def test_units_of_a_group_are_disjoint(name):
    (fn, params, args), expected = CASES[name]
    groups = exactness.free(dependency_groups(fn, params, *args))
    found = {}
    for group in groups:
        rows = {tuple(map(tuple, indices.tolist())) for _, _, indices in group.members}
        assert len(rows) == 1
        leaves = "".join(sorted((key[0] for key, _, _ in group.members), key="kqvo".index))
        found.setdefault(leaves, []).append(sorted(map(list, rows.pop())))
    assert {k: sorted(v) for k, v in found.items()} == {k: sorted(v) for k, v in expected.items()}


@pytest.mark.parametrize("name", ["square", "attention"])
def test_crossing_groups_prune_and_compact(name):
    (fn, params, args), _ = CASES[name]
    groups = dependency_groups(fn, params, *args)
    pruner = MagnitudePruning(sparsity=0.5, sparsity_type=sparsity_types.Group(groups))
    pruned, masks = pruner.instant_sparsify(params)
    small = compact(fn, params, *args, masks=masks)
    assert exactness.error(small(*args), fn(pruned, *args)) < exactness.TOLERANCE
    sizes = [group.size for group in exactness.free(groups)]
    gone = [e.removed for e in small.report.groups if e.group.frozen is None]
    assert sum(gone) >= sum(sizes) - round(sum(sizes) / 2)
    assert small.report.parameters[1] < small.report.parameters[0]
