"""What JaxPruner gets wrong and bmrpruner does not, where no other test shows it."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import bmrpruner
from bmrpruner.sparsity_types import NByM
from tests.conftest import WRAPPING
from tests.contract import oracle

PARAMS = {"w": jnp.arange(1.0, 9.0).reshape(2, 4), "b": jnp.ones(4)}
ONCE = bmrpruner.OneShotSchedule(0)


def magnitude(**fields):
    return bmrpruner.MagnitudePruning(**{"sparsity": 0.5, "scheduler": ONCE, **fields})


def test_extra_keywords_reach_the_hooks_and_the_inner_optimizer_that_take_them():
    seen = {}

    class Mine(bmrpruner.MagnitudePruning):
        def calculate_scores(self, params, sparse_state=None, grads=None, loss=None):
            seen["score"] = loss
            return super().calculate_scores(params)

    def update(updates, state, params=None, *, loss, **extra):
        seen["inner"], seen["extra"] = loss, extra
        return updates, state

    inner = optax.GradientTransformationExtraArgs(lambda params: (), update)
    tx = Mine(sparsity=0.5, scheduler=ONCE).wrap_optax(inner)
    tx.update(PARAMS, tx.init(PARAMS), PARAMS, loss=3.0, value=2.0)
    assert seen == {"score": 3.0, "inner": 3.0, "extra": {"value": 2.0}}


def test_a_plateau_schedule_in_the_same_chain():
    tx = optax.chain(
        magnitude().wrap_optax(optax.adam(0.1)), optax.contrib.reduce_on_plateau(patience=1)
    )
    step = jax.jit(lambda s: tx.update(PARAMS, s, PARAMS, value=1.0))
    _, state = step(tx.init(PARAMS))
    assert int(state[0].masks["w"].sum()) == 4


@pytest.mark.parametrize("skip", [False, True])
def test_gradients_of_lower_precision(skip):
    tx = magnitude(skip_gradients=skip).wrap_optax(optax.adam(0.1, mu_dtype=jnp.float32))
    grads = jax.tree.map(lambda x: x.astype(jnp.bfloat16), PARAMS)
    state = tx.init(PARAMS)
    updates, after = jax.jit(tx.update)(grads, state, PARAMS)
    bare = optax.adam(0.1, mu_dtype=jnp.float32)
    chex.assert_trees_all_equal_dtypes(updates, bare.update(grads, bare.init(PARAMS), PARAMS)[0])
    chex.assert_trees_all_equal_shapes_and_dtypes(after, jax.tree.map(jnp.asarray, state))


def test_a_dense_leaf_needs_no_groups_even_when_its_target_is_traced():
    params = {"w": jnp.ones((2, 4)), "odd": jnp.ones((3, 5))}
    pruner = bmrpruner.create_updater_from_config(
        algorithm="magnitude",
        dist_type="uniform",
        sparsity=0.5,
        sparsity_type="2:4",
        custom_sparsity_map={("odd",): 0.0},
        update_freq=1,
        update_start_step=0,
        update_end_step=2,
    )
    tx = pruner.wrap_optax(optax.sgd(0.1))
    _, state = jax.jit(tx.update)(params, tx.init(params), params)
    assert int(state.masks["odd"].min()) == 1
    np.testing.assert_array_equal(state.masks["w"], oracle.n_by_m(params["w"], 2, 4))
    with pytest.raises(ValueError, match="'odd'"):
        magnitude(sparsity_type=NByM(2, 4)).init_state(params)


def test_nan_does_not_survive_a_mask_and_is_never_kept():
    params = {"w": PARAMS["w"].at[1, 3].set(jnp.nan)}
    pruned, masks = magnitude().instant_sparsify(params)
    assert masks["w"].tolist() == [[0, 0, 0, 1], [1, 1, 1, 0]]
    assert float(pruned["w"].sum()) == 4 + 5 + 6 + 7


@pytest.mark.parametrize("name", ["magnitude", "random", "set", "rigl", "global_magnitude"])
@pytest.mark.parametrize("dtype", [jnp.complex64, jnp.float16])
def test_weights_of_any_dtype(name, dtype):
    params = {"w": PARAMS["w"].astype(dtype)}
    pruner = bmrpruner.create_updater_from_config(
        algorithm=name, dist_type="uniform", sparsity=0.5, update_end_step=9
    )
    state = pruner.update_state(pruner.init_state(params), params, params)
    masked = pruner.post_gradient_update(params, state)["w"]
    assert masked.dtype == dtype
    assert int(jnp.sum(masked != 0)) == 4


def test_a_masked_node_is_no_parameter():
    params = {"w": PARAMS["w"], "b": optax.MaskedNode()}
    state = magnitude().init_state(params)
    assert state.masks["b"] == optax.MaskedNode()
    after = magnitude().update_state(state, params, params)
    pruned = magnitude().post_gradient_update(params, after)
    assert int(jnp.sum(pruned["w"] == 0)) == 4


def test_integer_seeds_are_keys():
    for cls in (bmrpruner.RandomPruning, bmrpruner.StaticRandomSparse):
        masks = [cls(sparsity=0.5, rng_seed=seed).init_state for seed in (5, jax.random.PRNGKey(5))]
        chex.assert_trees_all_equal(masks[0](PARAMS).masks, masks[1](PARAMS).masks)


def test_nothing_is_printed(capsys):
    for name in WRAPPING:
        pruner = bmrpruner.create_updater_from_config(
            algorithm=name, dist_type="uniform", sparsity=0.5, update_end_step=9
        )
        tx = pruner.wrap_optax(optax.sgd(0.1))
        tx.update(PARAMS, tx.init(PARAMS), PARAMS)
    captured = capsys.readouterr()
    assert captured.out == captured.err == ""
