"""Hidden units removed with compensation in the layers that read them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bmrpruner
from bmrpruner.pruning import prune_units
from bmrpruner.study.models import init_mlp, mlp

DAMPING = 0.01
PARAMS = init_mlp(jax.random.key(0), (6, 12, 3))
INPUTS = np.random.default_rng(1).normal(size=(240, 6)).astype(np.float32) + 0.3


def hidden_units(params):
    return np.maximum(INPUTS @ np.asarray(params["dense_0"]["kernel"], float), 0)


def refit(hidden, kernel, own):
    """The second layer on the units that stay, with a free bias."""
    damping = DAMPING * np.mean(np.var(hidden * own, 0))  # of the inputs that there are by then
    centred = hidden - hidden.mean(0)
    inside = centred[:, own]
    left = inside.T @ inside / len(hidden) + damping * np.eye(own.sum())
    right = inside.T @ centred @ kernel / len(hidden) + damping * kernel[own]
    return np.linalg.solve(left, right)


def test_units_go_as_a_whole_and_the_next_layer_makes_up():
    pruned, masks = prune_units(mlp, PARAMS, [INPUTS], 0.6, loss="regression")
    stays = np.asarray(masks["dense_0"]["bias"], bool)
    assert stays.sum() == 4, "three fifths of 12 (6 + 1 + 3) weights, rounded up to units"
    np.testing.assert_array_equal(masks["dense_0"]["kernel"], np.tile(stays, (6, 1)))
    np.testing.assert_array_equal(masks["dense_1"]["kernel"], np.tile(stays[:, None], (1, 3)))
    assert masks["dense_1"]["bias"] is None
    for name in ("kernel", "bias"):
        first = np.asarray(PARAMS["dense_0"][name])
        np.testing.assert_allclose(
            pruned["dense_0"][name], np.where(stays, first, 0), rtol=1e-3, atol=1e-5
        )
    kernel = np.asarray(PARAMS["dense_1"]["kernel"], float)
    expected = refit(hidden_units(PARAMS), kernel, stays)
    np.testing.assert_allclose(pruned["dense_1"]["kernel"][stays], expected, rtol=5e-3, atol=2e-3)

    small = bmrpruner.structure.compact(mlp, pruned, INPUTS, masks=masks)
    assert small.params["dense_0"]["kernel"].shape == (6, 4)
    np.testing.assert_allclose(small(INPUTS), mlp(pruned, INPUTS), rtol=1e-4, atol=1e-5)


def test_the_units_cost_less_than_those_of_smallest_norm():
    pruned, masks = prune_units(mlp, PARAMS, [INPUTS], 0.6, loss="regression")
    norms = np.linalg.norm(np.asarray(PARAMS["dense_1"]["kernel"]), axis=1)
    stays = norms >= np.sort(norms)[-int(masks["dense_0"]["bias"].sum())]
    cut = {
        "dense_0": PARAMS["dense_0"],
        "dense_1": {
            "kernel": PARAMS["dense_1"]["kernel"] * stays[:, None],
            "bias": PARAMS["dense_1"]["bias"],
        },
    }
    dense = mlp(PARAMS, INPUTS)
    errors = [float(jnp.mean((mlp(p, INPUTS) - dense) ** 2)) for p in (pruned, cut)]
    assert errors[0] < 0.5 * errors[1]


def test_units_that_go_four_at_a_time():
    """The least that removes half of the weights: two of the three bundles of four."""
    masks = prune_units(mlp, PARAMS, [INPUTS], 0.5, loss="regression", multiple=4)[1]
    one_by_one = prune_units(mlp, PARAMS, [INPUTS], 0.6, loss="regression")[1]
    assert masks["dense_0"]["bias"].sum() == 4
    jax.tree.map(np.testing.assert_array_equal, masks, one_by_one)
    five = prune_units(mlp, PARAMS, [INPUTS], 0.1, loss="regression", multiple=5)[1]
    assert five["dense_0"]["bias"].sum() == 10, "of 5, 5 and 2 units"
    every = prune_units(mlp, PARAMS, [INPUTS], 1.0, loss="regression", multiple=5)[1]
    assert every["dense_0"]["bias"].sum() == 5


@pytest.mark.parametrize("scale", [0.0, 0.7])
def test_equal_costs_leave_a_multiple(scale):
    """Of units that are the same the shorter bundle goes first."""
    kernel = jnp.tile(PARAMS["dense_0"]["kernel"][:, :1], (1, 12))
    out = jnp.tile(scale * PARAMS["dense_1"]["kernel"][:1], (12, 1))
    same = {
        "dense_0": {"kernel": kernel, "bias": jnp.ones(12)},
        "dense_1": {"kernel": out, "bias": jnp.zeros(3)},
    }
    masks = prune_units(mlp, same, [INPUTS], 0.1, loss="regression", multiple=np.uint8(5))[1]
    assert masks["dense_0"]["bias"].sum() == 10


def test_what_has_no_units_is_named():
    with pytest.raises(ValueError, match="fn: expected more than 12 units in a group"):
        prune_units(mlp, PARAMS, [INPUTS], 0.5, loss="regression", multiple=12)
    with pytest.raises(ValueError, match="multiple: expected an integer >= 1, got 0"):
        prune_units(mlp, PARAMS, [INPUTS], 0.5, loss="regression", multiple=0)
    with pytest.raises(ValueError, match="fn: expected more than 1 units in a group"):
        prune_units(
            lambda p, x: x @ p["w"], {"w": jnp.ones((6, 3))}, [INPUTS], 0.5, loss="regression"
        )
    with pytest.raises(ValueError, match="sparsity: expected a number in"):
        prune_units(mlp, PARAMS, [INPUTS], 2.0)
