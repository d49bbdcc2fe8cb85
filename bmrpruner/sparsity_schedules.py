"""When masks are refreshed, and how sparse they are to be by then."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from bmrpruner._checks import check_positive, concrete
from bmrpruner._tree import PyTree

__all__ = ["NoUpdateSchedule", "OneShotSchedule", "PeriodicSchedule", "PolynomialSchedule"]


@dataclasses.dataclass(frozen=True)
class NoUpdateSchedule:
    """Never refresh the masks.

    Subclass it, or hand in any object with these two methods, for a schedule of your own.

    Example:
      >>> NoUpdateSchedule().is_mask_update_iter(0)
      False
    """

    def is_mask_update_iter(self, step: Any) -> Any:
        """Whether the masks are refreshed at `step` (a boolean, traced if `step` is)."""
        return False

    def get_sparsity_at_step(self, target_sparsities: PyTree, step: Any) -> PyTree:
        """The sparsities at `step`: a tree like the target, or a number if the target is one."""
        return target_sparsities


@dataclasses.dataclass(frozen=True)
class OneShotSchedule(NoUpdateSchedule):
    """Prune once, to the full target.

    Attributes:
      target_step: The step at which to prune.

    Example:
      >>> schedule = OneShotSchedule(target_step=2)
      >>> [schedule.is_mask_update_iter(step) for step in range(4)]
      [False, False, True, False]
    """

    target_step: int

    def is_mask_update_iter(self, step: Any) -> Any:
        """Whether `step` is the target step."""
        return step == self.target_step


@dataclasses.dataclass(frozen=True)
class PeriodicSchedule(NoUpdateSchedule):
    """Refresh at every multiple of `update_freq` within the bounds, at the full target.

    Multiples are absolute: start 2 with frequency 4 updates at 4, 8, 12, ...

    Attributes:
      update_freq: Steps between refreshes, at least 1.
      update_start_step: First step that may refresh.
      update_end_step: Last step that may refresh, inclusive; None means no end.

    Raises:
      ValueError: If `update_freq` is less than 1.

    Example:
      >>> schedule = PeriodicSchedule(update_freq=4, update_start_step=2, update_end_step=8)
      >>> [step for step in range(20) if schedule.is_mask_update_iter(step)]
      [4, 8]
    """

    update_freq: int
    update_start_step: int
    update_end_step: int | None

    def __post_init__(self) -> None:
        check_positive("update_freq", self.update_freq)

    def is_mask_update_iter(self, step: Any) -> Any:
        """Whether the masks are refreshed at `step`; never where `step` is None."""
        if step is None:
            return False
        due = jnp.logical_and(step % self.update_freq == 0, step >= self.update_start_step)
        if self.update_end_step is None:
            return due
        return jnp.logical_and(due, step <= self.update_end_step)


@dataclasses.dataclass(frozen=True)
class PolynomialSchedule(PeriodicSchedule):
    """Grow the sparsity as `t * (1 - (1 - q)**power)`, q the share of the way done.

    `q = clip(step + 1 - start, 0, end - start) / (end - start)`: the step before the end already
    has the full target. If no multiple of `update_freq` falls on `end - 1` or `end`, the target is
    not quite reached. Zhu & Gupta 2017, arXiv:1710.01878, equation 1, from sparsity zero.

    Attributes:
      update_freq: Steps between two refreshes of the masks.
      update_start_step, update_end_step: The first and the last step that may refresh them.
      power: The polynomial's degree; 3 is the cubic schedule of the paper.

    Example:
      >>> schedule = PolynomialSchedule(update_freq=10, update_start_step=0, update_end_step=100)
      >>> [round(float(schedule.get_sparsity_at_step(0.8, step)), 3) for step in (-1, 49, 99)]
      [0.0, 0.7, 0.8]
    """

    power: float = 3

    def get_sparsity_at_step(self, target_sparsities: PyTree, step: Any) -> PyTree:
        """The sparsities at `step`; None leaves stay None."""
        check_schedule(self)
        progress = self._progress(step)
        factor = 1 - (1 - progress) ** self.power
        # XLA computes a scalar anew for every leaf, but a concatenation once.
        factor = jax.lax.optimization_barrier(jnp.array([factor, factor], jnp.float32))[0]
        return jax.tree.map(lambda target: target * factor, target_sparsities)

    def _progress(self, step: Any) -> Any:
        length = self.update_end_step - self.update_start_step  # type: ignore[operator]
        if concrete(length) and length == 0:
            return 1.0
        done = jnp.clip(step + 1 - self.update_start_step, 0, length)
        return done.astype(jnp.float32) / length


def check_schedule(schedule: Any) -> Any:
    """Return the schedule, or raise a ValueError if it ends before it starts."""
    start = getattr(schedule, "update_start_step", None)
    end = getattr(schedule, "update_end_step", None)
    if start is None or end is None or not (concrete(start) and concrete(end)):
        return schedule
    if end < start:
        raise ValueError(
            f"update_end_step: expected update_start_step={start} or later, got {end}."
        )
    return schedule
