import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
import sklearn.metrics

from bmrpruner import metrics

RNG = np.random.default_rng(4)
Y, MEAN = RNG.normal(size=(2, 30, 2)).astype(np.float32)
STD = RNG.uniform(0.3, 2, size=(30, 2)).astype(np.float32)
rmse, gaussian_nll = jax.jit(metrics.rmse), jax.jit(metrics.gaussian_nll)
interval_coverage = jax.jit(metrics.interval_coverage, static_argnames="level")


def test_rmse_is_sklearns():
    expected = sklearn.metrics.root_mean_squared_error(Y.ravel(), MEAN.ravel())
    np.testing.assert_allclose(rmse(Y, MEAN), expected, rtol=1e-6)


def test_gaussian_nll_is_scipys():
    y, mean, std = (x.astype(np.float64) for x in (Y, MEAN, STD))
    expected = -scipy.stats.norm.logpdf(y, mean, std).mean()
    np.testing.assert_allclose(gaussian_nll(Y, MEAN, STD), expected, rtol=1e-6)
    expected = -scipy.stats.norm.logpdf(y, mean, 0.5).mean()
    np.testing.assert_allclose(gaussian_nll(Y, MEAN, 0.5), expected, rtol=1e-6)


@pytest.mark.parametrize("level", [0.5, np.float32(0.9)])
def test_interval_coverage_is_scipys(level):
    low, high = scipy.stats.norm.interval(level, MEAN.astype(np.float64), STD)
    expected = ((low <= Y) & (high >= Y)).mean()
    value = interval_coverage(Y, MEAN, STD, level)
    np.testing.assert_allclose(value, expected, atol=1e-6)


def test_interval_of_no_width_covers_what_it_hits():
    y = jnp.array([0.0, 1.0])
    assert interval_coverage(y, jnp.zeros(2), 0.0, 0.9) == 0.5


def test_integer_observations_are_taken():
    assert rmse(np.array([1, 2]), np.array([3.0, 4.0])) == 2.0


def test_nan_and_impossible_widths_show():
    spoilt = np.where(np.arange(60).reshape(30, 2) == 7, np.float32(np.nan), Y)
    assert np.isnan(rmse(spoilt, MEAN))
    assert np.isnan(interval_coverage(spoilt, MEAN, STD, 0.5))
    assert np.isnan(interval_coverage(Y, MEAN, spoilt, 0.5))
    assert np.isnan(interval_coverage(Y, MEAN, -STD, 0.5))
    assert np.isnan(gaussian_nll(Y, MEAN, spoilt))
    assert np.isnan(gaussian_nll(Y, MEAN, -STD))
    assert np.isnan(gaussian_nll(Y, MEAN, 0 * STD))


def test_shapes_must_match_rather_than_broadcast():
    with pytest.raises(ValueError, match=r"mean: expected the shape of y, \(30, 2\), got \(2,\)"):
        rmse(Y, MEAN[0])
    with pytest.raises(ValueError, match=r"std: expected a scalar or the shape of y.*got \(2,\)"):
        gaussian_nll(Y, MEAN, STD[0])
    with pytest.raises(ValueError, match="y: expected at least one entry"):
        rmse(Y[:0], MEAN[:0])


@pytest.mark.parametrize("level", [0, 1, -0.1, 95.0, float("nan")])
def test_level_out_of_range(level):
    with pytest.raises(ValueError, match=r"level: expected a number in \(0, 1\), got"):
        interval_coverage(Y, MEAN, STD, level)


def test_level_is_static():
    with pytest.raises(TypeError, match="level: expected a static number"):
        jax.eval_shape(lambda level: metrics.interval_coverage(Y, MEAN, STD, level), 0.9)
