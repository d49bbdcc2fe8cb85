"""ΔF of a set of weights at once, against the evidence of linear-Gaussian models."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from bmrpruner._masks import pack_tree
from bmrpruner.evidence import delta_f_spike, joint_delta_f

NOISE = 0.5
PRIOR = np.array([1.0, 4.0, 1.0, 1.0, 0.5, 1.0, 2.0, 1.0, 1.0, 1.0])


def model():
    """Features that are nearly alike, their targets, and mean and covariance of the weights."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(60, 1)) + 0.3 * rng.normal(size=(60, 10))
    y = x @ np.linspace(-1, 1.5, 10) + NOISE * rng.normal(size=60)
    covariance = np.linalg.inv(x.T @ x / NOISE**2 + np.diag(PRIOR))
    return x, y, covariance @ x.T @ y / NOISE**2, covariance


def log_evidence(x, y, prior):
    covariance = (x / prior) @ x.T + NOISE**2 * np.eye(len(y))
    return stats.multivariate_normal(np.zeros(len(y)), covariance).logpdf(y)


def draw(mean, covariance, n):
    rng = np.random.default_rng(1)
    draws = rng.multivariate_normal(mean, covariance, size=(4, n // 4))
    return {"a": draws[..., :4].reshape(4, -1, 2, 2), "b": draws[..., 4:]}


def split(vector):
    vector = np.asarray(vector)
    return {"a": vector[:4].reshape(2, 2), "b": vector[4:]}


SETS = {
    "few": [1, 0, 1, 1, 1, 1, 0, 1, 1, 1],
    "half": [1, 0, 0, 1, 0, 1, 0, 1, 0, 1],
    "most": [0, 0, 0, 1, 0, 0, 0, 1, 0, 0],
    "all": [0] * 10,
}


@pytest.mark.parametrize("mask", SETS.values(), ids=SETS)
@pytest.mark.parametrize("is_packed", [False, True])
def test_it_is_the_ratio_of_evidences(mask, is_packed):
    x, y, mean, covariance = model()
    kept = np.array(mask, bool)
    exact = log_evidence(x[:, kept], y, PRIOR[kept]) - log_evidence(x, y, PRIOR)
    masks = split(np.array(mask, np.uint8))
    masks = pack_tree(jax.tree.map(jnp.asarray, masks)) if is_packed else masks
    found = joint_delta_f(draw(mean, covariance, 20_000), masks, split(PRIOR))
    assert found == pytest.approx(exact, rel=0.03)


def test_the_sum_over_single_weights_is_far_off():
    """Every weight alone can go, as others do its work; all of them cannot."""
    x, y, mean, covariance = model()
    single = delta_f_spike(mean, 1 / np.diag(covariance), PRIOR)
    exact = log_evidence(x[:, :0], y, PRIOR[:0]) - log_evidence(x, y, PRIOR)
    assert abs(float(single.sum()) - exact) > 20


@pytest.mark.parametrize("n", [16, 40])
def test_few_independent_draws_have_no_bias(n):
    """Over 400 sets of draws the mean is exact to four of its standard errors."""
    _, _, mean, covariance = model()
    mean, covariance = mean[:6], covariance[:6, :6]
    exact = -0.5 * (np.linalg.slogdet(covariance)[1] + mean @ np.linalg.solve(covariance, mean))
    rng = np.random.default_rng(2)
    found = [
        joint_delta_f(rng.multivariate_normal(mean, covariance, size=(1, n)), np.zeros(6))
        for _ in range(400)
    ]
    assert np.mean(found) == pytest.approx(exact, abs=4 * np.std(found) / 20)


def autocorrelated(n, k, phi, rng):
    x = rng.normal(size=(n, 4, k))
    for t in range(1, n):
        x[t] = phi * x[t - 1] + np.sqrt(1 - phi**2) * x[t]
    return np.moveaxis(x, 0, 1)


def test_autocorrelated_draws_of_many_weights_are_warned_of():
    """A posterior that is the prior has ΔF = 0; the warning tells how far off the result is."""
    rng = np.random.default_rng(7)
    draws = autocorrelated(500, 100, 0.8, rng)
    with pytest.warns(UserWarning, match=r"independent ones, too few .* nats too high") as seen:
        found = joint_delta_f(draws, np.zeros(100))
    told = float(str(seen[0].message).split("ΔF is some ")[1].split(" ")[0])
    assert told == pytest.approx(found, rel=0.4)
    few = joint_delta_f(draws[..., :5], np.zeros(5))
    assert few == pytest.approx(0, abs=0.5)
    assert joint_delta_f(rng.normal(size=(4, 500, 100)), np.zeros(100)) == pytest.approx(0, abs=1.5)


def test_independent_weights_add_up():
    rng = np.random.default_rng(3)
    mean, std = np.array([0.5, -0.2, 0.1]), np.array([0.1, 0.3, 0.2])
    draws = mean + std * rng.normal(size=(4, 5000, 3))
    expected = float(delta_f_spike(mean, 1 / std**2, 2.0)[:2].sum())
    found = joint_delta_f(draws, np.array([0, 0, 1]), 2.0)
    assert found == pytest.approx(expected, rel=0.03)


def test_scales_that_differ_by_far_and_strong_correlation():
    rng = np.random.default_rng(4)
    z = rng.normal(size=(1, 30_000, 2))
    draws = np.stack([1e-4 * z[..., 0], 1e4 * (z[..., 0] + 1e-3 * z[..., 1])], -1)
    covariance = np.cov(draws[0].T)
    precision = np.array([1e6, 1e-6])
    mean = draws[0].mean(0)
    distance = mean @ np.linalg.inv(covariance) @ mean
    expected = -0.5 * (math.log(np.linalg.det(covariance)) + distance + np.log(precision).sum())
    assert joint_delta_f(draws, np.zeros(2), precision) == pytest.approx(expected, abs=0.01)


def test_what_is_gone_counts_nothing_and_what_is_certain_cannot_go():
    draws = np.random.default_rng(5).normal(size=(2, 50, 3))
    alone = joint_delta_f(draws[..., :2], np.zeros(2))
    draws[..., 2] = 0
    assert joint_delta_f(draws, np.zeros(3)) == alone
    draws[..., 2] = 0.3
    assert joint_delta_f(draws, np.zeros(3)) == -math.inf
    draws[0, 0, 2] = np.nan
    assert math.isnan(joint_delta_f(draws, np.zeros(3)))


def test_nothing_pruned_is_no_change():
    draws = {"w": np.ones((2, 5, 3)), "n": None}
    assert joint_delta_f(draws, {"w": np.ones(3), "n": None}) == 0
    assert joint_delta_f(draws, {"w": None, "n": None}) == 0


DRAWS = np.random.default_rng(6).normal(size=(2, 10, 3))


@pytest.mark.parametrize(
    ("draws", "masks", "prior", "error", "message"),
    [
        (DRAWS[0, 0], np.zeros(3), 1.0, ValueError, r"draws: expected \[chain, draw"),
        (DRAWS, np.zeros(4), 1.0, ValueError, r"masks, \(root\): expected the shape"),
        (DRAWS, np.zeros(3), 0.0, ValueError, "prior_precision"),
        (DRAWS, np.zeros(3), np.ones(2), ValueError, "prior_precision"),
        (DRAWS, np.zeros(3), (1.0, 1.0), ValueError, "prior_precision"),
        (DRAWS[:1, :5], np.zeros(3), 1.0, ValueError, "more than 5 for 3 pruned weights, got 5"),
        (DRAWS[..., [0, 1, 0]], np.zeros(3), 1.0, ValueError, "a sum of others"),
        (
            np.where(np.arange(3) == 1, np.inf, DRAWS),
            np.zeros(3),
            1.0,
            ValueError,
            "draws: .* finite",
        ),
        (
            np.where(np.arange(10)[:, None] == 4, -np.inf, DRAWS),
            np.zeros(3),
            1.0,
            ValueError,
            "draws: .* finite",
        ),
        (DRAWS.astype(int), np.zeros(3), 1.0, TypeError, "floating"),
    ],
)
def test_errors(draws, masks, prior, error, message):
    with pytest.raises(error, match=message):
        joint_delta_f(draws, masks, prior)


def test_what_stays_may_be_infinite():
    draws = np.where(np.arange(3) == 1, np.inf, DRAWS)
    alone = joint_delta_f(DRAWS[..., [0, 2]], np.zeros(2))
    assert joint_delta_f(draws, np.array([0, 1, 0])) == alone


def test_traced_draws_are_refused():
    with pytest.raises(TypeError, match="draws, masks: expected concrete arrays"):
        jax.jit(lambda x: joint_delta_f(x, np.zeros(3)))(jnp.asarray(DRAWS))
