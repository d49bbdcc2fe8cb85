"""Groups of inputs removed together, against trying each one in NumPy; memory of wide layers."""

import jax
import numpy as np
import pytest

from bmrpruner import oneshot
from bmrpruner.oneshot.sweep import _sweep


def layer(rows, width, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(300, width)) @ rng.normal(size=(width, width)) / width**0.5
    return rng.normal(size=(rows, width)), x.T @ x / len(x) + 0.01 * np.eye(width)


def tried_one_by_one(weights, precision, curvature, groups):
    """At each step every group that is left is removed on trial, and the rows are refitted."""
    keep, left, order, losses = np.ones(weights.shape[1], bool), list(range(len(groups))), [], []
    while left:
        trials = {}
        for g in left:
            own = keep.copy()
            own[groups[g]] = False
            fit = np.zeros_like(weights)
            inside = np.linalg.inv(precision[np.ix_(own, own)])
            fit[:, own] = (weights @ precision)[:, own] @ inside
            error = weights - fit
            trials[g] = 0.5 * np.sum(curvature * np.sum((error @ precision) * error, 1))
        best = min(trials, key=trials.get)
        keep[groups[best]] = False
        left.remove(best)
        order.append(best)
        losses.append(trials[best])
    return order, np.diff(losses, prepend=0)


@pytest.mark.parametrize("size", [1, 3])
def test_the_cheapest_group_goes_and_costs_what_a_refit_says(size):
    weights, precision = layer(5, 12)
    groups = np.random.default_rng(1).permutation(12).reshape(-1, size)
    curvature = np.linspace(0.5, 2, 5)
    found = oneshot.eliminate_groups(weights, precision, curvature, groups)
    order, cost = tried_one_by_one(weights, precision, curvature, groups)
    assert found.order.tolist() == order
    np.testing.assert_allclose(found.cost, cost, rtol=2e-3)


def test_inputs_of_no_group_stay_and_make_up():
    weights, precision = layer(2, 6)
    found = oneshot.eliminate_groups(weights, precision, 1.0, [[4], [1]])
    order, cost = tried_one_by_one(weights, precision, 1.0, [[4], [1]])
    assert found.order.tolist() == order
    np.testing.assert_allclose(found.cost, cost, rtol=2e-3)


def test_groups_that_do_not_fit_are_named():
    with pytest.raises(ValueError, match=r"^groups: expected integers of shape"):
        oneshot.eliminate_groups(np.ones((2, 4)), np.eye(4), 1.0, [0, 1])


@pytest.mark.compiled
def test_a_large_language_model_s_layer_is_swept_in_bounded_memory():
    """4,096 outputs of 11,008 inputs: a few times the covariance and the weights."""
    rows, width = 4096, 11008
    shapes = [jax.ShapeDtypeStruct(s, "float32") for s in ((rows, width), (width, width))]
    keep = jax.ShapeDtypeStruct((rows, width), "uint8")
    compiled = _sweep.lower(*shapes, None, keep, None).compile()
    temporary = compiled.memory_analysis().temp_size_in_bytes
    assert temporary <= 4 * (6 * width**2 + 4 * rows * width)
