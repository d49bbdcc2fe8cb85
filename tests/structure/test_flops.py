"""What an entry costs: against XLA's count, loops by hand, and what compaction leaves."""

import attention_models
import exactness
import jax
import jax.numpy as jnp
import numpy as np
import plain_models
import pytest
from jax import lax
from plain_models import normal

from bmrpruner import MagnitudePruning, compact, sparsity_types
from bmrpruner._tree import keyed_leaves
from bmrpruner.structure import dependency_groups, entry_flops


def conv(x, w, stride=1, groups=1):
    return lax.conv_general_dilated(
        x,
        w,
        (stride, stride),
        "VALID",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
    )


def cnn():
    """Convolutions, one of them depthwise, and a dense layer; products and nothing else."""
    params = {"a": normal(3, 3, 1, 8), "d": normal(2, 2, 1, 8), "b": normal(2, 2, 8, 6)}
    params["o"] = normal(3 * 3 * 6, 4)

    def fn(p, x):
        x = conv(conv(x, p["a"], 2), p["d"], groups=8)
        return conv(x, p["b"]).reshape(len(x), -1) @ p["o"]

    return fn, params, (normal(2, 11, 11, 1),)


def total(fn, params, args):
    return left(entry_flops(fn, params, *args), params, jax.tree.map(jnp.ones_like, params))


def left(cost, params, masks):
    """What the cost comes to that masks leave: entries, or indices of axes that have any."""
    masks = {
        key: np.ones(leaf.shape) if mask is None else np.asarray(mask)
        for (key, leaf), (_, mask) in zip(keyed_leaves(params), keyed_leaves(masks), strict=True)
    }
    whole = 0.0
    for where, price in cost.items():
        if isinstance(where, frozenset):
            for key, axis in where:
                others = tuple(i for i in range(masks[key].ndim) if i != axis)
                price *= masks[key].any(others).sum()
        else:
            price *= masks[where].sum()
        whole += price
    return whole


@pytest.mark.parametrize("make", [cnn, lambda: plain_models.mlp()])
def test_a_call_costs_what_xla_says(make):
    """But for the additions of biases, which XLA counts as well, and ReLU."""
    fn, params, args = make()
    found = jax.jit(fn).lower(params, *args).compile().cost_analysis()["flops"]
    added = 0 if make is cnn else 4 * (2 * 8 + 2 * 6 + 3)
    assert total(fn, params, args) == found - added


def test_an_entry_costs_two_for_each_time_that_it_is_used():
    fn, params, args = cnn()
    expected = {("a",): 2 * 2 * 5 * 5, ("d",): 2 * 2 * 4 * 4, ("b",): 2 * 2 * 3 * 3, ("o",): 4}
    assert entry_flops(fn, params, *args) == expected


def test_loops_branches_tied_and_derived_weights():
    params = {"w": normal(4, 4), "v": normal(4, 4), "g": normal(4), "s": normal(3, 4, 4)}

    def fn(p, x):
        def step(x, w):
            return jnp.tanh(x @ w + x @ p["w"]), None

        x = lax.scan(step, x, p["s"])[0]
        x = lax.cond(x.sum() > 0, lambda x: x @ p["w"] @ p["w"].T, lambda x: x, x)
        return lax.fori_loop(0, 1, lambda i, x: x @ (p["v"] * p["g"]), x)

    found = entry_flops(fn, params, normal(5, 4))
    assert found == {("g",): 0, ("s",): 10, ("v",): 10, ("w",): 10 * 3 + 20}


def squared(groups, cost):
    return MagnitudePruning(sparsity=0.6, sparsity_type=sparsity_types.Group(groups, cost))


def long_attention():
    """Without biases, over so many tokens that most FLOPs are those of products of activations."""
    params = {n: normal(8, 12, seed=i) for i, n in enumerate("qkv")}
    params |= {"o": normal(12, 8, seed=5), "e": normal(7, 8, seed=6), "out": normal(8, 5, seed=7)}

    def fn(p, t):
        x = p["e"][t]
        q, k, v = ((x @ p[n]).reshape(*t.shape, 3, 4) for n in "qkv")
        a = jax.nn.softmax(jnp.einsum("bthd,bshd->bhts", q, k))
        x = x + jnp.einsum("bhts,bshd->bthd", a, v).reshape(*t.shape, -1) @ p["o"]
        return x @ p["out"]

    return fn, params, (attention_models.tokens(40),)


def gram():
    """A product of two hidden layers, each of which gets smaller by itself."""
    params = {"a": normal(5, 8), "b": normal(5, 6, seed=1), "o": normal(3, 5, seed=2)}

    def fn(p, x):
        a, b = x @ p["a"], x @ p["b"]
        return p["o"] @ (jnp.einsum("ni,nj->ij", a, b).sum(1) @ p["a"].T)[:, None]

    return fn, params, (normal(30, 5),)


MODELS = [
    cnn,
    long_attention,
    gram,
    plain_models.mlp,
    attention_models.by_hand,
    attention_models.stacked_blocks,
]


@pytest.mark.parametrize("make", MODELS)
def test_a_target_is_a_share_of_the_flops_of_the_compacted_model(make):
    """No more is left than was asked for; and it was more before the last unit went."""
    fn, params, args = make()
    groups, cost = dependency_groups(fn, params, *args), entry_flops(fn, params, *args)
    masks = squared(groups, cost).instant_sparsify(params)[1]
    small = compact(fn, params, *args, masks=masks)
    whole, rest = small.report.flops
    assert whole == pytest.approx(total(fn, params, args))
    units = sum(group.size for group in exactness.free(groups))
    assert 0.4 - 5 / units < rest / whole <= 0.4
    assert rest == pytest.approx(left(cost, params, masks))
