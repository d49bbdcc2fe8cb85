"""The optimizer state of an `nnx.Optimizer`, whose leaves are Variables, is taken as it is."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import bmrpruner
from bmrpruner import optimizers
from bmrpruner._state import find_masks, plain_state, state_like
from bmrpruner.posteriors import from_opt_state

pytestmark = pytest.mark.slow

X = jax.random.normal(jax.random.key(0), (32, 8))
Y = jnp.sin(X.sum(-1, keepdims=True))
KEYS = jax.random.split(jax.random.key(1), 6)


def pure(tree):
    """The arrays of a tree of Variables."""
    is_variable = lambda node: isinstance(node, nnx.Variable)  # noqa: E731
    return jax.tree.map(lambda node: node[...], tree, is_leaf=is_variable)


class Net(nnx.Module):
    def __init__(self, rngs):
        self.first = nnx.Linear(8, 16, rngs=rngs)
        self.norm = nnx.BatchNorm(16, rngs=rngs)
        self.second = nnx.Linear(16, 1, rngs=rngs)

    def __call__(self, x):
        return self.second(nnx.relu(self.norm(self.first(x))))


def transformation():
    pruner = bmrpruner.BMRPruning(
        sparsity=0.75, scheduler=bmrpruner.PolynomialSchedule(2, 0, 3), mask_updates=True
    )
    return pruner.wrap_optax(bmrpruner.ivon(0.1, ess=32, b2=0.9))


def prepared():
    model = Net(nnx.Rngs(0))
    return model, nnx.Optimizer(model, transformation(), wrt=nnx.Param)


def test_a_training_loop_takes_the_steps_of_plain_optax():
    model, optimizer = prepared()
    traces = []

    @nnx.jit
    def step(model, optimizer, key):
        traces.append(1)
        graph, params, rest = nnx.split(model, nnx.Param, ...)

        def loss_fn(params, x, y, key):
            net = nnx.merge(graph, params, rest, copy=True)
            return jnp.mean((net(x) - y) ** 2), nnx.state(net, nnx.BatchStat)

        (loss, stats), grads, optimizer.opt_state = bmrpruner.noisy_value_and_grad(
            loss_fn, optimizer.opt_state, params, key, X, Y, has_aux=True, mc_samples=2
        )
        optimizer.update(model, grads)
        nnx.update(model, stats)
        return loss

    losses = [float(step(model, optimizer, key)) for key in KEYS]

    graph, params, rest = nnx.split(Net(nnx.Rngs(0)), nnx.Param, ...)
    params, tx = pure(params), transformation()
    state, expected = tx.init(params), []

    @jax.jit
    def plain_step(params, rest, state, key):
        def loss_fn(params, x, y, key):
            net = nnx.merge(graph, params, rest, copy=True)
            return jnp.mean((net(x) - y) ** 2), nnx.state(net, nnx.BatchStat)

        (loss, rest), grads, state = bmrpruner.noisy_value_and_grad(
            loss_fn, state, params, key, X, Y, has_aux=True, mc_samples=2
        )
        updates, state = tx.update(grads, state, params)
        return loss, optax.apply_updates(params, updates), rest, state

    for key in KEYS:
        loss, params, rest, state = plain_step(params, rest, state, key)
        expected.append(float(loss))
    np.testing.assert_allclose(losses, expected, rtol=1e-4)
    trained = pure(nnx.state(model, nnx.Param))
    chex.assert_trees_all_close(trained, params, rtol=1e-3, atol=1e-5)
    assert int(jnp.sum(model.first.kernel[...] == 0)) == 96
    assert len(traces) == 1


def test_the_state_keeps_its_variables():
    model, optimizer = prepared()
    params = nnx.state(model, nnx.Param)
    loss_fn = lambda p, key: sum(jnp.sum(x**2) for x in jax.tree.leaves(p))  # noqa: E731
    _, grads, state = bmrpruner.noisy_value_and_grad(loss_fn, optimizer.opt_state, params, KEYS[0])
    assert jax.tree.structure(state) == jax.tree.structure(optimizer.opt_state)
    assert jax.tree.structure(grads) == jax.tree.structure(params)
    assert type(state.inner_state[0].hess_count) is type(optimizer.opt_state.count)
    assert int(state.inner_state[0].hess_count[...]) == 1
    # In place rather than by assignment.
    nnx.update(optimizer.opt_state, nnx.state(state))
    assert int(optimizer.opt_state.inner_state[0].hess_count[...]) == 1


def test_plain_and_back():
    _, optimizer = prepared()
    plain = plain_state(optimizer.opt_state)
    expected = transformation().init(pure(nnx.state(Net(nnx.Rngs(0)), nnx.Param)))
    chex.assert_trees_all_equal(plain, expected)
    assert jax.tree.structure(plain) == jax.tree.structure(expected)
    back = state_like(plain, optimizer.opt_state)
    assert jax.tree.structure(back) == jax.tree.structure(optimizer.opt_state)


def test_posterior_scale_and_draws():
    """σ = 1/√(25·(0.5 + 0.5)) = 0.2 wherever the mask is not zero."""
    model = Net(nnx.Rngs(0))
    tx = bmrpruner.MagnitudePruning(
        sparsity=0.5, scheduler=bmrpruner.OneShotSchedule(0)
    ).wrap_optax(bmrpruner.ivon(0.1, 25, hess_init=0.5, weight_decay=0.5))
    optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)
    state = optimizer.opt_state
    mask = jnp.arange(128).reshape(8, 16) % 2
    state.masks["first"]["kernel"][...] = mask.astype(jnp.uint8)
    for params in (nnx.state(model, nnx.Param), pure(nnx.state(model, nnx.Param))):
        masks = find_masks(state, params)
        np.testing.assert_array_equal(masks["first"]["kernel"], mask)
        assert not jax.tree.leaves(masks["first"]["bias"])
        for std in (from_opt_state(state, params).std, optimizers.get_scale(state)):
            np.testing.assert_allclose(std["first"]["kernel"][...], 0.2 * mask, rtol=1e-6)
            np.testing.assert_allclose(std["first"]["bias"][...], 0.2, rtol=1e-6)
        draws, noise = bmrpruner.sample_posterior(jax.random.key(0), params, state, (500,))
        assert jax.tree.structure(draws) == jax.tree.structure(params)
        np.testing.assert_array_equal(draws["first"]["kernel"][..., ::2], 0)
        assert abs(float(noise["first"]["kernel"][..., 1::2].std()) - 0.2) < 0.005


def test_post_gradient_update_and_straight_through_take_its_state():
    model = Net(nnx.Rngs(0))
    pruner = bmrpruner.MagnitudePruning(sparsity=0.5, use_packed_masks=True)
    optimizer = nnx.Optimizer(model, pruner.wrap_optax(optax.sgd(0.1)), wrt=nnx.Param)
    keep = jnp.arange(128).reshape(8, 16) % 2
    optimizer.opt_state.masks["first"]["kernel"][...] = jnp.packbits(keep)
    for params in (nnx.state(model, nnx.Param), pure(nnx.state(model, nnx.Param))):
        pruned = pruner.post_gradient_update(params, optimizer.opt_state)
        assert jax.tree.structure(pruned) == jax.tree.structure(params)
        expected = np.asarray(params["first"]["kernel"][...]) * keep
        np.testing.assert_array_equal(pruned["first"]["kernel"][...], expected)
    ste = bmrpruner.SteMagnitudePruning(sparsity=0.5)
    optimizer = nnx.Optimizer(model, ste.wrap_optax(optax.sgd(0.1)), wrt=nnx.Param)
    forward = ste.pre_forward_update(pure(nnx.state(model, nnx.Param)), optimizer.opt_state)
    assert int(jnp.sum(forward["first"]["kernel"] == 0)) == 64
