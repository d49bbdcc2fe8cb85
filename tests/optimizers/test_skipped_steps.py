"""Steps that wrappers skip because a batch was bad: training goes on as if it had not come."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import bmrpruner

pytestmark = pytest.mark.slow

PARAMS = {"w": jnp.ones((2, 3)), "b": jnp.array([0.5, -0.5])}
MASKS = {"w": jnp.array([[1, 0, 1], [1, 1, 0]], jnp.uint8), "b": None}
KEYS = jax.random.split(jax.random.key(0), 8)
GOOD = tuple((i, 1.0) for i in range(8))


def ivon():
    return bmrpruner.ivon(0.1, ess=25, b2=0.9)


def loss_fn(params, scale, key):
    """A bad `scale` reaches the gradient of `w` only."""
    return jnp.sum(params["w"] ** 2) * scale + jnp.sum(params["b"] ** 4)


def train(tx, batches, **options):
    @jax.jit
    def step(params, state, scale, key):
        _, grads, state = bmrpruner.noisy_value_and_grad(
            loss_fn, state, params, key, scale, **options
        )
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    params, state = PARAMS, tx.init(PARAMS)
    for i, scale in batches:
        params, state = step(params, state, scale, KEYS[i])
    return params, state


def with_bad(*places, value=np.nan):
    """All the good batches in order, and bad ones before those of these indices."""
    return [b for i, good in enumerate(GOOD) for b in [(0, value)] * (i in places) + [good]]


WRAPPERS = {
    "apply_if_finite": lambda tx: optax.apply_if_finite(tx, 3),
    "multi_steps": lambda tx: optax.MultiSteps(
        tx, 2, should_skip_update_fn=optax.skip_not_finite
    ).gradient_transformation(),
}
PLACES = {
    "first": (0,),
    "between two updates": (4,),
    "amid an accumulation": (3,),
    "several": (0, 1, 5),
}


@pytest.mark.parametrize("wrap", WRAPPERS.values(), ids=WRAPPERS)
@pytest.mark.parametrize("places", PLACES.values(), ids=PLACES)
def test_a_bad_batch_leaves_no_trace(wrap, places):
    tx = wrap(ivon())
    expected, expected_state = train(tx, GOOD)
    params, state = train(tx, with_bad(*places))
    chex.assert_trees_all_equal(params, expected)
    assert int(bmrpruner_state(state).count) > 0
    chex.assert_trees_all_equal(bmrpruner_state(state), bmrpruner_state(expected_state))
    chex.assert_tree_all_finite((params, bmrpruner_state(state)))


@pytest.mark.parametrize("estimator", ["sampling", "hutchinson"])
@pytest.mark.parametrize("value", [np.inf, -np.inf])
def test_infinities_of_both_estimators(estimator, value):
    tx = optax.apply_if_finite(ivon(), 3)
    options = {"estimator": estimator, "mc_samples": 2}
    expected, _ = train(tx, GOOD, **options)
    params, _ = train(tx, with_bad(3, value=value), **options)
    chex.assert_trees_all_equal(params, expected)


def bmrpruner_state(state):
    is_ivon = lambda node: isinstance(node, bmrpruner.optimizers.ScaleByIvonState)  # noqa: E731
    (found,) = [s for s in jax.tree.leaves(state, is_leaf=is_ivon) if is_ivon(s)]
    return found


def test_an_infinite_estimate_beside_a_finite_gradient_is_none():
    """∛w has a finite gradient where it is drawn, and no second derivative at its mean, zero."""
    tx, params = ivon(), {"w": jnp.array([0.0, 1.0])}
    state = tx.init(params)
    _, grads, after = bmrpruner.noisy_value_and_grad(
        lambda p, key: jnp.sum(jnp.cbrt(p["w"])), state, params, KEYS[0], estimator="hutchinson"
    )
    assert np.all(np.isfinite(grads["w"]))
    chex.assert_trees_all_equal(after, state)


def test_a_bad_weight_that_is_pruned_spoils_nothing():
    tx = bmrpruner.MagnitudePruning(sparsity=0.3).wrap_optax(ivon())
    state = tx.init(PARAMS)._replace(masks=MASKS)
    bad = jnp.where(MASKS["w"] == 0, jnp.nan, 1.0)
    for estimator in ("sampling", "hutchinson"):
        _, grads, after = bmrpruner.noisy_value_and_grad(
            lambda p, key: jnp.sum(p["w"] ** 2 * bad),
            state,
            PARAMS,
            KEYS[0],
            estimator=estimator,
        )
        chex.assert_tree_all_finite((grads, after.inner_state))
        assert int(after.inner_state[0].hess_count) == 1


def test_the_estimate_of_a_step_skipped_for_another_reason_still_counts():
    """The mean has not moved: h moves by the mean of both estimates, as in an accumulation."""
    tx = ivon()
    once = functools.partial(bmrpruner.noisy_value_and_grad, loss_fn)
    state = tx.init(PARAMS)
    estimates = [np.asarray(once(state, PARAMS, key, 1.0)[2][0].hess_sum["w"]) for key in KEYS[:2]]
    _, _, state = once(state, PARAMS, KEYS[0], 1.0)  # and no update
    _, grads, state = once(state, PARAMS, KEYS[1], 1.0)
    _, state = tx.update(grads, state, PARAMS)
    mean, h, wd = np.mean(estimates, 0), 25 / 25**0.5, 60 / 25
    expected = 0.9 * h + 0.1 * mean + 0.5 * 0.1**2 * (h - mean) ** 2 / (h + wd)
    np.testing.assert_allclose(state[0].hess["w"], expected, rtol=1e-5)
