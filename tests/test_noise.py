"""The cheap noise is Gaussian, independent, pure, and the same however it is compiled."""

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from scipy import stats
from scipy.special import ndtr

from bmrpruner import _noise
from bmrpruner._noise import normal, normal_like, rademacher_like

SIDE = 1024
N = SIDE * SIDE
Z_MAX = 4.5  # of some 200 standard normal statistics below, one in a thousand runs passes this
P_MIN = 1e-5


def draw(key, shape=(SIDE, SIDE)):
    return np.asarray(normal(key, shape), np.float64).ravel()


@pytest.fixture(scope="module", params=[0, 2**31 + 5])
def sample(request):
    return draw(jax.random.key(request.param))


def assert_uncorrelated(x, y, what):
    """Neither the values nor their squares move together (each statistic is standard normal)."""
    n = len(x)
    for name, a, b in [("values", x, y), ("squares", (x**2 - 1) / 2**0.5, (y**2 - 1) / 2**0.5)]:
        z = a @ b / n**0.5
        assert abs(z) < Z_MAX, f"{what}: {name} correlated, {z:.1f} standard errors"


def test_moments(sample):
    # The variance of the mean of xᵖ is (E x²ᵖ − (E xᵖ)²)/n.
    for power, mean, var in [(1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)]:
        z = (np.mean(sample**power) - mean) / (var / N) ** 0.5
        assert abs(z) < Z_MAX, f"moment {power} is off by {z:.1f} standard errors"


def test_kolmogorov_smirnov(sample):
    assert stats.kstest(sample, "norm").pvalue > P_MIN


def test_quantile_bins(sample):
    """Chi-square over 4096 bins of equal probability: sees dents in the density that KS misses."""
    counts = np.bincount((ndtr(sample) * 4096).astype(int), minlength=4096)
    assert counts.size == 4096
    assert stats.chisquare(counts).pvalue > P_MIN


def test_tails():
    bounds = (3.0, 4.0, 4.5)

    @jax.jit
    def extremes(key):
        x = normal(key, (16 * N,))
        counts = [[(side * x > bound).sum() for bound in bounds] for side in (1, -1)]
        return counts, jnp.isfinite(x).all(), x.max(), -x.min()

    counts, finite, *largest = extremes(jax.random.key(11))
    assert finite
    assert all(4.9 < x < 6.3 for x in largest)
    for side in counts:
        for bound, count in zip(bounds, side, strict=True):
            expected = 16 * N * stats.norm.sf(bound)
            z = (float(count) - expected) / expected**0.5
            assert abs(z) < Z_MAX, f"tail beyond {bound}: {count}, expected {expected:.0f}"


def test_quantile_function():
    """Every octave of the tail probability, against the exact quantile; odd, finite, bounded."""
    tail = np.unique(np.geomspace(1, 2**31 - 1, 100_001).astype(np.uint32) | 1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_noise, "_bits", lambda words, shape: words)
        gaussian = _noise._gaussian.__wrapped__
        z = np.asarray(gaussian(jnp.asarray(tail), tail.shape))
        negative = np.asarray(gaussian(jnp.asarray(tail | np.uint32(2**31)), tail.shape))
    np.testing.assert_array_equal(negative, -z)
    np.testing.assert_allclose(z, stats.norm.isf(tail / 2.0**32), rtol=4e-5, atol=4e-5)
    assert np.all(np.diff(z) < 2e-6)  # falls with the tail probability, up to rounding


@pytest.mark.parametrize("lag", [1, 2, 3, 8, 100, 256, 300, SIDE, 65536])
def test_no_serial_correlation(sample, lag):
    assert_uncorrelated(sample[lag:], sample[:-lag], f"lag {lag}")


@pytest.mark.parametrize("lag", [1, SIDE])
@pytest.mark.parametrize(("size", "bins"), [(2, 64), (3, 16)])
def test_pairs_and_triples_fill_their_cube(sample, size, bins, lag):
    """Linear and quadratic generators pass all of the above, and lie on few planes here."""
    u = (ndtr(sample) * bins).astype(int)
    u = u[: N // (size * lag) * size * lag].reshape(-1, size, lag)
    cell = sum(u[:, i] * bins**i for i in range(size))
    counts = np.bincount(cell.ravel(), minlength=bins**size)
    assert stats.chisquare(counts).pvalue > P_MIN


def test_rows_and_columns_are_independent():
    """The spectrum of white noise is flat: its largest peak is the maximum of n/2 exponentials."""
    x = draw(jax.random.key(4), (784, 300)).reshape(784, 300)
    for power in (np.abs(np.fft.fft2(x)) ** 2, np.abs(np.fft.fft2(x**2 - 1)) ** 2 / 2):
        assert power.max() / x.size < np.log(x.size / 2) + np.log(1e4)


KEY_PAIRS = {
    "adjacent seeds": lambda: [jax.random.key(i) for i in range(8)],
    "adjacent raw words": lambda: [jnp.array([7, 2**20 + i], jnp.uint32) for i in range(8)],
    "one bit apart": lambda: [jnp.array([1 << i, 0], jnp.uint32) for i in range(0, 32, 3)],
    "split": lambda: list(jax.random.split(jax.random.key(5), 8)),
    "folded": lambda: [jax.random.fold_in(jax.random.key(5), i) for i in range(8)],
}


@pytest.mark.parametrize("name", KEY_PAIRS)
def test_streams_of_related_keys_are_independent(name):
    streams = [draw(key, (256, 512)) for key in KEY_PAIRS[name]()]
    for x, y in zip(streams[1:], streams[:-1], strict=True):
        assert_uncorrelated(x, y, name)
        assert_uncorrelated(x[1:], y[:-1], f"{name}, shifted")
        assert_uncorrelated(x[:-1], y[1:], f"{name}, shifted back")


def test_steps_of_one_weight_are_independent():
    """Training reads the generator across keys at one place, not along one array."""
    keys = jax.random.split(jax.random.key(9), 2**17)
    x = np.asarray(jax.jit(jax.vmap(lambda key: normal(key, (2,))))(keys), np.float64)
    for weight in x.T:
        assert stats.kstest(weight, "norm").pvalue > P_MIN
        assert_uncorrelated(weight[1:], weight[:-1], "steps")
    assert_uncorrelated(x[:, 0], x[:, 1], "weights")


def test_leaves_are_independent():
    tree = [jnp.zeros((256, 512)) for _ in range(5)]
    leaves = [np.asarray(x, np.float64).ravel() for x in normal_like(jax.random.key(2), tree)]
    for i, x in enumerate(leaves):
        for y in leaves[:i]:
            assert_uncorrelated(x, y, "leaves")


def test_rademacher():
    a, b = rademacher_like(jax.random.key(3), [jnp.zeros(N), jnp.zeros(N, jnp.bfloat16)])
    for signs in (a, b):
        assert signs.dtype == jnp.float32
        assert set(np.unique(signs)) == {-1, 1}
        assert abs(signs.sum()) < Z_MAX * N**0.5
        assert abs(signs[1:] @ signs[:-1]) < Z_MAX * N**0.5
    assert abs(a @ b) < Z_MAX * N**0.5


def test_same_key_same_noise():
    key = jax.random.key(8)
    np.testing.assert_array_equal(normal(key, (50, 3)), normal(key, (50, 3)))
    assert not np.any(draw(key, (50,)) == draw(jax.random.key(9), (50,)))


def test_key_kinds():
    typed = jax.random.key(8)
    tree = {"a": jnp.zeros(5), "b": jnp.zeros((2, 3))}
    np.testing.assert_array_equal(normal(typed, (9,)), normal(jax.random.key_data(typed), (9,)))
    for like in (normal_like, rademacher_like):
        jax.tree.map(
            np.testing.assert_array_equal, like(typed, tree), like(jax.random.PRNGKey(8), tree)
        )
    x = draw(jax.random.key(8, impl="rbg"), (1000,))
    assert stats.kstest(x, "norm").pvalue > P_MIN


def test_same_under_jit_vmap_and_scan():
    keys = jax.random.split(jax.random.key(1), 4)
    tree = {"a": jnp.zeros((7, 5)), "b": jnp.zeros(3), "none": None}
    eager = [normal_like(key, tree) for key in keys]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *eager)
    for transformed in (
        jax.jit(jax.vmap(lambda key: normal_like(key, tree)))(keys),
        lax.scan(lambda _, key: (None, normal_like(key, tree)), None, keys)[1],
    ):
        jax.tree.map(np.testing.assert_array_equal, transformed, stacked)
    fused = jax.jit(lambda key, mean: mean + 0.1 * normal(key, mean.shape))(keys[0], tree["a"])
    np.testing.assert_allclose(fused, 0.1 * normal(keys[0], (7, 5)), rtol=1e-6)


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16, jnp.float32])
def test_dtypes(dtype):
    x = normal(jax.random.key(0), (4, 2), dtype)
    assert x.dtype == dtype
    np.testing.assert_array_equal(x, normal(jax.random.key(0), (4, 2)).astype(dtype))
    assert normal_like(jax.random.key(0), jnp.zeros(2, dtype)).dtype == jnp.float32


def test_float64():
    with jax.enable_x64(True):
        x = normal(jax.random.key(0), (4,), jnp.float64)
        like = normal_like(jax.random.key(0), [jnp.zeros(4), jnp.zeros(4, jnp.float32)])
        assert [x.dtype, like[0].dtype, like[1].dtype] == [jnp.float64, jnp.float64, jnp.float32]
    np.testing.assert_array_equal(x, normal(jax.random.key(0), (4,)))


def test_integer_dtype_is_refused():
    with pytest.raises(TypeError, match="floating dtype, got int32"):
        normal(jax.random.key(0), (2,), jnp.int32)


def test_other_leaves_pass_through():
    tree = {
        "w": np.zeros((2, 3), np.float16),
        "abstract": jax.ShapeDtypeStruct((4,), jnp.bfloat16),
        "none": None,
        "function": jax.nn.relu,
        "steps": jnp.arange(3),
        "key": jax.random.key(1),
        "rate": 0.5,
    }
    noise = normal_like(jax.random.key(0), tree)
    assert (noise["w"].shape, noise["w"].dtype) == ((2, 3), jnp.float32)
    assert (noise["abstract"].shape, noise["abstract"].dtype) == ((4,), jnp.float32)
    for name in ("none", "function", "steps", "key", "rate"):
        assert noise[name] is tree[name]


@pytest.mark.parametrize("shape", [(), (0,), (3, 0), (1,), (2, 1, 3)])
def test_shapes(shape):
    assert normal(jax.random.key(0), shape).shape == shape
    assert normal_like(jax.random.key(0), jnp.zeros(shape)).shape == shape


def test_empty_tree():
    assert normal_like(jax.random.key(0), {"a": None}) == {"a": None}


@pytest.mark.compiled
def test_rows_differ_when_the_index_outgrows_32_bits():
    words = jnp.array([5, 6], jnp.uint32)
    corner = jax.jit(lambda w: _noise._bits(w, (2, 3, 2**31))[:, :, :8])
    compiled = corner.lower(words).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < 2**20  # else this would not fit
    bits = np.asarray(compiled(words))
    assert np.unique(bits).size == bits.size


SHARDED = """
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import NamedSharding, PartitionSpec as P
from bmrpruner._noise import normal_like

mesh = jax.make_mesh((2, 2), ("x", "y"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
tree = {"a": jnp.zeros((64, 48)), "b": jnp.zeros(32)}
specs = {"a": P("x", "y"), "b": P("y")}
out = jax.tree.map(lambda spec: NamedSharding(mesh, spec), specs)
draw = jax.jit(lambda key: normal_like(key, tree), out_shardings=out)
noise = draw(jax.random.key(0))
assert not noise["a"].is_fully_replicated
jax.tree.map(np.testing.assert_array_equal, noise, normal_like(jax.random.key(0), tree))
text = draw.lower(jax.random.key(0)).compile().as_text()
assert not any(op in text for op in ("all-gather", "all-reduce", "all-to-all", "gather("))
"""


@pytest.mark.slow
@pytest.mark.compiled
def test_sharding_changes_no_value_and_needs_no_communication():
    env = os.environ | {
        "XLA_FLAGS": "--xla_force_host_platform_device_count=4",
        "JAX_PLATFORMS": "cpu",
    }
    subprocess.run([sys.executable, "-W", "error", "-c", SHARDED], check=True, env=env)
