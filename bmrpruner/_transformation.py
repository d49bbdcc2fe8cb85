"""The step of a wrapped optimizer."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from bmrpruner._belonging import check_state
from bmrpruner._checks import accepted
from bmrpruner._masks import as_plain, mask_tree
from bmrpruner._tree import PyTree, map_leaves


def pruning_transformation(
    updater: Any, inner: optax.GradientTransformation, masks_updates: bool
) -> optax.GradientTransformationExtraArgs:
    """The inner optimizer's steps, with the updater's masks in the state; see `wrap_optax`."""
    inner = optax.with_extra_args_support(inner)

    def init_fn(params: PyTree) -> Any:
        return updater.init_state(params)._replace(inner_state=inner.init(params))

    def update_fn(
        updates: PyTree, state: Any, params: PyTree = None, **extra_args: Any
    ) -> tuple[PyTree, Any]:
        if params is None:
            raise ValueError("params: expected those of the wrapped optimizer, got None.")
        check_state(updater, state, params)
        due = updater.scheduler.is_mask_update_iter(state.count)
        refreshed = _if_due(
            due,
            lambda: updater.update_state(
                state, params, updates, **accepted(updater.update_state, extra_args)
            ),
            state,
        )
        if updater.is_sparse_gradients:
            updates = mask_tree(updates, refreshed.masks)
        emitted, inner_state = inner.update(updates, refreshed.inner_state, params, **extra_args)
        if updater.skip_gradients:
            zeros = jax.tree.map(jnp.zeros_like, emitted)
            emitted = _select(due, zeros, emitted)
            inner_state = _select(due, refreshed.inner_state, inner_state)
        if masks_updates:
            emitted = _cancel_pruned(emitted, params, refreshed.masks)
        count = optax.safe_increment(state.count)
        return emitted, refreshed._replace(inner_state=inner_state, count=count)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def _if_due(due: Any, refresh: Callable[[], Any], state: Any) -> Any:
    """`refresh()` if due, else `state`; decided here and now where `due` is a known value."""
    if isinstance(due, jax.core.Tracer):
        return jax.lax.cond(due, refresh, lambda: state)
    return refresh() if due else state


def _select(condition: Any, on_true: PyTree, on_false: PyTree) -> PyTree:
    if not isinstance(condition, jax.core.Tracer):
        return on_true if condition else on_false
    return jax.tree.map(functools.partial(jnp.where, condition), on_true, on_false)


def _cancel_pruned(updates: PyTree, params: PyTree, masks: PyTree) -> PyTree:
    """The updates, with minus the parameter where it is pruned.

    A lower-precision update is widened to the parameter's dtype, or the sum would not be zero.
    """

    def cancel(param: Any, mask: Any, update: Any) -> Any:
        if param is None or mask is None or update is None:
            return update
        wide = jnp.promote_types(jnp.result_type(param), jnp.result_type(update))
        return jnp.where(as_plain(mask, param), update.astype(wide), -jnp.asarray(param, wide))

    return map_leaves(cancel, params, masks, updates)
