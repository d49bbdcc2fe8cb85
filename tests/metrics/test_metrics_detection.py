import jax
import numpy as np
import pytest
import sklearn.metrics
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from bmrpruner import metrics

auroc, aupr = jax.jit(metrics.auroc), jax.jit(metrics.aupr)
# Few distinct values, so that ties within and between the groups are the rule.
TIED = st.sampled_from([-np.inf, -1.0, -0.0, 0.0, 0.5, 2.0])


@settings(max_examples=100, deadline=None)
@given(
    inside=hnp.arrays(np.float32, 9, elements=TIED), out=hnp.arrays(np.float32, 6, elements=TIED)
)
def test_areas_are_sklearns_ties_included(inside, out):
    scores = np.maximum(np.concatenate([inside, out]), -10)  # scikit-learn refuses infinity
    positive = np.concatenate([np.zeros(9), np.ones(6)])
    expected = sklearn.metrics.roc_auc_score(positive, scores)
    np.testing.assert_allclose(auroc(inside, out), expected, atol=1e-6)
    expected = sklearn.metrics.average_precision_score(positive, scores)
    np.testing.assert_allclose(aupr(inside, out), expected, atol=1e-6)


def test_areas_are_sklearns_on_many_scores():
    rng = np.random.default_rng(3)
    inside = rng.normal(size=3000).astype(np.float32)
    out = rng.normal(1, size=1000).astype(np.float32)
    scores, positive = np.concatenate([inside, out]), np.arange(4000) >= 3000
    expected = sklearn.metrics.roc_auc_score(positive, scores)
    np.testing.assert_allclose(auroc(inside, out), expected, atol=1e-6)
    expected = sklearn.metrics.average_precision_score(positive, scores)
    np.testing.assert_allclose(aupr(inside, out), expected, atol=1e-6)


def test_extremes():
    low, high = np.arange(9, dtype=np.float32), np.arange(9, 15, dtype=np.float32)
    assert auroc(low, high) == aupr(low, high) == 1.0
    assert auroc(low, high - 100) == 0.0
    same = np.zeros(15, np.float32)
    assert auroc(same[:9], same[9:]) == 0.5
    np.testing.assert_allclose(aupr(same[:9], same[9:]), 6 / 15, rtol=1e-6)


@pytest.mark.parametrize("area", [auroc, aupr])
def test_bad_scores(area):
    scores = np.arange(9, dtype=np.float32)
    spoilt = np.where(scores == 3, np.float32(np.nan), scores)
    assert np.isnan(area(spoilt, scores[:6]))
    assert np.isnan(area(scores, spoilt[:6]))
    with pytest.raises(ValueError, match=r"in_scores: expected shape \(n,\), got shape \(9, 1\)"):
        area(scores[:, None], scores)
    with pytest.raises(ValueError, match="out_scores: expected at least one entry"):
        area(scores, scores[:0])


def test_standard_error_of_the_area_is_its_scatter():
    # Exponential scores, for which Hanley and McNeil's formula is exact.
    rng = np.random.default_rng(0)
    draw = lambda scale, n: rng.exponential(scale, (400, n)).astype(np.float32)  # noqa: E731
    areas = np.asarray(jax.vmap(metrics.auroc)(draw(1, 60), draw(4, 40)))
    expected = np.std(areas)
    assert np.mean(areas) == pytest.approx(0.8, abs=0.01)
    found = metrics.auroc_standard_error(np.mean(areas), n_in=60, n_out=40)
    assert float(found) == pytest.approx(expected, rel=0.15)
    assert metrics.auroc_standard_error(1.0, 60, 40) == 0
