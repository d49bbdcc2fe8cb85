"""One-shot and gradual pruners, layer by layer and over the network."""

import dataclasses
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.core import FrozenDict

import bmrpruner
from bmrpruner.algorithms.global_pruners import GlobalPruningMixin
from bmrpruner.algorithms.pruners import generate_random_scores
from bmrpruner.sparsity_types import NByM
from tests.contract import oracle

rng = np.random.default_rng(2)
SHAPES = {"a": {"kernel": (4, 6), "bias": (6,)}, "b": {"kernel": (6, 3), "bias": (3,)}}


def draw(levels=None):
    def one(shape):
        values = rng.normal(size=shape) if levels is None else rng.integers(-levels, levels, shape)
        return jnp.asarray(values, jnp.float32)

    return jax.tree.map(one, SHAPES, is_leaf=lambda x: isinstance(x, tuple))


PARAMS, GRADS = draw(), draw()
KERNELS = (("a", "kernel"), ("b", "kernel"))


def leaf(tree, key):
    return np.asarray(tree[key[0]][key[1]])


@pytest.mark.parametrize(
    ("cls", "score"),
    [
        (bmrpruner.MagnitudePruning, lambda p, g: np.abs(p)),
        (bmrpruner.SaliencyPruning, lambda p, g: np.abs(p * g)),
    ],
)
def test_scores_of_magnitude_and_saliency(cls, score):
    updater = cls(sparsity=0.6)
    found = updater.calculate_scores(PARAMS, sparse_state=None, grads=GRADS)
    masks = updater.instant_sparsify(PARAMS, grads=GRADS)[1]
    for key in KERNELS:
        expected = score(leaf(PARAMS, key), leaf(GRADS, key))
        np.testing.assert_allclose(leaf(found, key), expected, rtol=1e-6)
        np.testing.assert_array_equal(leaf(masks, key), oracle.topk(expected, 0.6))
    assert masks["a"]["bias"] is None


def test_saliency_needs_gradients():
    with pytest.raises(ValueError, match="grads"):
        bmrpruner.SaliencyPruning(sparsity=0.5).instant_sparsify(PARAMS)


@pytest.mark.parametrize(
    "cls", [bmrpruner.MagnitudePruning, bmrpruner.SaliencyPruning, bmrpruner.RandomPruning]
)
def test_signature_of_the_scores(cls):
    parameters = inspect.signature(cls().calculate_scores).parameters
    assert list(parameters) == ["params", "sparse_state", "grads"]


@pytest.mark.parametrize("key", [jax.random.PRNGKey(3), jax.random.key(3), 3])
def test_noise_is_one_key_per_leaf_in_order(key):
    found = generate_random_scores(params=PARAMS, rng_seed=key)
    reference = jax.random.PRNGKey(3)
    expected = oracle.noise(jax.tree.leaves(PARAMS), reference)
    for x, y in zip(jax.tree.leaves(found), expected, strict=True):
        np.testing.assert_array_equal(x, y)


def test_noise_has_the_dtype_of_a_float_and_is_real_elsewhere():
    dtypes = [jnp.bfloat16, jnp.float16, jnp.int32, jnp.complex64]
    noise = generate_random_scores([jnp.ones(3, dtype) for dtype in dtypes], 0)
    assert [x.dtype for x in noise] == [jnp.bfloat16, jnp.float16, jnp.float32, jnp.float32]


@pytest.mark.parametrize("packed", [False, True])
def test_random_pruning(packed):
    key = jax.random.key(11)
    updater = bmrpruner.RandomPruning(sparsity=0.5, rng_seed=key, use_packed_masks=packed)
    names = [["bias", "kernel"], ["bias", "kernel"]]
    assert [list(layer) for layer in jax.tree.map(np.shape, PARAMS).values()] == names
    leaves = jax.tree.leaves(PARAMS)
    noise = oracle.noise(leaves, key)
    masks = updater.instant_sparsify(PARAMS)[1]
    np.testing.assert_array_equal(
        np.asarray(masks["b"]["kernel"]),
        np.packbits(oracle.topk(noise[3], 0.5)) if packed else oracle.topk(noise[3], 0.5),
    )
    state = updater.init_state(PARAMS)._replace(masks=masks, count=jnp.int32(5))
    old = [oracle.topk(noise[i], 0.5) for i in (1, 3)]
    fresh = oracle.noise(leaves, jax.random.fold_in(key, 5))
    updater.scheduler = bmrpruner.OneShotSchedule(5)
    state = state._replace(target_sparsities=jax.tree.map(lambda t: 0.8, state.target_sparsities))
    after = updater.update_state(state, PARAMS, None).masks
    for i, name, before in ((1, "a", old[0]), (3, "b", old[1])):
        expected = oracle.topk(fresh[i] * before, 0.8)
        assert np.all(expected <= before), "pruned weights stay pruned"
        found = np.asarray(after[name]["kernel"])
        np.testing.assert_array_equal(found, np.packbits(expected) if packed else expected)


def global_pruner(cls=bmrpruner.GlobalMagnitudePruning, **fields):
    return cls(**{"sparsity": 0.6, **fields})


def joint(scores, sparsity):
    flat = oracle.topk(np.concatenate([s.ravel() for s in scores]), sparsity)
    parts = np.split(flat, np.cumsum([s.size for s in scores])[:-1])
    return [part.reshape(s.shape) for part, s in zip(parts, scores, strict=True)]


def test_fields_of_the_mixin():
    fields = {field.name: field.default for field in dataclasses.fields(GlobalPruningMixin)}
    assert list(fields) == [
        "custom_sparsity_map",
        "filter_fn",
        "normalization_eps",
        "use_normalization",
        "sparsity",
    ]
    not_dim_one = bmrpruner.sparsity_distributions.NOT_DIM_ONE_FILTER_FN
    assert tuple(fields.values()) == (None, not_dim_one, 1e-8, True, 0.0)
    for cls, base in (
        (bmrpruner.GlobalMagnitudePruning, bmrpruner.MagnitudePruning),
        (bmrpruner.GlobalSaliencyPruning, bmrpruner.SaliencyPruning),
    ):
        assert cls.__mro__[1:3] == (GlobalPruningMixin, base)


@pytest.mark.parametrize("use_normalization", [True, False])
@pytest.mark.parametrize("name", ["magnitude", "saliency"])
def test_one_ranking_over_the_network(name, use_normalization):
    cls = {
        "magnitude": bmrpruner.GlobalMagnitudePruning,
        "saliency": bmrpruner.GlobalSaliencyPruning,
    }[name]
    updater = global_pruner(cls, use_normalization=use_normalization)
    masks = updater.instant_sparsify(PARAMS, grads=GRADS)[1]
    scores = [np.abs(leaf(PARAMS, k)) for k in KERNELS]
    if name == "saliency":
        scores = [np.abs(leaf(PARAMS, k) * leaf(GRADS, k)) for k in KERNELS]
    if use_normalization:
        scores = [s / (np.linalg.norm(s) + 1e-8) for s in scores]
    for key, expected in zip(KERNELS, joint(scores, 0.6), strict=True):
        np.testing.assert_array_equal(leaf(masks, key), expected)
    assert masks["a"]["bias"] is None


@pytest.mark.parametrize("kind", ["float16", "bfloat16"])
def test_norms_of_half_precision_do_not_overflow(kind):
    """The squares of 160,000 weights sum up to more than a float16 holds."""
    weights = jax.random.normal(jax.random.key(0), (400, 400)).astype(kind)
    pruner = bmrpruner.GlobalMagnitudePruning(sparsity=0.5)
    _, masks = pruner.instant_sparsify({"a": weights, "b": jnp.zeros((2, 2), kind)})
    kept = np.asarray(masks["a"]) == 1
    size = np.abs(np.asarray(weights, np.float32))
    assert size[kept].min() >= size[~kept].max()
    assert not masks["b"].any()


def test_ties_go_by_the_sorted_keys_and_the_minimum_is_one_over_everything():
    ones = {"b": jnp.ones((2, 2)), "a": jnp.ones((2, 2)), "c": {"z": jnp.ones((1, 2))}}
    updater = global_pruner(sparsity=0.5, use_normalization=False)
    masks = updater.instant_sparsify(ones)[1]
    assert masks["a"].tolist() == [[1, 1], [1, 1]]
    assert masks["b"].tolist() == [[1, 0], [0, 0]]
    masks = global_pruner(sparsity=1.0, use_normalization=False).instant_sparsify(ones)[1]
    assert [int(m.sum()) for m in jax.tree.leaves(masks)] == [1, 0, 0]


@pytest.mark.parametrize("packed", [False, True])
def test_state_and_schedule(packed):
    schedule = bmrpruner.PolynomialSchedule(1, 0, 4)
    updater = global_pruner(scheduler=schedule, use_packed_masks=packed)
    state = updater.init_state(PARAMS)
    assert state.target_sparsities == 0.6
    assert state.masks["b"]["bias"] is None
    assert state.masks["a"]["kernel"].shape == ((3,) if packed else (4, 6))
    after = updater.update_state(state._replace(count=jnp.int32(1)), PARAMS, GRADS)
    scores = [np.abs(leaf(PARAMS, k)) for k in KERNELS]
    expected = joint([s / np.linalg.norm(s) for s in scores], oracle.cubic(0.6, 1, 0, 4))
    for key, mask in zip(KERNELS, expected, strict=True):
        np.testing.assert_array_equal(leaf(after.masks, key), np.packbits(mask) if packed else mask)


def test_mapped_leaves_have_their_own_top_k_whatever_the_filter_says():
    updater = global_pruner(
        filter_fn=lambda key, param: key == ("a", "kernel"),
        custom_sparsity_map={("b", "kernel"): 0.25, ("b", "bias"): 0.5},
    )
    state = updater.init_state(PARAMS)
    assert all(int(mask.min()) == 1 for mask in jax.tree.leaves(state.masks)), "start dense"
    masks = updater.instant_sparsify(PARAMS)[1]
    assert masks["a"]["bias"] is None
    for key, sparsity in {KERNELS[0]: 0.6, KERNELS[1]: 0.25, ("b", "bias"): 0.5}.items():
        expected = oracle.topk(np.abs(leaf(PARAMS, key)), sparsity)
        np.testing.assert_array_equal(leaf(masks, key), expected)


def test_a_mapped_sparsity_of_none_exempts():
    exempt = global_pruner(custom_sparsity_map={KERNELS[1]: None})
    alone = global_pruner(filter_fn=lambda key, param: param.ndim > 1 and key != KERNELS[1])
    for masks in (exempt.instant_sparsify(PARAMS)[1], exempt.init_state(PARAMS).masks):
        assert masks["b"]["kernel"] is None
    expected = leaf(alone.instant_sparsify(PARAMS)[1], KERNELS[0])
    np.testing.assert_array_equal(leaf(exempt.instant_sparsify(PARAMS)[1], KERNELS[0]), expected)


@pytest.mark.parametrize("how", ["init_state", "instant_sparsify"])
def test_only_unstructured(how):
    with pytest.raises(AttributeError, match="NByM"):
        getattr(global_pruner(sparsity_type=NByM(1, 2)), how)(PARAMS)


def test_frozen_in_frozen_out():
    scores = FrozenDict(jax.tree.map(jnp.abs, PARAMS))
    assert isinstance(global_pruner().create_masks(scores, 0.5), FrozenDict)


def test_bare_arrays_and_lists():
    x = jnp.array([[4.0, -1.0], [3.0, 2.0]])
    kernel = bmrpruner.sparsity_distributions.KERNEL_FILTER_FN
    assert global_pruner(sparsity=0.5, filter_fn=kernel).instant_sparsify(x)[1].tolist() == [
        [1, 0],
        [1, 0],
    ]
    masks = global_pruner(sparsity=0.5, use_normalization=False).instant_sparsify([x, [x + 9]])[1]
    assert [int(masks[0].sum()), int(masks[1][0].sum())] == [0, 4]


def test_nothing_eligible_is_an_error_that_names_the_leaves():
    with pytest.raises(
        ValueError, match=r"expected a leaf that filter_fn accepts, got only a/bias"
    ):
        global_pruner(filter_fn=lambda key, param: False).init_state(PARAMS)
    with pytest.warns(UserWarning, match=r"'a', 'kernl'.*a/kernel"):
        global_pruner(custom_sparsity_map={("a", "kernl"): 0.5}).init_state(PARAMS)
