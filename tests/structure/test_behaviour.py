"""A compacted function under jit, grad, vmap and export, for other shapes, and in training."""

import attention_models
import exactness
import image_models
import jax
import jax.numpy as jnp
import numpy as np
import optax
import plain_models
import pytest
from plain_models import normal

import bmrpruner
from bmrpruner.structure import dependency_groups


@pytest.fixture(scope="module")
def mlp():
    """Traced calls, the compacted function and the pruned parameters of a small network."""
    calls = []
    fn, params, args = plain_models.mlp()

    def counted(p, x):
        calls.append(x.shape)
        return fn(p, x)

    params = exactness.half_dead(params, dependency_groups(fn, params, *args))
    small = bmrpruner.compact(counted, params, *args)
    return calls, small, params, counted


def test_other_batch_sizes_are_traced_once_each(mlp):
    calls, small, params, fn = mlp
    assert calls == [(4, 5)]
    for size in (4, 7, 7, 1):
        x = normal(size, 5, seed=size)
        got = small(x)
        assert exactness.error(got, small.fn(small.params, x)) == 0
    assert calls == [(4, 5), (7, 5), (1, 5)]
    assert exactness.error(small(x), fn(params, x)) < exactness.TOLERANCE


def test_jit_vmap_and_grad_are_those_of_the_smaller_network(mlp):
    _, small, _, _ = mlp
    x = normal(4, 5)

    def native(p, x):  # the smaller network, written down
        for layer in p[:-1]:
            x = jax.nn.relu(x @ layer["w"] + layer["b"])
        return x @ p[-1]["w"] + p[-1]["b"]

    def loss(fn):
        return lambda p: jnp.sum(fn(p, x) ** 2)

    assert small.params[1]["w"].shape == (4, 3)
    np.testing.assert_allclose(
        jax.jit(small.fn)(small.params, x), native(small.params, x), rtol=1e-6
    )
    each = jax.vmap(small.fn, (None, 0))(small.params, x)
    np.testing.assert_allclose(each, native(small.params, x), rtol=1e-5)
    got, expected = (jax.grad(loss(fn))(small.params) for fn in (small.fn, native))
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_gradients_train_the_small_network(mlp):
    _, small, _, _ = mlp
    x, y = normal(4, 5), normal(4, 3)
    optimizer = optax.adam(0.05)

    def loss(p):
        return jnp.mean((small.fn(p, x) - y) ** 2)

    @jax.jit
    def step(p, state):
        value, grads = jax.value_and_grad(loss)(p)
        updates, state = optimizer.update(grads, state, p)
        return optax.apply_updates(p, updates), state, value

    p, state = small.params, optimizer.init(small.params)
    values = []
    for _ in range(30):
        p, state, value = step(p, state)
        values.append(float(value))
    assert values[-1] < 0.2 * values[0]


def test_an_exported_function_runs_without_the_model(mlp):
    _, small, _, _ = mlp
    x = normal(4, 5)
    exported = jax.export.export(jax.jit(small.fn))(small.params, x)
    np.testing.assert_allclose(exported.call(small.params, x), small(x), rtol=1e-6)
    assert "tensor<5x4xf32>" in exported.mlir_module()


def test_custom_derivatives_are_those_of_the_original():
    fn, params, args = plain_models.custom()
    params = exactness.half_dead(params, dependency_groups(fn, params, *args))
    small = bmrpruner.compact(fn, params, *args)

    def loss(fn):
        return lambda p: jnp.sum(jnp.sin(fn(p, *args)))

    got = jax.grad(loss(small.fn))(small.params)
    full = jax.grad(loss(fn))(params)
    for (key, kept), leaf in zip(small.kept.items(), jax.tree.leaves(got), strict=True):
        own = np.asarray(dict(zip(small.kept, jax.tree.leaves(full), strict=True))[key])
        for axis, indices in enumerate(kept):
            own = own.take(indices, axis)
        np.testing.assert_allclose(leaf, own, rtol=1e-4, atol=1e-6)
    assert any(float(jnp.abs(x).max()) > 0.1 for x in jax.tree.leaves(got[0]))


@pytest.mark.parametrize(
    ("make", "other"),
    [
        (attention_models.by_hand, attention_models.tokens(3)),
        (attention_models.grouped_query, attention_models.tokens(4)),
        (attention_models.stacked_blocks, attention_models.tokens(2)),
        (image_models.resnet, normal(3, 8, 7, 3)),
        (image_models.squeeze_excite, normal(1, 5, 5, 3)),
    ],
)
def test_other_lengths_and_sizes_of_pictures(make, other):
    """Constant channels under zero padding add other numbers to pictures of other sizes."""
    fn, params, args = make()
    groups = dependency_groups(fn, params, *args)
    for prune in (exactness.half_dead, exactness.dead_inputs):
        pruned = prune(params, groups)
        small = bmrpruner.compact(fn, pruned, *args)
        got = exactness.quick(small.fn)(small.params, other)
        assert exactness.error(got, exactness.expected(fn, pruned, (other,))) < exactness.TOLERANCE


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_stacked_layers_whose_dead_units_hold_other_constants_in_each(reverse, bias):
    """Each layer adds its own constant: into its own bias, or from a stack in the function."""
    _, params, (x,) = plain_models.stacked()
    params = exactness.zeroed(params, [(("w",), 2, [1, 3])])
    if not bias:
        del params["c"]

    def fn(params, x):
        def layer(x, p):
            return x + (jnp.tanh(x @ p["w"] + p["b"]) @ p["v"] + p.get("c", 0.0)), None

        return jax.lax.scan(layer, x, params, reverse=reverse)[0]

    small = bmrpruner.compact(fn, params, x)
    assert small.params["w"].shape == (3, 6, 4)
    assert ("constants" in str(small.report)) != bias
    assert exactness.error(small(x), fn(params, x)) < exactness.TOLERANCE


def test_sharded_parameters_stay_sharded_where_the_mesh_divides_them():
    mesh = jax.make_mesh((1,), ("m",), axis_types=(jax.sharding.AxisType.Auto,))
    split = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(None, "m"))
    fn, params, args = plain_models.mlp()
    params = exactness.half_dead(params, dependency_groups(fn, params, *args))
    params = jax.tree.map(lambda x: jax.device_put(x, split) if x.ndim == 2 else x, params)
    small = bmrpruner.compact(fn, params, *args)
    assert small.params[0]["w"].sharding == split


def test_masks_prune_before_compaction():
    fn, params, args = plain_models.mlp()
    pruned = exactness.half_dead(params, dependency_groups(fn, params, *args))
    masks = jax.tree.map(lambda x: (x != 0).astype("uint8"), pruned)
    masks[2]["b"] = None
    small = bmrpruner.compact(fn, params, *args, masks=masks)
    assert small.report.parameters == (123, 51)
    assert exactness.error(small(*args), fn(pruned, *args)) < exactness.TOLERANCE
    packed = jax.tree.map(jnp.packbits, masks)
    again = bmrpruner.compact(fn, params, *args, masks=packed)
    jax.tree.map(np.testing.assert_array_equal, again.params, small.params)


def test_folded_constants_make_the_parameters_fit_a_smaller_model():
    fn, params, args = plain_models.mlp()
    pruned = exactness.dead_inputs(params, dependency_groups(fn, params, *args))
    small = bmrpruner.compact(fn, pruned, *args)
    assert small.report.parameters == (123, 51)
    np.testing.assert_allclose(fn(small.params, *args), fn(pruned, *args), rtol=1e-5, atol=1e-6)


def test_nothing_is_added_to_the_original_parameters():
    fn, params, args = plain_models.mlp()
    pruned = exactness.dead_inputs(params, dependency_groups(fn, params, *args))
    before = jax.tree.map(np.array, pruned)
    bmrpruner.compact(fn, pruned, *args)
    jax.tree.map(np.testing.assert_array_equal, before, pruned)
