"""Correlated model reduction against float64 linear algebra in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bmrpruner import evidence

PRIOR = 0.7


def precision(width, condition, dead=0, seed=0):
    """A symmetric positive definite matrix; the weights of dead inputs have the damping alone."""
    rng = np.random.default_rng(seed)
    alive = width - dead
    rotation = np.linalg.qr(rng.normal(size=(alive, alive)))[0]
    found = np.eye(width) / condition
    found[:alive, :alive] = rotation @ np.diag(np.geomspace(1 / condition, 1, alive)) @ rotation.T
    return 40 * found


def means(rows, width, seed=1):
    return np.random.default_rng(seed).normal(size=(rows, width))


def conditioned(mean, precision, keep):
    """Means and variances of what stays, by solving with the precision of what stays."""
    goes = ~keep
    inside = precision[np.ix_(keep, keep)]
    moved = np.linalg.solve(inside, precision[np.ix_(keep, goes)] @ mean[goes])
    return mean[keep] + moved, np.diag(np.linalg.inv(inside))


def log_evidence(mean, precision, prior, goes):
    """ln N(0 | μ_S, Σ_SS) − ln N(0 | 0, I/π₀)."""
    inside = np.linalg.inv(precision)[np.ix_(goes, goes)]
    quadratic = mean[goes] @ np.linalg.solve(inside, mean[goes])
    return -0.5 * (np.linalg.slogdet(inside * prior)[1] + quadratic)


def replayed(mean, precision, order, prior=PRIOR):
    """Cost and ΔF of each step of an order, and of the cheapest step that there was."""
    keep = np.ones(mean.size, bool)
    cost, delta_f, least, most = (np.zeros(mean.size) for _ in range(4))
    for step, q in enumerate(order):
        left = np.flatnonzero(keep)
        now, variance = conditioned(mean, precision, keep)
        costs = 0.5 * now**2 / variance
        gains = -0.5 * np.log(variance * prior) - costs
        where = np.flatnonzero(left == q)[0]
        cost[step], least[step] = costs[where], costs.min()
        delta_f[step], most[step] = gains[where], gains.max()
        keep[q] = False
    return cost, delta_f, least, most


CASES = [(40, 1e3, 0, 2e-3), (150, 1e3, 20, 2e-3), (150, 1e6, 40, 2e-2)]


@pytest.mark.parametrize(("width", "number", "dead", "within"), CASES)
def test_each_step_is_the_cheapest_and_costs_what_linear_algebra_says(width, number, dead, within):
    matrix, mean = precision(width, number, dead), means(2, width)
    found = evidence.eliminate(mean, matrix, PRIOR)
    for row in range(2):
        order = np.asarray(found.order[row])
        assert sorted(order) == list(range(width))
        cost, delta_f, least, _ = replayed(mean[row], matrix, order)
        assert np.all(cost <= least * (1 + 2 * within))
        np.testing.assert_allclose(found.cost[row], cost, rtol=within)
        error = np.abs(np.asarray(found.delta_f[row]) - delta_f)
        assert np.all(error <= within * np.maximum(np.abs(delta_f), 1))


@pytest.mark.parametrize(("width", "number", "dead", "within"), CASES)
def test_delta_f_is_additive_along_any_order_and_exact(width, number, dead, within):
    matrix, mean = precision(width, number, dead), means(2, width)
    for criterion in ("loss", "evidence"):
        found = evidence.eliminate(mean, matrix, PRIOR, criterion)
        for count in (1, width // 3, width - 1, width):
            keep = np.ones((2, width), bool)
            for row in range(2):
                keep[row, np.asarray(found.order[row, :count])] = False
            exact = [log_evidence(mean[r], matrix, PRIOR, ~keep[r]) for r in range(2)]
            np.testing.assert_allclose(found.delta_f[:, :count].sum(1), exact, rtol=within)
            sets = evidence.delta_f_set(mean, matrix, PRIOR, keep)
            np.testing.assert_allclose(sets, exact, rtol=within)


def test_the_evidence_takes_the_weight_of_highest_delta_f():
    matrix, mean = precision(40, 1e3), means(1, 40)
    found = evidence.eliminate(mean, matrix, PRIOR, "evidence")
    _, delta_f, _, most = replayed(mean[0], matrix, np.asarray(found.order[0]))
    np.testing.assert_allclose(delta_f, most, atol=1e-3)
    assert found.order.tolist() != evidence.eliminate(mean, matrix, PRIOR).order.tolist()


@pytest.mark.parametrize("kept", [0, 1, 17, 39, 40])
def test_conditioned_means(kept):
    matrix, mean = precision(40, 1e3, 5), means(3, 40)
    keep = np.argsort(np.random.default_rng(kept).normal(size=(3, 40)), 1) < kept
    found = evidence.condition(mean, matrix, keep)
    for row in range(3):
        exact = conditioned(mean[row], matrix, keep[row])[0]
        np.testing.assert_allclose(found[row][keep[row]], exact, rtol=2e-3, atol=1e-4)
        assert not np.any(found[row][~keep[row]])


def test_a_diagonal_precision_gives_the_factorised_rule():
    rng = np.random.default_rng(0)
    mean, diagonal = means(3, 40), rng.uniform(0.1, 50, 40)
    prior = rng.uniform(0.1, 2, (3, 40))
    expected = evidence.delta_f_spike(mean, diagonal, prior)
    for criterion, key in [("loss", 0.5 * diagonal * mean**2), ("evidence", -expected)]:
        found = evidence.eliminate(mean, np.diag(diagonal), prior, criterion)
        np.testing.assert_array_equal(found.order, np.argsort(key, axis=1))
        by_weight = np.take_along_axis(np.asarray(expected), np.asarray(found.order), 1)
        np.testing.assert_allclose(found.delta_f, by_weight, rtol=1e-5, atol=1e-6)
    keep = rng.uniform(size=(3, 40)) < 0.5
    sums = np.where(keep, 0, expected).sum(1)
    together = evidence.delta_f_set(mean, np.diag(diagonal), prior, keep)
    np.testing.assert_allclose(together, sums, rtol=1e-5)
    np.testing.assert_allclose(
        evidence.condition(mean, np.diag(diagonal), keep), np.where(keep, mean, 0), rtol=1e-6
    )


def test_a_weight_known_to_be_zero_goes_first_and_a_certain_one_last():
    matrix = np.diag([3.0, np.inf, 2.0, np.inf])
    matrix[0, 2] = matrix[2, 0] = 1.0
    mean = np.array([[1.0, 0.0, 0.4, 2.0]])
    found = evidence.eliminate(mean, matrix, 1.0)
    assert found.order[0].tolist() == [1, 2, 0, 3]
    assert found.delta_f[0, 0] == np.inf
    assert found.delta_f[0, 3] == -np.inf
    assert found.cost[0, 0] == 0
    pair = evidence.eliminate(mean[:, [0, 2]], matrix[np.ix_([0, 2], [0, 2])], 1.0)
    np.testing.assert_allclose(found.delta_f[0, 1:3], pair.delta_f[0], rtol=1e-5)
    keep = np.array([[1, 0, 0, 1]])
    assert evidence.delta_f_set(mean, matrix, 1.0, keep)[0] == np.inf
    np.testing.assert_allclose(
        evidence.condition(mean, matrix, keep)[0], [1 + 0.4 / 3, 0, 0, 2], rtol=1e-5
    )


def test_by_evidence_what_is_certainly_not_zero_goes_last():
    diagonal = np.array([np.inf, 3.0, np.inf, 2.0, np.inf])
    mean = np.array([[1e-3, 1.0, 2.0, 0.4, 0.0]])
    found = evidence.eliminate(mean, np.diag(diagonal), 1.0, "evidence")
    assert found.order[0].tolist() == [4, 3, 1, 0, 2]
    finite = [0.5 * (np.log(p) - p * m**2) for m, p in [(0.4, 2.0), (1.0, 3.0)]]
    expected = [np.inf, *finite, -np.inf, -np.inf]
    np.testing.assert_allclose(found.delta_f[0], expected, rtol=1e-5)


def test_lists_are_arrays():
    found = evidence.eliminate([[1.0, 1.0]], [[2.0, 0.0], [0.0, 3.0]], [1.0, 1.0])
    assert found.order.tolist() == [[0, 1]]
    np.testing.assert_allclose(found.cost, [[1.0, 1.5]], rtol=1e-6)
    nats = evidence.delta_f_set([[1.0, 1.0]], [[2.0, 0.0], [0.0, 3.0]], 1.0, [[0, 0]])
    np.testing.assert_allclose(nats, [0.5 * np.log(6.0) - 2.5], rtol=1e-6)


def test_a_precision_for_each_row_and_under_jit():
    matrices = np.stack([precision(12, 1e2, seed=s) for s in range(3)])
    mean, keep = means(3, 12), np.arange(36).reshape(3, 12) % 3 > 0
    found = jax.jit(evidence.eliminate, static_argnums=3)(mean, matrices, PRIOR, "loss")
    sets = evidence.delta_f_set(mean, matrices, PRIOR, keep)
    moved = evidence.condition(mean, matrices, keep)
    for row in range(3):
        cost, _, least, _ = replayed(mean[row], matrices[row], np.asarray(found.order[row]))
        np.testing.assert_allclose(found.cost[row], cost, rtol=2e-3)
        assert np.all(cost <= least * 1.001)
        exact = log_evidence(mean[row], matrices[row], PRIOR, ~keep[row])
        np.testing.assert_allclose(sets[row], exact, rtol=2e-3)
        exact = conditioned(mean[row], matrices[row], keep[row])[0]
        np.testing.assert_allclose(moved[row][keep[row]], exact, rtol=2e-3)


@pytest.mark.parametrize(
    ("field", "arguments"),
    [
        ("mean", (jnp.ones(3), jnp.eye(3), 1.0)),
        ("precision", (jnp.ones((2, 3)), jnp.eye(2), 1.0)),
        ("prior_precision", (jnp.ones((2, 3)), jnp.eye(3), jnp.ones(2))),
        ("prior_precision", (jnp.ones((2, 3)), jnp.eye(3), 0.0)),
        ("prior_precision", (jnp.ones((2, 3)), jnp.eye(3), jnp.array([1.0, -1.0, 1.0]))),
        ("prior_precision", (jnp.ones((2, 3)), jnp.eye(3), np.nan)),
        ("prior_precision", (jnp.ones((2, 3)), jnp.eye(3), np.inf)),
        ("mean", (jnp.ones((2, 0)), jnp.eye(0), 1.0)),
        ("criterion", (jnp.ones((2, 3)), jnp.eye(3), 1.0, "los")),
    ],
)
def test_what_does_not_fit_is_named(field, arguments):
    with pytest.raises(ValueError, match=f"^{field}: expected .* got"):
        evidence.eliminate(*arguments)


def test_masks_that_do_not_fit_are_named():
    with pytest.raises(ValueError, match=r"^keep: expected .* got \(3,\)"):
        evidence.condition(jnp.ones((2, 3)), jnp.eye(3), jnp.ones(3))
