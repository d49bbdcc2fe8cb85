"""Parameters under given masks, and the vector of what they keep."""

import chex
import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st

import bmrpruner
from bmrpruner._masks import pack_tree
from bmrpruner._tree import is_array, map_leaves
from tests.conftest import dict_params

MASK = jnp.array([[1, 0, 1], [0, 0, 1]], jnp.uint8)
PARAMS = {"w": jnp.arange(1.0, 7.0).reshape(2, 3), "b": jnp.array([7.0, 8.0])}
MASKS = {"w": MASK, "b": None}
KEPT = [7.0, 8.0, 1.0, 3.0, 6.0]  # b comes before w


def random_masks(tree):
    generator = np.random.default_rng(0)
    return map_leaves(
        lambda x: generator.integers(0, 2, x.shape, np.uint8) if is_array(x) else None, tree
    )


def test_masks_zero_what_they_prune_and_nothing_else(tree):
    masks = random_masks(tree)
    masked = bmrpruner.apply_masks(tree, masks)
    assert jax.tree.structure(masked) == jax.tree.structure(tree)
    arrays = [
        (a, b, m)
        for a, b, m in zip(
            *map(jax.tree.leaves, (masked, tree)), _aligned(tree, masks), strict=True
        )
        if m is not None
    ]
    assert len(arrays) >= 4
    for after, before, mask in arrays:
        np.testing.assert_array_equal(after, np.asarray(before) * mask)
        assert after.dtype == before.dtype
    others = [x for x in jax.tree.leaves(tree) if not is_array(x)]
    assert [x for x in jax.tree.leaves(masked) if not is_array(x)] == others


def _aligned(tree, masks):
    """The masks of the leaves of a tree, which None is not."""
    return jax.tree.structure(tree).flatten_up_to(masks)


def test_vector_and_back_on_any_tree(tree):
    masks = random_masks(tree)
    vector, unravel = bmrpruner.ravel_kept(tree, masks)
    assert vector.shape == (sum(int(np.sum(m)) for m in jax.tree.leaves(masks)),)
    back, expected = unravel(vector), bmrpruner.apply_masks(tree, masks)
    assert jax.tree.structure(back) == jax.tree.structure(tree)
    chex.assert_trees_all_equal(
        *([x for x in jax.tree.leaves(t) if is_array(x)] for t in (back, expected))
    )


@pytest.mark.parametrize("masks", [MASKS, pack_tree(MASKS)], ids=["plain", "packed"])
def test_the_vector_holds_what_is_kept_in_order(masks):
    vector, unravel = bmrpruner.ravel_kept(PARAMS, masks)
    assert vector.tolist() == KEPT
    back = unravel(vector * 10)
    assert back["w"].tolist() == [[10, 0, 30], [0, 0, 60]]
    assert back["b"].tolist() == [70, 80]


def test_without_masks_everything_is_kept():
    vector, unravel = bmrpruner.ravel_kept(PARAMS)
    assert vector.tolist() == [7, 8, 1, 2, 3, 4, 5, 6]
    chex.assert_trees_all_equal(unravel(vector), PARAMS)


def test_leaves_that_are_no_weights_pass_through():
    params = {"count": jnp.arange(3), "none": None, "name": "x", "w": jnp.ones(2)}
    masks = {"count": None, "none": None, "name": None, "w": jnp.array([0, 1])}
    vector, unravel = bmrpruner.ravel_kept(params, masks)
    back = unravel(3 * vector)
    assert (back["none"], back["name"], back["w"].tolist()) == (None, "x", [0, 3])
    np.testing.assert_array_equal(back["count"], params["count"])
    assert back["count"].dtype == params["count"].dtype


def test_dtypes_are_those_of_the_leaves():
    params = (jnp.ones(2, jnp.bfloat16), jnp.ones(2), jnp.array([1 + 2j, 3 - 1j]))
    masks = (None, jnp.array([1, 0]), jnp.array([0, 1]))
    vector, unravel = bmrpruner.ravel_kept(params, masks)
    assert vector.dtype == jnp.float32
    assert vector.tolist() == [1, 1, 1, 3, -1]
    back = unravel(vector)
    assert [x.dtype for x in back] == [x.dtype for x in params]
    assert back[2].tolist() == [0, 3 - 1j]


def test_nothing_kept_and_nothing_there():
    vector, unravel = bmrpruner.ravel_kept(jnp.ones(3), jnp.zeros(3, jnp.uint8))
    assert vector.shape == (0,)
    assert unravel(vector).tolist() == [0, 0, 0]
    assert bmrpruner.ravel_kept({"n": jnp.arange(2)})[0].shape == (0,)


def test_nan_does_not_survive_a_zero_mask():
    spoiled = {"w": jnp.where(MASK, PARAMS["w"], jnp.nan), "b": PARAMS["b"]}
    expected = [[1, 0, 3], [0, 0, 6]]
    assert bmrpruner.apply_masks(spoiled, MASKS)["w"].tolist() == expected
    vector, unravel = bmrpruner.ravel_kept(spoiled, MASKS)
    assert unravel(vector)["w"].tolist() == expected


def test_int8_stays_int8():
    masked = bmrpruner.apply_masks(jnp.array([3, 4], jnp.int8), jnp.array([0.0, 1.0]))
    assert (masked.dtype, masked.tolist()) == (jnp.int8, [0, 4])


def test_inside_jit_vmap_and_grad():
    def loss(params):
        return jnp.sum(params["w"] ** 2) + 3 * jnp.sum(params["b"])

    _, unravel = bmrpruner.ravel_kept(PARAMS, MASKS)
    gradient = jax.jit(jax.grad(lambda z: loss(unravel(z))))(jnp.array(KEPT))
    assert gradient.tolist() == [3, 3, 2, 6, 12]

    packed = pack_tree(MASKS)

    def ravel(params):
        return bmrpruner.ravel_kept(params, packed)[0]

    assert jax.jit(ravel)(PARAMS).tolist() == KEPT
    stacked = jax.tree.map(lambda x: jnp.stack([x, 2 * x]), PARAMS)
    vectors = jax.jit(jax.vmap(ravel))(stacked)
    np.testing.assert_array_equal(vectors, [KEPT, 2 * np.array(KEPT)])
    chex.assert_trees_all_equal(
        jax.jit(jax.vmap(unravel))(vectors),
        jax.vmap(lambda p: bmrpruner.apply_masks(p, MASKS))(stacked),
    )
    slope = jax.grad(lambda p: jnp.sum(bmrpruner.ravel_kept(p, MASKS)[0] ** 2))(PARAMS)
    np.testing.assert_array_equal(slope["w"], 2 * PARAMS["w"] * MASK)


@hypothesis.settings(max_examples=12, deadline=None)
@hypothesis.given(
    st.lists(st.lists(st.booleans(), min_size=1, max_size=20), min_size=1, max_size=4),
    st.booleans(),
)
def test_unravel_is_the_inverse_of_ravel(bits, is_packed):
    masks = [np.array(b, np.uint8) for b in bits]
    params = [np.arange(1, len(b) + 1, dtype=np.float32) for b in bits]
    stored = [np.packbits(m) for m in masks] if is_packed else masks
    vector, unravel = bmrpruner.ravel_kept(params, stored)
    expected = np.concatenate([p[m == 1] for p, m in zip(params, masks, strict=True)])
    np.testing.assert_array_equal(vector, expected)
    np.testing.assert_array_equal(bmrpruner.ravel_kept(unravel(vector), stored)[0], vector)


def test_sampling_under_a_mask_is_sampling_the_reduced_model():
    """Langevin steps on a linear-Gaussian model find the posterior of its kept weights."""
    generator = np.random.default_rng(0)
    x = generator.normal(size=(40, 4)) @ np.array(
        [[1, 0.8, 0, 0], [0, 1, 0.5, 0], [0, 0, 1, 0], [0, 0, 0, 1]]
    )
    y = x @ np.array([1.0, 0.0, -1.0, 0.5]) + generator.normal(size=40)
    kept = np.array([0, 2, 3])
    precision = x[:, kept].T @ x[:, kept] + np.eye(3)
    mean = np.linalg.solve(precision, x[:, kept].T @ y)
    _, unravel = bmrpruner.ravel_kept({"w": jnp.zeros(4)}, {"w": jnp.array([1, 0, 1, 1])})

    def log_density(z):
        w = unravel(z)["w"]
        return -0.5 * (jnp.sum((y - x @ w) ** 2) + jnp.sum(w**2))

    step = 0.15 / np.linalg.eigvalsh(precision).max()

    def langevin(z, key):
        noise = jax.random.normal(key, z.shape)
        z = z + step * jax.grad(log_density)(z) + jnp.sqrt(2 * step) * noise
        return z, z

    def chain(key):
        return jax.lax.scan(langevin, jnp.zeros(3), jax.random.split(key, 3000))[1][200:]

    draws = np.asarray(jax.jit(jax.vmap(chain))(jax.random.split(jax.random.key(0), 16)))
    np.testing.assert_allclose(draws.mean((0, 1)), mean, atol=0.02)
    exact = np.sqrt(np.diag(np.linalg.inv(precision)))
    np.testing.assert_allclose(draws.std((0, 1)), exact, rtol=0.12)


@pytest.mark.parametrize("call", [bmrpruner.apply_masks, bmrpruner.ravel_kept])
@pytest.mark.parametrize(
    ("masks", "error", "message"),
    [
        ({"w": MASK}, ValueError, "'b' in one of them only"),
        ({"w": MASK[0], "b": None}, ValueError, r"masks, w: .*\(2, 3\).*got uint8 of shape \(3,\)"),
        ({"w": "all", "b": None}, TypeError, "masks, w: expected None, or an array"),
    ],
)
def test_masks_of_something_else_are_refused(call, masks, error, message):
    with pytest.raises(error, match=message):
        call(PARAMS, masks)


def test_a_mask_for_no_array_is_refused():
    with pytest.raises(TypeError, match=r"masks, 1: .* for "):
        bmrpruner.apply_masks([jnp.ones(2), jax.nn.relu], [None, jnp.ones(2)])


def test_traced_masks_and_vectors_of_another_length_are_refused():
    with pytest.raises(TypeError, match="masks: expected concrete arrays"):
        jax.jit(lambda m: bmrpruner.ravel_kept(PARAMS, {"w": m, "b": None})[0])(MASK)
    masked = jax.jit(lambda m: bmrpruner.apply_masks(PARAMS, {"w": m, "b": None}))(MASK)
    assert masked["w"].tolist() == [[1, 0, 3], [0, 0, 6]]
    _, unravel = bmrpruner.ravel_kept(PARAMS, MASKS)
    with pytest.raises(ValueError, match=r"vector: expected the shape \(5,\).*\(4,\)"):
        unravel(jnp.ones(4))


def test_masks_of_a_wrapped_optimizer_fit_as_they_are():
    params = dict_params()
    _, masks = bmrpruner.MagnitudePruning(sparsity=0.5, use_packed_masks=True).instant_sparsify(
        params
    )
    vector, _ = bmrpruner.ravel_kept(params, masks)
    assert vector.shape == (16 + 24 + 4 + 12,)
