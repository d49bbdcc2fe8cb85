"""One layer at a time, against ridge regression, brute force and SparseGPT's loop in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bmrpruner import oneshot

DAMPING = 0.01


def inputs(examples, width, seed=0, dead=0):
    """Correlated inputs, some of them always zero."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(examples, width)) @ rng.normal(size=(width, width)) / width**0.5
    x[:, :dead] = 0
    return x


def damped(x):
    covariance = x.T @ x / len(x)
    return covariance + DAMPING * np.mean(np.diag(covariance)) * np.eye(x.shape[1])


def weights(rows, width, seed=1):
    return np.random.default_rng(seed).normal(size=(rows, width))


def random_masks(shape, seed=2, share=0.4):
    return np.random.default_rng(seed).uniform(size=shape) < share


def ridge(x, outputs, w, keep):
    """argmin of the mean of (outputs − xw)² + λ(w − before)² over the weights that stay."""
    ridge = DAMPING * np.mean(np.sum(x**2, 0)) / len(x)
    inside = x[:, keep]
    left = inside.T @ inside / len(x) + ridge * np.eye(keep.sum())
    found = np.zeros_like(w)
    found[keep] = np.linalg.solve(left, inside.T @ outputs / len(x) + ridge * w[keep])
    return found


@pytest.mark.parametrize("dead", [0, 7])
@pytest.mark.parametrize("is_jitted", [False, True])
def test_the_refit_is_a_ridge_regression(dead, is_jitted):
    x, w = inputs(300, 30, dead=dead), weights(5, 30)
    keep = random_masks(w.shape)
    keep[0] = False
    keep[1] = True
    fit = jax.jit(oneshot.refit) if is_jitted else oneshot.refit
    found = np.asarray(fit(w, damped(x), keep))
    for row in range(5):
        expected = ridge(x, x @ w[row], w[row], keep[row])
        np.testing.assert_allclose(found[row], expected, rtol=5e-3, atol=1e-4)
    assert not np.any(found[~keep])


def test_the_refit_to_outputs_of_other_inputs():
    """As in a network whose earlier layers are pruned already."""
    before, w = inputs(300, 20), weights(3, 20)
    x = before + 0.3 * inputs(300, 20, seed=5)
    keep = random_masks(w.shape)
    lam = DAMPING * np.mean(np.diag(x.T @ x / len(x)))
    target = w @ (before.T @ x / len(x)) + lam * w
    found = oneshot.refit(w, damped(x), keep, target)
    for row in range(3):
        expected = ridge(x, before @ w[row], w[row], keep[row])
        np.testing.assert_allclose(found[row], expected, rtol=5e-3, atol=1e-4)


def brute_force_order(w, precision):
    """ExactOBS: at each step every weight that is left is tried, and all others are refitted."""
    keep, order, loss = np.ones(w.size, bool), [], []
    while keep.any():
        trials = {}
        for q in np.flatnonzero(keep):
            left = keep.copy()
            left[q] = False
            fit = np.zeros_like(w)
            fit[left] = np.linalg.solve(precision[np.ix_(left, left)], (precision @ w)[left])
            trials[q] = 0.5 * (w - fit) @ precision @ (w - fit)
        best = min(trials, key=trials.get)
        keep[best] = False
        order.append(best)
        loss.append(trials[best])
    return order, np.diff(loss, prepend=0)


def test_scores_are_the_largest_cost_so_far_in_exact_obs():
    x, w = inputs(60, 12), weights(3, 12)
    precision, curvature = damped(x), np.array([0.5, 2.0, 1e-9])
    found = np.asarray(oneshot.obs_scores(w, precision, curvature))
    for row in range(3):
        order, cost = brute_force_order(w[row], precision)
        expected = np.zeros(12)
        expected[order] = np.maximum.accumulate(cost)
        np.testing.assert_allclose(found[row], curvature[row] * expected, rtol=2e-3, atol=1e-30)
        np.testing.assert_array_equal(np.argsort(found[row]), order)


def test_scores_of_a_wide_layer_are_the_costs_of_the_first_removal():
    w, precision = weights(3, 12), damped(inputs(60, 12))
    found = oneshot.obs_scores(w, precision, 2.0, wide=True)
    np.testing.assert_allclose(found, w**2 / np.diag(np.linalg.inv(precision)), rtol=1e-3)


def test_wanda_ranks_rows_and_its_cost_ranks_layers():
    w, squares = weights(4, 10), np.random.default_rng(0).uniform(size=10)
    metric = np.abs(w) * np.sqrt(squares)  # the paper's, compared within a row
    ranks = np.asarray(oneshot.wanda_scores(w, squares))
    np.testing.assert_array_equal(np.argsort(ranks, 1), np.argsort(metric, 1))
    np.testing.assert_allclose(np.sort(ranks, 1), np.tile(np.arange(1, 11) / 10, (4, 1)))
    cost = oneshot.wanda_scores(w, squares, jnp.full(4, 3.0))
    np.testing.assert_allclose(cost, 1.5 * metric**2, rtol=1e-5)


def sparsegpt(w, precision, sparsity=None, pattern=None, keep=None, block=128):
    """The published loop: blocks of columns, each column's error carried to those after it."""
    w = w.copy()
    mask = np.ones(w.shape, bool) if keep is None else keep
    upper = np.linalg.cholesky(np.linalg.inv(precision)).T
    for start in range(0, w.shape[1], block):
        end = min(start + block, w.shape[1])
        if sparsity is not None:
            saliency = (w[:, start:end] / np.diag(upper)[start:end]) ** 2
            kept = max(1, round(saliency.size * (1 - sparsity)))
            mask[:, start:end] = saliency >= np.sort(saliency, axis=None)[-kept]
        errors = np.zeros((len(w), end - start))
        for j in range(start, end):
            if pattern is not None and j % pattern[1] == 0:
                n, m = pattern
                saliency = (w[:, j : j + m] / np.diag(upper)[j : j + m]) ** 2
                mask[:, j : j + m] = np.argsort(np.argsort(saliency, 1), 1) >= m - n
            errors[:, j - start] = np.where(mask[:, j], 0, w[:, j]) / upper[j, j]
            w[:, j:end] -= errors[:, [j - start]] * upper[j, j:end]
            w[~mask[:, j], j] = 0
        w[:, end:] -= errors @ upper[start:end, end:]
    return w, mask


@pytest.mark.parametrize(
    "what", [{"sparsity": 0.6}, {"pattern": (2, 4)}, {"keep": random_masks((9, 160))}]
)
def test_the_sweep_is_sparsegpt_s(what):
    w, precision = weights(9, 160), damped(inputs(500, 160, dead=5))
    asked = {k: f"{v[0]}:{v[1]}" if k == "pattern" else v for k, v in what.items()}
    found, mask = oneshot.sweep(w, precision, **asked)
    expected, expected_mask = sparsegpt(w, precision, **what)
    np.testing.assert_array_equal(mask, expected_mask)
    np.testing.assert_allclose(found, expected, rtol=5e-3, atol=1e-3)


def output_error(w, found, precision):
    return np.einsum("rd,de,re->", w - found, precision, w - found)


def test_the_elimination_loses_less_than_the_sweep_and_than_magnitude():
    w, precision = weights(6, 48), damped(inputs(300, 48))
    swept, mask = oneshot.sweep(w, precision, 0.5)
    refitted = oneshot.refit(w, precision, mask)
    scores = np.asarray(oneshot.obs_scores(w, precision))
    by_obs = oneshot.refit(w, precision, scores >= np.median(scores))
    by_magnitude = oneshot.refit(w, precision, np.abs(w) >= np.median(np.abs(w)))
    errors = [output_error(w, f, precision) for f in (by_obs, refitted, swept)]
    assert errors == sorted(errors)
    assert errors[0] < 0.8 * output_error(w, by_magnitude, precision)


@pytest.mark.parametrize(
    ("message", "settings"),
    [
        ("sparsity, pattern, keep: expected exactly one", {}),
        ("sparsity, pattern, keep: expected exactly one", {"sparsity": 0.5, "pattern": "2:4"}),
        ("sparsity: expected a number in", {"sparsity": 1.5}),
        ("pattern: expected N:M", {"pattern": "4x4"}),
        ("divisible by 4", {"pattern": "2:4"}),
        ("keep: expected the shape of weights", {"keep": np.ones((2, 2))}),
    ],
)
def test_what_does_not_fit_the_sweep_is_named(message, settings):
    with pytest.raises(ValueError, match=message):
        oneshot.sweep(np.ones((2, 6)), np.eye(6), **settings)


def test_what_does_not_fit_the_refit_is_named():
    with pytest.raises(ValueError, match=r"^weights: expected shape"):
        oneshot.refit(np.ones(3), np.eye(3), np.ones(3))
    with pytest.raises(ValueError, match=r"^precision: expected shape \(3, 3\)"):
        oneshot.refit(np.ones((2, 3)), np.eye(2), np.ones((2, 3)))
    with pytest.raises(ValueError, match=r"^keep: expected"):
        oneshot.refit(np.ones((2, 3)), np.eye(3), np.ones(3))
