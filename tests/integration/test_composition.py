"""Inside and around Optax's wrappers, under JAX's transformations."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import bmrpruner
from tests.conftest import dict_params

pytestmark = pytest.mark.slow

PARAMS = dict_params()
LABELS = {"layer_0": "a", "layer_1": "b"}
MASK = {"layer_0": True, "layer_1": False}
ZEROS = {"layer_0": 24, "layer_1": 36}  # of 32 and 48, at a sparsity of 0.75


def make(name="magnitude", **settings):
    return bmrpruner.create_updater_from_config(
        algorithm=name,
        dist_type="uniform",
        sparsity=0.75,
        update_freq=2,
        update_start_step=0,
        update_end_step=3,
        mask_updates=True,
        drop_fraction=0.5,
        **settings,
    )


def wrap(inner, name="magnitude", **settings):
    return make(name, **settings).wrap_optax(inner)


def loss_fn(params):
    return sum(jnp.sum((x - 0.1) ** 2) for x in jax.tree.leaves(params))


def train(tx, steps=4, params=PARAMS, compiled=False):
    """Step by step, as a rule not compiled; traced as well, as the state must keep its form."""

    def step(params, state):
        updates, state = tx.update(jax.grad(loss_fn)(params), state, params)
        return optax.apply_updates(params, updates), state

    carry = (params, tx.init(params))
    traced = jax.eval_shape(lambda carry: step(*step(*carry)), carry)
    chex.assert_trees_all_equal_shapes_and_dtypes(traced, jax.eval_shape(lambda c: c, carry))
    run = jax.jit(step) if compiled else step
    for _ in range(steps):
        carry = run(*carry)
    return carry


def zeros(params):
    return {name: int(jnp.sum(layer["kernel"] == 0)) for name, layer in params.items()}


ADAM = optax.adam(0.1)
AROUND = {
    "chain": lambda name: optax.chain(optax.clip(1.0), wrap(ADAM, name)),
    "multi_steps": lambda name: optax.MultiSteps(wrap(ADAM, name), 2).gradient_transformation(),
    "apply_if_finite": lambda name: optax.apply_if_finite(wrap(ADAM, name), 2),
    "inject": lambda name: optax.inject_hyperparams(lambda rate: wrap(optax.adam(rate), name))(0.1),
    "flatten_state": lambda name: optax.with_extra_args_support(wrap(ADAM, name)),
}
CONDITIONAL = ("multi_steps", "apply_if_finite")  # a lax.cond of theirs compiles in every step
INSIDE = {
    "chain": optax.chain(optax.clip(1.0), optax.scale_by_adam(), optax.scale(-0.1)),
    "multi_steps": optax.MultiSteps(ADAM, 2).gradient_transformation(),
    "apply_if_finite": optax.apply_if_finite(ADAM, 2),
    "inject": optax.inject_hyperparams(optax.adam)(learning_rate=0.1),
    "masked": optax.masked(ADAM, MASK),
    "partition": optax.partition({"a": ADAM, "b": optax.rmsprop(0.1)}, LABELS),
    "pruner": wrap(ADAM, sparsity_type="2:4"),
    "lookahead_free": optax.contrib.schedule_free_adamw(0.1),
}


@pytest.mark.parametrize("name", ["magnitude", "rigl"])
@pytest.mark.parametrize("wrapper", AROUND)
def test_inside_wrappers(wrapper, name):
    steps = 8 if wrapper == "multi_steps" else 4
    params, _ = train(AROUND[wrapper](name), steps, compiled=wrapper in CONDITIONAL)
    found = zeros(params)
    assert all(found[layer] >= ZEROS[layer] for layer in ZEROS)
    if name == "magnitude":
        assert found == ZEROS


@pytest.mark.parametrize("wrapped", INSIDE)
def test_around_wrappers(wrapped):
    tx = wrap(INSIDE[wrapped], "rigl", skip_gradients=False)
    found = zeros(train(tx, compiled=wrapped in CONDITIONAL)[0])
    assert all(found[layer] >= ZEROS[layer] for layer in ZEROS)


def test_partition_gives_each_group_a_pruner_of_its_own():
    tx = optax.partition({"a": wrap(ADAM), "b": wrap(ADAM, "global_magnitude")}, LABELS)
    params, state = train(tx)
    assert zeros(params) == ZEROS
    inner = state.inner_states
    assert isinstance(inner["a"].inner_state.masks["layer_1"], optax.MaskedNode)
    assert inner["b"].inner_state.masks["layer_1"]["kernel"].shape == (4, 12)


def test_masked_prunes_the_rest_not():
    params, _ = train(optax.masked(wrap(ADAM), MASK))
    assert zeros(params) == {"layer_0": 24, "layer_1": 0}


def test_apply_if_finite_skips_the_count():
    tx = optax.apply_if_finite(wrap(ADAM), 5)
    state = tx.init(PARAMS)
    bad = jax.tree.map(lambda x: jnp.full_like(x, jnp.nan), PARAMS)
    _, after = jax.jit(tx.update)(bad, state, PARAMS)
    assert int(after.inner_state.count) == 0
    chex.assert_trees_all_equal(after.inner_state.masks, state.inner_state.masks)


@pytest.mark.parametrize("name", ["magnitude", "global_magnitude", "rigl", "magnitude_ste"])
def test_tree_map_params_reaches_masks_and_accumulators(name):
    tx = wrap(ADAM, name)
    state = tx.init(PARAMS)
    specs = jax.tree.map(lambda x: f"spec{x.ndim}", PARAMS)
    found = optax.tree_utils.tree_map_params(
        tx,
        lambda leaf, spec: None if leaf is None else spec,
        state,
        specs,
        transform_non_params=lambda _: "none",
        is_leaf=lambda leaf: leaf is None,  # an exempt leaf has no mask
    )
    expected = jax.tree.map(lambda _: None if name == "magnitude_ste" else "spec2", LABELS)
    assert {layer: found.masks[layer]["kernel"] for layer in LABELS} == expected
    assert found.masks["layer_0"]["bias"] is None
    assert found.count == "none"
    assert found.inner_state[0].mu == specs
    assert optax.tree_utils.tree_get(state, "count", filtering=lambda p, _: len(p) == 1) == 0


def test_tree_set_changes_hyperparameters_inside():
    tx = wrap(optax.inject_hyperparams(optax.adam)(learning_rate=0.1))
    state = optax.tree_utils.tree_set(tx.init(PARAMS), learning_rate=0.5)
    assert float(state.inner_state.hyperparams["learning_rate"]) == 0.5
    assert float(optax.tree_utils.tree_get(state, "learning_rate")) == 0.5


def test_vmap_over_seeds_and_params():
    """An ensemble of pruned models, its masks from traced seeds."""

    @jax.jit
    @jax.vmap
    def run(seed, scale):
        tx = wrap(ADAM, "random", rng_seed=seed)
        params = jax.tree.map(lambda x: x * scale, PARAMS)
        state = tx.init(params)
        return tx.update(params, state, params)[1].masks["layer_1"]["kernel"]

    one, two = jnp.array([1.0, 2.0]), jnp.array([2.0, 1.0])
    (first, second), (third, fourth) = run(jnp.arange(2), one), run(jnp.arange(2)[::-1], two)
    np.testing.assert_array_equal(first, fourth)
    np.testing.assert_array_equal(second, third)
    assert np.any(first != second)


def test_pmap_style_replication():
    """One step per device on a stacked state, gradients averaged, masks equal on all."""
    tx = wrap(ADAM)
    stacked = jax.tree.map(lambda x: jnp.asarray(x)[None], (PARAMS, tx.init(PARAMS)))

    def step(params, state):
        grads = jax.lax.pmean(jax.grad(loss_fn)(params), "devices")
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    mapped = jax.pmap(step, axis_name="devices", devices=jax.devices()[:1])
    for _ in range(4):
        stacked = mapped(*stacked)
    assert zeros(jax.tree.map(lambda x: x[0], stacked[0])) == ZEROS


def test_sharded_state():
    """A spec tree made from the state by hand, as sharded trainers do."""
    mesh = Mesh(np.array(jax.devices()[:1]), ("data",))
    tx = wrap(ADAM)
    state = jax.eval_shape(tx.init, PARAMS)
    replicated = NamedSharding(mesh, PartitionSpec())
    specs = jax.tree.map(lambda _: replicated, state)
    specs = specs._replace(count=replicated)
    placed = jax.jit(tx.init, out_shardings=specs)(PARAMS)
    assert placed.masks["layer_0"]["kernel"].sharding == replicated
    updates, after = jax.jit(tx.update, out_shardings=(None, specs))(PARAMS, placed, PARAMS)
    assert int(after.count) == 1
    chex.assert_trees_all_equal_structs(updates, PARAMS)


def test_checkpointed_forward_pass():
    pruner = bmrpruner.SteMagnitudePruning(sparsity=0.75)
    state = pruner.init_state(PARAMS)

    def loss(params):
        return loss_fn(pruner.pre_forward_update(params, state))

    plain = jax.jit(jax.grad(loss))(PARAMS)
    recomputed = jax.jit(jax.grad(jax.checkpoint(loss)))(PARAMS)
    chex.assert_trees_all_equal(plain, recomputed)


def test_donated_buffers():
    tx = wrap(ADAM, use_packed_masks=True)

    def step(params, state):
        updates, state = tx.update(jax.grad(loss_fn)(params), state, params)
        return optax.apply_updates(params, updates), state

    donating = jax.jit(step, donate_argnums=(0, 1))
    params = jax.tree.map(jnp.copy, PARAMS)
    carry = (params, jax.jit(tx.init)(params))
    for _ in range(4):
        carry = donating(*carry)
    assert zeros(carry[0]) == ZEROS
    assert all(x.is_deleted() for x in jax.tree.leaves(params))
