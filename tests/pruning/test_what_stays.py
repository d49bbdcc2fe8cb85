"""Networks pruned layer by layer: what is masked or zero stays so, and batches may come any way."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bmrpruner import posteriors
from bmrpruner.pruning import prune_sequentially, prune_units
from bmrpruner.study.models import init_mlp, mlp

DAMPING = 0.01
RNG = np.random.default_rng(0)
INPUTS = RNG.normal(size=(300, 6)).astype(np.float32) + 0.3
NORMED = {
    "in": jnp.asarray(RNG.normal(size=(6, 10)), jnp.float32),
    "shift": jnp.asarray(RNG.normal(size=10) + 0.5, jnp.float32),
    "scale": jnp.ones(10),
    "out": jnp.asarray(RNG.normal(size=(10, 3)), jnp.float32),
    "bias": jnp.zeros(3),
}


def normed_hidden(params, x):
    """Hidden units behind a norm, which mixes them."""
    h = x @ params["in"] + params["shift"]
    norm = jnp.sqrt(jnp.mean(h**2, -1, keepdims=True) + 1e-6)
    return jax.nn.relu(h / norm * params["scale"])


def normed(params, x):
    return normed_hidden(params, x) @ params["out"] + params["bias"]


def ridge(params, stays):
    """The last layer on the units of the returned network, with a free bias."""
    hidden = np.asarray(normed_hidden(params, INPUTS), float)
    target = np.asarray(normed(NORMED, INPUTS), float)
    covariance, centred = np.cov(hidden.T, bias=True), hidden - hidden.mean(0)
    damping = DAMPING * np.trace(covariance) / len(covariance)
    left = covariance[np.ix_(stays, stays)] + damping * np.eye(stays.sum())
    right = centred[:, stays].T @ (target - target.mean(0)) / len(hidden)
    return np.linalg.solve(left, right + damping * np.asarray(NORMED["out"], float)[stays])


def test_units_that_go_are_gone_when_the_next_layer_is_refitted():
    pruned, masks = prune_units(normed, NORMED, [INPUTS], 0.4, loss="regression")
    stays = np.asarray(masks["scale"], bool)
    assert 0 < stays.sum() < 10
    expected = ridge(pruned, stays)
    np.testing.assert_allclose(pruned["out"][stays], expected, rtol=5e-3, atol=2e-3)


def test_given_masks_hold_for_leaves_that_are_no_layer():
    stays = np.arange(10) % 3 > 0
    masks = dict.fromkeys(NORMED) | {"scale": jnp.asarray(stays), "out": jnp.ones((10, 3))}
    pruned, found = prune_sequentially(normed, NORMED, [INPUTS], masks=masks, loss="regression")
    np.testing.assert_array_equal(found["scale"], stays)
    np.testing.assert_array_equal(pruned["scale"], np.where(stays, NORMED["scale"], 0))
    expected = ridge(pruned, np.ones(10, bool))
    np.testing.assert_allclose(pruned["out"], expected, rtol=5e-3, atol=2e-3)


@pytest.mark.parametrize("how_much", [{"sparsity": 0.2}, {"sparsity_type": "2:4"}])
def test_a_weight_that_is_zero_stays_zero(how_much):
    dense = init_mlp(jax.random.key(0), (6, 8, 4))
    zeros = jax.tree.map(lambda x: RNG.uniform(size=x.shape) < 0.4, dense)
    params = jax.tree.map(lambda x, gone: jnp.where(gone, 0, x), dense, zeros)
    pruned, masks = prune_sequentially(mlp, params, [INPUTS], **how_much)
    for name, layer in pruned.items():
        kernel = np.asarray(layer["kernel"])
        np.testing.assert_array_equal(kernel[zeros[name]["kernel"]], 0)
        np.testing.assert_array_equal(masks[name]["kernel"], kernel != 0)


def test_a_pattern_holds_where_a_group_spans_two_layers_of_a_leaf():
    sizes = {"in": (6, 8), "both": (8, 12), "out": (12, 4)}
    params = {k: jnp.asarray(RNG.normal(size=size), jnp.float32) for k, size in sizes.items()}

    def fn(params, x):
        h = jnp.tanh(x @ params["in"])
        query, key = h @ params["both"][:, :6], h @ params["both"][:, 6:]
        return jnp.concatenate([jnp.tanh(query), jnp.tanh(key)], -1) @ params["out"]

    pruned, _ = prune_sequentially(fn, params, [INPUTS], sparsity_type="2:4")
    for leaf in pruned.values():
        groups = np.asarray(leaf != 0).reshape(len(leaf), -1, 4)
        np.testing.assert_array_equal(groups.sum(-1), 2)


class Loader:
    """An iterator that knows how many batches it has, as progress bars and prefetchers do."""

    def __init__(self, batches):
        self.batches, self.items = batches, iter(batches)

    def __len__(self):
        return len(self.batches)

    def __iter__(self):
        return self

    def __next__(self):
        return next(self.items)


def test_an_iterator_with_a_length_loses_no_batch():
    params, batches = init_mlp(jax.random.key(0), (6, 8, 4)), [INPUTS[:100], INPUTS[100:]]
    found = posteriors.from_calibration(mlp, params, Loader(batches))
    assert found.examples == 300
    first = found.layers[0].input_mean
    np.testing.assert_allclose(first, INPUTS.mean(0), rtol=1e-4, atol=1e-5)
    kept = prune_sequentially(mlp, params, Loader(batches), 0.5)[0]
    expected = prune_sequentially(mlp, params, batches, 0.5)[0]
    jax.tree.map(np.testing.assert_array_equal, kept, expected)


class Once:
    """Batches that can be gone through once, though iterating gives another object."""

    def __init__(self, batches):
        self.items = iter(batches)

    def __iter__(self):
        return (batch for batch in self.items)


def test_batches_that_are_used_up_are_an_error():
    params = init_mlp(jax.random.key(0), (6, 8, 4))
    with pytest.raises(ValueError, match="batches: expected an iterable that can be gone through"):
        prune_sequentially(mlp, params, Once([INPUTS[:50], INPUTS[50:], INPUTS]), 0.5)


def test_inputs_that_are_not_finite_in_the_pruned_network_are_an_error():
    def fn(params, x):
        h = jax.nn.relu(x @ params["in"])
        return h / jnp.linalg.norm(h, axis=-1, keepdims=True) @ params["out"]

    params = {"in": jnp.abs(NORMED["in"]), "out": NORMED["out"]}
    masks = {"in": jnp.zeros((6, 10)), "out": jnp.ones((10, 3))}
    with pytest.raises(ValueError, match="fn: expected finite inputs of layer 'out'"):
        prune_sequentially(fn, params, [np.abs(INPUTS)], masks=masks, loss="regression")


@pytest.mark.parametrize("with_tolerance", [False, True])
def test_a_leaf_that_no_layer_covers_is_named(with_tolerance):
    params = {**init_mlp(jax.random.key(0), (6, 8, 4)), "rest": jnp.ones((300, 4, 4))}

    def fn(params, x):
        layers = {name: leaf for name, leaf in params.items() if name != "rest"}
        return jnp.einsum("ni,nij->nj", mlp(layers, x), params["rest"][: len(x)])

    labels = np.zeros(300, int)
    how_much = {"max_loss_rise": 0.1, "held_out": [(INPUTS, labels)]}
    with pytest.warns(UserWarning, match="got none for rest: left dense"):
        prune_sequentially(
            fn, params, [INPUTS], **(how_much if with_tolerance else {"sparsity": 0.5})
        )
