"""Straight-through pruning, and sparse training: static masks, SET and RigL."""

import dataclasses
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import bmrpruner
from bmrpruner import SET, RigL, StaticRandomSparse, SteMagnitudePruning, SteRandomPruning
from bmrpruner.algorithms import sparse_trainers
from tests.contract import oracle

rng = np.random.default_rng(4)
KEY = jax.random.key(21)
PARAMS = {
    "a": {"bias": jnp.ones(6), "kernel": jnp.asarray(rng.normal(size=(4, 6)), jnp.float32)},
    "b": {"kernel": jnp.asarray(rng.normal(size=(6, 3)), jnp.float32)},
}
GRADS = jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape), jnp.float32), PARAMS)
POLYNOMIAL = bmrpruner.PolynomialSchedule(4, 0, 8)


def kernels(tree):
    return [np.asarray(tree[name]["kernel"]) for name in "ab"]


def noise(key):
    drawn = oracle.noise(jax.tree.leaves(PARAMS), key)
    return [drawn[1], drawn[2]]


class TestSte:
    @pytest.mark.parametrize("cls", [SteMagnitudePruning, SteRandomPruning])
    def test_stores_no_masks_and_keeps_the_weights(self, cls):
        updater = cls(sparsity=0.75)
        state = updater.init_state(PARAMS)
        assert jax.tree.leaves(state.masks) == []
        assert state.target_sparsities["a"] == {"kernel": 0.75, "bias": None}
        assert updater.update_state(state, PARAMS, GRADS) is state
        assert updater.post_gradient_update(params=PARAMS, opt_state=state) is PARAMS
        assert isinstance(updater, (SteMagnitudePruning, SteRandomPruning))

    def test_bases(self):
        ste = bmrpruner.algorithms.ste
        assert SteMagnitudePruning.__mro__[1:3] == (ste.SteMixin, bmrpruner.MagnitudePruning)
        assert SteRandomPruning.__mro__[1:3] == (ste.SteMixin, bmrpruner.RandomPruning)

    @pytest.mark.parametrize("packed", [False, True])
    @pytest.mark.parametrize("count", [0, 1, 3, 7, 20])
    def test_masks_follow_the_schedule_in_every_step(self, count, packed):
        updater = SteMagnitudePruning(sparsity=0.75, scheduler=POLYNOMIAL, use_packed_masks=packed)
        state = updater.init_state(PARAMS)._replace(count=jnp.int32(count))
        forward = updater.pre_forward_update(params=PARAMS, opt_state=state)
        sparsity = oracle.cubic(0.75, count, 0, 8)
        for x, found in zip(kernels(PARAMS), kernels(forward), strict=True):
            np.testing.assert_array_equal(found, x * oracle.topk(np.abs(x), sparsity))
        np.testing.assert_array_equal(forward["a"]["bias"], PARAMS["a"]["bias"])

    @pytest.mark.parametrize(
        "schedule", [bmrpruner.NoUpdateSchedule(), bmrpruner.OneShotSchedule(50)]
    )
    def test_other_schedules_mean_the_full_target_from_the_start(self, schedule):
        updater = SteMagnitudePruning(sparsity=0.75, scheduler=schedule)
        forward = updater.pre_forward_update(PARAMS, updater.init_state(PARAMS))
        for x, found in zip(kernels(PARAMS), kernels(forward), strict=True):
            np.testing.assert_array_equal(found, x * oracle.topk(np.abs(x), 0.75))

    def test_random_masks_differ_from_step_to_step(self):
        updater = SteRandomPruning(sparsity=0.5, rng_seed=KEY)
        for count in (0, 3):
            state = updater.init_state(PARAMS)._replace(count=jnp.int32(count))
            forward = updater.pre_forward_update(PARAMS, state)
            draws = noise(jax.random.fold_in(KEY, count))
            for x, found, score in zip(kernels(PARAMS), kernels(forward), draws, strict=True):
                np.testing.assert_array_equal(found, x * oracle.topk(score, 0.5))

    def test_instant_sparsify_is_inherited(self):
        pruned, masks = SteMagnitudePruning(sparsity=0.5).instant_sparsify(PARAMS)
        for x, found, mask in zip(kernels(PARAMS), kernels(pruned), kernels(masks), strict=True):
            np.testing.assert_array_equal(mask, oracle.topk(np.abs(x), 0.5))
            np.testing.assert_array_equal(found, x * mask)

    def test_gradients_of_the_masked_weights_train_the_dense_ones(self):
        updater = SteMagnitudePruning(sparsity=0.5)
        tx = updater.wrap_optax(optax.sgd(0.1))
        state = tx.init(PARAMS)
        forward = updater.pre_forward_update(PARAMS, state)
        grads = jax.grad(lambda p: sum(jnp.sum(x**2) for x in jax.tree.leaves(p)) / 2)(forward)
        updates, state = tx.update(grads, state, PARAMS)
        trained = optax.apply_updates(PARAMS, updates)
        for x, masked, found in zip(
            kernels(PARAMS), kernels(forward), kernels(trained), strict=True
        ):
            np.testing.assert_allclose(found, x - 0.1 * masked, rtol=1e-6)
            assert np.all(found != 0)


class TestStatic:
    @pytest.mark.parametrize("packed", [False, True])
    def test_masks_are_the_top_of_the_noise_and_never_change(self, packed):
        updater = StaticRandomSparse(sparsity=0.7, rng_seed=KEY, use_packed_masks=packed)
        assert updater.is_sparse_gradients
        state = updater.init_state(PARAMS)
        assert state.masks["a"]["bias"] is None
        for found, score in zip(kernels(state.masks), noise(KEY), strict=True):
            expected = oracle.topk(score, 0.7)
            np.testing.assert_array_equal(found, np.packbits(expected) if packed else expected)
        assert updater.update_state(state, PARAMS, GRADS) is state

    def test_weights_become_sparse_at_the_first_post_gradient_update(self):
        updater = StaticRandomSparse(sparsity=0.7, rng_seed=KEY)
        tx = updater.wrap_optax(optax.sgd(0.1))
        updates, state = tx.update(GRADS, tx.init(PARAMS), PARAMS)
        for update, grad, mask in zip(*map(kernels, (updates, GRADS, state.masks)), strict=True):
            np.testing.assert_allclose(update, -0.1 * grad * mask, rtol=1e-6)
        params = optax.apply_updates(PARAMS, updates)
        assert np.all(kernels(params)[0] != 0)
        sparse = updater.post_gradient_update(params, state)
        for x, mask in zip(kernels(sparse), kernels(state.masks), strict=True):
            np.testing.assert_array_equal(x != 0, mask == 1)

    @pytest.mark.parametrize("cls", [StaticRandomSparse, SET, RigL])
    def test_instant_sparsify_is_refused(self, cls):
        with pytest.raises(RuntimeError, match=cls.__name__):
            cls().instant_sparsify(PARAMS)


class TestRewiring:
    def test_fields_and_bases(self):
        assert RigL.__mro__[1:3] == (SET, StaticRandomSparse)
        updater = SET()
        assert (updater.eps, updater.is_debug) == (1e-5, False)
        assert (updater.skip_gradients, updater.is_sparse_gradients) == (True, True)
        assert float(updater.drop_fraction_fn(0)) == float(updater.drop_fraction_fn(99)) == 0.3
        names = {field.name for field in dataclasses.fields(SET)}
        assert {"eps", "drop_fraction_fn", "is_debug"} <= names

    def test_signatures(self):
        for name in ("_get_drop_scores", "_get_grow_scores"):
            found = inspect.signature(getattr(RigL(), name)).parameters
            assert list(found) == ["sparse_state", "params", "grads"]
        found = inspect.signature(SET()._update_masks).parameters
        assert list(found) == ["old_mask", "drop_score", "grow_score", "drop_fraction"]

    @pytest.mark.parametrize("packed", [False, True])
    @pytest.mark.parametrize("cls", [SET, RigL])
    def test_drop_then_grow(self, cls, packed):
        updater = cls(
            sparsity=0.6,
            rng_seed=KEY,
            use_packed_masks=packed,
            drop_fraction_fn=lambda step: 0.1 * step,
            is_debug=True,
        )
        state = updater.init_state(PARAMS)
        before = [oracle.topk(score, 0.6) for score in noise(KEY)]
        for count in (0, 3, 7):
            state = state._replace(count=jnp.int32(count))
            state = updater.update_state(state, PARAMS, GRADS)
            grow = kernels(GRADS) if cls is RigL else noise(jax.random.fold_in(KEY, count))
            rows = zip(before, kernels(PARAMS), grow, strict=True)
            before = [oracle.rewire(m, np.abs(p), np.abs(g), 0.1 * count) for m, p, g in rows]
            for found, expected in zip(kernels(state.masks), before, strict=True):
                np.testing.assert_array_equal(found, np.packbits(expected) if packed else expected)
            assert state.masks["a"]["bias"] is None
        assert [mask.sum() for mask in before] == [round(0.4 * 24), round(0.4 * 18)]

    def test_a_fraction_of_zero_changes_nothing_and_targets_do_not_enter(self):
        updater = RigL(sparsity=0.6, drop_fraction_fn=lambda step: 0.0)
        state = updater.init_state(PARAMS)
        other = jax.tree.map(lambda target: 0.1, state.target_sparsities)
        after = updater.update_state(state._replace(target_sparsities=other), PARAMS, GRADS)
        for old, new in zip(kernels(state.masks), kernels(after.masks), strict=True):
            np.testing.assert_array_equal(old, new)

    def test_one_leaf(self):
        mask = jnp.array([[1, 1, 0, 0, 1, 1]], jnp.uint8)
        drop = jnp.array([[4.0, 1.0, 9.0, 9.0, 2.0, 3.0]])
        grow = jnp.array([[0.0, 9.0, 5.0, 7.0, 0.0, 0.0]])
        # 4 and 3 are kept; the dropped 1 comes back, as it promises most, and so does a free one
        assert SET()._update_masks(mask, drop, grow, 0.5).tolist() == [[1, 1, 0, 1, 0, 1]]

    def test_large_scores_do_not_drown_the_order_of_active_and_free(self):
        mask = jnp.array([[0, 1, 0, 1]], jnp.uint8)
        same = jnp.full((1, 4), 3e8)
        assert SET()._update_masks(mask, same, same, 0.0).tolist() == mask.tolist()
        infinite = jnp.full((1, 4), jnp.inf)
        assert SET()._update_masks(mask, -infinite, infinite, 0.5).sum() == 2
        nan = jnp.full((1, 4), jnp.nan)
        assert SET()._update_masks(mask, nan, nan, 0.0).tolist() == mask.tolist()

    @pytest.mark.parametrize("cls", [SET, RigL])
    def test_the_schedule_says_when(self, cls):
        updater = cls(sparsity=0.5, scheduler=bmrpruner.PeriodicSchedule(2, 1, 5))
        tx = updater.wrap_optax(optax.sgd(0.1))
        state, masks = tx.init(PARAMS), []
        for _ in range(7):
            before = kernels(state.masks)
            updates, state = tx.update(GRADS, state, PARAMS)
            changed = any(np.any(x != y) for x, y in zip(before, kernels(state.masks), strict=True))
            skipped = all(float(jnp.abs(x).max()) == 0 for x in jax.tree.leaves(updates))
            masks.append(changed)
            assert changed == skipped
        assert masks == [False, False, True, False, True, False, False]

    def test_accumulators_restart_where_a_connection_is_new(self):
        updater = RigL(sparsity=0.6, rng_seed=KEY, drop_fraction_fn=lambda step: 0.5)
        tx = updater.wrap_optax(optax.adam(0.1))
        ones = jax.tree.map(jnp.ones_like, PARAMS)
        state = tx.init(PARAMS)
        adam = state.inner_state[0]._replace(mu=ones, nu=ones, count=jnp.int32(9))
        state = state._replace(inner_state=(adam, *state.inner_state[1:]))
        after = updater.update_state(state, PARAMS, GRADS)
        assert int(after.inner_state[0].count) == 9
        for moment in (after.inner_state[0].mu, after.inner_state[0].nu):
            np.testing.assert_array_equal(moment["a"]["bias"], 1)
            rows = zip(kernels(state.masks), kernels(after.masks), kernels(moment), strict=True)
            for old, new, value in rows:
                assert np.any((old == 0) & (new == 1))
                np.testing.assert_array_equal(value == 0, (old == 0) & (new == 1))

    def test_restart_helpers(self):
        tree = {"w": jnp.arange(1.0, 4.0), "b": jnp.ones(2)}
        masks = {"w": jnp.array([1, 0, 1]), "b": None}
        found = sparse_trainers._restart_using_mask(tree, masks)
        assert found["w"].tolist() == [0, 2, 0]
        assert found["b"] is tree["b"]
        state = (
            optax.EmptyState(),
            optax.TraceState(tree),
            optax.ScaleByScheduleState(jnp.int32(3)),
        )
        after = sparse_trainers.restart_inner_state(state, masks)
        assert after[0] == state[0]
        assert after[2] == state[2]
        assert after[1].trace["w"].tolist() == [0, 2, 0]
        assert after[1].trace["b"].tolist() == [1, 1]

    def test_debugging_finds_a_kept_connection_that_is_lost(self):
        one, none = jnp.ones(2, jnp.uint8), jnp.zeros(2, jnp.uint8)
        with pytest.raises(AssertionError, match="kept"):
            sparse_trainers._check_kept([one], [one], [none])
