"""AC/DC: alternate between training the sparse network and the dense one."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from bmrpruner._state import restart_accumulators
from bmrpruner._tree import PyTree, map_arrays
from bmrpruner.algorithms.pruners import MagnitudePruning
from bmrpruner.base_updater import SparseState
from bmrpruner.registry import register_algorithm


@dataclasses.dataclass(frozen=True)
class AlternatingSchedule:
    """Dense at first, then sparse and dense in turn, sparse at last.

    Attributes:
      init_dense_steps_end: First step that may be sparse.
      final_sparse_steps_start: First step of the last sparse phase.
      cycle_sparse_steps: Steps of a sparse phase; it comes first in a cycle.
      cycle_dense_steps: Steps of a dense phase.

    Example:
      >>> schedule = AlternatingSchedule(2, 7, 2, 1)
      >>> [int(schedule.is_sparse(step)) for step in range(9)]
      [0, 0, 1, 1, 0, 1, 1, 1, 1]
    """

    init_dense_steps_end: int
    final_sparse_steps_start: int
    cycle_sparse_steps: int
    cycle_dense_steps: int

    def is_sparse(self, step: Any) -> Any:
        """Whether `step` belongs to a sparse phase."""
        cycle = self.cycle_sparse_steps + self.cycle_dense_steps
        since = jnp.asarray(step) - self.init_dense_steps_end
        alternating = (since >= 0) & (since % max(cycle, 1) < self.cycle_sparse_steps)
        return alternating | (step >= self.final_sparse_steps_start)

    def is_mask_update_iter(self, step: Any) -> Any:
        """Whether a phase begins at `step`; before the first, the masks are dense."""
        return self.is_sparse(step) != ((step > 0) & self.is_sparse(step - 1))

    def get_sparsity_at_step(self, target_sparsities: PyTree, step: Any) -> PyTree:
        """The targets in a sparse phase, zero in a dense one."""
        is_sparse = self.is_sparse(step)
        return jax.tree.map(lambda target: jnp.where(is_sparse, target, 0.0), target_sparsities)


@register_algorithm("acdc")
@dataclasses.dataclass(eq=False)
class ACDC(MagnitudePruning):
    """Alternating compressed and decompressed training.

    The masks are those of largest magnitude in a sparse phase, and all ones in a dense one. The
    phases are the schedule; a `scheduler` that is given is ignored.

    Attributes:
      init_dense_steps_end: First step that may be sparse.
      final_sparse_steps_start: First step of the last sparse phase.
      cycle_sparse_steps: Steps of a sparse phase; it comes first in a cycle.
      cycle_dense_steps: Steps of a dense phase.
      reset_optimizer: Restart the accumulators of the inner optimizer where a phase begins.

    Example:
      >>> pruner = ACDC(sparsity=0.5, init_dense_steps_end=1, final_sparse_steps_start=4,
      ...               cycle_sparse_steps=2, cycle_dense_steps=1)
      >>> state = pruner.init_state(jnp.ones((2, 2)))
      >>> pruner.update_state(state._replace(count=1), jnp.ones((2, 2)), None).masks.tolist()
      [[1, 1], [0, 0]]

    References:
      Peste et al. 2021, https://arxiv.org/abs/2106.12379, algorithm 1.
    """

    init_dense_steps_end: int = 0
    final_sparse_steps_start: int = 0
    cycle_sparse_steps: int = 0
    cycle_dense_steps: int = 0
    reset_optimizer: bool = False

    @property  # type: ignore[misc]
    def scheduler(self) -> AlternatingSchedule:
        """The phases, as the fields have them now."""
        return AlternatingSchedule(
            self.init_dense_steps_end,
            self.final_sparse_steps_start,
            self.cycle_sparse_steps,
            self.cycle_dense_steps,
        )

    @scheduler.setter
    def scheduler(self, scheduler: Any) -> None:
        """Ignore the schedule: the fields give the phases."""

    def update_state(
        self, sparse_state: SparseState, params: PyTree, grads: PyTree, **kwargs: Any
    ) -> SparseState:
        """The state with the masks of the phase that begins."""
        state = super().update_state(sparse_state, params, grads, **kwargs)
        if not self.reset_optimizer:
            return state
        everywhere = map_arrays(lambda param: jnp.ones(param.shape, bool), params)
        return state._replace(inner_state=restart_accumulators(state.inner_state, everywhere))


def add_to_jaxpruner() -> None:
    """Register `acdc`."""
    register_algorithm("acdc", ACDC)
