"""What a wrapped optimizer keeps: masks beside the state of the inner one."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from bmrpruner._masks import unpack
from bmrpruner._sharding import sharded_like
from bmrpruner._tree import PyTree

__all__ = ["AdaptiveState", "Rounds", "SparseState", "apply_mask"]


class SparseState(NamedTuple):
    """State of a wrapped optimizer.

    Attributes:
      masks: A tree like the parameters: uint8 of the parameter's shape (1 keep, 0 pruned), or of
        shape `(ceil(size / 8),)` when packed; None where a leaf is exempt.
      inner_state: The state of the wrapped optimizer.
      target_sparsities: float32 scalars and Nones in a tree like the parameters; one scalar where
        the whole network is ranked together.
      count: int32 scalar, the steps taken.

    Example:
      >>> import optax
      >>> from bmrpruner import MagnitudePruning
      >>> tx = MagnitudePruning(sparsity=0.5).wrap_optax(optax.sgd(0.1))
      >>> state = tx.init({'kernel': jnp.ones((2, 2)), 'bias': jnp.ones(2)})
      >>> state.masks['kernel'].tolist(), state.masks['bias'], int(state.count)
      ([[1, 1], [1, 1]], None, 0)
    """

    masks: PyTree
    inner_state: Any = None
    target_sparsities: PyTree = None
    count: Any = None


class Rounds(NamedTuple):
    """What each round found and did; entries of rounds to come are zero.

    Attributes:
      done: How many rounds there were.
      log_odds: ΔF that a group needed to qualify, nats.
      qualified: Groups that reached it.
      pruned: Groups that went.
      nats: Their ΔF in sum: the log evidence gained, were they independent.

    Example:
      >>> from bmrpruner import AdaptiveBMR, DiagonalGaussian
      >>> posterior = DiagonalGaussian(jnp.array([[2., 0.1]]), jnp.array([[9., 9.]]))
      >>> pruner = AdaptiveBMR(log_odds=1.0)
      >>> state = pruner.init_state(posterior.mean)
      >>> rounds = pruner.update_state(state, posterior.mean, None, posterior=posterior).rounds
      >>> int(rounds.done), int(rounds.pruned[0])
      (1, 1)
    """

    done: jax.Array  # () int32
    log_odds: jax.Array  # (max_rounds,) float32
    qualified: jax.Array  # (max_rounds,) int32
    pruned: jax.Array  # (max_rounds,) int32
    nats: jax.Array  # (max_rounds,) float32

    def to_dict(self) -> dict[str, list[float]]:
        """The rounds there were, as lists, for a JSON file or `study.draw_rounds`.

        Example:
          >>> from bmrpruner import AdaptiveBMR
          >>> AdaptiveBMR().init_state(jnp.ones((2, 2))).rounds.to_dict()['pruned']
          []
        """
        columns = jax.device_get(self[1:])
        return {
            name: column[: int(self.done)].tolist()
            for name, column in zip(self._fields[1:], columns, strict=True)
        }


class AdaptiveState(NamedTuple):
    """A `SparseState` with the record of its rounds.

    Attributes:
      masks: As in `SparseState`.
      inner_state: As in `SparseState`.
      target_sparsities: float32 scalar, the largest fraction that may be pruned.
      count: As in `SparseState`.
      rounds: `Rounds`.

    Example:
      >>> from bmrpruner import AdaptiveBMR
      >>> state = AdaptiveBMR(sparsity=0.9).init_state(jnp.ones((2, 2)))
      >>> round(float(state.target_sparsities), 3), int(state.rounds.done)
      (0.9, 0)
    """

    masks: PyTree
    inner_state: Any = None
    target_sparsities: PyTree = None
    count: Any = None
    rounds: Any = None


@functools.partial(jax.jit, static_argnames=("is_packed",))
def apply_mask(param: Any, mask: Any, is_packed: bool = False) -> Any:
    """The parameter with zeros where its mask is zero.

    Args:
      param: Array.
      mask: uint8 of the same shape, or its packed bits; None leaves the parameter as it is.
      is_packed: Whether the mask is packed. Static.

    Returns:
      Array of the parameter's shape and dtype. NaN and infinities do not survive a zero mask.

    Example:
      >>> apply_mask(jnp.array([1., jnp.nan, 3.]), jnp.array([1, 0, 0], 'uint8'))
      Array([1., 0., 0.], dtype=float32)
    """
    if mask is None:
        return param
    if is_packed:
        mask = sharded_like(unpack(mask, jnp.shape(param)), param)
    return jnp.where(mask, param, jnp.zeros_like(param))
