"""Diagnostics of chains against their published definition, and the warning of symmetry."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bmrpruner.posteriors import from_samples
from tests.posteriors import vehtari
from tests.posteriors.test_samples import autoregressive


def columns():
    """Draws [chain, draw, 9]: slow and antithetic chains, heavy tails, ties, chains that differ."""
    rng = np.random.default_rng(0)
    found = [autoregressive(phi, rng) for phi in (0.0, 0.5, 0.9, 0.99, -0.5)]
    found.append(autoregressive(0.3, rng) + np.array([0, 0, 0, 2.0])[:, None])
    found.append(autoregressive(0.0, rng) * np.array([1, 1, 1, 4.0])[:, None])  # wider
    found.append(rng.standard_cauchy((4, 501)))
    found.append(np.round(2 * autoregressive(0.6, rng)))  # ties, as rejections leave them
    return 1 + np.stack(found, -1)


def test_rhat_and_n_eff_are_those_of_the_published_definition():
    draws = columns()
    sampled = from_samples(jnp.asarray(draws, jnp.float32))
    for i in range(draws.shape[-1]):
        x = np.float32(draws[..., i]).astype(np.float64)
        assert sampled.rhat[i] == pytest.approx(vehtari.rhat(x), abs=2e-5), i
        assert sampled.n_eff[i] == pytest.approx(vehtari.bulk_ess(x), rel=2e-3), i


def test_a_chain_of_another_width_is_told():
    """Its mean is that of the others, so that R-hat of the draws themselves is 1."""
    wide = columns()[..., 6]
    assert vehtari.plain_rhat(vehtari.z_scores(vehtari.split(wide))) < 1.01
    assert from_samples(jnp.asarray(wide, jnp.float32)).rhat > 1.1


@pytest.mark.parametrize("draws", [4, 5, 6, 7, 9, 12])
def test_short_chains(draws):
    x = np.random.default_rng(draws).normal(size=(3, draws)).astype(np.float32)
    sampled = from_samples(jnp.asarray(x))
    assert sampled.rhat == pytest.approx(vehtari.rhat(x.astype(float)), rel=1e-5)
    assert sampled.n_eff == pytest.approx(vehtari.bulk_ess(x.astype(float)), rel=1e-4)


def test_monotone_transformations_change_nothing_of_the_bulk():
    x = jnp.asarray(columns()[..., 1], jnp.float32)
    assert from_samples(jnp.exp(x)).n_eff == pytest.approx(float(from_samples(x).n_eff), rel=1e-5)


def test_nan_is_not_hidden():
    draws = jnp.ones((2, 8, 2)).at[0, 3, 1].set(jnp.nan)
    sampled = from_samples(draws)
    np.testing.assert_array_equal(np.isnan(sampled.rhat), [False, True])
    np.testing.assert_array_equal(np.isnan(sampled.n_eff), [False, True])


def symmetric(rng):
    """A hidden unit's weights as chains that visit both its signs draw them, and a clear bias."""
    signs = rng.choice([-1, 1], size=(4, 500, 1, 6))
    kernel = signs * (2 + 0.1 * rng.normal(size=(4, 500, 3, 6)))
    return {"kernel": kernel.astype(np.float32), "bias": 1 + rng.normal(size=(4, 500, 9))}


def test_symmetry_is_warned_of_where_it_is():
    draws = symmetric(np.random.default_rng(1))
    with pytest.warns(
        UserWarning, match=r"draws\['kernel'\]: the chains agree.*align_units"
    ) as seen:
        from_samples(draws)
    assert len(seen) == 1
    with pytest.warns(UserWarning, match="draws: the chains agree"):
        from_samples(draws["kernel"])


def test_no_warning_of_aligned_units_of_chains_apart_of_predictions_or_under_jit():
    draws = symmetric(np.random.default_rng(2))
    from_samples(draws | {"kernel": np.abs(draws["kernel"])})
    apart = np.array([1, -1, 1, -1])[:, None, None, None] * np.abs(draws["kernel"])
    assert np.all(from_samples(apart).rhat > 1.5)
    from_samples(draws["kernel"].reshape(4, 500, -1))  # predictions, for all that it can tell
    jax.jit(from_samples)(draws)
    from_samples(draws["kernel"][..., :2, :3])  # six weights tell too little


def test_weights_that_are_pruned_in_all_draws_do_not_count():
    draws = symmetric(np.random.default_rng(3))
    with pytest.warns(UserWarning, match=r"draws\['kernel'\]") as seen:
        from_samples(draws | {"kernel": draws["kernel"] * np.repeat([1, 0], [5, 1])})
    assert len(seen) == 1
