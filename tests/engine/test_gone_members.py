"""Members of a group that are already gone add nothing to its score, wherever it is known."""

import jax.numpy as jnp
import numpy as np
import pytest

import bmrpruner
from bmrpruner import _groups, evidence
from bmrpruner.sparsity_types import Block, Channel

# Two channels. Of the first, which matters more, one member is gone; ΔF by hand, π₀ = 1.
MEAN = np.array([[0.0, 4.0, 6.0], [2.0, 2.0, 4.0]], np.float32)
PRECISION = np.array([[np.inf, 9.0, 9.0], [9.0, 9.0, 9.0]], np.float32)
MASK = np.array([[0, 1, 1], [1, 1, 1]], np.uint8)
DELTA_F = 0.5 * (np.log(9.0) - 9 * MEAN**2)
KINDS = {"channel": Channel(0), "block": Block((1, 3)), "block by maximum": Block((1, 3), False)}
SCORES = {
    "bmr": lambda mean: -0.5 * (np.log(9.0) - 9 * mean**2),
    "snr": lambda mean: 3 * np.abs(mean),
    "magnitude": np.abs,
}


def pooled(scores, gone, kind, algorithm):
    """The score of each row, by a loop over its members."""
    totals = []
    for row, absent in zip(scores, gone, strict=True):
        left = [score for score, is_gone in zip(row, absent, strict=True) if not is_gone]
        if kind == "block by maximum" and algorithm != "bmr":
            totals.append(max(left))
        elif kind == "block" and algorithm != "bmr":
            totals.append(sum(left) / len(row))
        else:
            totals.append(sum(left))
    return totals


@pytest.mark.parametrize("algorithm", SCORES)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("where", ["posterior", "state"])
def test_the_channel_that_matters_less_goes(algorithm, kind, where):
    expected = pooled(SCORES[algorithm](MEAN), MASK == 0, kind, algorithm)
    assert expected[0] > expected[1]
    updater = bmrpruner.ALGORITHM_REGISTRY[algorithm](sparsity=0.5, sparsity_type=KINDS[kind])
    params = {"w": jnp.asarray(MEAN)}
    if where == "posterior":
        posterior = bmrpruner.DiagonalGaussian(params, {"w": jnp.asarray(PRECISION)})
        masks = updater.instant_sparsify(params, posterior=posterior)[1]
    else:
        inner = bmrpruner.ivon(0.1, ess=9.0, hess_init=8 / 9, weight_decay=1 / 9).init(params)
        state = updater.init_state(params)
        state = state._replace(masks={"w": jnp.asarray(MASK)}, inner_state=inner)
        masks = updater.update_state(state, params, params).masks
    np.testing.assert_array_equal(masks["w"][1], 0)
    np.testing.assert_array_equal(masks["w"][0, 1:], 1)


@pytest.mark.parametrize("how", ["sum", "mean", "max"])
def test_scores_of_groups_by_a_loop(how):
    """On blocks that do not divide the array, with members that are gone; all gone is -inf."""
    scores = np.random.default_rng(0).normal(size=(5, 7)).astype(np.float32)
    scores[np.random.default_rng(1).uniform(size=(5, 7)) < 0.4] = -np.inf
    scores[:2, :3] = -np.inf
    found = _groups.pool(jnp.asarray(scores), Block((2, 3)), how)
    for i in range(3):
        for j in range(3):
            block = scores[2 * i : 2 * i + 2, 3 * j : 3 * j + 3]
            left = block[np.isfinite(block)]
            if left.size == 0:
                expected = -np.inf
            elif how == "max":
                expected = left.max()
            else:
                expected = left.sum() / (block.size if how == "mean" else 1)
            np.testing.assert_allclose(found[i, j], expected, rtol=1e-5)


def test_pooled_scores_are_the_evidence_of_the_group():
    scores = -np.where(MASK == 0, np.inf, DELTA_F).astype(np.float32)
    np.testing.assert_allclose(
        -_groups.pool(jnp.asarray(scores), Channel(0)),
        evidence.group_delta_f(jnp.asarray(-scores), axis=1),
        rtol=1e-6,
    )


@pytest.mark.parametrize("kind", ["channel", "block"])
def test_an_adaptive_round_counts_what_is_left(kind):
    """The round's nats are those of the weights that went, without those gone before."""
    mean = np.array([[0.0, 0.1, 0.0], [0.2, 0.2, 0.1], [9.0, 9.0, 9.0]], np.float32)
    precision = np.full((3, 3), 9.0, np.float32)
    precision[0, [0, 2]] = np.inf
    posterior = bmrpruner.DiagonalGaussian({"w": jnp.asarray(mean)}, {"w": jnp.asarray(precision)})
    updater = bmrpruner.AdaptiveBMR(sparsity_type=KINDS[kind], log_odds=0.0, max_share=1.0)
    params = {"w": jnp.asarray(mean)}
    state = updater.update_state(updater.init_state(params), params, None, posterior=posterior)
    np.testing.assert_array_equal(state.masks["w"], [[0, 0, 0], [0, 0, 0], [1, 1, 1]])
    left = 0.5 * (np.log(9.0) - 9 * np.array([0.1, 0.2, 0.2, 0.1]) ** 2)
    np.testing.assert_allclose(state.rounds.nats[0], left.sum(), rtol=1e-5)
    assert int(state.rounds.pruned[0]) == 2


@pytest.mark.parametrize("keep", ["high", "low"])
def test_a_weight_without_variance_does_not_come_back(keep):
    posterior = bmrpruner.DiagonalGaussian({"w": jnp.asarray(MEAN)}, {"w": jnp.asarray(PRECISION)})
    updater = bmrpruner.PosteriorVariancePruning(sparsity=1 / 6, keep=keep)
    masks = updater.instant_sparsify(posterior.mean, posterior=posterior)[1]
    np.testing.assert_array_equal(masks["w"], MASK)
