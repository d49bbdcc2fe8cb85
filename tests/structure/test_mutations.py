"""Four mistakes that one could make, each of which the exactness tests catch."""

import exactness
import image_models
import jax.numpy as jnp
import numpy as np
import plain_models
import pytest
from plain_models import apply, dense, norm, normal

import bmrpruner
from bmrpruner.structure import convolution, corrections, dependency_groups, sums
from bmrpruner.structure.elementwise import connect
from bmrpruner.structure.rules import RULES, Rule, computed, run_same


def wrong(fn, params, args):
    return exactness.error(bmrpruner.compact(fn, params, *args)(*args), fn(params, *args)) > 1e-3


def constant_units(make):
    fn, params, args = make()
    return fn, exactness.dead_inputs(params, dependency_groups(fn, params, *args)), args


def live_channels():
    """Channels that nothing reads after a norm, but that move its mean."""
    params = {"in": dense(5, 8), "norm": norm(8), "out": dense(8, 3)}

    def fn(p, x):
        return apply(p["out"], plain_models.layer_norm(p["norm"], apply(p["in"], x)))

    return fn, exactness.zeroed(params, [(("out", "w"), 0, [1, 2])]), (normal(4, 5),)


def sorted_units():
    params = [dense(5, 8), dense(8, 6, 1), dense(6, 3, 2)]

    def fn(p, x):
        return apply(p[2], jnp.tanh(apply(p[1], jnp.sort(apply(p[0], x), -1))))

    dead = [(("0", "w"), 1, [1, 2]), (("0", "b"), 0, [1, 2]), (("1", "w"), 0, [1, 2])]
    return fn, exactness.zeroed(params, dead), (normal(4, 5),)


def no_offsets(monkeypatch):
    monkeypatch.setattr(corrections, "offsets", lambda *args: {})


def careless_reductions(monkeypatch):
    def nothing(inputs, op, left):
        shape = [op.inputs[0].shape[i] for i in op.params["axes"]]
        return np.zeros(shape, bool), np.zeros(shape, bool)

    monkeypatch.setitem(
        sums.KINDS, "reduce_sum", sums.KINDS["reduce_sum"]._replace(suspects=nothing)
    )


def element_wise_sort(monkeypatch):
    monkeypatch.setitem(RULES, "sort", Rule(connect, computed, run_same))


def border_blind(monkeypatch):
    real = convolution.convolve

    def inner(op, image, kernel):
        out = real(op, image, kernel)
        middle = out[:, out.shape[1] // 2, out.shape[2] // 2]
        return np.broadcast_to(middle[:, None, None], out.shape)

    monkeypatch.setattr(convolution, "convolve", inner)


@pytest.mark.parametrize(
    ("mistake", "case"),
    [
        (no_offsets, lambda: constant_units(plain_models.mlp)),
        (careless_reductions, live_channels),
        (element_wise_sort, sorted_units),
        (border_blind, lambda: constant_units(image_models.same_padding)),
    ],
    ids=lambda x: getattr(x, "__name__", ""),
)
def test_a_mistake_is_caught(mistake, case, monkeypatch):
    fn, params, args = case()
    assert not wrong(fn, params, args)
    mistake(monkeypatch)
    assert wrong(fn, params, args)
