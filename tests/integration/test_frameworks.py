"""Training loops of NNX and Equinox, which handle parameters in ways of their own."""

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
import pytest
from flax import nnx

import bmrpruner

pytestmark = pytest.mark.slow

X = jax.random.normal(jax.random.key(0), (32, 8))
Y = jnp.sin(X.sum(-1, keepdims=True))


def make(name, inner, **settings):
    return bmrpruner.create_updater_from_config(
        algorithm=name,
        dist_type="uniform",
        sparsity=0.75,
        update_freq=2,
        update_start_step=0,
        update_end_step=3,
        drop_fraction=0.5,
        mask_updates=True,
        **settings,
    ).wrap_optax(inner)


class Net(nnx.Module):
    def __init__(self, rngs):
        self.first = nnx.Linear(8, 16, rngs=rngs)
        self.norm = nnx.BatchNorm(16, rngs=rngs)
        self.second = nnx.Linear(16, 1, rngs=rngs)

    def __call__(self, x):
        return self.second(nnx.relu(self.norm(self.first(x))))


@pytest.mark.parametrize("name", ["magnitude", "global_magnitude", "rigl", "adam-fisher"])
def test_nnx_optimizer(name):
    model = Net(nnx.Rngs(0))
    tx = make(name, optax.adam(1e-2), filter_fn=lambda key, param: key == ("first", "kernel"))
    optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)

    @nnx.jit
    def step(model, optimizer):
        loss, grads = nnx.value_and_grad(lambda m: jnp.mean((m(X) - Y) ** 2))(model)
        optimizer.update(model, grads)
        return loss

    losses = [float(step(model, optimizer)) for _ in range(8)]
    assert losses[-1] < losses[0]
    assert int(jnp.sum(model.first.kernel[...] == 0)) == 96
    assert int(jnp.sum(model.second.kernel[...] == 0)) == 0
    report = bmrpruner.summarize_sparsity(nnx.state(model, nnx.Param))
    assert float(report["first/kernel"]) == 0.75
    assert report["second/kernel"] == 0


@pytest.mark.parametrize("name", ["magnitude", "set", "bmr"])
def test_equinox_filtered_training(name):
    model = eqx.nn.MLP(8, 1, 16, 1, key=jax.random.key(1))
    inner = bmrpruner.ivon(0.1, ess=32) if name == "bmr" else optax.adam(1e-2)
    tx = make(name, inner, custom_sparsity_map={("layers", "1", "weight"): 0.5})
    state = tx.init(eqx.filter(model, eqx.is_inexact_array))

    @eqx.filter_jit
    def step(model, state):
        grads = eqx.filter_grad(lambda m: jnp.mean((jax.vmap(m)(X) - Y) ** 2))(model)
        params = eqx.filter(model, eqx.is_inexact_array)
        updates, state = tx.update(grads, state, params)
        return eqx.apply_updates(model, updates), state

    for _ in range(5):
        model, state = step(model, state)
    masks = [layer.weight for layer in state.masks.layers]
    assert [int(mask.sum()) for mask in masks] == [32, 8]
    for layer, mask in zip(model.layers, masks, strict=True):
        assert not jnp.any(jnp.where(mask, 0, layer.weight))
    pruned, _ = bmrpruner.MagnitudePruning(sparsity=0.9).instant_sparsify(model)
    assert pruned.activation is model.activation
    assert jax.vmap(pruned)(X).shape == Y.shape
