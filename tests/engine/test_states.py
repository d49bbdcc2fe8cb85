"""States: of one type from `init` on, refused where they belong to another pruner."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import bmrpruner
from tests.conftest import WRAPPING

PARAMS = {"w": jax.random.normal(jax.random.key(0), (4, 8)), "b": jnp.ones(8)}
SCHEDULE = bmrpruner.PolynomialSchedule(update_freq=1, update_start_step=0, update_end_step=4)
NAMES = WRAPPING


def make(name, **settings):
    config = {"algorithm": name, "dist_type": "uniform", "sparsity": 0.5, "update_end_step": 9}
    return bmrpruner.create_updater_from_config({**config, "scheduler": SCHEDULE, **settings})


def types(tree):
    return jax.tree.map(lambda x: (x.shape, x.dtype, x.weak_type), tree)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("packed", [False, True])
def test_types_are_the_same_from_init_on(name, packed):
    """Weak types included: solvers such as Optimistix refuse a state that changes them."""
    inner = optax.adam(0.1) if name == "adam-fisher" else bmrpruner.ivon(0.1, ess=100)
    tx = make(name, use_packed_masks=packed).wrap_optax(inner, mask_updates=True)
    before = tx.init(PARAMS)
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(before))
    after = jax.eval_shape(tx.update, PARAMS, before, PARAMS)[1]
    assert types(jax.eval_shape(lambda: before)) == types(after)


def test_equinox_compiles_once():
    tx = make("magnitude").wrap_optax(optax.adam(0.1), mask_updates=True)
    traced = []

    @eqx.filter_jit
    def step(params, state):
        traced.append(1)
        updates, state = tx.update(params, state, params)
        return optax.apply_updates(params, updates), state

    params, state = PARAMS, tx.init(PARAMS)
    for _ in range(3):
        params, state = step(params, state)
    assert len(traced) == 1


FOREIGN = {
    "global": ("magnitude", "global_magnitude"),
    "by layer": ("global_magnitude", "magnitude"),
    "adaptive": ("global_bmr", "adaptive_bmr"),
    "not adaptive": ("adaptive_bmr", "global_bmr"),
    "straight through": ("magnitude", "magnitude_ste"),
    "stored": ("magnitude_ste", "magnitude"),
}


@pytest.mark.parametrize(("mine", "other"), FOREIGN.values(), ids=FOREIGN)
def test_a_state_of_another_pruner_is_refused_between_refreshes(mine, other):
    never = bmrpruner.NoUpdateSchedule()
    inner = bmrpruner.ivon(0.1, ess=100)
    tx, foreign = (make(name, scheduler=never).wrap_optax(inner) for name in (mine, other))
    with pytest.raises((TypeError, ValueError), match=r"state.*expected"):
        tx.update(PARAMS, foreign.init(PARAMS), PARAMS)


def test_a_state_stored_in_another_way_or_for_other_leaves_is_refused():
    tx = make("magnitude").wrap_optax(optax.sgd(0.1))
    packed = make("magnitude", use_packed_masks=True).wrap_optax(optax.sgd(0.1)).init(PARAMS)
    with pytest.raises(ValueError, match=r"state.masks: expected a mask of shape \(4, 8\)"):
        tx.update(PARAMS, packed, PARAMS)
    other = {"w": PARAMS["w"], "b": jnp.ones(8), "c": jnp.ones(2)}
    with pytest.raises(ValueError, match=r"state.masks: expected 2 leaves"):
        tx.update(PARAMS, tx.init(other), PARAMS)
    with pytest.raises(TypeError, match="expected the SparseState that MagnitudePruning makes"):
        tx.update(PARAMS, optax.sgd(0.1).init(PARAMS), PARAMS)


@pytest.mark.parametrize("where", [{"w": True, "b": False}, {"w": {"x": True, "y": False}}])
def test_optax_masked_around_the_wrapper(where):
    params = {"w": PARAMS["w"], "b": {"deep": PARAMS["b"]}}
    if isinstance(where["w"], dict):
        params, where = (
            {"w": {"x": PARAMS["w"], "y": [PARAMS["w"]]}},
            {"w": {"x": True, "y": False}},
        )
    pruner = make("magnitude", scheduler=bmrpruner.OneShotSchedule(0))
    tx = optax.masked(pruner.wrap_optax(optax.sgd(0.0)), where)
    _, state = tx.update(params, tx.init(params), params)
    pruned = pruner.post_gradient_update(params, state.inner_state)
    assert jax.tree.structure(pruned) == jax.tree.structure(params)
    zeros = [int(jnp.sum(leaf == 0)) for leaf in jax.tree.leaves(pruned)]
    assert sorted(zeros) == [0, 16]


AFTER = {
    "scale": optax.scale(0.5),
    "clip": optax.clip(0.01),
    "ema": optax.ema(0.5),
    "plateau": optax.contrib.reduce_on_plateau(factor=0.5, patience=1),
}


@pytest.mark.parametrize("after", AFTER.values(), ids=AFTER)
def test_what_comes_after_the_wrapper_needs_post_gradient_update(after):
    """In a chain it undoes the masked update; the hook prunes whatever came out."""
    pruner = make("magnitude", scheduler=bmrpruner.OneShotSchedule(0))
    tx = optax.chain(pruner.wrap_optax(optax.sgd(0.1), mask_updates=True), after)
    params, state = PARAMS, tx.init(PARAMS)
    for _ in range(2):
        updates, state = tx.update(params, state, params, value=1.0)
        undone = optax.apply_updates(params, updates)
        params = pruner.post_gradient_update(undone, state[0])
    assert int(jnp.sum(params["w"] == 0)) == 16
    last = pruner.wrap_optax(optax.chain(optax.sgd(0.1), after), mask_updates=True)
    updates, _ = last.update(PARAMS, last.init(PARAMS), PARAMS, value=1.0)
    assert int(jnp.sum(optax.apply_updates(PARAMS, updates)["w"] == 0)) == 16


def test_schedule_free_evaluates_sparse_parameters():
    pruner = make("magnitude", scheduler=bmrpruner.OneShotSchedule(1))
    inner = optax.contrib.schedule_free(optax.sgd(0.1), learning_rate=0.1)
    tx = pruner.wrap_optax(inner, mask_updates=True)
    params, state = PARAMS, tx.init(PARAMS)
    for _ in range(4):
        updates, state = tx.update(params, state, params)
        params = optax.apply_updates(params, updates)
    average = optax.contrib.schedule_free_eval_params(state.inner_state, params)
    evaluated = pruner.post_gradient_update(average, state)
    np.testing.assert_array_equal(evaluated["w"] == 0, state.masks["w"] == 0)
    kept = np.asarray(state.masks["w"]) == 1
    np.testing.assert_array_equal(np.asarray(evaluated["w"])[kept], np.asarray(average["w"])[kept])


def test_slow_parameters_of_lookahead_need_post_gradient_update():
    """They follow by updates that the wrapper does not see."""
    pruner = make("magnitude", scheduler=bmrpruner.OneShotSchedule(0))
    params = PARAMS
    tx = optax.lookahead(pruner.wrap_optax(optax.sgd(0.1), mask_updates=True), 2, 0.5)
    both = optax.LookaheadParams.init_synced(params)
    state = tx.init(both)
    for _ in range(4):
        updates, state = tx.update(both.fast, state, both)
        both = optax.apply_updates(both, updates)
    slow = pruner.post_gradient_update(both.slow, state.fast_state)
    assert int(jnp.sum(slow["w"] == 0)) == 16


def test_distributions_may_read_values():
    """A distribution that looks at the numbers is never traced by the step."""

    def by_size(params):
        return {"w": float(np.abs(np.asarray(params["w"])).mean() > 0), "b": None}

    pruner = bmrpruner.MagnitudePruning(sparsity_distribution_fn=by_size)
    tx = pruner.wrap_optax(optax.sgd(0.1))
    _, state = jax.jit(tx.update)(PARAMS, tx.init(PARAMS), PARAMS)
    assert float(state.target_sparsities["w"]) == 1.0
    assert state.target_sparsities["b"] is None
