from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bmrpruner import metrics


class Layer(NamedTuple):
    kernel: jax.Array
    bias: jax.Array | None
    activation: object


PARAMS = {
    "conv": Layer(np.eye(3, dtype=np.float32).reshape(3, 3, 1, 1), np.zeros(1), jax.nn.relu),
    "dense": [Layer(jnp.array([[1.0, 0.0], [jnp.nan, -2.0]]), jnp.array([0.0, 1.0]), "linear")],
    "key": jax.random.key(0),
    "scale": None,
}
NUMBERS = {"conv": PARAMS["conv"][:2], "dense": [PARAMS["dense"][0][:2]]}
MASKS = {
    "conv": Layer(np.eye(3, dtype=np.uint8).reshape(3, 3, 1, 1), None, None),
    "dense": [Layer(jnp.array([[1, 0], [1, 1]], jnp.uint8), None, None)],
    "key": None,
    "scale": None,
}


def test_nonzeros_per_leaf_and_in_all():
    count = metrics.nonzeros(PARAMS)
    assert count.per_leaf["conv"] == Layer(3, 0, None)
    assert count.per_leaf["dense"] == [Layer(3, 1, None)]
    assert count.per_leaf["key"] is count.per_leaf["scale"] is None
    assert count.total == 7
    assert count.total.dtype == jnp.int32


def test_sparsity_and_ratio_are_counted_from_the_arrays():
    np.testing.assert_allclose(metrics.sparsity(PARAMS), 9 / 16, rtol=1e-6)
    np.testing.assert_allclose(metrics.compression_ratio(PARAMS), 16 / 7, rtol=1e-6)


def test_masks_count_their_own_leaves_only():
    assert metrics.nonzeros(MASKS).total == 6
    np.testing.assert_allclose(metrics.sparsity(MASKS), 7 / 13, rtol=1e-6)


@pytest.mark.parametrize("tree", [{}, {"kernel": None}, [jax.nn.relu], jnp.zeros((0, 3))])
def test_a_tree_without_entries_is_dense(tree):
    assert metrics.nonzeros(tree).total == 0
    assert metrics.sparsity(tree) == 0.0
    assert metrics.compression_ratio(tree) == 1.0
    assert metrics.bits(tree) == metrics.multiply_adds(tree) == 0


def test_a_tree_of_zeros_is_infinitely_compressed():
    assert metrics.sparsity([jnp.zeros(3)]) == 1.0
    assert metrics.compression_ratio([jnp.zeros(3)]) == jnp.inf


def test_scalars_and_tiny_values_count():
    tree = [jnp.float32(2.0), np.float64(1e-300), jnp.zeros((), jnp.int8)]
    assert metrics.nonzeros(tree).total == 2


@pytest.mark.parametrize(
    ("dtype", "width"),
    [(jnp.float32, 32), (jnp.bfloat16, 16), (jnp.float8_e4m3fn, 8), (jnp.int8, 8), (jnp.int4, 4)],
)
def test_bits_are_values_of_the_nonzeros_and_a_mask(dtype, width):
    assert metrics.bits([jnp.array([1, 0, 0, 2, 0], dtype)]) == 2 * width + 5


def test_bits_of_complex_and_boolean_values():
    assert metrics.bits(np.array([1j, 0], np.complex64)) == 64 + 2
    assert metrics.bits(jnp.array([True, False])) == 1 + 2


def test_bits_with_masks_store_exempt_leaves_in_full():
    # Kernels: 3 of 9 and 3 of 4 values with a mask; biases: one float64 and two float32.
    assert metrics.bits(PARAMS, MASKS) == (3 * 32 + 9) + 64 + (3 * 32 + 4) + 2 * 32


def test_bits_follow_the_mask_where_a_kept_weight_is_zero():
    assert metrics.bits([jnp.zeros(4)], [jnp.array([1, 1, 0, 0])]) == 2 * 32 + 4


def test_bits_take_packed_masks():
    mask = np.arange(20) % 3 == 0
    leaf = [jnp.ones(20)]
    assert metrics.bits(leaf, [np.packbits(mask)]) == metrics.bits(leaf, [mask]) == 7 * 32 + 20


def test_bits_name_what_does_not_fit():
    leaf = {"a": [jnp.ones((4, 5))]}
    with pytest.raises(ValueError, match=r"masks\['a/0'\]: .*, got float32 of shape \(3,\)"):
        metrics.bits(leaf, {"a": [jnp.ones(3)]})
    with pytest.raises(TypeError, match=r"masks\['a/0'\]: expected None, or an array .* got int"):
        metrics.bits(leaf, {"a": [1]})
    with pytest.raises(ValueError, match="masks: expected the tree structure of params"):
        metrics.bits({"a": jnp.ones(4)}, {"b": jnp.ones(4)})


def test_multiply_adds_of_dense_layers_are_the_nonzeros_of_their_kernels():
    assert metrics.multiply_adds(NUMBERS["dense"]) == 3


def test_multiply_adds_at_output_positions():
    assert metrics.multiply_adds(PARAMS["conv"], 100) == 300
    positions = {"conv": 100, "dense": 1, "key": 0, "scale": None}
    assert metrics.multiply_adds(PARAMS, positions) == 303
    assert metrics.multiply_adds(NUMBERS, {"conv": (np.int64(10), 0), "dense": 0}) == 30


def test_multiply_adds_beyond_the_integers_are_floats():
    value = metrics.multiply_adds(jnp.eye(3), 2**31)
    assert value.dtype == jnp.float32
    assert float(value) == 3 * 2**31


@pytest.mark.parametrize(
    ("positions", "error", "message"),
    [
        (None, ValueError, r"positions: .*'conv/0' of shape \(3, 3, 1, 1\).*got None"),
        (-1, ValueError, "positions: expected integers, at least 0, got -1"),
        (2.5, TypeError, "positions: expected integers, at least 0, got 2.5"),
        ({"conv": 3}, ValueError, "positions: expected the tree structure of params"),
    ],
)
def test_bad_positions_are_named(positions, error, message):
    with pytest.raises(error, match=message):
        metrics.multiply_adds(NUMBERS, positions)


def test_large_networks_never_overflow():
    at_the_limit = jax.ShapeDtypeStruct((2**31 - 1,), jnp.float32)
    beyond = jax.ShapeDtypeStruct((80, 2**28), jnp.float32)
    assert jax.eval_shape(metrics.nonzeros, at_the_limit).total.dtype == jnp.int32
    assert jax.eval_shape(metrics.nonzeros, beyond).total.dtype == jnp.float32
    assert jax.eval_shape(metrics.nonzeros, beyond).per_leaf.dtype == jnp.float32
    assert jax.eval_shape(metrics.bits, at_the_limit).dtype == jnp.float32
    assert jax.eval_shape(metrics.sparsity, beyond).dtype == jnp.float32
