"""Every registered algorithm, through every way of use."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import bmrpruner
from bmrpruner import posteriors
from bmrpruner._tree import arrays, is_array, map_leaves
from tests.conftest import TREES, dict_params

NAMES = bmrpruner.all_algorithm_names()
DENSE_WEIGHTS = ("no_prune",)  # algorithms that leave the stored weights dense
SPARSITY, STEPS = 0.75, 8


def make(name, **settings):
    defaults = {
        "algorithm": name,
        "dist_type": "uniform",
        "sparsity": SPARSITY,
        "update_freq": 2,
        "update_start_step": 2,
        "update_end_step": 6,
    }
    return bmrpruner.create_updater_from_config({**defaults, **settings})


def make_optimizer(name, inner=None, **settings):
    inner = inner or bmrpruner.ivon(0.1, ess=100, hess_init=0.1, b2=0.9)
    return make(name, **settings).wrap_optax(inner)


def loss_fn(params, key=None):
    return sum(
        jnp.sum((leaf - 0.1) ** 2 * (1 + jnp.arange(leaf.size).reshape(leaf.shape)))
        for leaf in arrays(params)
    ).astype(jnp.float32)


def step(tx, params, state, key, pruner=None):
    """One step of IVON, with the parameters masked by the updates or by the pruner."""
    _, grads, state = bmrpruner.noisy_value_and_grad(loss_fn, state, params, key)
    updates, state = tx.update(grads, state, params)
    params = optax.apply_updates(params, updates)
    return (pruner.post_gradient_update(params, state) if pruner else params), state


def train(tx, params, pruner=None, steps=STEPS):
    """All the steps in one compiled scan."""

    def body(carry, key):
        return step(tx, *carry, key, pruner), None

    keys = jax.random.split(jax.random.key(0), steps)
    return jax.jit(lambda carry: jax.lax.scan(body, carry, keys)[0])((params, tx.init(params)))


def mask_leaves(masks):
    return [np.asarray(mask) for mask in jax.tree.leaves(masks)]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("make_tree", TREES.values(), ids=TREES)
def test_trains_any_tree(name, make_tree):
    params = make_tree()
    free = map_leaves(lambda leaf: leaf if is_array(leaf) else None, params)
    tx = make_optimizer(name, mask_updates=True)
    trained, state = train(tx, free)

    chex.assert_trees_all_equal_shapes_and_dtypes(trained, free)
    init = jax.eval_shape(tx.init, free)
    chex.assert_trees_all_equal_shapes_and_dtypes(jax.eval_shape(lambda s: s, state), init)
    assert int(state.count) == STEPS
    if name in DENSE_WEIGHTS:
        return
    kept = [mask.sum() for mask in mask_leaves(state.masks)]
    sizes = [mask.size for mask in mask_leaves(state.masks)]
    assert sum(kept) == round((1 - SPARSITY) * sum(sizes))
    zeros = sum(int(jnp.sum(leaf == 0)) for leaf in arrays(trained))
    assert zeros == sum(sizes) - sum(kept)
    for leaf in arrays(trained):
        assert leaf.ndim > 1 or bool(jnp.all(leaf != 0)), "biases are exempt"


@pytest.mark.parametrize("name", NAMES)
def test_instant_sparsify_takes_whole_models(name, tree):
    """Equinox modules come with their functions, Flax trees frozen, in and out the same."""
    if name in DENSE_WEIGHTS:
        assert make(name).instant_sparsify(tree)[0] is tree
        return
    precision = map_leaves(lambda leaf: jnp.full(leaf.shape, 9.0) if is_array(leaf) else None, tree)
    posterior = posteriors.DiagonalGaussian(tree, precision)
    grads = map_leaves(lambda leaf: leaf * 2 if is_array(leaf) else None, tree)
    pruned, masks = make(name).instant_sparsify(tree, grads=grads, posterior=posterior)

    assert jax.tree.structure(pruned) == jax.tree.structure(tree)
    total = sum(mask.size for mask in mask_leaves(masks))
    assert sum(mask.sum() for mask in mask_leaves(masks)) == round((1 - SPARSITY) * total)
    expected = map_leaves(lambda leaf, mask: leaf if mask is None else leaf * mask, tree, masks)
    chex.assert_trees_all_equal(
        [x for x in jax.tree.leaves(pruned) if is_array(x)],
        [x for x in jax.tree.leaves(expected) if is_array(x)],
    )


@pytest.mark.parametrize("name", NAMES)
def test_masked_updates_equal_post_gradient_update(name):
    """Kept entries agree bit for bit, pruned ones are zero, jitted and not."""
    params = dict_params()
    pruner = make(name)
    inner = bmrpruner.ivon(0.1, ess=100, hess_init=0.1, b2=0.9)
    plain, plain_state = train(pruner.wrap_optax(inner), params, pruner)
    masked, masked_state = train(pruner.wrap_optax(inner, mask_updates=True), params)
    chex.assert_trees_all_equal(plain, masked)
    chex.assert_trees_all_equal(plain_state, masked_state)


@pytest.mark.parametrize("name", NAMES)
def test_step_by_step_equals_scan_and_compiles_once(name):
    params = dict_params()
    tx = make_optimizer(name, mask_updates=True)
    traced = []

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def jitted(params, state, key):
        traced.append(1)
        return step(tx, params, state, key)

    expected = train(tx, params)
    state = tx.init(params)
    for key in jax.random.split(jax.random.key(0), STEPS):
        params, state = jitted(params, state, key)
    assert len(traced) == 1
    chex.assert_trees_all_close((params, state), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_packed_masks_change_storage_only(name):
    params = dict_params()
    plain, plain_state = train(make_optimizer(name, mask_updates=True), params)
    if name in DENSE_WEIGHTS:
        return
    packed, packed_state = train(
        make_optimizer(name, mask_updates=True, use_packed_masks=True), params
    )
    chex.assert_trees_all_equal(packed, plain)
    for bits, mask in zip(
        mask_leaves(packed_state.masks), mask_leaves(plain_state.masks), strict=True
    ):
        np.testing.assert_array_equal(bits, np.packbits(mask))


@pytest.mark.parametrize("name", NAMES)
def test_bfloat16_keeps_its_dtype(name):
    params = dict_params(jnp.bfloat16)
    tx = make_optimizer(name, mask_updates=True)
    trained, state = train(tx, params)
    chex.assert_trees_all_equal_dtypes(trained, params)
    if name not in DENSE_WEIGHTS:
        pruned = map_leaves(
            lambda leaf, mask: None if mask is None else jnp.where(mask, 0, leaf),
            trained,
            state.masks,
        )
        assert not any(jnp.any(leaf != 0) for leaf in jax.tree.leaves(pruned))


@pytest.mark.parametrize("name", NAMES)
def test_vmap_trains_an_ensemble(name):
    """Two members at once equal the two on their own."""
    tx = make_optimizer(name, mask_updates=True)
    members = [dict_params(), jax.tree.map(lambda x: x * 1.5, dict_params())]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *members)

    def run(params):
        state = tx.init(params)
        for key in jax.random.split(jax.random.key(0), 4):
            params, state = step(tx, params, state, key)
        return params

    together = jax.jit(jax.vmap(run))(stacked)
    for i, member in enumerate(members):
        alone = jax.jit(run)(member)
        chex.assert_trees_all_close(
            jax.tree.map(lambda x, i=i: x[i], together), alone, rtol=1e-4, atol=1e-5
        )


@pytest.mark.parametrize("name", NAMES)
def test_inside_and_around_wrappers(name):
    """The posterior and the masks are found wherever the wrappers put them."""
    inner = optax.chain(optax.clip_by_global_norm(1.0), bmrpruner.ivon(0.1, ess=100, hess_init=0.1))
    tx = optax.chain(
        optax.zero_nans(),
        optax.MultiSteps(
            make_optimizer(name, inner, mask_updates=True), 2
        ).gradient_transformation(),
    )
    params = dict_params()
    trained, state = train(tx, params, steps=2 * STEPS)
    chex.assert_trees_all_equal_structs(state, tx.init(params))
    if name not in DENSE_WEIGHTS:
        zeros = sum(int(jnp.sum(leaf == 0)) for leaf in arrays(trained))
        assert zeros == round(SPARSITY * (8 * 4 + 4 * 12))
