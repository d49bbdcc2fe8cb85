import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sklearn.metrics

from bmrpruner import metrics

RNG = np.random.default_rng(0)
PROBS = RNG.dirichlet(np.ones(3), size=40).astype(np.float32)
LABELS = RNG.integers(0, 3, size=40)
accuracy, nll, brier = map(jax.jit, (metrics.accuracy, metrics.nll, metrics.brier))


def test_accuracy_is_sklearns():
    expected = sklearn.metrics.accuracy_score(LABELS, PROBS.argmax(1))
    np.testing.assert_allclose(accuracy(PROBS, LABELS), expected, atol=1e-6)


def test_accuracy_of_a_tie_takes_the_first_class():
    probs = jnp.full((2, 2), 0.5)
    assert accuracy(probs, jnp.array([0, 1])) == 0.5


def test_nll_is_sklearns_log_loss():
    probs = PROBS / PROBS.sum(1, keepdims=True, dtype=np.float64)
    expected = sklearn.metrics.log_loss(LABELS, probs, labels=[0, 1, 2])
    np.testing.assert_allclose(nll(PROBS, LABELS), expected, rtol=1e-6)


def test_nll_of_an_impossible_label_is_finite():
    value = nll(jnp.array([[0.0, 1.0]]), jnp.array([0]))
    np.testing.assert_allclose(value, -np.log(np.finfo(np.float32).tiny), rtol=1e-6)


def test_brier_is_sklearns():
    expected = sklearn.metrics.brier_score_loss(
        LABELS, PROBS, labels=[0, 1, 2], scale_by_half=False
    )
    np.testing.assert_allclose(brier(PROBS, LABELS), expected, rtol=1e-6)


def test_brier_reaches_two_for_certain_and_wrong():
    assert brier(jnp.array([[1.0, 0.0, 0.0]]), jnp.array([2])) == 2.0


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int64])
def test_labels_of_any_integer_dtype(dtype):
    assert accuracy(PROBS, LABELS.astype(dtype)) == accuracy(PROBS, LABELS)


def test_narrow_labels_meet_more_classes_than_they_can_count():
    probs = jnp.eye(300)[:2]
    assert accuracy(probs, jnp.array([0, 1], jnp.uint8)) == 1.0


def test_bfloat16_is_computed_in_float32():
    probs = jnp.asarray(PROBS, jnp.bfloat16)
    value = brier(probs, LABELS)
    assert value.dtype == jnp.float32
    np.testing.assert_allclose(value, brier(probs.astype(jnp.float32), LABELS), rtol=1e-6)


@pytest.mark.parametrize("metric", [accuracy, nll, brier])
@pytest.mark.parametrize("label", [-1, 3])
def test_labels_out_of_range_make_the_result_nan(metric, label):
    assert jnp.isnan(metric(PROBS, np.where(np.arange(40) == 7, label, LABELS)))


@pytest.mark.parametrize("metric", [accuracy, nll, brier])
def test_a_diverged_network_has_no_score(metric):
    assert jnp.isnan(metric(np.where(np.arange(40)[:, None] == 7, np.nan, PROBS), LABELS))


@pytest.mark.parametrize("metric", [accuracy, nll, brier])
@pytest.mark.parametrize(
    ("probs", "labels", "error", "message"),
    [
        (PROBS, LABELS[:-1], ValueError, r"labels: expected shape \(40,\).*got shape \(39,\)"),
        (PROBS, LABELS[:, None], ValueError, r"labels: .*got shape \(40, 1\)"),
        (PROBS, LABELS.astype(float), TypeError, "labels: expected .*integer dtype, got float32"),
        (PROBS[0], LABELS, ValueError, r"probs: expected shape \(n, classes\), got shape \(3,\)"),
        (PROBS[:0], LABELS[:0], ValueError, r"probs: expected at least one entry.*\(0, 3\)"),
        (PROBS + 0j, LABELS, TypeError, "probs: expected real numbers, got dtype complex64"),
        (None, LABELS, TypeError, "probs: expected an array of numbers, got NoneType"),
    ],
)
def test_bad_input_is_named(metric, probs, labels, error, message):
    with pytest.raises(error, match=message):
        metric(probs, labels)
