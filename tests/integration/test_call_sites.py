"""Code written for JaxPruner, with only its import changed."""

import dataclasses
import itertools

import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax
import pytest
from flax.training import train_state

import bmrpruner as jaxpruner

pytestmark = pytest.mark.slow

X = jax.random.normal(jax.random.key(0), (32, 8))
Y = jnp.sin(X.sum(-1, keepdims=True))


class MLP(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(1)(nn.relu(nn.Dense(16)(x)))


def sparsity_config(**settings):
    config = ml_collections.ConfigDict()
    config.algorithm = "magnitude"
    config.update_freq = 2
    config.update_end_step = 8
    config.update_start_step = 2
    config.sparsity = 0.8
    config.dist_type = "uniform"
    config.update(settings)
    return config


def mse(params):
    return jnp.mean((MLP().apply(params, X) - Y) ** 2)


def test_train_state_and_post_gradient_update():
    updater = jaxpruner.create_updater_from_config(sparsity_config())
    params = MLP().init(jax.random.key(1), X)
    state = train_state.TrainState.create(
        apply_fn=MLP().apply, params=params, tx=updater.wrap_optax(optax.adam(1e-2))
    )
    post_gradient_update = jax.jit(updater.post_gradient_update)

    @jax.jit
    def train_step(state):
        forward = updater.pre_forward_update(state.params, state.opt_state)
        loss, grads = jax.value_and_grad(mse)(forward)
        return state.apply_gradients(grads=grads), loss

    losses = []
    for _ in range(12):
        state, loss = train_step(state)
        state = state.replace(params=post_gradient_update(state.params, state.opt_state))
        losses.append(float(loss))
    kernels = {"kernel_0": state.params["params"]["Dense_0"]["kernel"]}
    kernels["kernel_1"] = state.params["params"]["Dense_1"]["kernel"]
    total = jaxpruner.summarize_sparsity(kernels, only_total_sparsity=True)["_total_sparsity"]
    assert round(float(total) * 144) == 102 + 13
    assert losses[-1] < losses[0]
    report = jaxpruner.summarize_sparsity(state.params)
    assert float(report["params/Dense_0/bias"]) < 1
    overlap = jaxpruner.summarize_intersection(state.opt_state.masks, state.opt_state.masks)
    assert float(overlap["_total_intersection"]) == 1


@dataclasses.dataclass
class GradientMomentumPruning(jaxpruner.BaseUpdater):
    """Scores and state update of their own, with masks that only ever shrink."""

    power: float = 2.0

    def calculate_scores(self, params, sparse_state=None, grads=None):
        del sparse_state
        return jax.tree.map(lambda p, g: jnp.abs(p) ** self.power + jnp.abs(g), params, grads)

    def update_state(self, sparse_state, params, grads):
        new_state = super().update_state(sparse_state, params, grads)
        masks = jax.tree.map(lambda new, old: new * old, new_state.masks, sparse_state.masks)
        return new_state._replace(masks=masks)


def test_a_subclass_with_scores_and_state_of_its_own():
    jaxpruner.register_algorithm("grad_momentum", GradientMomentumPruning)
    try:
        updater = jaxpruner.create_updater_from_config(
            sparsity_config(algorithm="grad_momentum", power=1.0, skip_gradients=True)
        )
    finally:
        del jaxpruner.ALGORITHM_REGISTRY["grad_momentum"]
    assert updater.power == 1.0
    tx = updater.wrap_optax(optax.sgd(0.1, momentum=0.9))
    params = MLP().init(jax.random.key(1), X)
    state, history = tx.init(params), []

    @jax.jit
    def step(params, state):
        updates, state = tx.update(jax.grad(mse)(params), state, params)
        return updater.post_gradient_update(optax.apply_updates(params, updates), state), state

    for _ in range(10):
        params, state = step(params, state)
        history.append(np.asarray(state.masks["params"]["Dense_0"]["kernel"]))
    for old, new in itertools.pairwise(history):
        assert np.all(new <= old)
    assert history[-1].mean() < 0.5


def test_a_subclass_of_rigl_with_masks_of_its_own():
    @dataclasses.dataclass
    class TopGrow(jaxpruner.algorithms.RigL):
        def _update_masks(self, old_mask, drop_score, grow_score, drop_fraction):
            sparsity = 1 - jnp.sum(old_mask) / old_mask.size
            return jaxpruner.mask_calculator._topk_mask_calculator_internal(grow_score, sparsity)

    updater = TopGrow(
        sparsity_distribution_fn=lambda params: jax.tree.map(
            lambda p: 0.75 if p.ndim > 1 else None, params
        ),
        scheduler=jaxpruner.sparsity_schedules.PeriodicSchedule(2, 1, 10),
        rng_seed=jax.random.PRNGKey(4),
    )
    params = {"w": jnp.ones((4, 4)), "b": jnp.ones(4)}
    grads = {"w": jnp.arange(16.0).reshape(4, 4), "b": jnp.ones(4)}
    tx = updater.wrap_optax(optax.adam(0.1))
    state = tx.init(params)
    for _ in range(3):
        _, state = tx.update(grads, state, params)
    assert state.masks["w"].tolist() == [[0] * 4, [0] * 4, [0] * 4, [1] * 4]


def test_functions_assigned_after_construction():
    updater = jaxpruner.MagnitudePruning()
    updater.scheduler = jaxpruner.OneShotSchedule(0)
    updater.sparsity_distribution_fn = lambda params: {"w": 0.5, "b": None}
    updater.calculate_scores = lambda params, sparse_state=None, grads=None: {
        "w": -jnp.abs(params["w"]),
        "b": None,
    }
    updater.topk_fn = jaxpruner.mask_calculator.get_topk_fn(jaxpruner.sparsity_types.NByM(1, 2))
    params = {"w": jnp.array([[1.0, 2.0, 4.0, 3.0]]), "b": jnp.ones(1)}
    tx = updater.wrap_optax(optax.sgd(0.1))
    _, state = tx.update(params, tx.init(params), params)
    assert state.masks["w"].tolist() == [[1, 0, 0, 1]]


def test_two_pruners_on_two_optimizers():
    """An actor and a critic, each with sparsity, schedule and state of its own."""
    make = jaxpruner.create_updater_from_config
    actor = make(sparsity_config(algorithm="set", sparsity=0.5))
    critic = make(sparsity_config(algorithm="global_magnitude", sparsity=0.9))
    txs = {"actor": actor.wrap_optax(optax.adam(1e-3)), "critic": critic.wrap_optax(optax.sgd(0.1))}
    params = {name: {"w": jnp.arange(64.0).reshape(8, 8) - 20} for name in txs}
    states = {name: tx.init(params[name]) for name, tx in txs.items()}

    @jax.jit
    def step(params, states):
        loss = lambda p: jnp.mean((p["actor"]["w"] @ p["critic"]["w"] - 1) ** 2)  # noqa: E731
        grads = jax.grad(loss)(params)
        new_params, new_states = {}, {}
        for name, updater in (("actor", actor), ("critic", critic)):
            updates, new_states[name] = txs[name].update(grads[name], states[name], params[name])
            updated = optax.apply_updates(params[name], updates)
            new_params[name] = updater.post_gradient_update(updated, new_states[name])
        return new_params, new_states

    for _ in range(10):
        params, states = step(params, states)
    zeros = {name: int(jnp.sum(params[name]["w"] == 0)) for name in params}
    assert zeros["actor"] >= 32
    assert int(states["actor"].masks["w"].sum()) == 32
    assert zeros["critic"] == 64 - 6


def test_agents_under_vmap_with_seeds_of_their_own():
    """The updater is made inside the mapped function, from a traced seed."""

    def train(seed):
        config = sparsity_config(algorithm="rigl", drop_fraction=0.3)
        with config.unlocked():
            config.rng_seed = jax.random.PRNGKey(seed)
        updater = jaxpruner.create_updater_from_config(config)
        tx = updater.wrap_optax(optax.adam(1e-2))
        params = {"w": jax.random.normal(jax.random.PRNGKey(seed + 1), (8, 4))}

        def body(carry, _):
            params, state = carry
            grads = jax.grad(lambda p: jnp.mean((X @ p["w"] - Y) ** 2))(params)
            updates, state = tx.update(grads, state, params)
            params = optax.apply_updates(params, updates)
            return (updater.post_gradient_update(params, state), state), None

        (params, state), _ = jax.lax.scan(body, (params, tx.init(params)), None, 9)
        return params, state.masks

    params, masks = jax.jit(jax.vmap(train))(jnp.arange(3))
    assert masks["w"].sum((1, 2)).tolist() == [6, 6, 6]
    np.testing.assert_array_equal(params["w"] == 0, (masks["w"] == 0) | (params["w"] == 0))
    assert np.any(masks["w"][0] != masks["w"][1])
    alone = jax.jit(train)(1)
    np.testing.assert_array_equal(alone[1]["w"], masks["w"][1])


def test_state_replaced_and_indexed_by_hand():
    updater = jaxpruner.create_updater_from_config(sparsity_config())
    params = {"w": jnp.arange(16.0).reshape(4, 4)}
    tx = optax.chain(optax.clip(1.0), updater.wrap_optax(optax.sgd(0.1)))
    state = tx.init(params)
    sparse_state = state[1]
    assert isinstance(sparse_state, jaxpruner.base_updater.SparseState)
    masks = {"w": jnp.eye(4, dtype=jnp.uint8)}
    state = (state[0], sparse_state._replace(masks=masks))
    updates, state = tx.update(params, state, params)
    pruned = updater.post_gradient_update(optax.apply_updates(params, updates), state[1])
    np.testing.assert_array_equal(pruned["w"] != 0, (jnp.eye(4) == 1) & (params["w"] != 0))


def test_updater_as_a_static_field():
    import flax.struct

    @flax.struct.dataclass
    class Agent:
        params: dict
        opt_state: jaxpruner.SparseState
        updater: jaxpruner.BaseUpdater = flax.struct.field(pytree_node=False)

    updater = jaxpruner.create_updater_from_config(sparsity_config())
    params = {"w": jnp.ones((4, 4))}
    agent = Agent(params, updater.init_state(params), updater)
    after = jax.jit(
        lambda a: a.replace(params=a.updater.post_gradient_update(a.params, a.opt_state))
    )(agent)
    assert after.updater is updater
