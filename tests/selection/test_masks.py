"""Masks against a definition by sorting: any scores, any counts, one array or many."""

import hypothesis
import hypothesis.extra.numpy as arrays_of
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st

from bmrpruner import selection
from tests.selection import by_sorting as oracle
from tests.selection.by_sorting import assert_masks

SHAPES = ((), (7,), (4, 5), (0,), (2, 3, 4), (3, 0), (1, 1, 9), (4, 5), (7,), (4, 5))
SIZES = [int(np.prod(shape)) for shape in SHAPES]
TOTAL = sum(SIZES)
FLOATS = {"float32": 32, "bfloat16": 16, "float16": 16}


def split(values):
    parts = np.split(values, np.cumsum(SIZES)[:-1])
    return [part.reshape(shape) for part, shape in zip(parts, SHAPES, strict=True)]


def of_bits(bits, kind):
    return np.asarray(bits, f"uint{FLOATS[kind]}").view(jnp.dtype(kind))


@st.composite
def scores(draw, kind=None):
    """Scores of all shapes: a few values often repeated, or any bits at all."""
    kind = kind or draw(st.sampled_from(list(FLOATS)))
    special = [np.nan, np.inf, -np.inf, 0.0, -0.0, 1.0, -1.0, 1.5, jnp.finfo(kind).tiny]
    special = np.asarray(special).astype(jnp.dtype(kind)).view(f"uint{FLOATS[kind]}").tolist()
    sign = 1 << (FLOATS[kind] - 1)
    denormals_and_negative_nan = [1, 2, 3, sign + 1, sign + 2, 2 * sign - 1]
    bits = st.sampled_from(special + denormals_and_negative_nan)
    if draw(st.booleans()):
        bits |= st.integers(0, 2 * sign - 1)
    return split(of_bits(draw(arrays_of.arrays(np.uint64, TOTAL, elements=bits)), kind))


SETTINGS = hypothesis.settings(deadline=None, max_examples=60)


@SETTINGS
@hypothesis.given(scores(), st.data())
def test_each_array_on_its_own(arrays, data):
    counts = [data.draw(st.integers(-1, size + 1)) for size in SIZES]
    expected = oracle.each(arrays, counts)
    assert_masks(selection.top_masks(arrays, counts), expected)


@SETTINGS
@hypothesis.given(scores(), st.integers(-1, TOTAL + 1))
def test_one_ranking_over_all_arrays(arrays, count):
    assert_masks(selection.top_masks_jointly(arrays, count), oracle.jointly(arrays, count))


@SETTINGS
@hypothesis.given(scores("float32"), scores("bfloat16"), scores("float16"), st.data())
def test_one_ranking_over_different_types(singles, brains, halves, data):
    arrays = [*singles[1:3], *brains[2:5], *halves[4:]]
    count = data.draw(st.integers(0, sum(x.size for x in arrays)))
    assert_masks(selection.top_masks_jointly(arrays, count), oracle.jointly(arrays, count))


@pytest.mark.parametrize("kind", ["int8", "int32", "uint8", "uint32", "bool"])
def test_integers_and_booleans(kind):
    rng = np.random.default_rng(0)
    if kind == "bool":
        scores = rng.random(60) < 0.3
    else:
        limits = np.iinfo(kind)
        scores = rng.integers(limits.min, limits.max, 60, kind, endpoint=True)
        scores[::7] = limits.max
    for count in (0, 4, 9, 30, 60):
        assert_masks([selection.top_mask(scores, count)], oracle.jointly([scores], count))


@pytest.mark.parametrize("value", [0.0, -3.0, np.nan, -np.inf, np.inf])
def test_equal_scores_keep_the_first(value):
    arrays = [np.full(shape, value, np.float32) for shape in SHAPES]
    for count in (0, 1, 8, 9, TOTAL - 1, TOTAL):
        masks = selection.top_masks_jointly(arrays, count)
        flat = np.concatenate([np.asarray(mask).ravel() for mask in masks])
        np.testing.assert_array_equal(flat, np.arange(TOTAL) < count)


def test_large_arrays_with_heavy_ties():
    rng = np.random.default_rng(1)
    scores = np.where(rng.random((300, 500)) < 0.9, 0, rng.standard_normal((300, 500)))
    outlier = rng.standard_normal((300, 500)) * 1e-6
    outlier[7, 3] = 1e30
    arrays = [scores.astype(np.float32), outlier.astype(np.float32)]
    for count in (1, 7500, 15_000, 100_000):
        expected = oracle.each(arrays, [count, count])
        assert_masks(selection.top_masks(arrays, [count, count]), expected)
        assert_masks(selection.top_masks_jointly(arrays, count), oracle.jointly(arrays, count))


def test_double_precision():
    rng = np.random.default_rng(2)
    wide = rng.standard_normal(90)
    wide[:20], wide[20:30], wide[30] = 5e-324, 0.0, np.nan
    wide[40:60] = 1 + np.arange(20) * 2.0**-52
    narrow = rng.standard_normal(40).astype(np.float32)
    with jax.enable_x64(True):
        for count in (0, 5, 60, 66, 89, 90):
            assert_masks([selection.top_mask(wide, count)], oracle.jointly([wide], count))
            masks = selection.top_masks_jointly([wide, narrow], jnp.int64(count))
            assert_masks(masks, oracle.jointly([wide, narrow], count))


@pytest.mark.parametrize("kind", ["float32", "bfloat16", "int8", "uint16", "bool"])
def test_arrays_of_all_sizes_in_one_call(kind):
    """Small ones are read together; of those, the shorter are filled up."""
    rng = np.random.default_rng(5)
    shapes = ((8,), (5,), (70, 70), (2, 4), (), (4097,), (0, 3))
    scores = [rng.integers(0, 3, shape).astype(kind) for shape in shapes]
    scores[0] = np.full_like(scores[0], np.nan if kind in ("float32", "bfloat16") else 0)
    if kind == "int8":
        scores = [np.where(x == 0, -128, x).astype(np.int8) for x in scores]
    counts = [2, 3, 2000, 7, 1, 10, 0]
    expected = oracle.each(scores, counts)
    assert_masks(selection.top_masks(scores, counts), expected)
    for count in (1, 4, 3000, 9015, 9018):
        assert_masks(selection.top_masks_jointly(scores, count), oracle.jointly(scores, count))


def test_nothing_to_rank():
    assert selection.top_masks([], []) == selection.top_masks_jointly([], 3) == []
    assert_masks(selection.top_masks_jointly([np.zeros((0, 2))], 3), [np.zeros((0, 2))])


def test_says_what_it_needs():
    scores, counts = np.zeros((2, 3), np.float32), np.zeros(4, np.int32)
    with pytest.raises(
        TypeError, match="scores: expected real numbers of 8 bits or more, got complex64"
    ):
        selection.order_key(np.zeros(2, np.complex64))
    with pytest.raises(TypeError, match="8 bits or more, got int4"):
        selection.top_mask(jnp.zeros(2, jnp.int4), 1)
    with pytest.raises(ValueError, match=r"counts: expected the shape \(\), got \(2,\)"):
        selection.top_mask(scores, jnp.array([1, 2]))
    with pytest.raises(TypeError, match="counts: expected integers, got float32"):
        selection.top_mask(scores, 0.5)
    with pytest.raises(ValueError, match="counts: expected 2, one for each array, got 1"):
        selection.top_masks([scores, scores], [1])
    with pytest.raises(
        TypeError, match=r"scores: expected floats or a single dtype, got \['float32', 'int32'\]"
    ):
        selection.top_masks_jointly([scores, counts], 1)
    huge = [jax.ShapeDtypeStruct((2**31,), jnp.float32)] * 2
    with pytest.raises(
        ValueError,
        match="expected fewer than 4294967295 in one ranking, or jax_enable_x64, got 4294967296",
    ):
        jax.eval_shape(lambda x: selection.top_masks_jointly(x, 5), huge)
    masks = jax.eval_shape(lambda x: selection.top_masks(x, [2**31, 2**31 - 1]), huge)
    assert [mask.shape for mask in masks] == [(2**31,)] * 2
