"""Masks against a definition by sorting: any scores, any counts, one array or many, on a mesh."""

import os
import re
import subprocess
import sys

import hypothesis
import hypothesis.extra.numpy as arrays_of
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from bmrpruner import selection

SHAPES = ((), (7,), (4, 5), (0,), (2, 3, 4), (3, 0), (1, 1, 9), (4, 5), (7,), (4, 5))
SIZES = [int(np.prod(shape)) for shape in SHAPES]
TOTAL = sum(SIZES)
FLOATS = {"float32": 32, "bfloat16": 16, "float16": 16}


def doubles(values):
    with np.errstate(invalid="ignore"):  # signalling NaN
        return np.asarray(values).astype(np.float64)


def sorted_masks(arrays, count):
    """The definition: the first `count` in descending stable order, NaN last of all."""
    values = np.concatenate([doubles(x).ravel() for x in arrays])
    nan = np.isnan(values)
    order = np.lexsort((nan, -np.where(nan, -np.inf, values)))
    mask = np.zeros(values.size, np.uint8)
    mask[order[: max(count, 0)]] = 1
    parts = np.split(mask, np.cumsum([np.size(x) for x in arrays])[:-1])
    return [part.reshape(np.shape(x)) for part, x in zip(parts, arrays, strict=True)]


def assert_masks(masks, expected):
    for mask, other in zip(masks, expected, strict=True):
        assert mask.dtype == jnp.uint8
        np.testing.assert_array_equal(mask, other)


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
    expected = [sorted_masks([x], count)[0] for x, count in zip(arrays, counts, strict=True)]
    assert_masks(selection.top_masks(arrays, counts), expected)


@SETTINGS
@hypothesis.given(scores(), st.integers(-1, TOTAL + 1))
def test_one_ranking_over_all_arrays(arrays, count):
    assert_masks(selection.top_masks_jointly(arrays, count), sorted_masks(arrays, count))


@SETTINGS
@hypothesis.given(scores("float32"), scores("bfloat16"), scores("float16"), st.data())
def test_one_ranking_over_different_types(singles, brains, halves, data):
    arrays = [*singles[1:3], *brains[2:5], *halves[4:]]
    count = data.draw(st.integers(0, sum(x.size for x in arrays)))
    assert_masks(selection.top_masks_jointly(arrays, count), sorted_masks(arrays, count))


@pytest.mark.parametrize("kind", ["bfloat16", "float16", "float8_e4m3fn", "float8_e5m2"])
def test_keys_order_every_value_there_is(kind):
    kind = jnp.dtype(kind)
    values = np.arange(2 ** (8 * kind.itemsize)).astype(f"uint{8 * kind.itemsize}").view(kind)
    keys = np.asarray(selection.order_key(values))
    assert keys.dtype == np.uint16
    values = doubles(values)
    nan = np.isnan(values)
    assert (keys[nan] == 0).all()
    order = np.argsort(values[~nan])
    assert keys[~nan].min() > 0
    np.testing.assert_array_equal(
        np.diff(keys[~nan][order].astype(int)) > 0, np.diff(values[~nan][order]) > 0
    )


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
        assert_masks([selection.top_mask(scores, count)], sorted_masks([scores], count))


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
        expected = [sorted_masks([x], count)[0] for x in arrays]
        assert_masks(selection.top_masks(arrays, [count, count]), expected)
        assert_masks(selection.top_masks_jointly(arrays, count), sorted_masks(arrays, count))


def test_double_precision():
    rng = np.random.default_rng(2)
    wide = rng.standard_normal(90)
    wide[:20], wide[20:30], wide[30] = 5e-324, 0.0, np.nan
    wide[40:60] = 1 + np.arange(20) * 2.0**-52
    narrow = rng.standard_normal(40).astype(np.float32)
    with jax.enable_x64(True):
        for count in (0, 5, 60, 66, 89, 90):
            assert_masks([selection.top_mask(wide, count)], sorted_masks([wide], count))
            masks = selection.top_masks_jointly([wide, narrow], jnp.int64(count))
            assert_masks(masks, sorted_masks([wide, narrow], count))


SCORES = np.random.default_rng(3).integers(-4, 5, (6, 8)).astype(np.float32)
COUNTS = np.array([0, 1, 3, 5, 8, 9], np.int32)


def rows(counts=COUNTS):
    return [sorted_masks([row], count)[0] for row, count in zip(SCORES, counts, strict=True)]


def test_traced_counts_compile_once():
    traces = []

    @jax.jit
    def masks(scores, count):
        traces.append(count)
        return selection.top_masks([scores, scores[0]], [count, 2])

    for count in COUNTS:
        expected = [sorted_masks([SCORES], count)[0], sorted_masks([SCORES[0]], 2)[0]]
        assert_masks(masks(SCORES, count), expected)
        assert_masks([selection.top_mask(SCORES, jnp.uint32(count))], expected[:1])
    assert len(traces) == 1


def test_vmap():
    assert_masks(jax.vmap(selection.top_mask)(SCORES, COUNTS), rows())
    assert_masks(jax.vmap(selection.top_mask, (0, None))(SCORES, 3), rows([3] * 6))
    masks = jax.vmap(lambda x, count: selection.top_masks_jointly([x, -x], count)[1])
    expected = [sorted_masks([x, -x], count)[1] for x, count in zip(SCORES, COUNTS, strict=True)]
    assert_masks(masks(SCORES, COUNTS), expected)


def test_scan():
    _, masks = jax.lax.scan(lambda _, xs: (None, selection.top_mask(*xs)), None, (SCORES, COUNTS))
    assert_masks(masks, rows())


def test_gradients_pass_by_the_mask():
    grad = jax.grad(lambda x: (x * selection.top_mask(jnp.abs(x), 5)).sum())(SCORES)
    np.testing.assert_array_equal(grad, sorted_masks([abs(SCORES)], 5)[0])


def test_strict_promotion():
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        masks = selection.top_masks([SCORES, SCORES[0]], [3, jnp.int32(2)])
    assert_masks(masks, [sorted_masks([x], n)[0] for x, n in ((SCORES, 3), (SCORES[0], 2))])


@pytest.mark.compiled
@pytest.mark.parametrize("kind", ["float32", "bfloat16"])
def test_needs_no_memory_beside_scores_and_masks(kind):
    leaves = [jax.ShapeDtypeStruct(shape, kind) for shape in ((64, 512), (3, 3, 32, 64))]
    for masks in (selection.top_masks_jointly, lambda x, k: selection.top_masks(x, [k, k])):
        analysis = jax.jit(masks).lower(leaves, jnp.int32(0)).compile().memory_analysis()
        assert analysis.temp_size_in_bytes < 5000


def test_nothing_to_rank():
    assert selection.top_masks([], []) == selection.top_masks_jointly([], 3) == []
    assert_masks(selection.top_masks_jointly([np.zeros((0, 2))], 3), [np.zeros((0, 2))])


def test_says_what_it_needs():
    with pytest.raises(TypeError, match="real numbers of 8 bits or more, found complex64"):
        selection.order_key(np.zeros(2, np.complex64))
    with pytest.raises(TypeError, match="8 bits or more, found int4"):
        selection.top_mask(jnp.zeros(2, jnp.int4), 1)
    with pytest.raises(ValueError, match=r"expected the shape \(\), found \(2,\)"):
        selection.top_mask(SCORES, jnp.array([1, 2]))
    with pytest.raises(TypeError, match="must be an integer, found float32"):
        selection.top_mask(SCORES, 0.5)
    with pytest.raises(ValueError, match="found 1 for 2 arrays"):
        selection.top_masks([SCORES, SCORES], [1])
    with pytest.raises(TypeError, match=r"single dtype, found \['float32', 'int32'\]"):
        selection.top_masks_jointly([SCORES, COUNTS], 1)
    huge = [jax.ShapeDtypeStruct((2**31,), jnp.float32)] * 2
    with pytest.raises(ValueError, match="4294967296 scores needs jax_enable_x64"):
        jax.eval_shape(lambda x: selection.top_masks_jointly(x, 5), huge)
    masks = jax.eval_shape(lambda x: selection.top_masks(x, [2**31, 2**31 - 1]), huge)
    assert [mask.shape for mask in masks] == [(2**31,)] * 2


@pytest.mark.compiled
def test_small_arrays_are_read_together():
    def keys(number):
        arrays = [jnp.ones((1, 30 + i)) for i in range(number)]
        select = jax.jit(lambda xs: selection.top_masks(xs, [3] * number))
        return select.lower(arrays).compile().as_text().count(" bitcast-convert(")

    assert keys(12) == keys(6) > 0


@pytest.mark.parametrize("kind", ["float32", "bfloat16", "int8", "uint16", "bool"])
def test_arrays_of_all_sizes_in_one_call(kind):
    """Small ones are worked on together; of those, the shorter are filled up."""
    rng = np.random.default_rng(5)
    shapes = ((3,), (5,), (70, 70), (2, 4), (), (4097,), (0, 3))
    scores = [rng.integers(0, 3, shape).astype(kind) for shape in shapes]
    scores[0] = np.full_like(scores[0], np.nan if kind in ("float32", "bfloat16") else 0)
    if kind == "int8":
        scores = [np.where(x == 0, -128, x).astype(np.int8) for x in scores]
    counts = [2, 3, 2000, 8, 1, 10, 0]
    expected = [sorted_masks([x], k)[0] for x, k in zip(scores, counts, strict=True)]
    assert_masks(selection.top_masks(scores, counts), expected)
    for count in (1, 4, 3000, 9010, 9013):
        assert_masks(selection.top_masks_jointly(scores, count), sorted_masks(scores, count))


@pytest.mark.parametrize("axis_type", [AxisType.Auto, AxisType.Explicit])
def test_a_mesh_of_one_device(axis_type):
    mesh = jax.make_mesh((1,), ("data",), axis_types=(axis_type,))
    layout = NamedSharding(mesh, PartitionSpec("data"))
    hosts = [SCORES, SCORES[:2], np.tile(SCORES, (20, 20))]
    arrays = [jax.device_put(x, layout) for x in hosts]
    expected = sorted_masks(hosts, 1000)
    assert_masks(jax.jit(selection.top_masks_jointly)(arrays, 1000), expected)
    split = PartitionSpec("data")
    block = jax.shard_map(
        lambda arrays, count: selection.top_masks_jointly(arrays, count[0]),
        mesh=mesh,
        in_specs=([split] * 3, split),
        out_specs=[split] * 3,
    )
    assert_masks(jax.jit(block)(arrays, jax.device_put(np.array([1000]), layout)), expected)
    block = jax.shard_map(
        lambda x, count: selection.top_mask(x, count[0]),
        mesh=mesh,
        in_specs=(PartitionSpec(), split),
        out_specs=split,
    )
    mask = jax.jit(block)(SCORES, jax.device_put(np.array([5]), layout))
    assert_masks([mask], sorted_masks([SCORES], 5))


LAYOUTS = {
    (16, 32): PartitionSpec("fsdp", "tensor"),
    (6, 4, 8): PartitionSpec(None, "tensor", "fsdp"),
    (48,): PartitionSpec(("fsdp", "tensor")),
    (5, 3): PartitionSpec(),
}


def check_on_a_mesh(axis_type):
    """Run in a process of its own, by `test_on_a_mesh`."""
    rng = np.random.default_rng(4)
    hosts = [rng.integers(-9, 9, shape).astype(np.float32) for shape in LAYOUTS]
    mesh = jax.make_mesh((4, 2), ("fsdp", "tensor"), axis_types=(axis_type,) * 2)
    layouts = [NamedSharding(mesh, spec) for spec in LAYOUTS.values()]
    arrays = [jax.device_put(x, layout) for x, layout in zip(hosts, layouts, strict=True)]
    counts = [100, 7, 11, 4]
    cases = (
        (selection.top_masks_jointly, sorted_masks(hosts, 100)),
        (
            lambda x, count: selection.top_masks(x, [count, *counts[1:]]),
            [sorted_masks([x], count)[0] for x, count in zip(hosts, counts, strict=True)],
        ),
    )
    for function, expected in cases:
        compiled = jax.jit(function).lower(arrays, jnp.int32(100)).compile()
        program = compiled.as_text()
        assert not re.search(r"all-gather|all-to-all|collective-permute", program)
        reduced = "".join(re.findall(r"= (.*) all-reduce", program))
        assert reduced
        assert set(re.findall(r"\[([\d,]*)\]", reduced)) <= {"", "1"}  # counts
        masks = compiled(arrays, jnp.int32(100))
        assert_masks(masks, expected)
        for mask, layout in zip(masks, layouts, strict=True):
            assert mask.sharding.is_equivalent_to(layout, mask.ndim)

    spec = layouts[0].spec
    block = jax.shard_map(
        lambda x: selection.top_mask(x, 5), mesh=mesh, in_specs=spec, out_specs=spec
    )
    blocks = np.asarray(jax.jit(block)(arrays[0])).reshape(4, 4, 2, 16)
    assert (blocks.sum((1, 3)) == 5).all()
    with jax.set_mesh(mesh):
        rows = jax.device_put(hosts[0], NamedSharding(mesh, PartitionSpec("fsdp")))
        masks = jax.jit(jax.vmap(lambda row: selection.top_mask(row, 5)))(rows)
    assert_masks([masks], [np.stack([sorted_masks([row], 5)[0] for row in hosts[0]])])


@pytest.mark.slow
@pytest.mark.compiled
def test_on_a_mesh():
    flags = "--xla_force_host_platform_device_count=8"
    env = os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags}
    subprocess.run([sys.executable, "-W", "error", __file__], env=env, check=True, timeout=300)


if __name__ == "__main__":
    check_on_a_mesh(AxisType.Auto)
    check_on_a_mesh(AxisType.Explicit)
