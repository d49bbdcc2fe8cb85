"""Units that go so many at a time: what a single row of weights tells at a glance."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bmrpruner
from bmrpruner.sparsity_types import Group
from bmrpruner.structure import Group as Family
from tests.structured.families import each


def row(size, multiple):
    """Units that are the columns of one row, so many at a time."""
    return Group([Family(size, ((("w",), 1, each(size)),))], multiple=multiple)


def kept(pruner, values, **data):
    """The numbers of the units that stay."""
    params = {"w": jnp.asarray([values], jnp.float32)}
    return np.flatnonzero(pruner.instant_sparsify(params, **data)[1]["w"][0]).tolist()


def normal(means):
    means = {"w": jnp.asarray([means], jnp.float32)}
    return bmrpruner.DiagonalGaussian(means, {"w": jnp.full_like(means["w"], 4.0)})


def test_what_a_budget_would_divide_goes():
    pruner = bmrpruner.MagnitudePruning(sparsity=0.3, sparsity_type=row(10, 4))
    assert kept(pruner, range(1, 11)) == [6, 7, 8, 9], "of 4, 4 and 2 units 7 may stay"
    pruner = bmrpruner.MagnitudePruning(sparsity=0.2, sparsity_type=row(10, 4))
    assert kept(pruner, range(1, 11)) == list(range(2, 10))


@pytest.mark.parametrize("value", np.arange(1, 41) / 10)
def test_equal_units_leave_a_multiple(value):
    """A mean of 12 is not above one of 16 by rounding; masks of such sizes compile once."""
    mask = halves()({"w": jnp.full((1, 300), value)})["w"]
    np.testing.assert_array_equal(mask[0], np.arange(300) < 144)


def test_pairs_whose_means_round_to_the_same_stay_together():
    """The second pair is units 5 and 2, the third 3 and 4; both have a mean of 1 in float32."""

    class Given(bmrpruner.BaseUpdater):
        def calculate_scores(self, params, sparse_state=None, grads=None):
            return params

    scores = [9.0, 9, 1, 1, 1, np.nextafter(np.float32(1), np.float32(2))]
    assert kept(Given(sparsity=1 / 3, sparsity_type=row(6, 2)), scores) == [0, 1, 2, 5]


@functools.cache
def halves():
    pruner = bmrpruner.MagnitudePruning(sparsity=0.5, sparsity_type=row(300, 16))
    return jax.jit(lambda params: pruner.instant_sparsify(params)[1])


@pytest.mark.parametrize("cls", [bmrpruner.BMRPruning, bmrpruner.SNRPruning])
def test_units_that_went_do_not_come_back(cls):
    """Budgets between two widths, by scores that say what is gone."""
    posterior = normal(np.arange(1.0, 13))
    schedule = bmrpruner.PolynomialSchedule(1, 0, 10)
    pruner = cls(sparsity=0.3, sparsity_type=row(12, 8), scheduler=schedule)
    state, widths = pruner.init_state(posterior.mean), []
    update = jax.jit(
        lambda state: pruner.update_state(state, posterior.mean, None, posterior=posterior)
    )
    for count in range(11):
        state = update(state._replace(count=jnp.int32(count)))
        widths.append(int(state.masks["w"].sum()))
    assert widths == 11 * [8]


def test_one_unit_of_nan_goes_alone():
    """It is not recorded, as it has no evidence."""
    posterior = normal([5.0, 6, 7, 8, 1, 2, 3, np.nan])
    pruner = bmrpruner.AdaptiveBMR(sparsity=0.0, temperature=1.0, sparsity_type=row(8, 4))
    data = {"posterior": posterior}
    assert kept(pruner, np.asarray(posterior.mean["w"])[0], **data) == list(range(7))


@pytest.mark.parametrize("multiple", [2**40, np.int64(2**40), np.uint64(12), np.int8(100)])
def test_a_multiple_of_more_units_than_there_are_keeps_all(multiple):
    pruner = bmrpruner.MagnitudePruning(sparsity=0.9, sparsity_type=row(12, multiple))
    assert kept(pruner, range(12)) == list(range(12))


@pytest.mark.parametrize("name", ["magnitude", "bmr", "adaptive_bmr"])
@pytest.mark.parametrize("x64", [False, True])
def test_strict_promotion_of_types(name, x64):
    with jax.numpy_dtype_promotion("strict"), jax.enable_x64(x64):
        posterior = normal(np.arange(1.0, 13))
        data = {} if name == "magnitude" else {"posterior": posterior}
        options = {"temperature": 1.0} if "bmr" in name else {}
        kind = row(12, np.uint8(4))
        made = bmrpruner.ALGORITHM_REGISTRY[name](sparsity=0.6, sparsity_type=kind, **options)
        widths = {"magnitude": 4, "bmr": 4, "adaptive_bmr": 12}  # 4 (mean)**2 is above 0 for all
        assert len(kept(made, np.arange(1.0, 13), **data)) == widths[name]
