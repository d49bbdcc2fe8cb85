"""The fields and hooks of an updater, and the state that it makes."""

import copy
import dataclasses
import functools
import inspect
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import bmrpruner
from bmrpruner import BaseUpdater, MagnitudePruning, SparseState, apply_mask
from bmrpruner.sparsity_types import NByM, Unstructured
from tests.contract.small import EVERY_OTHER, GRADS, PARAMS, pruner


def test_sparse_state_fields():
    assert SparseState._fields == ("masks", "inner_state", "target_sparsities", "count")
    assert SparseState("m") == ("m", None, None, None)


def test_apply_mask():
    assert list(inspect.signature(apply_mask).parameters) == ["param", "mask", "is_packed"]
    mask = jnp.array([[1, 0, 1, 1], [0, 0, 1, 0]], jnp.uint8)
    expected = np.asarray(PARAMS["w"]) * np.asarray(mask)
    np.testing.assert_array_equal(apply_mask(PARAMS["w"], mask), expected)
    np.testing.assert_array_equal(
        apply_mask(PARAMS["w"], jnp.packbits(mask), is_packed=True), expected
    )
    assert apply_mask(PARAMS["w"], None) is not None
    for dtype in (jnp.bfloat16, jnp.float16, jnp.complex64, jnp.int8):
        assert apply_mask(PARAMS["w"].astype(dtype), mask).dtype == dtype
    assert apply_mask(jnp.array([jnp.nan, jnp.inf, 2.0]), jnp.array([0, 0, 1])).tolist() == [
        0,
        0,
        2,
    ]


def test_updater_fields_in_order_with_their_defaults():
    names = [field.name for field in dataclasses.fields(BaseUpdater)]
    assert names[:8] == [
        "scheduler",
        "skip_gradients",
        "is_sparse_gradients",
        "sparsity_type",
        "sparsity_distribution_fn",
        "rng_seed",
        "use_packed_masks",
        "topk_fn",
    ]
    updater = BaseUpdater()
    assert updater.scheduler == bmrpruner.NoUpdateSchedule()
    assert (updater.skip_gradients, updater.is_sparse_gradients) == (False, False)
    assert updater.sparsity_type == Unstructured()
    assert updater.sparsity_distribution_fn(PARAMS) == {"w": 0.0, "b": None}
    assert updater.topk_fn is bmrpruner.mask_calculator.topk_mask_calculator
    np.testing.assert_array_equal(updater.rng_seed, jax.random.PRNGKey(8))
    positional = BaseUpdater(EVERY_OTHER, True, True, NByM(1, 2))
    assert positional.sparsity_type == NByM(1, 2)
    assert positional.topk_fn(jnp.array([1.0, 2.0]), 0.5).tolist() == [0, 1]


def test_signatures_of_the_hooks():
    hooks = {
        "calculate_scores": "params sparse_state grads kwargs",
        "create_masks": "scores sparsities",
        "get_initial_masks": "params target_sparsities",
        "init_state": "params",
        "update_state": "sparse_state params grads kwargs",
        "apply_masks": "params masks is_packed",
        "instant_sparsify": "params grads kwargs",
        "pre_forward_update": "params opt_state",
        "post_gradient_update": "params sparse_state",
    }
    for name, parameters in hooks.items():
        found = inspect.signature(getattr(BaseUpdater(), name)).parameters
        assert list(found) == parameters.split(), name
    assert next(iter(inspect.signature(BaseUpdater().wrap_optax).parameters)) == "inner"


def test_updaters_are_mutable_copyable_and_static():
    updater = pruner(scheduler=EVERY_OTHER, rng_seed=jax.random.key(1))
    for twin in (copy.deepcopy(updater), dataclasses.replace(updater)):
        assert type(twin) is MagnitudePruning
        assert twin is not updater
        assert twin.scheduler == EVERY_OTHER
        assert twin.rng_seed == updater.rng_seed
    updater.use_packed_masks = True
    assert updater.init_state(PARAMS).masks["w"].shape == (1,)
    assert dataclasses.replace(updater, sparsity=0.25).sparsity == 0.25
    assert updater == updater
    assert updater != copy.deepcopy(updater)

    @dataclasses.dataclass  # as user code writes it, without eq=False
    class Mine(MagnitudePruning):
        extra: Any = None

    for one in (updater, Mine(extra=jnp.ones(2))):
        assert hash(one) == hash(one)
        static = jax.jit(lambda u, x: x * u.skip_gradients, static_argnums=0)
        assert float(static(one, 1.0)) == 0.0
    tx = updater.wrap_optax(optax.sgd(0.1))
    step = jax.jit(lambda tx, s: tx.update(GRADS, s, PARAMS), static_argnums=0)
    step(tx, tx.init(PARAMS))


def test_post_init_may_be_overridden_without_super():
    @dataclasses.dataclass
    class Mine(MagnitudePruning):
        def __post_init__(self):
            self.topk_fn = lambda scores, sparsity: jnp.zeros_like(scores, jnp.uint8)

    masks = Mine(sparsity=0.5).instant_sparsify(PARAMS)[1]
    assert masks["w"].sum() == 0


def test_base_has_no_scores():
    with pytest.raises(NotImplementedError):
        BaseUpdater().calculate_scores(PARAMS)


def test_create_masks_and_initial_masks():
    updater = BaseUpdater(topk_fn=lambda scores, sparsity: scores > sparsity)
    masks = updater.create_masks(PARAMS, {"w": 6.0, "b": None})
    assert masks["b"] is None
    np.testing.assert_array_equal(masks["w"], PARAMS["w"] > 6)
    ones = updater.get_initial_masks(PARAMS, {"w": 0.3, "b": None})
    assert ones["b"] is None
    assert ones["w"].dtype == jnp.uint8
    assert ones["w"].tolist() == [[1] * 4] * 2


@pytest.mark.parametrize("packed", [False, True])
def test_init_state(packed):
    state = pruner(use_packed_masks=packed).init_state(PARAMS)
    assert isinstance(state, SparseState)
    assert state.masks["b"] is None
    assert state.masks["w"].shape == ((1,) if packed else (2, 4))
    assert state.inner_state is None
    assert state.target_sparsities == {"w": 0.5, "b": None}
    assert state.target_sparsities["w"].dtype == jnp.float32
    assert state.count.dtype == jnp.int32
    assert int(state.count) == 0
    abstract = jax.eval_shape(pruner(use_packed_masks=packed).init_state, PARAMS)
    jitted = jax.jit(pruner(use_packed_masks=packed).init_state)(PARAMS)
    chex.assert_trees_all_equal_shapes_and_dtypes(jitted, abstract)
    chex.assert_trees_all_equal(jitted.masks, state.masks)


def test_update_state_replaces_only_masks_and_passes_keywords_on():
    seen = {}

    class Mine(MagnitudePruning):
        def calculate_scores(self, params, sparse_state=None, grads=None, loss=None):
            seen.update(state=sparse_state, grads=grads, loss=loss)
            return super().calculate_scores(params)

    updater = Mine(sparsity=0.5, scheduler=bmrpruner.PolynomialSchedule(1, 0, 4))
    state = updater.init_state(PARAMS)._replace(count=jnp.int32(1), inner_state="inner")
    after = updater.update_state(state, PARAMS, GRADS, loss=3.0, unknown=1)
    assert seen == {"state": state, "grads": GRADS, "loss": 3.0}
    assert after[1:] == state[1:]
    sparsity = 0.5 * (1 - (1 - 2 / 4) ** 3)
    assert int(after.masks["w"].sum()) == round(8 * (1 - sparsity))


def test_apply_masks():
    updater = pruner(use_packed_masks=True)
    mask = jnp.array([[1, 0, 1, 1], [0, 0, 1, 0]], jnp.uint8)
    expected = {"w": PARAMS["w"] * mask, "b": PARAMS["b"]}
    plain, packed = {"w": mask, "b": None}, {"w": jnp.packbits(mask), "b": None}
    chex.assert_trees_all_equal(updater.apply_masks(PARAMS, plain), expected)
    chex.assert_trees_all_equal(updater.apply_masks(PARAMS, packed, is_packed=True), expected)
    chex.assert_trees_all_equal(updater.apply_masks(PARAMS, packed, is_packed=None), expected)
    state = SparseState(packed)
    chex.assert_trees_all_equal(
        updater.post_gradient_update(params=PARAMS, sparse_state=state), expected
    )
    assert updater.pre_forward_update(params=PARAMS, opt_state=state) is PARAMS


@pytest.mark.parametrize("packed", [False, True])
def test_instant_sparsify(packed):
    updater = pruner(use_packed_masks=packed, scheduler=bmrpruner.OneShotSchedule(100))
    pruned, masks = updater.instant_sparsify(PARAMS)
    assert pruned["w"].tolist() == [[0, 0, 0, 0], [5, 6, 7, 8]]
    assert masks["b"] is None
    expected = np.array([[0] * 4, [1] * 4], np.uint8)
    np.testing.assert_array_equal(masks["w"], np.packbits(expected) if packed else expected)


def test_instant_sparsify_of_arrays_lists_and_without_distribution():
    assert pruner().instant_sparsify(PARAMS["w"])[0].tolist() == [[0] * 4, [5, 6, 7, 8]]
    listed, masks = pruner().instant_sparsify([PARAMS["w"], [PARAMS["b"]]])
    assert listed[0].tolist() == [[0] * 4, [5, 6, 7, 8]]
    assert masks[1] == [None]
    with pytest.raises(ValueError, match="sparsity_distribution_fn"):
        MagnitudePruning(sparsity_distribution_fn=None).instant_sparsify(PARAMS)


def test_params_without_a_prunable_leaf_or_without_arrays():
    with pytest.raises(ValueError, match=r"expected a leaf that filter_fn accepts.*b \(4,\)"):
        pruner().init_state({"b": jnp.ones(4)})
    with pytest.raises(TypeError, match=r"'a/b'.*str"):
        pruner().init_state({"a": {"b": "text"}})


def test_a_leaf_without_a_score_is_named():
    grads = {"w": None, "b": PARAMS["b"]}
    with pytest.raises(ValueError, match="scores: expected one for leaf 'w'"):
        bmrpruner.SaliencyPruning(sparsity=0.5).instant_sparsify(PARAMS, grads)


def test_a_distribution_assigned_after_construction():
    updater = bmrpruner.MagnitudePruning(sparsity=0.5)
    updater.sparsity_distribution_fn = lambda params: {"w": 0.25, "b": None}
    assert updater.init_state(PARAMS).target_sparsities == {"w": 0.25, "b": None}
    updater.sparsity_distribution_fn = functools.partial(
        bmrpruner.sparsity_distributions.uniform, sparsity=0.75
    )
    with pytest.raises(ValueError, match=r"sparsity: expected 0\.75, .* got 0\.5"):
        updater.init_state(PARAMS)


def test_a_distribution_of_another_tree_is_refused():
    updater = bmrpruner.MagnitudePruning(sparsity_distribution_fn=lambda params: {"w": 0.5})
    with pytest.raises(ValueError, match=r"sparsity_distribution_fn.*2 leaves, got 1"):
        updater.init_state(PARAMS)


def test_a_leaf_that_does_not_fit_its_type_is_named():
    with pytest.raises(ValueError, match=r"'w' that is divisible by 3, got 4"):
        pruner(sparsity=2 / 3, sparsity_type=NByM(1, 3)).init_state(PARAMS)
