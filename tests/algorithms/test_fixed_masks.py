"""Training under given masks."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import bmrpruner
from bmrpruner import FixedMasks
from bmrpruner._masks import pack_tree
from bmrpruner._tree import arrays, is_array, map_leaves
from tests.conftest import TREES, dict_params


def masks_for(tree):
    """Every second weight of each leaf of two axes."""

    def mask(leaf):
        if not is_array(leaf) or leaf.ndim < 2:
            return None
        return (jnp.arange(leaf.size) % 2).astype(jnp.uint8).reshape(leaf.shape)

    return map_leaves(mask, tree)


PARAMS = dict_params()
MASKS = masks_for(PARAMS)


def loss_fn(params, key=None):
    return sum(jnp.sum((leaf - 0.3) ** 2) for leaf in arrays(params)).astype(jnp.float32)


def train(tx, params, steps=4):
    def step(carry, key):
        params, state = carry
        _, grads, state = bmrpruner.noisy_value_and_grad(loss_fn, state, params, key)
        updates, state = tx.update(grads, state, params)
        return (optax.apply_updates(params, updates), state), None

    keys = jax.random.split(jax.random.key(0), steps)
    return jax.lax.scan(step, (params, tx.init(params)), keys)[0]


def check_masked(params, masks):
    for leaf, mask in zip(arrays(params), _leaves(params, masks), strict=True):
        assert np.all((np.asarray(leaf) != 0) == (1 if mask is None else np.asarray(mask)))


def _leaves(params, masks):
    return jax.tree.structure(params).flatten_up_to(masks)


@pytest.mark.parametrize("packed", [False, True])
def test_masks_never_change_and_hold(packed):
    tx = FixedMasks(MASKS, use_packed_masks=packed).wrap_optax(bmrpruner.ivon(0.1, 100))
    params, state = jax.jit(lambda params: train(tx, params))(PARAMS)
    check_masked(params, MASKS)
    assert int(state.count) == 4
    expected = map_leaves(lambda m: m if m is None else np.packbits(m), MASKS) if packed else MASKS
    chex.assert_trees_all_equal(state.masks, expected)
    assert state.target_sparsities["layer_0"]["bias"] is None
    assert float(state.target_sparsities["layer_1"]["kernel"]) == 0.5


def test_masks_may_come_packed_as_bools_or_traced():
    expected = FixedMasks(MASKS).init_state(PARAMS).masks
    for masks in (pack_tree(MASKS), jax.tree.map(lambda m: m != 0, MASKS)):
        chex.assert_trees_all_equal(FixedMasks(masks).init_state(PARAMS).masks, expected)
    traced = jax.jit(lambda masks: FixedMasks(masks).init_state(PARAMS).masks)(MASKS)
    chex.assert_trees_all_equal(traced, expected)


def test_kept_weights_train_as_the_smaller_model_does():
    """Adam on the vector of what is kept takes the same steps."""
    params, tx = bmrpruner.apply_masks(PARAMS, MASKS), FixedMasks(MASKS).wrap_optax(optax.adam(0.1))
    vector, unravel = bmrpruner.ravel_kept(params, MASKS)
    adam, state = optax.adam(0.1), tx.init(params)
    vector_state = adam.init(vector)
    for _ in range(3):
        updates, state = tx.update(jax.grad(loss_fn)(params), state, params)
        params = optax.apply_updates(params, updates)
        grads = jax.grad(lambda z: loss_fn(unravel(z)))(vector)
        updates, vector_state = adam.update(grads, vector_state, vector)
        vector = optax.apply_updates(vector, updates)
    chex.assert_trees_all_close(params, unravel(vector), rtol=1e-6)


def test_ivon_draws_no_noise_where_the_masks_are_zero():
    def noise_of_pruned(params, key=None):
        return sum(
            jnp.sum(jnp.abs(params[name]["kernel"]) * (1 - MASKS[name]["kernel"]))
            for name in params
        )

    params = bmrpruner.apply_masks(PARAMS, MASKS)
    for masks, is_silent in ((MASKS, True), (jax.tree.map(jnp.ones_like, MASKS), False)):
        state = FixedMasks(masks).wrap_optax(bmrpruner.ivon(0.1, 100)).init(params)
        drawn, _, _ = bmrpruner.noisy_value_and_grad(
            noise_of_pruned, state, params, jax.random.key(0)
        )
        assert bool(drawn == 0) is is_silent


@pytest.mark.parametrize("make_tree", TREES.values(), ids=TREES)
def test_any_tree_keeps_structure_shapes_and_dtypes(make_tree):
    params = map_leaves(lambda leaf: leaf if is_array(leaf) else None, make_tree())
    tx = FixedMasks(masks_for(params)).wrap_optax(bmrpruner.ivon(0.1, 100))
    carry = (params, tx.init(params))
    out = jax.eval_shape(lambda params: train(tx, params), params)
    chex.assert_trees_all_equal_shapes_and_dtypes(out, jax.eval_shape(lambda: carry))


def test_bfloat16_and_vmap_keep_what_they_are():
    tx = FixedMasks(MASKS, use_packed_masks=True).wrap_optax(optax.adam(0.1))
    stacked = jax.tree.map(lambda x: jnp.stack([x, x]), dict_params(jnp.bfloat16))
    states = jax.vmap(tx.init)(stacked)
    updates, after = jax.vmap(tx.update)(stacked, states, stacked)
    chex.assert_trees_all_equal_shapes_and_dtypes(after, states)
    params = optax.apply_updates(stacked, updates)
    assert params["layer_0"]["kernel"].dtype == jnp.bfloat16
    check_masked(jax.tree.map(lambda x: x[1], params), MASKS)


def test_masks_and_copies_survive_donation():
    """The masks that were given live on; first weights do where they were copied."""
    tx = FixedMasks(MASKS).wrap_optax(optax.sgd(0.1))
    first = jax.tree.map(jnp.copy, PARAMS)

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def step(params, state):
        updates, state = tx.update(jax.grad(loss_fn)(params), state, params)
        return optax.apply_updates(params, updates), state

    params, state = jax.tree.map(jnp.copy, first), tx.init(first)
    for _ in range(2):
        params, state = step(params, state)
    check_masked(params, MASKS)
    chex.assert_trees_all_equal(first, PARAMS)
    assert int(sum(m.sum() for m in arrays(MASKS))) == 16 + 24


def test_with_its_updates_not_masked():
    pruner = FixedMasks(MASKS, mask_updates=False)
    tx = pruner.wrap_optax(optax.sgd(0.1))
    state = tx.init(PARAMS)
    updates, state = tx.update(jax.grad(loss_fn)(PARAMS), state, PARAMS)
    params = optax.apply_updates(PARAMS, updates)
    assert np.all(np.asarray(params["layer_0"]["kernel"]) != 0)
    check_masked(pruner.post_gradient_update(params, state), MASKS)


def test_gradients_are_masked_where_asked():
    tx = FixedMasks(MASKS, is_sparse_gradients=True).wrap_optax(optax.trace(0.9))
    _, state = tx.update(PARAMS, tx.init(PARAMS), PARAMS)
    check_masked(state.inner_state.trace, MASKS)


def test_once_without_training(tree):
    masks = masks_for(tree)
    pruned, found = FixedMasks(masks).instant_sparsify(tree)
    chex.assert_trees_all_equal(*map(jax.tree.leaves, (found, masks)))
    chex.assert_trees_all_equal(arrays(pruned), arrays(bmrpruner.apply_masks(tree, masks)))


def test_what_does_not_fit_is_refused():
    with pytest.raises(TypeError, match="masks: expected an array of numbers or None for leaf 'w'"):
        FixedMasks({"w": "all"})
    with pytest.raises(TypeError, match="sparsity"):
        FixedMasks(MASKS, sparsity=0.5)
    with pytest.raises(ValueError, match="'layer_1/bias' in one of them only"):
        FixedMasks(MASKS).init_state({"layer_0": PARAMS["layer_0"]})
    with pytest.raises(ValueError, match=r"masks, w: expected the shape of params, \(3,\)"):
        FixedMasks({"w": jnp.ones(4)}).wrap_optax(optax.sgd(1.0)).init({"w": jnp.ones(3)})
    with pytest.raises(TypeError, match="'n' of int32, which is never pruned"):
        FixedMasks({"n": jnp.ones(2)}).init_state({"n": jnp.arange(2)})
    tx = FixedMasks(MASKS).wrap_optax(optax.sgd(1.0))
    with pytest.raises(ValueError, match=r"state\.masks"):
        tx.update(PARAMS, tx.init(PARAMS)._replace(masks={"layer_0": None}), PARAMS)
