"""Scores of the whole network ranked as they are."""

import jax.numpy as jnp
import numpy as np
import pytest

import bmrpruner


def leaves(seed=0):
    rng = np.random.default_rng(seed)
    return [rng.normal(size=shape).astype(np.float32) for shape in ((3, 4), (20, 30), (5, 2))]


def test_global_uncertainty_magnitude_keeps_the_largest_sums():
    means = leaves()
    precisions = [np.exp(leaf) * (10.0**i) for i, leaf in enumerate(leaves(1))]
    posterior = bmrpruner.DiagonalGaussian(
        *([jnp.asarray(leaf) for leaf in tree] for tree in (means, precisions))
    )
    pruner = bmrpruner.create_updater_from_config(
        algorithm="global_uncertainty_magnitude", dist_type="uniform", sparsity=0.8
    )
    masks = pruner.instant_sparsify(posterior.mean, posterior=posterior)[1]
    scores = [np.abs(m) + p**-0.5 for m, p in zip(means, precisions, strict=True)]
    flat = np.concatenate([s.ravel() for s in scores])
    lowest = np.sort(flat)[-round(0.2 * flat.size)]
    for mask, score in zip(masks, scores, strict=True):
        np.testing.assert_array_equal(mask, score >= lowest)


def test_global_random_gives_each_weight_the_same_chance():
    """Normalised by their leaf's norm, the weights of large leaves would have less of it."""
    params = [jnp.asarray(leaf) for leaf in leaves()]
    kept = np.zeros(3)
    for seed in range(40):
        pruner = bmrpruner.GlobalRandomPruning(sparsity=0.5, rng_seed=seed)
        masks = pruner.instant_sparsify(params)[1]
        assert sum(int(m.sum()) for m in masks) == 311
        kept += [float(m.mean()) for m in masks]
    np.testing.assert_allclose(kept / 40, 0.5, atol=0.1)
    assert kept[1] / 40 == pytest.approx(0.5, abs=0.01)
