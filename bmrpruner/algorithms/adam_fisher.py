"""Saliency by the second moments in the state of Adam."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from bmrpruner._state import find_states, has_fields, replace_states
from bmrpruner._tree import Key, PyTree, is_array, keyed_leaves, map_with_key
from bmrpruner.base_updater import BaseUpdater, SparseState
from bmrpruner.registry import register_algorithm

_has_second_moments = has_fields("nu")


@register_algorithm("adam-fisher")
@dataclasses.dataclass(eq=False)
class AdamBasedFisherPruning(BaseUpdater):
    """Keep the weights of largest w²·v, with Adam's second moment v for the Fisher information.

    The second moment is found wherever the inner optimizer keeps one as `nu`: Adam, AdamW, NAdam,
    RMSProp and their like, in any wrapper.

    Attributes:
      reset_adam: Restart Adam, its step count included, at each mask update.

    Example:
      >>> import optax
      >>> params = {'w': jnp.array([2., 1.])}
      >>> adam = optax.scale_by_adam().init(params)._replace(nu={'w': jnp.array([1., 9.])})
      >>> AdamBasedFisherPruning().calculate_scores(params, opt_state=adam)['w'].tolist()
      [4.0, 9.0]
    """

    needs_training: ClassVar[bool] = True

    reset_adam: bool = False

    def calculate_scores(
        self,
        params: PyTree,
        sparse_state: SparseState | None = None,
        grads: PyTree = None,
        opt_state: Any = None,
    ) -> PyTree:
        """w²·v, with v from the sparse state, or from `opt_state` where there is none.

        Raises:
          ValueError: If a parameter has no second moment.
        """
        states = find_states(
            opt_state if sparse_state is None else sparse_state.inner_state, _has_second_moments
        )
        if not states:
            raise ValueError(
                "opt_state: expected a state with a second moment `nu` in it, got none; wrap Adam "
                "or RMSProp, or hand their state to instant_sparsify as opt_state=."
            )
        moments: dict[Key, Any] = {}
        for state in states:
            moments |= {key: nu for key, nu in keyed_leaves(state.nu) if nu is not None}

        def score(key: Key, param: Any) -> Any:
            moment = moments.get(key) if is_array(param) else None
            return None if moment is None else jnp.abs(param) ** 2 * moment

        return map_with_key(score, params)

    def update_state(
        self, sparse_state: SparseState, params: PyTree, grads: PyTree, **kwargs: Any
    ) -> SparseState:
        """The state with refreshed masks, and Adam restarted if so configured."""
        state = super().update_state(sparse_state, params, grads, **kwargs)
        if not self.reset_adam:
            return state
        inner = replace_states(
            state.inner_state, _has_second_moments, lambda adam: jax.tree.map(jnp.zeros_like, adam)
        )
        return state._replace(inner_state=inner)


def find_adamstate(state: Any) -> Any:
    """The first state in `state` with second moments `nu`, or None.

    Args:
      state: Any optimizer state.

    Returns:
      The state of Adam, RMSProp or the like.

    Example:
      >>> import optax
      >>> type(find_adamstate(optax.adamw(0.1).init(jnp.ones(2)))).__name__
      'ScaleByAdamState'
    """
    return next(iter(find_states(state, _has_second_moments)), None)


def replace_adamstate(state: Any, replacement: Any) -> Any:
    """`state` with `replacement` in the place that `find_adamstate` finds.

    Args:
      state: Any optimizer state.
      replacement: What to put there, of the same structure.

    Returns:
      The optimizer state.

    Raises:
      ValueError: If it finds none.

    Example:
      >>> import optax
      >>> state = optax.adam(0.1).init(jnp.ones(2))
      >>> adam = find_adamstate(state)._replace(count=jnp.array(7))
      >>> int(find_adamstate(replace_adamstate(state, adam)).count)
      7
    """
    found = find_adamstate(state)
    if found is None:
        raise ValueError(
            f"state: expected one with a second moment `nu` in it, got a {type(state).__name__}."
        )
    return replace_states(state, lambda node: node is found, lambda _: replacement)


def add_to_jaxpruner() -> None:
    """Register `adam-fisher`."""
    register_algorithm("adam-fisher", AdamBasedFisherPruning)
