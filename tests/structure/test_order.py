"""Functions whose Python code does other things for other shapes: exact, or an error."""

import jax.numpy as jnp
import numpy as np
import pytest
from plain_models import normal

from bmrpruner.structure import compact

PARAMS = {
    "w1": normal(5, 6).at[:, 1].set(0),
    "b1": normal(6),
    "o1": normal(6, 3),
    "c1": normal(3),
    "w2": normal(5, 6, seed=1).at[:, 2].set(0),
    "b2": normal(6, seed=1),
    "o2": normal(6, 3, seed=1),
    "c2": normal(3, seed=1),
}


def hidden(p, x, i):
    return jnp.tanh(x @ p[f"w{i}"] + p[f"b{i}"])


def two(p, x):
    """Two results, of which the second is computed first for large batches."""
    order = (1, 2) if len(x) < 5 else (2, 1)
    out = {i: hidden(p, x, i) @ p[f"o{i}"] + p[f"c{i}"] for i in order}
    return jnp.stack([out[1], out[2]])


def one(p, x):
    """Two sums that meet in one bias, in any order."""
    order = (1, 2) if len(x) < 5 else (2, 1)
    first, second = (hidden(p, x, i) @ p[f"o{i}"] for i in order)
    return first + second + p["c1"]


def more(p, x):
    """One more sum, of something else."""
    extra = x[:, :1] if len(x) < 5 else x.sum(1, keepdims=True)
    return extra + hidden(p, x, 1) @ p["o1"] + p["c1"]


@pytest.mark.parametrize("fn", [two, one, more])
def test_sums_in_another_order(fn):
    small = compact(fn, PARAMS, normal(4, 5))
    assert small.params["w1"].shape == (5, 5)
    for size in (4, 3, 7):
        x = normal(size, 5, seed=size)
        np.testing.assert_allclose(small(x), fn(PARAMS, x), rtol=2e-5, atol=1e-6)


def reversed_bias(p, x):
    bias = p["c1"] if len(x) < 5 else p["c1"][::-1]
    return hidden(p, x, 1) @ p["o1"] + bias


def subtracted(p, x):
    y = hidden(p, x, 1) @ p["o1"]
    return y + p["c1"] if len(x) < 5 else y - p["c1"]


def twice(p, x):
    y = hidden(p, x, 1) @ p["o1"] + p["c1"]
    return y if len(x) < 5 else y * p["c1"]


def in_parts(p, x):
    return hidden(p, x, 1) @ p["o1"] + p["c1"][: 3 if len(x) < 5 else 1]


@pytest.mark.parametrize("fn", [reversed_bias, subtracted, twice, in_parts])
def test_a_bias_that_is_added_in_another_way_is_named(fn):
    small = compact(fn, PARAMS, normal(4, 5))
    assert small.params["w1"].shape == (5, 5)
    assert not np.allclose(small.params["c1"], PARAMS["c1"], atol=1e-3)
    with pytest.raises(ValueError, match=r"args: expected a call that adds 'c1' to the same sums"):
        small(normal(7, 5))
