"""What a wrapped optimizer does in each step, and in which order."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import bmrpruner
from bmrpruner import MagnitudePruning, NoPruning
from tests.contract.small import EVERY_OTHER, GRADS, PARAMS, pruner


def run(tx, steps, params=PARAMS, grads=GRADS, **extra):
    state = tx.init(params)
    for _ in range(steps):
        updates, state = tx.update(grads, state, params, **extra)
        params = optax.apply_updates(params, updates)
    return params, state, updates


def test_no_pruning():
    updater = NoPruning()
    state = updater.init_state(PARAMS)
    assert state.masks == {"w": None, "b": None}
    assert state.target_sparsities is None
    assert updater.update_state(state, PARAMS, GRADS) is state
    params, masks = updater.instant_sparsify(PARAMS, grads=None)
    assert params is PARAMS
    assert masks == {"w": None, "b": None}
    pruned, _, _ = run(updater.wrap_optax(optax.adam(0.1)), 3)
    bare = run(optax.adam(0.1), 3)[0]
    chex.assert_trees_all_equal(pruned, bare)


def test_wrapped_init_and_the_need_for_params():
    tx = pruner().wrap_optax(optax.adam(0.1))
    assert isinstance(tx, optax.GradientTransformationExtraArgs)
    assert hash(tx) == hash(tx)
    state = tx.init(PARAMS)
    chex.assert_trees_all_equal(state.inner_state, optax.adam(0.1).init(PARAMS))
    with pytest.raises(ValueError, match="params"):
        tx.update(GRADS, state)


def test_due_is_asked_with_the_count_before_the_step():
    asked = []

    class Schedule:
        def is_mask_update_iter(self, step):
            asked.append(int(step))
            return False

        def get_sparsity_at_step(self, target_sparsities, step):
            raise AssertionError("nothing is due")

    _, state, _ = run(pruner(scheduler=Schedule()).wrap_optax(optax.sgd(0.1)), 3)
    assert asked == [0, 1, 2]
    assert int(state.count) == 3


def test_scores_see_raw_gradients_and_the_weights_before_the_step():
    seen = []

    class Mine(MagnitudePruning):
        def calculate_scores(self, params, sparse_state=None, grads=None):
            seen.append((params, grads, int(sparse_state.count)))
            return super().calculate_scores(params)

    tx = Mine(sparsity=0.5, scheduler=EVERY_OTHER, is_sparse_gradients=True)
    run(tx.wrap_optax(optax.sgd(0.1)), 3)
    (params, grads, first), (_, _, second) = seen
    assert (first, second) == (0, 2)
    chex.assert_trees_all_equal((params, grads), (PARAMS, GRADS))


@pytest.mark.parametrize("packed", [False, True])
def test_sparse_gradients_are_masked_by_the_new_masks(packed):
    inner = optax.trace(0.9)
    tx = pruner(
        scheduler=bmrpruner.OneShotSchedule(0), is_sparse_gradients=True, use_packed_masks=packed
    ).wrap_optax(inner)
    _, state, updates = run(tx, 1)
    expected = {"w": jnp.array([[0.0] * 4, [0.5] * 4]), "b": GRADS["b"]}
    chex.assert_trees_all_equal(updates, expected)
    chex.assert_trees_all_equal(state.inner_state.trace, expected)


def test_skipped_steps_leave_params_and_inner_state_alone():
    tx = pruner(scheduler=bmrpruner.OneShotSchedule(1), skip_gradients=True)
    tx = tx.wrap_optax(optax.adam(0.1))
    params, state, _ = run(tx, 1)
    for jit in (lambda f: f, jax.jit):
        updates, after = jit(lambda s, p: tx.update(GRADS, s, p))(state, params)
        chex.assert_trees_all_equal(updates, jax.tree.map(jnp.zeros_like, PARAMS))
        chex.assert_trees_all_equal(after.inner_state, state.inner_state)
        assert int(after.count) == 2
        assert int(after.masks["w"].sum()) == 4
    updates, _ = tx.update(GRADS, after, params)
    assert all(float(jnp.abs(leaf).min()) > 0 for leaf in jax.tree.leaves(updates))


def test_inner_is_called_once_positionally_with_the_state_of_the_update():
    calls = []

    def update(*args):
        calls.append(args)
        return args[:2]

    class Mine(MagnitudePruning):
        def update_state(self, sparse_state, params, grads):
            return super().update_state(sparse_state, params, grads)._replace(inner_state="new")

    inner = optax.GradientTransformation(lambda params: "old", update)
    tx = Mine(sparsity=0.5, scheduler=EVERY_OTHER).wrap_optax(inner)
    _, state, _ = run(tx, 1, value=3.0)
    ((grads, inner_state, params),) = calls
    assert inner_state == "new"
    assert params is PARAMS
    assert grads is GRADS
    assert state.inner_state == "new"


def test_count_saturates():
    tx = pruner().wrap_optax(optax.sgd(0.1))
    largest = jnp.int32(np.iinfo(np.int32).max)
    _, state = tx.update(GRADS, tx.init(PARAMS)._replace(count=largest), PARAMS)
    assert state.count == largest


def test_nothing_masks_the_weights_but_post_gradient_update():
    updater = pruner(scheduler=bmrpruner.OneShotSchedule(0))
    params, state, _ = run(updater.wrap_optax(optax.sgd(0.1)), 1)
    assert int(jnp.sum(params["w"] == 0)) == 0
    assert int(jnp.sum(updater.post_gradient_update(params, state)["w"] == 0)) == 4


def test_hooks_may_be_patched_on_instances_after_construction():
    updater = pruner(scheduler=bmrpruner.OneShotSchedule(0))
    updater.calculate_scores = lambda params, sparse_state=None, grads=None: jax.tree.map(
        jnp.negative, params
    )
    updater.pre_forward_update = lambda params, opt_state: "forward"
    _, state, _ = run(updater.wrap_optax(optax.sgd(0.1)), 1)
    assert state.masks["w"].tolist() == [[1] * 4, [0] * 4]
    assert updater.pre_forward_update(PARAMS, state) == "forward"
    mask = jnp.eye(2, 4, dtype=jnp.uint8)
    updater.create_masks = lambda scores, sparsities: {"w": mask, "b": None}
    assert updater.update_state(state, PARAMS, GRADS).masks["w"] is mask
    updater.topk_fn = None
    updater.scheduler = bmrpruner.NoUpdateSchedule()
    assert run(updater.wrap_optax(optax.sgd(0.1)), 1)[1].masks["w"].sum() == 8


def test_the_update_is_traced_once_and_keeps_structure_and_dtypes():
    tx = pruner(scheduler=EVERY_OTHER, skip_gradients=True, is_sparse_gradients=True)
    tx = tx.wrap_optax(optax.adam(0.1))
    state = jax.jit(tx.init)(PARAMS)
    traces = []

    @jax.jit
    def step(state, params):
        traces.append(None)
        updates, state = tx.update(GRADS, state, params)
        return optax.apply_updates(params, updates), state

    params = PARAMS
    for _ in range(3):
        params, after = step(state, params)
        chex.assert_trees_all_equal_shapes_and_dtypes(after, state)
        state = after
    assert len(traces) == 1
