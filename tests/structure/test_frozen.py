"""What cannot get smaller stays as it is, with the reason; bad input is an error that names it."""

import exactness
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax_models import Cnn, filled
from image_models import picture
from plain_models import apply, dense, mlp, normal

import bmrpruner
from bmrpruner.structure import dependency_groups


def between(middle):
    """A network of two hidden layers with something in the middle of the first."""
    params = [dense(5, 8), dense(8, 6, 1), dense(6, 3, 2)]

    def fn(p, x):
        x = middle(jnp.tanh(apply(p[0], x)))
        return apply(p[2], jnp.tanh(apply(p[1], x)))

    return fn, params, (normal(4, 5),)


def callback(x):
    return jax.pure_callback(np.sin, jax.ShapeDtypeStruct(x.shape, x.dtype), x)


def strided(x):
    even, odd = (jax.lax.slice(x, (0, i), x.shape, (1, 2)) for i in (0, 1))
    return jnp.concatenate([even, odd], 1)


OPAQUE = {
    "sort": lambda x: jnp.sort(x, -1),
    "fft": lambda x: jnp.fft.fft(x).real,
    "pure_callback": callback,
    "random_bits": lambda x: x + jax.random.normal(jax.random.key(0), x.shape),
    "slice": strided,
    "cumsum": lambda x: jnp.cumsum(x, 1),
    "reduce_max": lambda x: x - x.max(1, keepdims=True),
    "gather": lambda x: x[:, jnp.array([1, 0, 3, 2, 5, 4, 7, 6])],
    "cholesky": lambda x: x @ jnp.linalg.cholesky(x.T @ x + jnp.eye(8)),
}


@pytest.mark.parametrize("name", OPAQUE)
def test_what_is_not_understood_stays_and_is_exact(name):
    fn, params, args = between(OPAQUE[name])
    groups = dependency_groups(fn, params, *args)
    assert [g.frozen for g in groups if ((("0", "w"), 1) in [m[:2] for m in g.members])] == [name]
    every = [g for g in groups if g.frozen in (None, name)]
    pruned = exactness.zeroed(
        params, [(k, axis, i[1::2]) for g in every for k, axis, i in g.members if g.size > 1]
    )
    small = exactness.compacted(fn, pruned, args)
    assert small.params[0]["w"].shape == (5, 8)
    assert small.params[1]["w"].shape[1] == 3
    stayed = [e.stayed for e in small.report.groups if e.group.frozen == name]
    assert stayed
    assert all(why == {name: 8} for why in stayed)


def test_batch_norm_in_training_returns_its_statistics_and_stays():
    net = Cnn(train=True)
    params = filled(jax.eval_shape(net.init, jax.random.key(0), picture()))

    def fn(p, x):
        return net.apply(p, x, mutable=["batch_stats"])

    groups = dependency_groups(fn, params, picture())
    kernel = ("params", "Conv_0", "kernel")
    assert [g.frozen for g in groups if (kernel, 3) in [m[:2] for m in g.members]] == ["output"]


def test_a_unit_that_is_live_stays_and_the_report_says_what_needs_it():
    fn, params, args = mlp()
    pruned = exactness.zeroed(params, [(("0", "w"), 1, [0]), (("0", "b"), 0, [0])])
    small = bmrpruner.compact(fn, pruned, *args)
    entry = small.report.groups[0]
    assert (entry.removed, entry.stayed) == (1, {"needed by dot_general": 7})
    text = str(small.report)
    assert "0/w  5 × 8 → 5 × 7" in text
    assert "parameters: 123 → 111 (1.1 × fewer)" in text
    assert small.report.flops == (2 * 4 * (5 * 8 + 8 * 6 + 6 * 3), 2 * 4 * (5 * 7 + 7 * 6 + 6 * 3))


def test_an_unused_leaf_and_unused_rows_are_frozen():
    params = {"w": normal(5, 8), "v": normal(8, 3), "idle": normal(4), "places": normal(9, 8)}

    def fn(p, x):
        return jnp.tanh(x @ p["w"] + p["places"][:4]) @ p["v"]

    groups = dependency_groups(fn, params, normal(4, 5))
    frozen = {g.members[0][:2]: (g.size, g.frozen) for g in groups if g.frozen == "unused"}
    assert frozen == {(("idle",), 0): (4, "unused"), (("places",), 0): (5, "unused")}


def test_groups_need_only_shapes():
    fn, params, args = mlp()
    shapes = jax.eval_shape(lambda *x: x, params, args)
    for a, b in zip(
        dependency_groups(fn, params, *args),
        dependency_groups(fn, shapes[0], *shapes[1]),
        strict=True,
    ):
        assert (a.size, a.frozen) == (b.size, b.frozen)
        for (key, axis, rows), (other, same, more) in zip(a.members, b.members, strict=True):
            assert (key, axis) == (other, same)
            np.testing.assert_array_equal(rows, more)


def test_a_dead_layer_keeps_one_unit_but_masks_that_empty_one_are_an_error():
    fn, params, args = mlp()
    groups = exactness.free(dependency_groups(fn, params, *args))
    dead = exactness.zeroed(params, groups[0].members)
    small = exactness.compacted(fn, dead, args)
    assert small.params[0]["w"].shape == (5, 1)
    masks = jax.tree.map(lambda x: (x != 0).astype("uint8"), dead)
    with pytest.raises(
        ValueError, match=r"masks: expected at least one unit left on axis 0 of '0/b'"
    ):
        bmrpruner.compact(fn, params, *args, masks=masks)


def test_bad_input_is_named():
    fn, params, args = mlp()
    shapes = jax.eval_shape(lambda p: p, params)
    with pytest.raises(
        TypeError, match=r"params: expected arrays with values, got a ShapeDtype.* '0/b'"
    ):
        bmrpruner.compact(fn, shapes, *args)
    for call in (dependency_groups, bmrpruner.compact):
        with pytest.raises(TypeError, match="fn: expected a function that JAX can trace"):
            call(fn, params, normal(4, 6))
        with pytest.raises(TypeError, match="fn: expected a function that JAX can trace"):
            call(lambda p, x: float(x[0, 0]), params, *args)
    with pytest.raises(ValueError, match="masks: expected the tree structure of params"):
        bmrpruner.compact(fn, params, *args, masks=params[:2])
    with pytest.raises(ValueError, match=r"masks at '0/b': expected the shape"):
        bmrpruner.compact(fn, params, *args, masks=jax.tree.map(lambda x: x[:2], params))
    with pytest.raises(ValueError, match="not frozen, got only axes that are: input, output"):
        bmrpruner.compact(lambda p, x: x @ p, normal(5, 3), *args)


def test_a_call_with_another_structure_is_named():
    fn, params, args = mlp()
    small = bmrpruner.compact(fn, params, *args)
    with pytest.raises(ValueError, match="args: expected the structure"):
        small((args[0],))
    with pytest.raises(ValueError, match="args: expected the structure"):
        small(*args, *args)
    with pytest.raises(ValueError, match=r"params: expected the tree structure of small\.params"):
        small.fn(params[:2], *args)
    with pytest.raises(ValueError, match=r"params: expected shape \(8,\) at '0/b', got \(2,\)"):
        small.fn(jax.tree.map(lambda x: x[:2], params), *args)
