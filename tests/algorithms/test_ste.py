"""Straight-through pruning around other pruners, inside the gradient, and in training."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax

import bmrpruner
from bmrpruner.algorithms.ste import SteMixin

X = jax.random.normal(jax.random.key(0), (64, 6))
TARGET = X @ jnp.array([3.0, -2.0, 0.0, 0.0, 1.5, 0.0])
PARAMS = {"w": jnp.full((6, 1), 0.1) * jnp.arange(1, 7)[:, None], "b": jnp.zeros(1)}


def loss_fn(params):
    return jnp.mean(((X @ params["w"])[:, 0] + params["b"] - TARGET) ** 2)


def test_a_weight_may_come_back():
    """The three that matter are not the three of largest magnitude at the start."""
    pruner = bmrpruner.SteMagnitudePruning(sparsity=0.5)
    tx = pruner.wrap_optax(optax.adam(0.05))

    @jax.jit
    def step(carry, _):
        params, state = carry
        forward = pruner.pre_forward_update(params, state)
        loss, grads = jax.value_and_grad(loss_fn)(forward)
        updates, state = tx.update(grads, state, params)
        params = pruner.post_gradient_update(optax.apply_updates(params, updates), state)
        return (params, state), loss

    (params, state), losses = jax.lax.scan(step, (PARAMS, tx.init(PARAMS)), None, 400)
    forward = pruner.pre_forward_update(params, state)
    assert np.flatnonzero(forward["w"]).tolist() == [0, 1, 4]
    assert float(losses[-1]) < 1e-3
    assert int(jnp.sum(params["w"] == 0)) == 0


def test_inside_the_gradient_only_used_weights_get_one():
    pruner = bmrpruner.SteMagnitudePruning(sparsity=0.5)
    state = pruner.init_state(PARAMS)
    grads = jax.grad(lambda p: loss_fn(pruner.pre_forward_update(p, state)))(PARAMS)
    np.testing.assert_array_equal(grads["w"][:, 0] != 0, [0, 0, 0, 1, 1, 1])


def test_the_mixin_goes_around_any_pruner():
    @dataclasses.dataclass(eq=False)
    class SteGlobal(SteMixin, bmrpruner.GlobalMagnitudePruning):
        pass

    @dataclasses.dataclass(eq=False)
    class SteSNR(SteMixin, bmrpruner.SNRPruning):
        pass

    pruner = SteGlobal(sparsity=0.5, use_normalization=False)
    params = {"a": jnp.full((2, 2), 5.0), "b": jnp.ones((2, 2))}
    state = pruner.init_state(params)
    assert jax.tree.leaves(state.masks) == []
    assert float(pruner.pre_forward_update(params, state)["b"].sum()) == 0

    pruner = SteSNR(sparsity=0.5)
    tx = pruner.wrap_optax(bmrpruner.ivon(0.1, ess=100))
    forward = pruner.pre_forward_update(PARAMS, tx.init(PARAMS))
    assert np.flatnonzero(forward["w"]).tolist() == [3, 4, 5]
