"""What keeps IVON from diverging: bounded first steps, a precision that stays, skipped steps."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import bmrpruner
from bmrpruner import optimizers


def step(tx, params, state, factor):
    """A step on a sum of the weights, times a factor."""

    def loss_fn(params, key):
        return factor * jnp.sum(params["w"])

    _, grads, state = bmrpruner.noisy_value_and_grad(loss_fn, state, params, jax.random.key(0))
    updates, state = tx.update(grads, state, params)
    return optax.apply_updates(params, updates), state


def test_the_default_hessian_falls_with_the_root_of_ess():
    for ess in (100.0, 40_000.0, optax.constant_schedule(40_000.0)):
        n = ess if isinstance(ess, float) else 40_000.0
        state = bmrpruner.ivon(0.1, ess).init({"w": jnp.ones(2)})[0]
        np.testing.assert_allclose(state.hess["w"], 25 / n**0.5, rtol=1e-6)
        np.testing.assert_allclose(state.weight_decay * n, 60, rtol=1e-6)


def test_the_first_step_is_that_of_clipped_gradient_descent():
    """3-4-5: a gradient of norm 50 over two leaves, 0.8 of it clipped away or none at all."""
    params = {"a": jnp.zeros(1), "b": jnp.zeros((1, 1))}
    grads = {"a": jnp.full(1, 30.0), "b": jnp.full((1, 1), -40.0)}
    for clip_norm, kept in ((1.0, 0.02), (10.0, 0.2), (50.1, 1.0), (None, 1.0)):
        tx = bmrpruner.ivon(0.1, ess=100, clip_norm=clip_norm)
        updates, _ = tx.update(grads, tx.init(params), params)
        np.testing.assert_allclose(updates["a"], -0.1 * 30 * kept, rtol=1e-5)
        np.testing.assert_allclose(updates["b"], 0.1 * 40 * kept, rtol=1e-5)


def test_an_update_within_the_bound_is_the_papers_to_the_last_bit():
    params = {"w": jnp.linspace(-1.0, 1.0, 5)}
    grads = {"w": jnp.linspace(0.1, 0.3, 5)}
    with_bound, without = (
        bmrpruner.ivon(0.1, 100, weight_decay=0.01, clip_norm=c) for c in (1.0, None)
    )
    chex.assert_trees_all_equal(
        with_bound.update(grads, with_bound.init(params), params),
        without.update(grads, without.init(params), params),
    )


@pytest.mark.parametrize(("after", "at_least"), [(0.01, 0.0), (1.0, -np.inf)])
def test_a_falling_weight_decay_leaves_the_priors_precision(after, at_least):
    """Where δ falls, a negative h would leave less than the prior's, h + δ < δ, or even σ NaN."""
    decay = optax.piecewise_constant_schedule(1.0, {1: after})
    tx = bmrpruner.ivon(0.1, ess=10.0, hess_init=0.5, b2=0.5, weight_decay=decay)
    params = {"w": jnp.ones(3)}
    state = tx.init(params)
    ivon_state = state[0]._replace(
        hess={"w": jnp.array([-0.9, 0.0, 2.0])},
        hess_sum={"w": jnp.array([-0.9, -0.5, 2.0])},
        hess_count=jnp.ones([], jnp.int32),
    )
    _, state = tx.update({"w": jnp.zeros(3)}, (ivon_state, *state[1:]), params)
    h = np.array([-0.9, 0.0, 2.0])
    plain = h + 0.5 * (np.array([-0.9, -0.5, 2.0]) - h)
    plain += 0.5 * (plain - h) ** 2 / (h + 1)
    np.testing.assert_allclose(state[0].hess["w"], np.maximum(plain, at_least), rtol=1e-5)
    deviations = np.sqrt(1 / (10 * (np.maximum(plain, at_least) + after)))
    np.testing.assert_allclose(optimizers.get_scale(state)["w"], deviations, rtol=1e-5)


def test_a_run_that_is_not_finite_is_counted():
    """`optax.apply_if_finite` skips the steps, and its state says how many in a row, and in all."""
    tx = optax.apply_if_finite(bmrpruner.ivon(0.1, ess=100, b2=0.9), 5)
    params = start = {"w": jnp.ones(3)}
    state = tx.init(params)
    for factor in (jnp.nan, jnp.inf):
        params, state = step(tx, params, state, factor)
    chex.assert_trees_all_equal(params, start)
    assert (int(state.notfinite_count), int(state.total_notfinite)) == (2, 2)
    params, state = step(tx, params, state, 1.0)
    assert (int(state.notfinite_count), int(state.total_notfinite)) == (0, 2)
    assert jnp.all(params["w"] < 1)
    assert jnp.all(jnp.isfinite(optimizers.get_scale(state)["w"]))
