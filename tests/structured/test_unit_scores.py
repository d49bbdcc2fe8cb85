"""Scores, budgets and masks of units, against loops over all that a unit owns."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import bmrpruner
from bmrpruner import MagnitudePruning
from bmrpruner._units import units_of
from bmrpruner.sparsity_types import Group
from bmrpruner.structure import Group as Family
from tests.structured import families
from tests.structured.families import assert_masks

PARAMS = families.tree()
POSTERIOR = bmrpruner.DiagonalGaussian(
    PARAMS, jax.tree.map(lambda x: 2 + jnp.abs(jnp.sin(3 * x)), PARAMS)
)


@pytest.fixture(scope="module")
def units():
    return units_of(families.KINDS["units"], PARAMS)


def test_sums_over_what_a_unit_owns(units):
    """With members gone, in units that keep some and in one that keeps none."""
    scores = families.named(PARAMS)
    gone = families.named(families.tree(1))
    scores = {key: np.where(gone[key] > 0.5, -np.inf, x) for key, x in scores.items()}
    for key, where in families.OWNED[1].items():
        scores[key] = np.where(where, -np.inf, scores[key])
    expected = families.add_up(scores)
    assert np.isneginf(expected[1])
    np.testing.assert_allclose(units.add_up(families.nested(scores)), expected, rtol=1e-5)


def test_narrow_scores_are_summed_in_float32(units):
    """A bfloat16 sum of many ones would stop at 256."""
    scores = jax.tree.map(lambda x: jnp.ones((300, *x.shape), jnp.bfloat16), PARAMS["stream"])
    tall = Family(4, ((("embedding",), 2, families.each(4)),))
    found = units_of(Group([tall]), scores).add_up(scores)
    assert found.dtype == jnp.float32
    np.testing.assert_array_equal(found, 300 * 5)


@pytest.mark.parametrize("seed", range(3))
def test_masks_are_those_of_all_owners(units, seed):
    keep = np.random.default_rng(seed).uniform(size=units.count) < 0.6
    assert_masks(units.masks(jnp.asarray(keep), PARAMS), keep)


@functools.cache
def compiled(cost, multiple):
    """Masks by given scores, whose pooled scores are their sums."""

    class Given(bmrpruner.BaseUpdater):
        def calculate_scores(self, params, sparse_state=None, grads=None):
            return params

    pruner = Given(sparsity_type=families.BUNDLED[cost, multiple])
    return jax.jit(pruner.create_masks)


@given(
    st.sampled_from(list(families.BUNDLED)),
    st.integers(0, 2**32 - 1),
    st.just(0.0) | st.floats(2**-16, 1, width=32),  # not within the tolerance of 1e-6 of none
    st.sampled_from(["distinct", "ties", "gone", "nan", "infinite"]),
)
@settings(max_examples=120, deadline=None)
def test_the_budget_is_held_by_the_best_units(which, seed, sparsity, kind):
    """Of whole numbers, whose sums are exact; equal ones go in the order of the units."""
    cost, multiple = which
    generator = np.random.default_rng(seed)
    largest = 2 if kind == "ties" else 1000
    scores = {
        key: generator.integers(-largest, largest + 1, x.shape).astype(np.float32)
        for key, x in families.named(PARAMS).items()
    }
    absent = {"gone": -np.inf, "nan": np.nan, "infinite": np.inf}.get(kind)
    if absent is not None:
        for key, where in families.OWNED[generator.integers(len(families.OWNED))].items():
            scores[key] = np.where(where, np.float32(absent), scores[key])
    masks = compiled(cost, multiple)(families.nested(scores), jnp.float32(sparsity))
    keep = families.select(families.add_up(scores), sparsity, families.COSTS[cost], multiple)
    assert_masks(masks, keep)
    assert_held(keep, sparsity, families.COSTS[cost], multiple)


def assert_held(keep, sparsity, cost, multiple):
    """A unit of every group stays, and no more than the budget unless only the first ones do."""
    families_kept = {
        family for (family, _), stays in zip(families.UNITS, keep, strict=True) if stays
    }
    assert len(families_kept) == len(families.FREE)
    if cost == "units" or keep.sum() <= multiple * len(families.FREE):
        return
    left, whole = families.cost_left(keep, cost)
    assert left <= (1 - sparsity + 1e-6) * whole


def squares(scores):
    return {key: x.astype(np.float64) ** 2 for key, x in scores.items()}


def formulas():
    """The score of each weight in NumPy, by algorithm."""
    mean = families.named(PARAMS)
    precision = families.named(POSTERIOR.precision)
    both = {key: (mean[key].astype(np.float64), precision[key].astype(np.float64)) for key in mean}
    grads = {key: np.float64(x) * 2 for key, x in families.named(families.tree(5)).items()}
    return {
        "magnitude": squares(mean),
        "saliency": {key: np.abs(mean[key] * grads[key]) for key in mean},
        "snr": {key: m**2 * p for key, (m, p) in both.items()},
        "bmr": {key: -0.5 * (np.log(p) - p * m**2) for key, (m, p) in both.items()},
        "posterior_variance": {key: 1 / p for key, (_, p) in both.items()},
        "uncertainty_magnitude": {key: np.abs(m) + p**-0.5 for key, (m, p) in both.items()},
    }


@pytest.mark.parametrize("name", formulas())
def test_what_an_algorithm_sums(name):
    """ΔF, squares of magnitudes and of signal to noise; other scores as they are."""
    grads = jax.tree.map(lambda x: 2 * x, families.tree(5))
    options = {"temperature": 1.0} if name == "bmr" else {}
    pruner = bmrpruner.ALGORITHM_REGISTRY[name](
        sparsity=0.6, sparsity_type=families.KINDS["parameters"], **options
    )
    masks = pruner.instant_sparsify(PARAMS, grads=grads, posterior=POSTERIOR)[1]
    scores = families.add_up(formulas()[name])
    assert_masks(masks, families.select(scores, 0.6, "parameters"))


@pytest.mark.parametrize(("temperature", "multiple"), [(1.0, 1), (0.25, 1), (1.0, 2)])
def test_positive_evidence(temperature, multiple):
    """Units go whose ΔF is 0 or more, but for the best of each group; pairs by their mean ΔF."""
    pruner = bmrpruner.BMRPruning(
        threshold=0.0,
        temperature=temperature,
        sparsity_type=families.BUNDLED["units", multiple],
    )
    narrow = bmrpruner.DiagonalGaussian(
        jax.tree.map(lambda x: 0.7 * x, PARAMS), POSTERIOR.precision
    )
    masks = pruner.instant_sparsify(narrow.mean, posterior=narrow)[1]
    mean, precision = families.named(narrow.mean), families.named(narrow.precision)
    scores = families.add_up(
        {
            key: -0.5 * (np.log(precision[key] / temperature) - precision[key] / temperature * x**2)
            for key, x in mean.items()
        }
    )
    bundles = families.bundled(scores, multiple)
    least = len(families.FREE)
    kept = bundles[:least] + [bundle for bundle in bundles[least:] if scores[bundle].mean() > 0]
    assert least < len(kept) < len(bundles)
    assert_masks(masks, np.isin(np.arange(len(scores)), [u for bundle in kept for u in bundle]))


def test_leaves_that_are_normalised_before_they_are_compared():
    """JaxPruner's global pruner divides by a leaf's norm, here too."""
    pruner = bmrpruner.GlobalMagnitudePruning(sparsity=0.5, sparsity_type=families.KINDS["units"])
    masks = pruner.instant_sparsify(PARAMS)[1]
    shares = {
        key: x.astype(np.float64) ** 2 / (np.linalg.norm(x) + 1e-8) ** 2
        for key, x in families.named(PARAMS).items()
    }
    assert_masks(masks, families.select(families.add_up(shares), 0.5, "units"))


def test_random_units_have_equal_chances():
    """A unit of one weight against one of sixty, over many seeds; chance is one half."""
    params = {"small": jnp.ones((2, 1)), "large": jnp.ones((2, 60))}
    pair = Family(2, ((("small",), 0, families.each(2)),))
    other = Family(2, ((("large",), 0, families.each(2)),))

    def kept(seed):
        pruner = bmrpruner.RandomPruning(
            sparsity=0.25, rng_seed=seed, sparsity_type=Group([pair, other])
        )
        masks = pruner.instant_sparsify(params)[1]
        return masks["small"].all(), masks["small"][0, 0] | masks["small"].all()

    small, first = jax.jit(jax.vmap(kept))(jnp.arange(2000))
    assert abs(np.mean(small) - 0.5) < 0.05
    assert abs(np.mean(first) - 0.75) < 0.05


@pytest.mark.parametrize("multiple", [1, 2])
def test_random_units_that_went_do_not_come_back(multiple):
    params = {"w": jnp.ones((12, 8))}
    rows = Family(12, ((("w",), 0, families.each(12)),))
    columns = Family(8, ((("w",), 1, families.each(8)),))
    kind = Group([rows, columns], multiple=multiple)
    pruner = bmrpruner.RandomPruning(sparsity=0.5, sparsity_type=kind)
    state = pruner.init_state(params)
    update = jax.jit(lambda state: pruner.update_state(state, params, None))
    for count, sparsity in enumerate((0.2, 0.2, 0.5)):
        before = state.masks["w"]
        asked = {"count": jnp.int32(count), "target_sparsities": jnp.float32(sparsity)}
        state = update(state._replace(**asked))
        mask = np.asarray(state.masks["w"])
        assert np.all(mask <= before)
        widths = mask.any(0).sum(), mask.any(1).sum()
        assert sum(widths) == round(20 * (1 - sparsity))
        assert not any(width % multiple for width in widths)


def test_a_frozen_group_and_a_leaf_of_no_group_have_no_masks():
    masks = (
        MagnitudePruning(sparsity=0.5, sparsity_type=families.KINDS["units"])
        .init_state(PARAMS)
        .masks
    )
    assert masks["mlp"]["b3"] is None
    assert all(mask is not None for mask in (masks["mlp"]["b1"], masks["stream"]["norm"]))
