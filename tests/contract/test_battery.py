"""Every registered algorithm, through every way of use."""

import functools
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import bmrpruner
from bmrpruner import posteriors
from bmrpruner._tree import arrays, is_array, map_leaves
from tests.conftest import TREES, WRAPPING, dict_params

pytestmark = pytest.mark.slow

# A class that has two names runs under the first.
NAMES = {bmrpruner.ALGORITHM_REGISTRY[name]: name for name in reversed(WRAPPING)}
NAMES = tuple(reversed(NAMES.values()))
STEPS = 8


class Facts(NamedTuple):
    """What is particular to an algorithm."""

    sparsity: float | None = 0.75  # of the masks after training; None: an outcome
    stores_masks: bool = True
    prunes_at_once: bool = True
    settings: dict = {}  # noqa: RUF012
    adam: bool = False  # needs second moments


FACTS = {
    "no_prune": Facts(stores_masks=False, prunes_at_once=False),
    "magnitude_ste": Facts(stores_masks=False),
    "random_ste": Facts(stores_masks=False),
    "bmr_ste": Facts(stores_masks=False),
    "static_sparse": Facts(prunes_at_once=False),
    "set": Facts(prunes_at_once=False),
    "rigl": Facts(prunes_at_once=False),
    "acdc": Facts(
        settings={
            "init_dense_steps_end": 2,
            "final_sparse_steps_start": 6,
            "cycle_sparse_steps": 1,
            "cycle_dense_steps": 1,
        }
    ),
    "adam-fisher": Facts(adam=True),
    "iterative_nm": Facts(sparsity=0.5),
    "adaptive_bmr": Facts(sparsity=None),
}
FEW = ("magnitude", "rigl", "global_bmr", "adaptive_bmr")  # where each case costs a compilation


def facts(name):
    return FACTS.get(name, Facts())


def make(name, **settings):
    defaults = {
        "algorithm": name,
        "dist_type": "uniform",
        "sparsity": 0.75,
        "update_freq": 2,
        "update_start_step": 2,
        "update_end_step": 6,
    }
    return bmrpruner.create_updater_from_config({**defaults, **facts(name).settings, **settings})


def make_inner(name):
    return optax.adam(0.01) if facts(name).adam else bmrpruner.ivon(0.1, 100, 0.1, b2=0.9)


def loss_fn(params, key=None):
    losses = [
        jnp.sum((leaf - 0.1) ** 2 * (1 + jnp.arange(leaf.size).reshape(leaf.shape)))
        for leaf in arrays(params)
    ]
    return sum(losses).astype(jnp.float32)


def step(name, tx, params, state, key, pruner=None):
    """One step, with the parameters masked by the updates or by the pruner."""
    if facts(name).adam:
        grads = jax.grad(loss_fn)(params)
    else:
        _, grads, state = bmrpruner.noisy_value_and_grad(loss_fn, state, params, key)
    updates, state = tx.update(grads, state, params)
    params = optax.apply_updates(params, updates)
    return (pruner.post_gradient_update(params, state) if pruner else params), state


def scan(name, tx, carry, pruner=None, steps=STEPS):
    """All the steps."""

    def body(carry, key):
        return step(name, tx, *carry, key, pruner), None

    return jax.lax.scan(body, carry, jax.random.split(jax.random.key(0), steps))[0]


@functools.cache
def trained(name, mode):
    """Parameters and state after training; compiled once per algorithm and mode."""
    pruner = make(name, use_packed_masks=mode == "packed")
    tx = pruner.wrap_optax(make_inner(name), mask_updates=mode != "plain")
    run = jax.jit(lambda carry: scan(name, tx, carry, pruner if mode == "plain" else None))
    params = dict_params()
    return run((params, tx.init(params)))


def masks_of(tree):
    return [np.asarray(mask) for mask in jax.tree.leaves(tree)]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("make_tree", TREES.values(), ids=TREES)
def test_any_tree_keeps_structure_shapes_and_dtypes(name, make_tree):
    """Traced, not run: a scan refuses a state that changes."""
    params = map_leaves(lambda leaf: leaf if is_array(leaf) else None, make_tree())
    tx = make(name).wrap_optax(make_inner(name), mask_updates=True)
    carry = (params, tx.init(params))
    out = jax.eval_shape(lambda carry: scan(name, tx, carry), carry)
    chex.assert_trees_all_equal_shapes_and_dtypes(out, jax.eval_shape(lambda: carry))


@pytest.mark.parametrize("name", NAMES)
def test_bfloat16_keeps_its_dtype(name):
    params = dict_params(jnp.bfloat16)
    tx = make(name).wrap_optax(make_inner(name), mask_updates=True)
    carry = (params, tx.init(params))
    out = jax.eval_shape(lambda carry: scan(name, tx, carry), carry)
    chex.assert_trees_all_equal_dtypes(out, jax.eval_shape(lambda: carry))


@pytest.mark.parametrize("name", NAMES)
def test_training_prunes_what_it_says(name):
    params, state = trained(name, "masked")
    assert int(state.count) == STEPS
    masks = masks_of(state.masks)
    assert bool(masks) is facts(name).stores_masks
    if facts(name).sparsity is not None and masks:
        sizes = sum(mask.size for mask in masks)
        assert sum(int(mask.sum()) for mask in masks) == round((1 - facts(name).sparsity) * sizes)
    for layer, mask in zip(params, masks, strict=False):
        assert not np.any(np.asarray(params[layer]["kernel"])[mask == 0])
        assert np.all(np.asarray(params[layer]["bias"]) != 0), "biases are exempt"


@pytest.mark.parametrize("name", NAMES)
def test_masked_updates_equal_post_gradient_update(name):
    """Kept entries agree but for rounding, pruned ones are zero."""
    masked, plain = trained(name, "masked"), trained(name, "plain")
    chex.assert_trees_all_equal(masked[1].masks, plain[1].masks)
    chex.assert_trees_all_close(masked, plain, rtol=1e-5, atol=1e-6)
    for a, b in zip(*map(arrays, (masked[0], plain[0])), strict=True):
        np.testing.assert_array_equal(a == 0, b == 0)


@pytest.mark.parametrize("name", NAMES)
def test_packed_masks_change_storage_only(name):
    params, state = trained(name, "masked")
    packed_params, packed_state = trained(name, "packed")
    chex.assert_trees_all_close(packed_params, params, rtol=1e-5)
    for bits, mask in zip(masks_of(packed_state.masks), masks_of(state.masks), strict=True):
        np.testing.assert_array_equal(bits, np.packbits(mask))


@pytest.mark.parametrize("name", NAMES)
def test_step_by_step_equals_scan_and_compiles_once(name):
    params = dict_params()
    tx = make(name).wrap_optax(make_inner(name), mask_updates=True)
    traced = []

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def jitted(params, state, key):
        traced.append(1)
        return step(name, tx, params, state, key)

    state = tx.init(params)
    for key in jax.random.split(jax.random.key(0), STEPS):
        params, state = jitted(params, state, key)
    assert len(traced) == 1
    chex.assert_trees_all_close((params, state), trained(name, "masked"), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_vmap_keeps_structure_shapes_and_dtypes(name):
    tx = make(name, use_packed_masks=True).wrap_optax(make_inner(name), mask_updates=True)
    params = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), dict_params())
    carry = (params, jax.eval_shape(jax.vmap(tx.init), params))
    out = jax.eval_shape(jax.vmap(lambda *carry: scan(name, tx, carry)), *carry)
    chex.assert_trees_all_equal_shapes_and_dtypes(out, carry)


@pytest.mark.parametrize("name", FEW)
def test_vmap_trains_an_ensemble(name):
    """Two members at once equal the two on their own."""
    tx = make(name).wrap_optax(make_inner(name), mask_updates=True)
    members = [dict_params(), jax.tree.map(lambda x: x * 1.5, dict_params())]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *members)

    def run(params):
        return scan(name, tx, (params, tx.init(params)), steps=4)[0]

    together, alone = jax.jit(jax.vmap(run))(stacked), jax.jit(run)
    for i, member in enumerate(members):
        chex.assert_trees_all_close(
            jax.tree.map(lambda x, i=i: x[i], together), alone(member), rtol=1e-4, atol=1e-5
        )


@pytest.mark.parametrize("name", NAMES)
def test_inside_and_around_wrappers(name):
    """Posteriors, moments and masks are found wherever the wrappers put them."""
    inner = optax.chain(optax.clip_by_global_norm(1.0), make_inner(name))
    wrapped = make(name).wrap_optax(inner, mask_updates=True)
    tx = optax.chain(optax.zero_nans(), optax.MultiSteps(wrapped, 2).gradient_transformation())
    params = dict_params()
    carry = (params, tx.init(params))
    run = jax.eval_shape if name not in FEW else lambda fn, carry: jax.jit(fn)(carry)
    out, state = run(lambda carry: scan(name, tx, carry, steps=2 * STEPS), carry)
    chex.assert_trees_all_equal_structs(state, carry[1])
    if name in FEW and facts(name).sparsity is not None:
        zeros = sum(int(jnp.sum(leaf == 0)) for leaf in arrays(out))
        assert zeros >= round(facts(name).sparsity * (8 * 4 + 4 * 12))


def prune_at_once(name, tree, **settings):
    """The pruned tree and its masks, with a posterior and gradients at hand."""
    precision = map_leaves(lambda leaf: jnp.full(leaf.shape, 9.0) if is_array(leaf) else None, tree)
    grads = map_leaves(lambda leaf: leaf * 2 if is_array(leaf) else None, tree)
    extra = {}
    if facts(name).adam:
        free = map_leaves(lambda leaf: leaf if is_array(leaf) else None, tree)
        extra["opt_state"] = optax.adam(0.1).update(free, optax.adam(0.1).init(free))[1]
    return make(name, **settings).instant_sparsify(
        tree, grads=grads, posterior=posteriors.DiagonalGaussian(tree, precision), **extra
    )


@pytest.mark.parametrize("name", NAMES)
def test_instant_sparsify_takes_whole_models(name, tree):
    """Equinox modules come with their functions, Flax trees frozen, in and out the same."""
    if not facts(name).prunes_at_once:
        if name == "no_prune":
            assert make(name).instant_sparsify(tree)[0] is tree
        else:
            with pytest.raises(RuntimeError):
                make(name).instant_sparsify(tree)
        return
    pruned, masks = prune_at_once(name, tree)
    assert jax.tree.structure(pruned) == jax.tree.structure(tree)
    if facts(name).sparsity is not None:
        total = sum(mask.size for mask in masks_of(masks))
        kept = sum(int(mask.sum()) for mask in masks_of(masks))
        assert kept == round((1 - facts(name).sparsity) * total)
    expected = map_leaves(lambda leaf, mask: leaf if mask is None else leaf * mask, tree, masks)
    chex.assert_trees_all_equal(
        [x for x in jax.tree.leaves(pruned) if is_array(x)],
        [x for x in jax.tree.leaves(expected) if is_array(x)],
    )
