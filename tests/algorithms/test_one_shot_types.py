"""Each sparsity type with each pruner that refits: the pattern, the numbers and the refit."""

import jax.numpy as jnp
import numpy as np
import pytest

import bmrpruner
from bmrpruner import posteriors, structure
from bmrpruner.posteriors import LayerwiseGaussian
from bmrpruner.sparsity_types import Block, Channel, Group, NByM

PRUNERS = ("obs", "global_obs", "wanda")
INPUTS, OUTPUTS, DAMPING = 8, 6, 0.01
RNG = np.random.default_rng(3)
KERNEL = RNG.normal(size=(INPUTS, OUTPUTS)).astype(np.float32)
X = (RNG.normal(size=(200, INPUTS)) @ RNG.normal(size=(INPUTS, INPUTS))).astype(np.float32)
COVARIANCE = np.asarray(X, float).T @ np.asarray(X, float) / len(X)


def posterior():
    layer = posteriors.LinearLayer(
        name="kernel",
        leaf=("kernel",),
        bias_leaf=None,
        positions=jnp.arange(INPUTS * OUTPUTS).reshape(INPUTS, OUTPUTS).T,
        bias_positions=None,
        input_mean=jnp.zeros(INPUTS),
        input_covariance=jnp.asarray(COVARIANCE, jnp.float32),
        curvature=jnp.linspace(0.5, 1.5, OUTPUTS),
    )
    return LayerwiseGaussian({"kernel": jnp.asarray(KERNEL)}, (layer,), len(X), DAMPING)


def refitted(keep):
    precision = COVARIANCE + DAMPING * np.trace(COVARIANCE) / INPUTS * np.eye(INPUTS)
    after = np.zeros(KERNEL.shape)
    for r, own in enumerate(keep.T):
        if own.any():
            right = precision[own] @ KERNEL[:, r]
            after[own, r] = np.linalg.solve(precision[np.ix_(own, own)], right)
    return after


def kept_by_group(kind, keep):
    """How many weights stay in each group of the type."""
    match kind:
        case "unstructured":
            return keep.ravel()
        case NByM(m=m, axis=0):
            return keep.reshape(INPUTS // m, m, OUTPUTS).sum(1)
        case NByM(m=m):
            return keep.reshape(INPUTS, OUTPUTS // m, m).sum(2)
        case Block(block_shape=(height, width)):
            return keep.reshape(INPUTS // height, height, OUTPUTS // width, width).sum((1, 3))
        case Channel(axis=axis):
            return keep.sum(1 if axis == 0 else 0)
    raise AssertionError(kind)


TYPES = {
    "unstructured": ("unstructured", {0, 1}),
    "1:2 along the last axis": (NByM(1, 2), {1}),
    "2:4 along the inputs": (NByM(2, 4, axis=0), {2}),
    "blocks": (Block((2, 3)), {0, 6}),
    "inputs": (Channel(0), {0, OUTPUTS}),
    "outputs": (Channel(-1), {0, INPUTS}),
}


@pytest.mark.parametrize("name", PRUNERS)
@pytest.mark.parametrize(("kind", "counts"), TYPES.values(), ids=TYPES)
def test_the_pattern_holds_and_what_stays_is_refitted(name, kind, counts):
    sparsity = {} if isinstance(kind, NByM) else {"sparsity": 0.5}
    make = bmrpruner.ALGORITHM_REGISTRY[name]
    pruner = make(sparsity_type=kind, **sparsity)
    params = {"kernel": jnp.asarray(KERNEL)}
    if pruner.scope == "global" and kind != "unstructured":
        with pytest.raises(ValueError, match=r"^scope, sparsity_type: expected 'layer' for groups"):
            pruner.instant_sparsify(params, posterior=posterior())
        return
    pruned, masks = pruner.instant_sparsify(params, posterior=posterior())
    keep = np.asarray(masks["kernel"]) != 0
    assert set(np.unique(kept_by_group(kind, keep))) == counts
    assert keep.sum() == keep.size / 2
    expected = KERNEL * keep if name == "wanda" else refitted(keep)
    np.testing.assert_allclose(pruned["kernel"], expected, rtol=5e-3, atol=1e-3)


@pytest.mark.parametrize("name", PRUNERS)
def test_units_are_the_business_of_another_function(name):
    params = {"a": jnp.ones((3, 4)), "b": jnp.ones((4, 2))}
    groups = structure.dependency_groups(
        lambda p, x: jnp.tanh(x @ p["a"]) @ p["b"], params, jnp.ones((5, 3))
    )
    with pytest.raises(ValueError, match=r"^sparsity_type: expected .*pruning\.prune_units\("):
        bmrpruner.ALGORITHM_REGISTRY[name](sparsity=0.5, sparsity_type=Group(groups))
    with pytest.raises(ValueError, match=r"^sparsity_type: expected .*pruning\.prune_units\("):
        bmrpruner.create_updater_from_config(
            algorithm=name, dist_type="uniform", sparsity=0.5, sparsity_type=Group(groups)
        )


def test_what_is_zero_stays_zero():
    gone = RNG.uniform(size=KERNEL.shape) < 0.5
    params = {"kernel": jnp.asarray(np.where(gone, 0, KERNEL))}
    pruned, _ = bmrpruner.OBSPruning(sparsity=0.2).instant_sparsify(params, posterior=posterior())
    np.testing.assert_array_equal(np.asarray(pruned["kernel"])[gone], 0)


@pytest.mark.parametrize("name", PRUNERS)
def test_known_scores_serve_every_sparsity(name):
    params = {"kernel": jnp.asarray(KERNEL)}
    make = bmrpruner.ALGORITHM_REGISTRY[name]
    scores = make(sparsity=0.1).calculate_scores(params, posterior=posterior())
    for sparsity in (0.25, 0.75):
        expected = make(sparsity=sparsity).instant_sparsify(params, posterior=posterior())
        found = make(sparsity=sparsity).prune_by_scores(params, scores, posterior())
        for ours, theirs in zip(found, expected, strict=True):
            np.testing.assert_array_equal(ours["kernel"], theirs["kernel"])
