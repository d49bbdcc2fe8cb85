import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats

from bmrpruner import metrics

RNG = np.random.default_rng(2)
DRAWS = RNG.dirichlet(np.ones(3) / 2, size=(5, 40)).astype(np.float32)
predictive_entropy, mutual_information, max_probability, log_predictive_density = (
    jax.jit(metric)
    for metric in (
        metrics.predictive_entropy,
        metrics.mutual_information,
        metrics.max_probability,
        metrics.log_predictive_density,
    )
)


def test_predictive_entropy_is_scipys():
    expected = scipy.stats.entropy(DRAWS.astype(np.float64).mean(0), axis=-1)
    np.testing.assert_allclose(predictive_entropy(DRAWS), expected, atol=1e-6)


def test_mutual_information_is_the_mean_divergence_from_the_mean():
    draws = DRAWS.astype(np.float64)
    expected = scipy.stats.entropy(draws, draws.mean(0)[None], axis=-1).mean(0)
    np.testing.assert_allclose(mutual_information(DRAWS), expected, atol=1e-6)


def test_certainty_has_no_entropy_and_uniformity_all_of_it():
    draws = jnp.array([[[1.0, 0.0, 0.0], [1 / 3, 1 / 3, 1 / 3]]])
    np.testing.assert_allclose(
        predictive_entropy(draws), np.array([0, np.log(3)], np.float32), atol=1e-6
    )


def test_mutual_information_is_never_negative():
    agreeing = np.repeat(DRAWS[:1], 5, axis=0)
    value = mutual_information(agreeing)
    assert (value >= 0).all()
    np.testing.assert_allclose(value, 0, atol=1e-6)


def test_max_probability_is_of_the_mean_and_not_the_mean_of_maxima():
    draws = jnp.array([[[1.0, 0.0]], [[0.0, 1.0]]])
    assert max_probability(draws).tolist() == [0.5]
    np.testing.assert_allclose(max_probability(DRAWS), DRAWS.mean(0).max(1), atol=1e-6)


def test_log_predictive_density_is_scipys():
    logs = RNG.normal(-500, 10, size=(5, 40)).astype(np.float32)
    expected = (scipy.special.logsumexp(logs.astype(np.float64), axis=0) - np.log(5)).mean()
    np.testing.assert_allclose(log_predictive_density(logs), expected, rtol=1e-6)


def test_log_predictive_density_of_one_draw_is_minus_the_nll():
    logits, labels = RNG.normal(size=(1, 40, 3)), RNG.integers(0, 3, size=40)
    logs = jnp.take_along_axis(jax.nn.log_softmax(logits), labels[None, :, None], axis=-1)[..., 0]
    expected = -metrics.nll(jax.nn.softmax(logits)[0], labels)
    np.testing.assert_allclose(log_predictive_density(logs), expected, rtol=1e-6)


def test_log_predictive_density_takes_impossible_draws_and_impossible_data():
    logs = jnp.array([[-jnp.inf], [0.0]])
    np.testing.assert_allclose(log_predictive_density(logs), np.log(0.5), rtol=1e-6)
    assert log_predictive_density(jnp.full((2, 1), -jnp.inf)) == -jnp.inf


@pytest.mark.parametrize("metric", [predictive_entropy, mutual_information, max_probability])
def test_draws_need_three_axes_and_pass_nan_on(metric):
    with pytest.raises(ValueError, match=r"probs: expected shape \(draws, n, classes\), got"):
        metric(DRAWS[0])
    value = metric(np.where(np.arange(40)[:, None] == 3, np.nan, DRAWS))
    assert jnp.isnan(value).tolist() == [i == 3 for i in range(40)]


def test_log_likelihoods_need_two_axes():
    with pytest.raises(ValueError, match=r"log_likelihoods: expected shape \(draws, n\), got"):
        log_predictive_density(DRAWS)
