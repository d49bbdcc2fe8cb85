import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from bmrpruner import metrics

RNG = np.random.default_rng(1)
PROBS = RNG.dirichlet(np.ones(3) / 2, size=40).astype(np.float32)
LABELS = RNG.integers(0, 3, size=40)
CORRECT = (PROBS.argmax(1) == LABELS).astype(np.float64)


def compiled(metric):
    """The metric under jit, compiled once for each shape, number of bins and binning."""
    jitted = jax.jit(metric, static_argnums=(2, 3))

    @functools.wraps(metric)
    def call(probs, labels, bins=15, binning="width"):
        return jitted(probs, labels, bins, binning)

    return call


ece, classwise_ece, uce, reliability_diagram = map(
    compiled, (metrics.ece, metrics.classwise_ece, metrics.uce, metrics.reliability_diagram)
)
ERRORS = [ece, classwise_ece, uce]


def binned_gap(values, rates, edges):
    """A loop over bins (lo, hi], the first closed, in float64."""
    values, total = np.asarray(values, np.float64), 0.0
    for i, (lo, hi) in enumerate(itertools.pairwise(edges)):
        members = (values <= hi) & ((values > lo) | (i == 0))
        if members.any():
            total += members.mean() * abs(rates[members].mean() - values[members].mean())
    return total


def width_edges(bins):
    return np.linspace(0, 1, bins + 1).astype(np.float32)


def mass_edges(values, bins):
    """Quantiles by counting: the upper edge of bin k is the value of rank ceil(k n / bins)."""
    inner = np.quantile(values, np.arange(1, bins) / bins, method="inverted_cdf")
    return np.concatenate([[0], inner, [1]])


def test_ece_is_the_loop_over_bins():
    expected = binned_gap(PROBS.max(1), CORRECT, width_edges(15))
    np.testing.assert_allclose(ece(PROBS, LABELS), expected, atol=1e-6)


def test_one_bin_compares_the_means():
    expected = abs(CORRECT.mean() - PROBS.max(1).mean())
    np.testing.assert_allclose(ece(PROBS, LABELS, bins=1), expected, atol=1e-6)


def test_ece_of_equal_mass_is_the_loop_over_quantile_bins():
    confidence = PROBS.max(1)
    expected = binned_gap(confidence, CORRECT, mass_edges(confidence, 15))
    np.testing.assert_allclose(ece(PROBS, LABELS, binning="mass"), expected, atol=1e-6)


@pytest.mark.parametrize("binning", ["width", "mass"])
def test_classwise_ece_is_the_mean_of_the_loops_over_classes(binning):
    expected = np.mean(
        [
            binned_gap(
                PROBS[:, c],
                (c == LABELS).astype(float),
                width_edges(15) if binning == "width" else mass_edges(PROBS[:, c], 15),
            )
            for c in range(3)
        ]
    )
    value = classwise_ece(PROBS, LABELS, binning=binning)
    np.testing.assert_allclose(value, expected, atol=1e-6)


def test_uce_is_the_loop_over_normalised_entropies():
    uncertainty = scipy.stats.entropy(PROBS, base=3, axis=1)
    expected = binned_gap(uncertainty, 1 - CORRECT, width_edges(15))
    np.testing.assert_allclose(uce(PROBS, LABELS), expected, atol=1e-6)


def test_ece_counts_every_class_and_not_the_first_alone():
    probs = np.tile(np.float32([0.05, 0.9, 0.05]), (40, 1))
    np.testing.assert_allclose(ece(probs, np.full(40, 1)), 0.1, atol=1e-6)
    np.testing.assert_allclose(ece(probs, np.full(40, 0)), 0.9, atol=1e-6)


def test_edges_belong_to_the_bin_below_and_the_ends_are_inside():
    probs = jnp.array([[0.6, 0.4], [0.2, 0.8], [1.0000001, 0.0], [0.0, 0.0]])
    counts = reliability_diagram(probs, jnp.zeros(4, int), bins=5).counts
    assert counts.tolist() == [1, 0, 1, 1, 1]


def test_bins_of_equal_mass_hold_equal_counts_without_ties():
    counts = reliability_diagram(PROBS, LABELS, bins=8, binning="mass").counts
    assert counts.tolist() == [5] * 8


def test_ties_share_a_bin_of_equal_mass():
    probs = np.full((40, 3), 1 / 3, np.float32)
    counts = reliability_diagram(probs, LABELS, bins=8, binning="mass").counts
    assert counts.tolist() == [40] + 7 * [0]


def test_more_bins_of_equal_mass_than_examples():
    probs = jnp.array([[0.9, 0.1], [0.3, 0.7]])
    value = ece(probs, jnp.array([0, 0]), bins=5, binning="mass")
    np.testing.assert_allclose(value, (0.1 + 0.7) / 2, atol=1e-6)


@pytest.mark.parametrize("binning", ["width", "mass"])
def test_the_diagram_adds_up_to_the_ece(binning):
    diagram = reliability_diagram(PROBS, LABELS, binning=binning)
    confidence, accuracy, counts = map(np.asarray, diagram)
    gap = np.sum(counts / 40 * np.abs(accuracy - confidence))
    expected = ece(PROBS, LABELS, binning=binning)
    np.testing.assert_allclose(gap, expected, atol=1e-6)
    assert counts.sum() == 40


def test_the_diagram_by_hand_with_an_empty_bin():
    probs = jnp.array([[0.75, 0.25], [0.625, 0.375], [0.0, 1.0]])
    diagram = reliability_diagram(probs, jnp.array([0, 1, 1]), bins=4)
    assert diagram.counts.tolist() == [0, 0, 2, 1]
    assert diagram.confidence.tolist() == [0.0, 0.0, 0.6875, 1.0]
    assert diagram.accuracy.tolist() == [0.0, 0.0, 0.5, 1.0]


def test_calibrated_by_construction():
    probs = np.tile(np.float32([0.75, 0.25, 0.0]), (40, 1))
    labels = np.tile([0, 0, 0, 1], 10)
    np.testing.assert_allclose(ece(probs, labels), 0, atol=1e-6)
    np.testing.assert_allclose(classwise_ece(probs, labels), 0, atol=1e-6)


@pytest.mark.parametrize("metric", ERRORS)
@pytest.mark.parametrize("binning", ["width", "mass"])
def test_nan_and_bad_labels_show(metric, binning):
    chosen = np.arange(40) == 7
    assert np.isnan(metric(PROBS, np.where(chosen, 3, LABELS), binning=binning))
    spoilt = np.where(chosen[:, None], np.float32(np.nan), PROBS)
    assert np.isnan(metric(spoilt, LABELS, binning=binning))


UNNORMALISED = hnp.arrays(np.float32, (40, 3), elements=st.floats(0, 1, width=32))
SOME_LABELS = hnp.arrays(np.int64, 40, elements=st.integers(0, 2))


@pytest.mark.parametrize("metric", ERRORS)
@pytest.mark.parametrize("binning", ["width", "mass"])
@settings(max_examples=25, deadline=None)
@given(weights=UNNORMALISED, labels=SOME_LABELS, order=st.permutations(range(40)))
def test_in_the_unit_interval_whatever_the_order(metric, binning, weights, labels, order):
    weights = weights + np.float32(1e-3)
    probs = weights / weights.sum(1, keepdims=True)
    value = metric(probs, labels, binning=binning)
    assert 0 <= value <= 1 + 1e-6
    permuted = metric(probs[order], labels[order], binning=binning)
    np.testing.assert_allclose(permuted, value, atol=1e-6)


@pytest.mark.parametrize("metric", [*ERRORS, reliability_diagram])
@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"bins": 0}, ValueError, "bins: expected at least 1, got 0"),
        ({"bins": 2.5}, TypeError, "bins: expected an integer, at least 1, got 2.5"),
        ({"binning": "size"}, ValueError, "binning: expected 'width' or 'mass', got 'size'"),
    ],
)
def test_bad_options_are_named_when_tracing(metric, options, error, message):
    with pytest.raises(error, match=message):
        jax.eval_shape(lambda p, y: metric(p, y, **options), PROBS, LABELS)


@pytest.mark.parametrize("metric", [*ERRORS, reliability_diagram])
def test_mismatched_shapes_are_named_when_tracing(metric):
    with pytest.raises(ValueError, match=r"labels: expected shape \(40,\)"):
        jax.eval_shape(metric, PROBS, LABELS[:5])


def test_uce_needs_two_classes():
    with pytest.raises(ValueError, match=r"probs: expected at least 2 classes.*\(3, 1\)"):
        uce(jnp.ones((3, 1)), jnp.zeros(3, int))


@pytest.mark.parametrize("binning", ["width", "mass"])
def test_standard_error_of_ece_is_its_scatter(binning):
    rng = np.random.default_rng(0)
    confidence = rng.uniform(0.5, 1, (300, 500))
    labels = (rng.random((300, 500)) > confidence - 0.3).astype(int)  # overconfident throughout
    probs = np.stack([confidence, 1 - confidence], -1).astype(np.float32)
    errors = np.asarray(jax.vmap(lambda p, y: metrics.ece(p, y, 5, binning))(probs, labels))
    found = metrics.ece_standard_error(probs[0], labels[0], 5, binning)
    assert np.mean(errors) == pytest.approx(0.3, abs=0.02)
    assert float(found) == pytest.approx(np.std(errors), rel=0.15)
