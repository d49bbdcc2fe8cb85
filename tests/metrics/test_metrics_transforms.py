"""Every metric gives the same under jit and vmap as without."""

import functools

import jax
import numpy as np
import pytest

from bmrpruner import metrics

RNG = np.random.default_rng(5)
CLASSES = (
    RNG.dirichlet(np.ones(3), size=(2, 40)).astype(np.float32),
    RNG.integers(0, 3, size=(2, 40)),
)
DRAWS = (RNG.dirichlet(np.ones(3), size=(2, 5, 40)).astype(np.float32),)
SCORES = tuple(RNG.integers(0, 5, size=(2, 2, 40)).astype(np.float32))
REALS = (*RNG.normal(size=(2, 2, 40)).astype(np.float32), np.ones((2, 40), np.float32))
TREE = ({"kernel": RNG.integers(0, 2, size=(2, 3, 4)).astype(np.float32), "bias": None},)

CASES = {
    metrics.accuracy: CLASSES,
    metrics.nll: CLASSES,
    metrics.brier: CLASSES,
    metrics.ece: CLASSES,
    functools.partial(metrics.ece, binning="mass"): CLASSES,
    metrics.ece_standard_error: CLASSES,
    metrics.classwise_ece: CLASSES,
    metrics.uce: CLASSES,
    metrics.reliability_diagram: CLASSES,
    metrics.predictive_entropy: DRAWS,
    metrics.mutual_information: DRAWS,
    metrics.max_probability: DRAWS,
    metrics.log_predictive_density: (np.log(DRAWS[0][..., 0]),),
    metrics.auroc: SCORES,
    functools.partial(metrics.auroc_standard_error, n_in=58, n_out=51): (
        np.array([0.9, 0.7], np.float32),
    ),
    metrics.aupr: SCORES,
    metrics.rmse: REALS[:2],
    functools.partial(metrics.interval_coverage, level=0.8): REALS,
    metrics.gaussian_nll: REALS,
    metrics.nonzeros: TREE,
    metrics.sparsity: TREE,
    metrics.compression_ratio: TREE,
    metrics.bits: TREE,
    metrics.multiply_adds: TREE,
}


def at(i, inputs):
    return jax.tree.map(lambda x: x[i], inputs)


def name(metric):
    return getattr(metric, "__name__", None) or f"{metric.func.__name__}-{metric.keywords}"


@pytest.mark.parametrize("metric", CASES, ids=name)
def test_jit_and_vmap_agree_with_eager(metric):
    inputs = CASES[metric]
    eager = [metric(*at(i, inputs)) for i in range(2)]
    mapped = jax.jit(jax.vmap(metric))(*inputs)
    stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *eager)
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=1e-6, atol=1e-6), mapped, stacked
    )


def test_every_public_metric_is_covered():
    covered = {getattr(metric, "func", metric).__name__ for metric in CASES}
    records = {"Nonzeros", "ReliabilityDiagram"}
    assert covered == set(metrics.__all__) - records
