"""`mask_updates`: exact zeros where pruned, the same update where kept, for any inner optimizer."""

import functools
import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import bmrpruner

pytestmark = pytest.mark.slow

PARAMS = {"w": jax.random.normal(jax.random.key(0), (30, 20)), "b": jnp.ones(20)}
PRUNER = bmrpruner.MagnitudePruning(sparsity=0.7, scheduler=bmrpruner.PeriodicSchedule(2, 1, None))

OPTIMIZERS = {
    "sgd": optax.sgd(0.1),
    "momentum": optax.sgd(0.1, momentum=0.9, nesterov=True),
    "adamw": optax.adamw(1e-2, weight_decay=0.1),
    "lion": optax.lion(1e-2),
    "rmsprop": optax.chain(optax.clip_by_global_norm(1.0), optax.rmsprop(1e-2)),
}


def train(tx, pruner=None, compile_with=jax.jit):
    def step(params, state):
        grads = jax.tree.map(lambda p: jnp.sin(3 * p), params)
        updates, state = tx.update(grads, state, params)
        params = optax.apply_updates(params, updates)
        return (pruner.post_gradient_update(params, state) if pruner else params), state

    params, state = PARAMS, tx.init(PARAMS)
    step = compile_with(step)
    for _ in range(5):
        params, state = step(params, state)
    return params, state


@pytest.mark.parametrize("inner", OPTIMIZERS.values(), ids=OPTIMIZERS)
@pytest.mark.parametrize("compile_with", [jax.jit, lambda step: step], ids=["jit", "eager"])
def test_same_weights_as_post_gradient_update(inner, compile_with):
    plain = train(PRUNER.wrap_optax(inner), PRUNER, compile_with)
    masked = train(PRUNER.wrap_optax(inner, mask_updates=True), None, compile_with)
    # A compiler may round a kept weight's update before it is added, or only the sum.
    chex.assert_trees_all_close(plain, masked, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(np.asarray(masked[0]["w"] != 0), masked[1].masks["w"] == 1)


@pytest.mark.parametrize("inner", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_one_step_differs_by_one_unit_in_the_last_place_at_most(inner):
    """Of the larger of the weight before and after it."""
    start, state = train(PRUNER.wrap_optax(inner), PRUNER)
    grads = jax.tree.map(lambda p: jnp.sin(3 * p), start)

    @functools.partial(jax.jit, static_argnums=0)
    def step(tx, params, state):
        updates, state = tx.update(grads, state, params)
        return PRUNER.post_gradient_update(optax.apply_updates(params, updates), state)

    plain, masked = (
        step(PRUNER.wrap_optax(inner, mask_updates=masks), start, state) for masks in (False, True)
    )
    for before, a, b in zip(*map(jax.tree.leaves, (start, plain, masked)), strict=True):
        unit = np.spacing(np.maximum(np.abs(before), np.abs(a)))
        assert np.all(np.abs(a - b) <= unit)


@pytest.mark.parametrize(
    ("param", "update"), [("float32", "bfloat16"), ("bfloat16", "float32"), ("float16", "float16")]
)
def test_mixed_precision_cancels_exactly(param, update):
    cast = optax.stateless(lambda updates, _: jax.tree.map(lambda u: u.astype(update), updates))
    tx = PRUNER.wrap_optax(cast, mask_updates=True)
    params = jax.tree.map(lambda p: (p * 1.2345).astype(param), PARAMS)
    state = tx.init(params)._replace(count=jnp.int32(2))
    updates, state = tx.update(jax.tree.map(jnp.ones_like, params), state, params)
    new = optax.apply_updates(params, updates)
    chex.assert_trees_all_equal_dtypes(new, params)
    np.testing.assert_array_equal(np.asarray(new["w"] != 0), state.masks["w"] == 1)


def test_the_argument_overrides_the_field():
    params = {"w": jnp.ones((2, 4))}
    for field, argument, masked in ((True, None, True), (True, False, False), (False, True, True)):
        pruner = bmrpruner.MagnitudePruning(
            sparsity=0.5, scheduler=bmrpruner.OneShotSchedule(0), mask_updates=field
        )
        tx = pruner.wrap_optax(optax.sgd(0.0), mask_updates=argument)
        updates, _ = tx.update(params, tx.init(params), params)
        assert bool(jnp.any(updates["w"] != 0)) is masked


def test_extra_arguments_reach_the_scores_and_the_inner_optimizer():
    seen = {}

    class Scored(bmrpruner.MagnitudePruning):
        def calculate_scores(self, params, sparse_state=None, grads=None, importance=None):
            seen["importance"] = importance
            return super().calculate_scores(params)

    def update(updates, state, params=None, *, value=None, **extra):
        seen["value"] = value
        return updates, state

    inner = optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)
    tx = Scored(sparsity=0.5, scheduler=bmrpruner.OneShotSchedule(0)).wrap_optax(inner)
    tx.update(PARAMS, tx.init(PARAMS), PARAMS, importance=3, value=4, nobody="cares")
    assert seen == {"importance": 3, "value": 4}


@pytest.mark.compiled
@pytest.mark.parametrize("algorithm", ["magnitude", "global_magnitude"])
def test_nothing_is_copied_where_masks_stay(algorithm):
    """Parameters, moments and masks are updated in place; only a mask update needs room."""
    pruner = bmrpruner.create_updater_from_config(
        algorithm=algorithm,
        dist_type="uniform",
        sparsity=0.9,
        update_freq=10,
        update_start_step=0,
        update_end_step=100,
    )
    tx = pruner.wrap_optax(optax.adam(1e-3), mask_updates=True)

    def step(params, state, grads):
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    params = {"w": jnp.ones((300, 200)), "v": jnp.ones((100, 70))}
    state = jax.tree.map(jnp.asarray, tx.init(params))
    compiled = jax.jit(step, donate_argnums=(0, 1)).lower(params, state, params).compile()
    copied = re.findall(r"= \w+\[([\d,]*)\]\S* copy\(", compiled.as_text())
    assert set(copied) <= {"", "1", "2"}
    memory = compiled.memory_analysis()
    size = sum(x.size for x in params.values())
    assert memory.alias_size_in_bytes >= (3 * 4 + 1) * size
    assert memory.temp_size_in_bytes < 1.05 * 4 * size  # the scores, while masks are updated
