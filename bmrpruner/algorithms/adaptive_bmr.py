"""Bayesian model reduction in rounds, which decides how many weights go."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from bmrpruner._checks import check_positive
from bmrpruner._masks import as_plain, pack_tree
from bmrpruner._pooled import pooled
from bmrpruner._scoring import scores_of
from bmrpruner._tree import PyTree, map_leaves
from bmrpruner.algorithms.bmr_pruners import BMRPruning
from bmrpruner.registry import register_algorithm
from bmrpruner.sparse_state import AdaptiveState, Rounds


@register_algorithm("adaptive_bmr")
@dataclasses.dataclass(eq=False)
class AdaptiveBMR(BMRPruning):
    """Prune by the evidence in rounds, between which training refits the posterior.

    In each round a weight (or group) qualifies if ΔF reaches the current log-odds. These relax over
    the schedule from `log_odds` to 0: at first only what the data clearly prefer gone, at the end
    whatever they do not need, ties included. Of those that qualify the ones of largest ΔF go, at
    most `max_share` of what is left: ΔF is exact for one weight at a time, and a bound keeps many
    that look removable one by one from going at once. When nothing qualifies, nothing goes.

    The refit in between matters: a factorised ΔF does not see that two weights do the same work, so
    both look removable until one is gone and the other has been refitted. On a posterior that stays
    as it is, the rounds prune what one pass would.

    The ranking is over the whole network, in nats. `sparsity` is an upper bound; by default there
    is none. There is no `threshold`: `log_odds` is the one that the first round asks for.

    Attributes:
      sparsity: Largest fraction of all groups (or weights) that may ever be pruned; of the cost
        that a `sparsity_types.Group` names.
      custom_sparsity_map: None by key path, to exempt a leaf.
      temperature: Of the evidence, as for `BMRPruning`; by default the posterior's own.
      log_odds: ΔF in nats that the first round asks for.
      max_share: Largest fraction of the remaining groups that one round may prune, in (0, 1]; where
        units go several at once, `Group(multiple=...)`, that many may in any case.
      max_rounds: Room in the record; later rounds prune, but are not recorded.

    Example:
      >>> import optax
      >>> from bmrpruner import PeriodicSchedule, PolynomialSchedule, ivon, noisy_value_and_grad
      >>> x = jax.random.normal(jax.random.key(0), (200, 8))
      >>> loss_fn = lambda params, key: jnp.mean((x @ params - x[:, :1]) ** 2)  # needs one weight
      >>> schedule = PolynomialSchedule(update_freq=20, update_start_step=100, update_end_step=400)
      >>> rate = optax.cosine_decay_schedule(0.3, 500)
      >>> tx = AdaptiveBMR(scheduler=schedule).wrap_optax(
      ...     ivon(rate, ess=200, b2=1 - 6 / 500), mask_updates=True)
      >>> @jax.jit
      ... def step(carry, key):
      ...     params, state = carry
      ...     _, grads, state = noisy_value_and_grad(loss_fn, state, params, key)
      ...     updates, state = tx.update(grads, state, params)
      ...     return (optax.apply_updates(params, updates), state), None
      >>> start, keys = jnp.full((8, 1), 0.1), jax.random.split(jax.random.key(1), 500)
      >>> (params, state), _ = jax.lax.scan(step, (start, tx.init(start)), keys)
      >>> state.masks[:, 0].tolist(), int(state.rounds.done)
      ([1, 0, 0, 0, 0, 0, 0, 0], 16)

    References:
      Marković et al. 2023, https://arxiv.org/abs/2309.12095, section 2.3.
    """

    decides_sparsity: ClassVar[bool] = True
    ranks_groups: ClassVar[bool] = True
    state_type: ClassVar[type] = AdaptiveState
    fixed_scope: ClassVar[str | None] = "global"

    sparsity: float | None = 1.0
    log_odds: float = 5.0
    max_share: float = 0.2
    max_rounds: int = 256

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive("log_odds", self.log_odds, allow_zero=True)
        check_positive("max_share", self.max_share)
        check_positive("max_rounds", self.max_rounds)
        if self.max_share > 1:
            raise ValueError(f"max_share: expected a number in (0, 1], got {self.max_share}.")
        for key, value in (self.custom_sparsity_map or {}).items():
            if value is not None:
                raise ValueError(
                    f"custom_sparsity_map[{key!r}]: expected None, which exempts the leaf, as the "
                    f"evidence decides how sparse the others get; got {value}."
                )

    def init_state(self, params: PyTree) -> AdaptiveState:
        """The state before the first step, with an empty record."""
        # Each its own buffer: one that is donated twice is an error.
        log_odds, nats = (jnp.zeros(self.max_rounds, jnp.float32) for _ in range(2))
        qualified, pruned = (jnp.zeros(self.max_rounds, jnp.int32) for _ in range(2))
        rounds = Rounds(jnp.zeros([], jnp.int32), log_odds, qualified, pruned, nats)
        return AdaptiveState(*super().init_state(params), rounds)

    def update_state(self, sparse_state: Any, params: PyTree, grads: PyTree, **kwargs: Any) -> Any:
        """The state after one round."""
        progress = self.scheduler.get_sparsity_at_step(1.0, sparse_state.count)
        log_odds = jnp.asarray(self.log_odds * (1 - progress), jnp.float32)
        scores = scores_of(self, params, sparse_state, grads, kwargs)
        masks, outcome = self._round(
            scores, sparse_state.masks, sparse_state.target_sparsities, log_odds, self.max_share
        )
        if self.use_packed_masks:
            masks = pack_tree(masks)
        return sparse_state._replace(masks=masks, rounds=_record(sparse_state.rounds, outcome))

    def create_masks(self, scores: PyTree, sparsities: PyTree) -> PyTree:
        """Masks of what stays when everything with ΔF >= 0 goes at once, up to the cap."""
        ones = self.get_initial_masks(scores, sparsities)
        return self._round(scores, ones, sparsities, jnp.zeros([], jnp.float32), 1.0)[0]

    def _round(
        self, scores: PyTree, masks: PyTree, cap: Any, log_odds: jax.Array, max_share: float
    ) -> tuple[PyTree, tuple[jax.Array, ...]]:
        """New masks, and log-odds, qualified, pruned and nats of the round."""
        pool = pooled(self, map_leaves(_left, masks, scores))
        alive = [score > -jnp.inf for score in pool.scores]
        pairs = list(zip(alive, pool.scores, strict=True))
        delta_f = [jnp.where(a, -score, -jnp.inf) for a, score in pairs]
        left = _count(alive)
        qualified = _count([evidence >= log_odds for evidence in delta_f])
        bound = jnp.ceil(max_share * left.astype(jnp.float32)).astype(jnp.int32)
        bound = jnp.maximum(bound, pool.multiple)
        room = jnp.maximum(left - jnp.maximum(pool.fewest(cap), 1), 0)
        kept = pool.best(left - jnp.minimum(jnp.minimum(qualified, bound), room))
        goes = [a & ~keep.astype(bool) for a, keep in zip(alive, kept, strict=True)]
        nats = jnp.zeros([], jnp.float32)
        for gone, evidence in zip(goes, delta_f, strict=True):
            nats += jnp.sum(jnp.where(gone, evidence, 0), dtype=jnp.float32)
        return pool.masks(kept), (log_odds, qualified, _count(goes), nats)


def _left(mask: Any, score: Any) -> Any:
    """A leaf's scores, -inf where it is pruned; None where it is exempt."""
    return None if mask is None else jnp.where(as_plain(mask, score), score, -jnp.inf)


def _count(trues: list[jax.Array]) -> jax.Array:
    return sum((jnp.sum(a, dtype=jnp.int32) for a in trues), start=jnp.zeros([], jnp.int32))


def _record(rounds: Rounds, outcome: tuple[jax.Array, ...]) -> Rounds:
    columns = [
        column.at[rounds.done].set(value.astype(column.dtype), mode="drop")
        for column, value in zip(rounds[1:], outcome, strict=True)
    ]
    return Rounds(rounds.done + 1, *columns)
