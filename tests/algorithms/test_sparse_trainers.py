"""Accumulators restart in any optimizer and wrapper; groups are rewired whole; hooks hold."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import bmrpruner
from bmrpruner import SET, RigL
from bmrpruner.algorithms.sparse_trainers import restart_inner_state
from bmrpruner.sparsity_types import Block, Channel, NByM
from tests.conftest import TREES
from tests.contract import oracle

PARAMS = {"layer": {"kernel": jnp.ones((4, 6)), "bias": jnp.ones(6)}, "head": jnp.ones((6, 2))}
ACTIVATED = {
    "layer": {"kernel": jnp.zeros((4, 6), bool).at[1, 2].set(True), "bias": None},
    "head": jnp.zeros((6, 2), bool).at[5, 0].set(True),
}
OPTIMIZERS = {
    "momentum": optax.sgd(0.1, momentum=0.9),
    "adam": optax.adam(0.1),
    "amsgrad": optax.amsgrad(0.1),
    "rmsprop": optax.rmsprop(0.1, momentum=0.9, centered=True),
    "lion": optax.lion(0.1),
    "adagrad": optax.adagrad(0.1),
    "lamb": optax.lamb(0.1),
    "novograd": optax.novograd(0.1),
    "schedule": optax.adam(optax.cosine_decay_schedule(0.1, 10)),
    "inject": optax.inject_hyperparams(optax.adam)(learning_rate=0.1),
    "chain": optax.chain(optax.clip(1.0), optax.chain(optax.scale_by_adam(), optax.scale(-0.1))),
    "multi_steps": optax.MultiSteps(optax.adam(0.1), 3).gradient_transformation(),
    "finite": optax.apply_if_finite(optax.adam(0.1), 3),
    "freeze": optax.masked(optax.adam(0.1), {"layer": True, "head": False}),
    "masked_leaf": optax.masked(
        optax.adam(0.1), {"layer": {"kernel": True, "bias": False}, "head": True}
    ),
    "partition": optax.partition(
        {"a": optax.adam(0.1), "b": optax.sgd(0.1, momentum=0.9)},
        {"layer": {"kernel": "a", "bias": "b"}, "head": "b"},
    ),
    "nested": optax.inject_hyperparams(
        lambda rate: optax.chain(optax.masked(optax.rmsprop(rate), lambda p: jax.tree.map(
            lambda x: x.ndim > 1, p)), optax.ema(0.9))
    )(rate=0.1),
}  # fmt: skip


def filled(tx):
    """A state in which every accumulator is full of fives."""

    def five(leaf):
        is_accumulator = jnp.issubdtype(leaf.dtype, jnp.floating) and leaf.ndim > 0
        return jnp.full_like(leaf, 5) if is_accumulator else leaf

    return jax.tree.map(five, tx.init(PARAMS))


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_accumulator_restarts_and_nothing_else(name):
    before = filled(OPTIMIZERS[name])
    after = jax.jit(restart_inner_state)(before, ACTIVATED)
    chex.assert_trees_all_equal_shapes_and_dtypes(after, before)
    restarted = 0
    for old, new in zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True):
        zeros = np.zeros(old.shape, bool)
        if old.shape == (4, 6) and jnp.issubdtype(old.dtype, jnp.floating):
            zeros[1, 2] = True
            restarted += 1
        elif old.shape == (6, 2) and jnp.issubdtype(old.dtype, jnp.floating):
            zeros[5, 0] = True
            restarted += 1
        np.testing.assert_array_equal(new, np.where(zeros, 0, old))
    assert restarted


def test_factored_accumulators_stay():
    tx = optax.adafactor(0.1, min_dim_size_to_factor=4, momentum=0.9)
    before = filled(tx)
    after = restart_inner_state(before, ACTIVATED)
    factored = before[0]
    assert factored.v_row["layer"]["kernel"].shape == (4,)
    chex.assert_trees_all_equal(after[0].v_row, factored.v_row)
    chex.assert_trees_all_equal(after[0].v_col, factored.v_col)
    assert int(jnp.sum(after[0].v["head"] == 0)) == 1  # too small to be factored
    leaves = [x for x in jax.tree.leaves(after) if x.shape == (4, 6)]
    assert [int(jnp.sum(x == 0)) for x in leaves] == [1]


def test_ivon_restarts_its_momentum_and_keeps_its_hessian():
    tx = bmrpruner.ivon(0.1, ess=100)
    after = restart_inner_state(filled(tx), ACTIVATED)[0]
    assert float(after.momentum["layer"]["kernel"][1, 2]) == 0
    for leaf in jax.tree.leaves((after.hess, after.hess_sum)):
        assert float(leaf.min()) == 5


@pytest.mark.parametrize("make_tree", [f for n, f in TREES.items() if n != "equinox"])
def test_weights_are_told_apart_in_trees_of_every_make(make_tree):
    params = make_tree()
    leaves, structure = jax.tree.flatten(params)
    activated = structure.unflatten([jnp.arange(x.size).reshape(x.shape) == i
                                     for i, x in enumerate(leaves)])  # fmt: skip
    state = optax.adam(0.1).init(params)
    state = (state[0]._replace(mu=jax.tree.map(jnp.ones_like, params)), *state[1:])
    after = restart_inner_state(state, activated)[0].mu
    expected = jax.tree.map(lambda mask: 1.0 - mask, activated)
    chex.assert_trees_all_close(jax.tree.leaves(after), jax.tree.leaves(expected))


def test_weights_with_the_names_of_state_fields():
    params = {"mu": jnp.ones((2, 2)), "nu": {"mu": jnp.ones((2, 2))}, "0": jnp.ones((2, 2))}
    activated = {"mu": jnp.eye(2), "nu": {"mu": jnp.zeros((2, 2))}, "0": None}
    state = optax.chain(optax.scale_by_adam(), optax.scale_by_adam()).init(params)
    state = jax.tree.map(lambda x: jnp.ones_like(x), state)
    for adam in restart_inner_state(state, activated):
        for moment in (adam.mu, adam.nu):
            np.testing.assert_array_equal(moment["mu"], 1 - jnp.eye(2))
            np.testing.assert_array_equal(moment["nu"]["mu"], 1)
            np.testing.assert_array_equal(moment["0"], 1)


@pytest.mark.parametrize("cls", [SET, RigL])
@pytest.mark.parametrize(
    "sparsity_type", [Block((2, 4)), Block((3, 2), False), Channel(0), NByM(1, 3), NByM(2, 4, 0)]
)
def test_groups_are_dropped_and_grown_whole(cls, sparsity_type):
    keys = jax.random.split(jax.random.key(3), 2)
    params = {"w": jax.random.normal(keys[0], (8, 6))}
    grads = {"w": jax.random.normal(keys[1], (8, 6))}
    sparsity = None if isinstance(sparsity_type, NByM) else 0.6
    half = lambda step: 0.5  # noqa: E731
    updater = cls(sparsity=sparsity, sparsity_type=sparsity_type, drop_fraction_fn=half)
    updater.is_debug = True
    state = updater.init_state(params)
    history = [np.asarray(state.masks["w"])]
    for _ in range(3):
        state = updater.update_state(state, params, grads)._replace(count=state.count + 1)
        history.append(np.asarray(state.masks["w"]))
    assert any(np.any(mask != history[0]) for mask in history), "something was rewired"
    assert len({count_groups(mask, sparsity_type) for mask in history}) == 1


def count_groups(mask, sparsity_type):
    """How many groups are whole; N:M groups hold N of M each."""
    match sparsity_type:
        case Block(block_shape=(height, width)):
            blocks = [mask[index] for index in oracle.blocks(mask.shape, height, width)]
            assert all(block.min() == block.max() for block in blocks)
            return sum(int(block.max()) for block in blocks)
        case Channel():
            assert np.all(mask.min(1) == mask.max(1))
            return int(mask.max(1).sum())
        case NByM(n=n, m=m, axis=axis):
            assert np.all(np.moveaxis(mask, axis, -1).reshape(-1, m).sum(1) == n)
            return int(mask.sum())


def test_a_dense_leaf_stays_dense_among_groups():
    params = {"w": jnp.ones((4, 4)), "odd": jnp.ones((3, 5))}
    updater = bmrpruner.create_updater_from_config(
        algorithm="rigl",
        dist_type="uniform",
        sparsity=0.5,
        sparsity_type="2:4",
        custom_sparsity_map={("odd",): 0.0},
        update_end_step=9,
    )
    state = updater.update_state(updater.init_state(params), params, params)
    assert int(state.masks["odd"].min()) == 1


@pytest.mark.parametrize("on_instance", [False, True])
def test_the_rule_for_one_leaf_may_be_overridden(on_instance):
    def invert(old_mask, drop_score, grow_score, drop_fraction):
        return 1 - old_mask

    class Mine(SET):
        def _update_masks(self, old_mask, drop_score, grow_score, drop_fraction):
            return invert(old_mask, drop_score, grow_score, drop_fraction)

    updater = (SET if on_instance else Mine)(sparsity=0.5, use_packed_masks=True)
    if on_instance:
        updater._update_masks = invert
    params = {"w": jnp.ones((4, 4)), "b": jnp.ones(4)}
    state = updater.init_state(params)
    after = updater.update_state(state, params, params)
    np.testing.assert_array_equal(after.masks["w"], 255 - np.asarray(state.masks["w"]))


def test_scores_may_be_overridden():
    @dataclasses.dataclass
    class Mine(RigL):
        def _get_drop_scores(self, sparse_state, params, grads):
            return jax.tree.map(jnp.negative, params)

        def _get_grow_scores(self, sparse_state, params, grads):
            return params

    updater = Mine(sparsity=0.5, drop_fraction_fn=lambda step: 0.5)
    params = {"w": jnp.arange(4.0)[None]}
    state = updater.init_state(params)._replace(masks={"w": jnp.array([[1, 1, 0, 0]], jnp.uint8)})
    assert updater.update_state(state, params, params).masks["w"].tolist() == [[1, 0, 0, 1]]


def test_rigl_needs_gradients():
    updater = RigL(sparsity=0.5)
    with pytest.raises(ValueError, match="grads"):
        updater.update_state(updater.init_state(PARAMS), PARAMS, None)
