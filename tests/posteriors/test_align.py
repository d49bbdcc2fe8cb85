"""Units of draws are brought into one order, and every draw computes what it did."""

import itertools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bmrpruner.posteriors import align_units, from_samples
from bmrpruner.structure import Group, dependency_groups
from bmrpruner.study.models import init_mlp, mlp

SIZES = (3, 7, 5, 2)
GROUPS = [
    {("dense_0", "kernel"): 1, ("dense_0", "bias"): 0, ("dense_1", "kernel"): 0},
    {("dense_1", "kernel"): 1, ("dense_1", "bias"): 0, ("dense_2", "kernel"): 0},
]
ACTIVATIONS = {"tanh": (jnp.tanh, True), "relu": (jax.nn.relu, False)}
INPUTS = np.random.default_rng(9).normal(size=(11, 3)).astype(np.float32)


def one_network(seed=0):
    rng = np.random.default_rng(seed)
    params = init_mlp(jax.random.key(seed), SIZES)
    return jax.tree.map(lambda x: np.asarray(x) + 0.5 * rng.normal(size=x.shape), params)


def scrambled(params, rng, odd):
    """The same function, its hidden units in another order and with other signs."""
    params = jax.tree.map(np.copy, params)
    for i in range(2):
        order = rng.permutation(SIZES[i + 1])
        signs = rng.choice([-1, 1], SIZES[i + 1]) if odd else np.ones(SIZES[i + 1])
        into, out = params[f"dense_{i}"], params[f"dense_{i + 1}"]
        into["kernel"] = into["kernel"][:, order] * signs
        into["bias"] = into["bias"][order] * signs
        out["kernel"] = (out["kernel"].T[:, order] * signs).T
    return params


def scrambled_draws(odd, spread=0.05, chains=2, draws=20):
    rng = np.random.default_rng(1)
    base = one_network()

    def one():
        noisy = jax.tree.map(lambda x: x + spread * rng.normal(size=x.shape), base)
        return scrambled(noisy, rng, odd)

    found = [[one() for _ in range(draws)] for _ in range(chains)]
    return jax.tree.map(
        lambda *x: np.stack(x).reshape(chains, draws, *x[0].shape).astype(np.float32),
        *itertools.chain(*found),
    )


def outputs(draws, activation):
    return jax.vmap(jax.vmap(lambda params: mlp(params, INPUTS, activation)))(draws)


@pytest.mark.parametrize(("activation", "odd"), ACTIVATIONS.values(), ids=ACTIVATIONS)
def test_orders_and_signs_are_undone_and_functions_stay(activation, odd):
    draws = scrambled_draws(odd)
    aligned = align_units(draws, GROUPS, odd=odd)
    np.testing.assert_allclose(outputs(aligned, activation), outputs(draws, activation), atol=1e-4)
    for path, leaf in jax.tree_util.tree_leaves_with_path(aligned):
        before = draws[path[0].key][path[1].key]
        assert leaf.dtype == before.dtype
        assert np.max(leaf.std((0, 1))) < 0.1, path  # the spread that they were made with is .05
        if path[0].key != "dense_2" or path[1].key == "kernel":
            assert np.max(before.std((0, 1))) > 0.15, path
    last = jax.tree.map(lambda x: x[-1, -1], draws)
    mean = jax.tree.map(lambda x: x.mean((0, 1)), aligned)
    assert all(
        np.max(np.abs(a - b)) < 0.3
        for a, b in zip(jax.tree.leaves(mean), jax.tree.leaves(last), strict=True)
    )


def test_order_of_groups_does_not_matter():
    draws = scrambled_draws(True)
    one, other = align_units(draws, GROUPS, odd=True), align_units(draws, GROUPS[::-1], odd=True)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_array_equal(a, b)


def test_signal_to_noise_comes_back_and_the_warning_goes():
    draws = scrambled_draws(True, spread=0.02, draws=200)
    with pytest.warns(UserWarning, match="align_units"):
        from_samples(draws["dense_1"]["kernel"])
    hidden = align_units(draws, GROUPS, odd=True)["dense_1"]["kernel"]
    snr = from_samples(hidden).posterior.snr
    assert float(jnp.median(snr)) > 10


def test_without_odd_no_sign_changes():
    draws = scrambled_draws(True)
    aligned = align_units(draws, GROUPS)
    for name in ("dense_0", "dense_1"):
        for part in ("kernel", "bias"):
            before, after = (
                np.abs(d[name][part]).sum((2, -1)) if part == "kernel" else d[name][part].sum(-1)
                for d in (draws, aligned)
            )
            np.testing.assert_allclose(after, before, rtol=1e-4, atol=1e-5)


def test_dependency_groups_serve_as_dicts_do():
    draws = scrambled_draws(True)
    found = dependency_groups(lambda p, x: mlp(p, x, jnp.tanh), one_network(), INPUTS)
    assert {group.frozen for group in found} == {None, "input", "output"}
    expected, aligned = (align_units(draws, g, odd=True) for g in (GROUPS, found))
    for a, b in zip(jax.tree.leaves(expected), jax.tree.leaves(aligned), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_unit_may_own_several_indices():
    """Channels that are flattened before a dense layer: channel c owns rows c, c + 2, c + 4."""
    rng = np.random.default_rng(2)
    conv, dense = rng.normal(size=(2, 4)), rng.normal(size=(6, 3))
    rows = np.arange(6).reshape(3, 2).T
    swapped = dense.copy()
    swapped[rows.ravel()] = dense[rows[::-1].ravel()]
    draws = {"conv": np.stack([conv[::-1], conv])[None], "dense": np.stack([swapped, dense])[None]}
    group = Group(2, ((("conv",), 0, np.arange(2)[:, None]), (("dense",), 0, rows)))
    aligned = align_units(draws, [group])
    np.testing.assert_array_equal(aligned["conv"], np.stack([conv, conv])[None])
    np.testing.assert_array_equal(aligned["dense"], np.stack([dense, dense])[None])


def test_other_leaves_and_trees_stay():
    net = eqx.nn.MLP(2, 1, 4, 1, activation=jnp.tanh, key=jax.random.key(0))
    order = np.array([2, 0, 3, 1])
    other = eqx.tree_at(
        lambda m: (m.layers[0].weight, m.layers[0].bias, m.layers[1].weight),
        net,
        (-net.layers[0].weight[order], -net.layers[0].bias[order], -net.layers[1].weight[:, order]),
    )
    arrays, rest = zip(*(eqx.partition(m, eqx.is_array) for m in (other, net)), strict=True)
    draws = eqx.combine(jax.tree.map(lambda *x: jnp.stack(x)[None], *arrays), rest[0])
    first, second = (("layers", str(i)) for i in (0, 1))
    groups = [{(*first, "weight"): 0, (*first, "bias"): 0, (*second, "weight"): -1}]
    aligned = align_units(draws, groups, odd=True)
    assert aligned.activation is draws.activation
    assert aligned.layers[1].bias is draws.layers[1].bias
    weight = aligned.layers[0].weight
    np.testing.assert_array_equal(weight[0, 0], weight[0, 1])
    np.testing.assert_array_equal(weight[0, 1], net.layers[0].weight)


def test_no_groups_change_nothing():
    draws = scrambled_draws(True)
    assert align_units(draws, [])["dense_0"]["kernel"] is draws["dense_0"]["kernel"]


KERNEL = {("w",): 0}


@pytest.mark.parametrize(
    ("draws", "groups", "error", "message"),
    [
        (np.ones((1, 4, 2)), KERNEL, TypeError, "groups: expected a list"),
        (np.ones((1, 4, 2)), [3], TypeError, r"groups\[0\]: expected a dict .* got a int"),
        (np.ones((1, 4, 2)), [{("v",): 0}], ValueError, r"groups\[0\]: .*got \('v',\)"),
        (np.ones((1, 4, 2)), [{("w",): 1}], ValueError, r"shape \(2,\) after chains .*got 1"),
        (np.ones((1, 4, 2, 3)), [{("w",): 0, ("b",): 0}], ValueError, "same number of units"),
        (np.ones((1, 1, 2)), [KERNEL], ValueError, "at least two draws"),
        (np.full((1, 4, 2), np.nan), [KERNEL], ValueError, "draws, w: expected finite"),
        (np.ones((1, 4, 2), int), [KERNEL], TypeError, "floating"),
    ],
)
def test_errors(draws, groups, error, message):
    with pytest.raises(error, match=message):
        align_units({"w": draws, "b": np.ones((*draws.shape[:2], 5))}, groups)


def test_traced_draws_are_refused():
    with pytest.raises(TypeError, match="concrete"):
        jax.jit(lambda x: align_units({"w": x}, [KERNEL]))(jnp.ones((1, 4, 2)))
