"""Stop in mid-schedule, write the state, read it back: the same training, bit for bit."""

import pickle

import chex
import equinox as eqx
import flax.serialization
import jax
import jax.numpy as jnp
import optax
import orbax.checkpoint as ocp
import pytest

import bmrpruner
from tests.conftest import dict_params

pytestmark = pytest.mark.slow

CASES = [("magnitude", True), ("global_magnitude", False), ("rigl", True), ("adaptive_bmr", False)]


def make(name, packed):
    pruner = bmrpruner.create_updater_from_config(
        algorithm=name,
        dist_type="uniform" if name in ("global_magnitude", "adaptive_bmr") else "erk",
        sparsity=0.8,
        update_freq=2,
        update_start_step=1,
        update_end_step=9,
        use_packed_masks=packed,
        drop_fraction=0.5,
    )
    inner = bmrpruner.ivon(0.1, ess=50) if name == "adaptive_bmr" else optax.adam(0.1)
    return pruner.wrap_optax(inner, mask_updates=True)


def make_step(name, tx):
    def loss_fn(params, key):
        return sum(jnp.sum((x - target(x, key)) ** 2) for x in jax.tree.leaves(params))

    def target(x, key):
        return jax.random.normal(key, x.shape)

    @jax.jit
    def step(carry, key):
        params, state = carry
        if name == "adaptive_bmr":
            _, grads, state = bmrpruner.noisy_value_and_grad(loss_fn, state, params, key)
        else:
            grads = jax.grad(loss_fn)(params, key)
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    return step


def through_pickle(carry, template, path):
    (path / "state.pkl").write_bytes(pickle.dumps(carry))
    return pickle.loads((path / "state.pkl").read_bytes())


def through_flax(carry, template, path):
    return flax.serialization.from_bytes(template, flax.serialization.to_bytes(carry))


def through_orbax(carry, template, path):
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(path / "orbax", carry)
        checkpointer.wait_until_finished()
        return checkpointer.restore(path / "orbax", template)


def through_equinox(carry, template, path):
    eqx.tree_serialise_leaves(path / "state.eqx", carry)
    return eqx.tree_deserialise_leaves(path / "state.eqx", template)


WRITERS = [through_pickle, through_flax, through_orbax, through_equinox]


@pytest.mark.parametrize(("name", "packed"), CASES)
def test_training_resumes(name, packed, tmp_path):
    tx = make(name, packed)
    step = make_step(name, tx)
    params = dict_params()
    keys = jax.random.split(jax.random.key(0), 12)
    carry = params, tx.init(params)
    for key in keys[:5]:
        carry = step(carry, key)
    middle = carry
    for key in keys[5:]:
        carry = step(carry, key)

    fresh = jax.tree.map(jnp.zeros_like, params), tx.init(params)
    for through in WRITERS:
        resumed = through(middle, fresh, tmp_path)
        chex.assert_trees_all_equal(resumed, middle)
        chex.assert_trees_all_equal_structs(resumed, middle)
        for key in keys[5:]:
            resumed = step(resumed, key)
        chex.assert_trees_all_equal(resumed, carry)
    masks = zip(*(jax.tree.leaves(state.masks) for _, state in (middle, carry)), strict=True)
    assert any(bool(jnp.any(x != y)) for x, y in masks), "there was something to resume"


def test_a_state_that_was_never_traced_can_be_written(tmp_path):
    """Its targets are Python floats still."""
    tx = make("magnitude", False)
    state = tx.init(dict_params())
    for through in WRITERS:
        found = through(state, state, tmp_path)
        chex.assert_trees_all_equal(found, state)
