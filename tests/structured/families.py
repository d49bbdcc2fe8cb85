"""Dependency groups written by hand, and their units in NumPy: loops over all that a unit owns."""

import itertools

import jax.numpy as jnp
import numpy as np

from bmrpruner import sparsity_types
from bmrpruner.structure import Group


def each(size):
    """Unit u owns index u."""
    return np.arange(size)[:, None]


def member(name, axis, indices):
    return (tuple(name.split("/")), axis, indices)


SHAPES = {
    "mlp": {"k1": (5, 4), "b1": (4,), "k2": (4, 3), "b2": (3,), "k3": (3, 2), "b3": (2,)},
    "conv": {"kernel": (3, 3, 2, 3), "bias": (3,), "scale": (3,), "dense": (12, 2)},
    "attention": {"q": (4, 6), "o": (6, 4)},
    "stream": {"embedding": (5, 4), "square": (4, 4), "norm": (4,)},
}
SPATIAL = 3 * np.arange(4) + np.arange(3)[:, None]  # flattened (2, 2, 3): channel c, four positions
HEADS, DIMS = np.arange(6).reshape(2, 3), np.arange(6).reshape(2, 3).T  # heads of three dimensions

INPUT = Group(5, (member("mlp/k1", 0, each(5)),), "input")
OUTPUT = Group(2, (member("mlp/k3", 1, each(2)), member("mlp/b3", 0, each(2))), "output")
# `square` is owned by rows and by columns, `k2` crosses two groups, and so do heads and dimensions.
FREE = {
    "hidden 1": [("mlp/k1", 1, each(4)), ("mlp/b1", 0, each(4)), ("mlp/k2", 0, each(4))],
    "hidden 2": [("mlp/k2", 1, each(3)), ("mlp/b2", 0, each(3)), ("mlp/k3", 0, each(3))],
    "channels": [
        ("conv/kernel", 3, each(3)),
        ("conv/bias", 0, each(3)),
        ("conv/scale", 0, each(3)),
        ("conv/dense", 0, SPATIAL),
    ],
    "heads": [("attention/q", 1, HEADS), ("attention/o", 0, HEADS)],
    "dimensions": [("attention/q", 1, DIMS), ("attention/o", 0, DIMS)],
    "stream": [
        ("attention/q", 0, each(4)),
        ("attention/o", 1, each(4)),
        ("stream/embedding", 1, each(4)),
        ("stream/square", 0, each(4)),
        ("stream/square", 1, each(4)),
        ("stream/norm", 0, each(4)),
    ],
}
GROUPS = (
    INPUT,
    *(Group(len(rows[0][2]), tuple(member(*row) for row in rows)) for rows in FREE.values()),
    OUTPUT,
)
UNITS = [(g, u) for g, group in enumerate(GROUPS) if not group.frozen for u in range(group.size)]
FLOPS = {("mlp", "k1"): 1, ("conv", "kernel"): 16.0, ("conv", "dense"): 1, ("mlp", "k3"): 1}

COSTS = {"units": "units", "parameters": "parameters", "flops": FLOPS}
MULTIPLES = (1, 2, 3)
KINDS = {name: sparsity_types.Group(GROUPS, cost) for name, cost in COSTS.items()}
BUNDLED = {
    (name, multiple): sparsity_types.Group(GROUPS, cost, multiple)
    for name, cost in COSTS.items()
    for multiple in MULTIPLES
}


def tree(seed=0):
    """Normal numbers in every leaf."""
    generator = np.random.default_rng(seed)
    return {
        part: {
            name: jnp.asarray(generator.normal(size=shape), jnp.float32)
            for name, shape in leaves.items()
        }
        for part, leaves in SHAPES.items()
    }


def named(params):
    """NumPy arrays by key path; None stays."""
    return {
        (part, name): None if x is None else np.asarray(x)
        for part, leaves in params.items()
        for name, x in leaves.items()
    }


def nested(arrays):
    """The inverse of `named`."""
    return {
        part: {name: jnp.asarray(arrays[part, name], jnp.float32) for name in leaves}
        for part, leaves in SHAPES.items()
    }


def owned(group, unit):
    """For each leaf that a unit owns a part of, where that is."""
    found = {}
    for key, axis, indices in group.members:
        shape = SHAPES[key[0]][key[1]]
        where = found.setdefault(key, np.zeros(shape, bool))
        for place in itertools.product(*map(range, shape)):
            where[place] |= place[axis] in indices[unit]
    return found


OWNED = [owned(GROUPS[g], u) for g, u in UNITS]


def add_up(scores):
    """The sum of the scores of each unit; those of -inf are gone."""
    totals = []
    for parts in OWNED:
        values = np.concatenate([scores[key][where] for key, where in parts.items()])
        left = values[values != -np.inf].astype(np.float64)
        totals.append(left.sum() if left.size else -np.inf)
    return np.array(totals)


def masks_of(keep):
    """The mask of each leaf that units own a part of: no owner has gone."""
    masks = {}
    for parts, stays in zip(OWNED, keep, strict=True):
        for key, where in parts.items():
            mask = masks.setdefault(key, np.ones(where.shape, np.uint8))
            if not stays:
                mask[where] = 0
    return masks


def bundled(scores, multiple):
    """Units that go or stay at once, those that always stay first, then by their mean.

    Of NaN each is on its own, after all others; what has gone, of -inf, is in none.
    """
    ranked, highest = [], np.finfo(np.float32).max
    for g in sorted({g for g, _ in UNITS}):
        own = [u for u in range(len(UNITS)) if UNITS[u][0] == g]
        own.sort(key=lambda u: (np.isnan(scores[u]), -scores[u], u))
        for i in range(0, len(own), multiple):
            part = own[i : i + multiple]
            left = [u for u in part if scores[u] > -np.inf]
            if i == 0 and own[0] not in left:
                ranked.append((0, 0, g, i, own[:1]))
            elif left:
                mean = min(np.mean(scores[left]), highest)
                ranked.append((int(i > 0), -mean, g, i, left))
            broken = [u for u in part if np.isnan(scores[u]) and (i or u != own[0])]
            ranked += [(2, 0, g, i, [u]) for u in broken]
    return [row[-1] for row in sorted(ranked)]


def cost_left(keep, cost):
    """The cost of what stays and of everything, counted from masks."""
    masks, left, whole = masks_of(keep), 0.0, 0.0
    for part, leaves in SHAPES.items():
        for name, shape in leaves.items():
            price = 1 if cost == "parameters" else cost.get((part, name), 0)
            left += price * masks.get((part, name), np.ones(shape)).sum()
            whole += price * np.prod(shape)
    return left, whole


def select(scores, sparsity, cost, multiple=1):
    """Which units stay: as many bundles of the best as the budget lets, and the first of each."""
    ranked = bundled(scores, multiple)
    for count in range(len(ranked), len(FREE) - 1, -1):
        best = [u for bundle in ranked[:count] for u in bundle]
        keep = np.isin(np.arange(len(scores)), best)
        if cost == "units":
            if keep.sum() <= np.round(np.float32(len(keep)) * (1 - np.float32(sparsity))):
                break
        else:
            left, whole = cost_left(keep, cost)
            if left / whole <= 1 - sparsity + 1e-6:
                break
    return keep


def assert_masks(found, keep):
    expected = masks_of(keep)
    for key, mask in named(found).items():
        assert (mask is None) == (key not in expected), key
        if mask is not None:
            np.testing.assert_array_equal(mask, expected[key], str(key))
