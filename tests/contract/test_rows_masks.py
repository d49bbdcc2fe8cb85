"""Sparsity types, and the masks that are made of scores."""

import inspect
import types
import typing

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bmrpruner import _masks, mask_calculator, sparsity_types
from bmrpruner.sparsity_types import Block, Channel, NByM, Unstructured
from tests.contract import oracle

SPARSITIES = (0.0, 0.1, 0.25, 0.3, 0.5, 0.7, 0.99, 1.0)
rng = np.random.default_rng(5)


def random_scores(shape):
    """A few levels only, so that there are ties."""
    return rng.integers(0, 6, shape).astype(np.float32)


def test_fields_and_defaults_of_the_types():
    assert Unstructured() == ()
    assert Block._fields == ("block_shape", "use_avg_pooling")
    assert Block((2, 2)).use_avg_pooling is True
    assert NByM._fields == ("n", "m", "axis")
    assert NByM(2, 4).axis == -1
    assert Channel().axis == -1
    assert isinstance(sparsity_types.SparsityType, types.UnionType)
    assert set(typing.get_args(sparsity_types.SparsityType)) == {Unstructured, Block, NByM, Channel}


@pytest.mark.parametrize("value", [Unstructured(), Block((1, 2)), NByM(1, 2), Channel(0)])
def test_is_sparsity_type(value):
    assert sparsity_types.is_sparsity_type(instance_to_check=value)
    assert not sparsity_types.is_sparsity_type(type(value))
    assert not sparsity_types.is_sparsity_type(tuple(value))


def test_constants_and_signatures():
    assert mask_calculator.MASK_DTYPE == "uint8"
    signatures = {
        "get_topk_fn": ["sparsity_type"],
        "topk_mask_calculator": ["scores", "sparsity"],
        "topk_n_by_m_mask_calculator": ["scores", "sparsity", "sparsity_type"],
        "topk_block_mask_calculator": [
            "scores",
            "sparsity",
            "block_height",
            "block_width",
            "use_avg_pooling",
        ],
        "topk_channel_mask_calculator": ["scores", "sparsity", "sparsity_type"],
        "_topk_mask_calculator_internal": ["scores", "sparsity"],
    }
    for name, parameters in signatures.items():
        assert list(inspect.signature(getattr(mask_calculator, name)).parameters) == parameters


@pytest.mark.parametrize("sparsity", SPARSITIES)
def test_get_topk_fn_of_each_type_eager_and_traced(sparsity):
    scores = random_scores((4, 6))
    expected = {
        Unstructured(): oracle.topk(scores, sparsity),
        Block((2, 4)): oracle.block(scores, sparsity, 2, 4),
        Block((3, 2), use_avg_pooling=False): oracle.block(scores, sparsity, 3, 2, False),
        Channel(0): oracle.channel(scores, sparsity, 0),
        NByM(1, 3): oracle.n_by_m(scores, 1, 3) if sparsity else np.ones_like(scores),
    }
    for sparsity_type, mask in expected.items():
        fn = mask_calculator.get_topk_fn(sparsity_type)
        found = fn(scores=scores, sparsity=sparsity)
        assert found.dtype == jnp.uint8
        np.testing.assert_array_equal(found, mask, err_msg=str(sparsity_type))
    traced = jax.jit(mask_calculator.get_topk_fn(NByM(1, 3)))(scores, sparsity)
    np.testing.assert_array_equal(traced, expected[NByM(1, 3)])


def test_get_topk_fn_takes_the_class_and_strings_and_refuses_the_unknown():
    assert mask_calculator.get_topk_fn(Unstructured) is mask_calculator.topk_mask_calculator
    for unknown in (Block, "two of four", None):
        with pytest.raises(ValueError, match="Sparsity type"):
            mask_calculator.get_topk_fn(unknown)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.one_of(st.floats(width=32, allow_nan=False), st.sampled_from([0.0, 1.0])),
        min_size=24,
        max_size=24,
    ),
    st.floats(0, 1, width=32),
)
def test_unstructured_is_the_sort(values, sparsity):
    tiny = float(np.finfo(np.float32).tiny)  # NumPy has denormals, XLA on a CPU may not
    scores = np.array([0.0 if abs(v) < tiny else v for v in values], np.float32).reshape(4, 6)
    found = mask_calculator.topk_mask_calculator(scores, sparsity)
    np.testing.assert_array_equal(found, oracle.topk(scores, sparsity))


@pytest.mark.parametrize(
    ("size", "sparsity", "kept"),
    [(5, 0.5, 2), (3, 0.5, 2), (7, 0.5, 4), (4, 1.0, 1), (4, 0.99, 1), (10, 0.25, 8), (9, 0.0, 9)],
)
def test_unstructured_counts_round_halves_to_even(size, sparsity, kept):
    mask = mask_calculator.topk_mask_calculator(jnp.arange(float(size)), sparsity)
    assert mask.tolist() == [0] * (size - kept) + [1] * kept


def test_unstructured_ties_keep_the_lower_index():
    mask = mask_calculator.topk_mask_calculator(jnp.ones((2, 4)), jnp.array(0.625))
    assert mask.tolist() == [[1, 1, 1, 0], [0, 0, 0, 0]]


def test_internal_rule_has_no_zero_shortcut_and_takes_lists():
    internal = mask_calculator._topk_mask_calculator_internal
    assert internal([3.0, 1.0, 2.0], 0.0).tolist() == [1, 1, 1]
    assert internal([3.0, 1.0, 2.0], 0.6).tolist() == [1, 0, 0]


@pytest.mark.parametrize("axis", [-1, 0, 1])
@pytest.mark.parametrize(("n", "m"), [(1, 2), (2, 4), (4, 4), (1, 4)])
def test_n_by_m_along_any_axis(n, m, axis):
    scores = random_scores((8, 4))
    found = mask_calculator.topk_n_by_m_mask_calculator(scores, 0.3, NByM(n, m, axis))
    np.testing.assert_array_equal(found, oracle.n_by_m(scores, n, m, axis))


def test_n_by_m_ties_keep_the_higher_index_and_the_sparsity_is_a_switch():
    fn = mask_calculator.topk_n_by_m_mask_calculator
    ones = jnp.ones((2, 4))
    for sparsity in (None, 0.01, 1.0):
        assert fn(ones, sparsity, NByM(1, 4)).tolist() == [[0, 0, 0, 1]] * 2
    assert fn(ones, 0.0, NByM(1, 4)).tolist() == [[1] * 4] * 2
    assert fn(jnp.ones((2, 3)), 0, NByM(1, 4)).tolist() == [[1] * 3] * 2  # dense needs no groups


def test_n_by_m_refuses_impossible_groups():
    fn = mask_calculator.topk_n_by_m_mask_calculator
    with pytest.raises(ValueError, match=r"divisible by 4, got 6"):
        fn(jnp.ones((4, 6)), 0.5, NByM(2, 4))
    with pytest.raises(ValueError, match="4:2"):
        fn(jnp.ones((4, 4)), 0.5, NByM(4, 2))


@pytest.mark.parametrize("use_avg_pooling", [True, False])
@pytest.mark.parametrize("shape", [(5, 7), (6,), (3, 3, 2, 4), (1, 5)])
def test_blocks_tile_the_first_two_axes_with_partial_ones_at_the_end(shape, use_avg_pooling):
    scores = random_scores(shape)
    args = (0.6, 2, 3, use_avg_pooling)
    found = mask_calculator.topk_block_mask_calculator(scores, *args)
    np.testing.assert_array_equal(found, oracle.block(scores, *args))


def test_block_scores_may_be_lists():
    found = mask_calculator.topk_block_mask_calculator(
        [[1, 2, 9, 9], [3, 4, 9, 9]], 0.5, 2, 2, True
    )
    assert found.tolist() == [[0, 0, 1, 1]] * 2


@pytest.mark.parametrize("axis", [-1, 0, 1, -3])
def test_channels_sum_over_the_other_axes(axis):
    scores = random_scores((3, 5, 4))
    found = mask_calculator.topk_channel_mask_calculator(scores, 0.5, Channel(axis))
    np.testing.assert_array_equal(found, oracle.channel(scores, 0.5, axis))
    with pytest.raises(ValueError, match="axis"):
        mask_calculator.topk_channel_mask_calculator(scores, 0.5, Channel(3))


@pytest.mark.parametrize("size", [1, 7, 8, 9, 24])
def test_packing_is_big_endian_and_zero_padded(size):
    mask = random_scores((size,)) > 2
    packed = _masks.pack(jnp.asarray(mask, jnp.uint8))
    assert packed.shape == (-(-size // 8),)
    np.testing.assert_array_equal(packed, np.packbits(mask))
    np.testing.assert_array_equal(_masks.unpack(packed, (size,)), mask)
    assert _masks.pack(None) is None


def test_counts_of_more_weights_than_int32_holds():
    sizes = np.array([2**31, 3 * 10**9, 8])
    counts = mask_calculator.keep_count(sizes, jnp.array([0.5, 0, 0.25]))
    np.testing.assert_array_equal(counts, [2**30, 3 * 10**9, 6])
    with pytest.raises(ValueError, match=r"got 5000000000; set jax_enable_x64"):
        mask_calculator.keep_count(5 * 10**9, 0.5)
    with jax.enable_x64(True):
        assert mask_calculator.keep_count(5 * 10**9, 0.5) == 2_500_000_000


def test_groups_of_an_empty_array():
    mask = mask_calculator.topk_n_by_m_mask_calculator(np.zeros((0, 4)), 0.5, NByM(2, 4))
    assert mask.shape == (0, 4)
