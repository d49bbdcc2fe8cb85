"""Schedules: when masks are updated, and to which sparsity."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bmrpruner import (
    NoUpdateSchedule,
    OneShotSchedule,
    PeriodicSchedule,
    PolynomialSchedule,
    sparsity_schedules,
)
from tests.contract import oracle

TARGETS = {"a": 0.8, "b": None, "c": [0.5]}


def due(schedule, steps):
    return [step for step in range(steps) if schedule.is_mask_update_iter(step)]


def test_fields_bases_and_immutability():
    def names(cls):
        return [field.name for field in dataclasses.fields(cls)]

    assert names(NoUpdateSchedule) == []
    assert names(OneShotSchedule) == ["target_step"]
    periodic = ["update_freq", "update_start_step", "update_end_step"]
    assert names(PeriodicSchedule) == periodic
    assert names(PolynomialSchedule) == [*periodic, "power"]
    assert PolynomialSchedule(1, 2, 3).power == 3
    assert issubclass(OneShotSchedule, NoUpdateSchedule)
    assert issubclass(PeriodicSchedule, NoUpdateSchedule)
    assert issubclass(PolynomialSchedule, PeriodicSchedule)
    with pytest.raises(dataclasses.FrozenInstanceError):
        OneShotSchedule(1).target_step = 2
    assert hash(PolynomialSchedule(1, 2, 3)) == hash(PolynomialSchedule(1, 2, 3))


def test_when():
    assert due(NoUpdateSchedule(), 10) == []
    assert due(OneShotSchedule(4), 10) == [4]
    assert due(PeriodicSchedule(4, 2, 12), 20) == [4, 8, 12]
    assert due(PeriodicSchedule(3, 6, None), 15) == [6, 9, 12]
    assert due(PeriodicSchedule(5, 20, 10), 40) == []
    assert due(PolynomialSchedule(2, 3, 8), 20) == [4, 6, 8]
    assert not PeriodicSchedule(1, 0, None).is_mask_update_iter(None)
    assert not OneShotSchedule(4).is_mask_update_iter(None)


@pytest.mark.parametrize(
    "schedule", [NoUpdateSchedule(), OneShotSchedule(3), PeriodicSchedule(2, 0, 9)]
)
def test_targets_are_unchanged(schedule):
    assert schedule.get_sparsity_at_step(TARGETS, 1) is TARGETS
    assert schedule.get_sparsity_at_step(0.7, 1) == 0.7


@pytest.mark.parametrize("power", [1, 3, 2.5])
def test_polynomial(power):
    schedule = PolynomialSchedule(1, 4, 12, power)
    for step in range(16):
        found = schedule.get_sparsity_at_step(TARGETS, step)
        assert found["b"] is None
        expected = oracle.cubic(0.8, step, 4, 12, power)
        np.testing.assert_allclose(found["a"], expected, rtol=1e-6, atol=1e-7)
        np.testing.assert_allclose(found["c"][0], expected * 0.5 / 0.8, rtol=1e-6, atol=1e-7)
    assert schedule.get_sparsity_at_step(0.8, 3) == 0
    assert schedule.get_sparsity_at_step(0.8, 11) == np.float32(0.8)  # the step before the end
    traced = jax.jit(lambda step: schedule.get_sparsity_at_step(0.8, step))(7)
    np.testing.assert_allclose(traced, oracle.cubic(0.8, 7, 4, 12, power), rtol=1e-6)


def test_polynomial_of_no_length_and_of_negative_length():
    assert PolynomialSchedule(1, 5, 5).get_sparsity_at_step(0.8, 0) == 0.8
    backwards = PolynomialSchedule(1, 6, 5)
    assert due(backwards, 10) == []
    with pytest.raises(ValueError, match="end_step"):
        backwards.get_sparsity_at_step(0.8, 0)


def test_all_members_may_be_traced():
    @jax.jit
    def both(freq, start, end, step):
        schedule = PolynomialSchedule(freq, start, end)
        return schedule.is_mask_update_iter(step), schedule.get_sparsity_at_step(0.8, step)

    is_due, sparsity = both(2, 4, 12, 6)
    assert is_due
    np.testing.assert_allclose(sparsity, oracle.cubic(0.8, 6, 4, 12), rtol=1e-6)


def test_subclasses_with_fields_of_their_own():
    @dataclasses.dataclass(frozen=True)
    class Late(sparsity_schedules.PolynomialSchedule):
        delay: int = 2

        def is_mask_update_iter(self, step):
            return super().is_mask_update_iter(step - self.delay)

    assert due(Late(2, 2, 6, delay=1), 12) == [3, 5, 7]


def test_update_freq_must_be_positive():
    with pytest.raises(ValueError, match="update_freq"):
        PeriodicSchedule(0, 1, 2)


def test_steps_are_counted_in_the_sparsity_of_vmapped_runs():
    schedule = PolynomialSchedule(1, 0, 4)
    steps = jnp.arange(4)
    found = jax.vmap(lambda step: schedule.get_sparsity_at_step(0.8, step))(steps)
    np.testing.assert_allclose(found, [oracle.cubic(0.8, s, 0, 4) for s in range(4)], rtol=1e-6)


@pytest.mark.compiled
def test_the_growth_of_the_sparsity_is_computed_once_for_all_leaves():
    schedule = PolynomialSchedule(10, 0, 100)

    def powers(leaves):
        at_step = jax.jit(lambda targets, step: schedule.get_sparsity_at_step(targets, step))
        text = at_step.lower([0.5 + i / 100 for i in range(leaves)], 3).compile().as_text()
        return text.count(" minimum(") + text.count(" clamp(")

    assert powers(12) == powers(6) > 0
