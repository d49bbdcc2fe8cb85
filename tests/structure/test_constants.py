"""What is known of constant units, through primitives where it is easy to know too much."""

import exactness
import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest
from plain_models import apply, dense, normal


def behind(middle, units=(1, 3, 5), bias=0.0):
    """A hidden layer some units of which hold nothing but their bias, and something behind it."""
    params = [dense(5, 8), dense(8, 3, 1)]
    units = jnp.array(units)
    params[0]["w"] = params[0]["w"].at[:, units].set(0)
    params[0]["b"] = params[0]["b"].at[units].set(jnp.asarray(bias))

    def fn(p, x):
        return apply(p[1], middle(apply(p[0], x)))

    return fn, params, (normal(40, 5),)


def length(x):
    return jnp.sqrt(jnp.sum(x * x, -1, keepdims=True) + 1)


DIVIDED = {
    "sign": lambda h: jnp.where(h / length(h) >= 0, 1.0, -1.0),
    "nan to number": lambda h: jnp.nan_to_num(h / length(h)) + 1,
    "plain": lambda h: h / length(h),
}


@pytest.mark.parametrize("name", DIVIDED)
def test_zero_divided_by_an_unknown_is_zero(name):
    small = exactness.compacted(*behind(DIVIDED[name]))
    assert small.params[0]["w"].shape == (5, 5)


def test_a_mean_over_a_mask_is_joined_with_constants():
    params = {"w": normal(5, 4), "w2": normal(5, 4, seed=1), "b2": jnp.abs(normal(4))}
    params |= {"v": normal(8, 3).at[1].set(0), "b": normal(3)}
    params["w"] = params["w"].at[:, 1].set(0)
    params["w2"] = params["w2"].at[:, 2].set(0)

    def fn(p, x, mask):
        h = jax.nn.relu(x @ p["w"]) * mask[..., None]
        pooled = h.sum(1) / mask.sum(1, keepdims=True)
        other = jax.nn.relu(x[:, 0] @ p["w2"] + p["b2"])
        return jnp.concatenate([pooled, other], 1) @ p["v"] + p["b"]

    mask = jnp.ones((2, 6)).at[0, 4:].set(0)
    small = exactness.compacted(fn, params, (normal(2, 6, 5), mask))
    assert small.params["v"].shape == (6, 3)


@pytest.mark.parametrize("dtype", ["uint8", "uint32", "int8", "int32"])
def test_constants_that_do_not_fit_become_integers_as_at_run_time(dtype):
    def rounded(h):
        return (jnp.tanh(h) * 300).astype(dtype).astype(jnp.float32) / 100

    small = exactness.compacted(*behind(rounded, (1, 3), (-1.0, 0.9)))
    assert small.params[0]["w"].shape == (5, 6)


def conv(x, kernel):
    where = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=where)


def pooled(pool):
    """A convolution three channels of which are constants, pooled before the next."""
    params = {"in": normal(3, 3, 1, 6).at[..., jnp.array([1, 3, 5])].set(0), "b": normal(6)}
    params |= {"out": normal(3, 3, 6, 4)}

    def fn(p, x):
        return jnp.tanh(conv(pool(jax.nn.sigmoid(conv(x, p["in"]) + p["b"])), p["out"]))

    return fn, params, (normal(2, 8, 8, 1),)


POOLS = {
    "plain": (lambda x: nn.avg_pool(x, (2, 2), (2, 2)), 3),
    "overlapping": (lambda x: nn.avg_pool(x, (3, 2), (2, 1)), 3),
    "padded": (lambda x: nn.avg_pool(x, (3, 3), (2, 2), "SAME"), 6),
    "padded, only entries count": (
        lambda x: nn.avg_pool(x, (3, 3), (2, 2), "SAME", count_include_pad=False),
        6,
    ),
}


@pytest.mark.parametrize("name", POOLS)
def test_constant_channels_go_through_average_pooling(name):
    pool, left = POOLS[name]
    small = exactness.compacted(*pooled(pool))
    assert small.params["in"].shape == (3, 3, 1, left)


DILATED = {
    "sum": (0.0, jax.lax.add, (1, 3, 3, 1)),
    "largest": (-jnp.inf, jax.lax.max, (1, 1, 1, 1)),
}


@pytest.mark.parametrize("name", DILATED)
def test_constants_with_gaps_between_them_are_none(name):
    first, combine, window = DILATED[name]

    def pool(x):
        x = jax.lax.reduce_window(
            x, first, combine, window, (1, 1, 1, 1), "VALID", base_dilation=(1, 2, 2, 1)
        )
        return jnp.where(jnp.isfinite(x), x, 0.0)

    exactness.compacted(*pooled(pool))


def test_a_sum_over_a_leaf_without_entries_is_zero():
    fn, params, (x,) = behind(jnp.tanh)
    params = {"net": params, "none": jnp.zeros((0, 3))}

    def empty(p, x):
        return fn(p["net"], x) + p["none"].sum(0)

    small = exactness.compacted(empty, params, (x,))
    assert small.params["net"][0]["w"].shape == (5, 5)


def test_rows_out_of_bounds_are_not_zero_where_the_function_asks_for_nan():
    """`jnp.take` fills them with NaN, in dead columns too."""
    params = {"e": normal(7, 6).at[:, jnp.array([1, 4])].set(0.0), "o": normal(6, 3)}

    def fn(p, t):
        rows = jnp.take(p["e"], t, axis=0)
        return jnp.where(jnp.isnan(rows), 0.5, rows).mean(1) @ p["o"]

    exactness.compacted(fn, params, (jnp.array([[0, 3, -100], [1, 99, 99]]),))


def test_infinite_factors_of_zero_are_not_zero_where_the_function_asks_for_nan():
    def guarded(h):
        h = h * jnp.exp(1000 * h[:, :1])
        return jnp.where(jnp.isfinite(h), h, 1.0)

    exactness.compacted(*behind(guarded))
