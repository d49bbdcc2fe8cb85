"""A posterior out of an optimizer state."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from bmrpruner._state import find_masks, find_states, has_fields
from bmrpruner._tree import Key, PyTree, keyed_leaves, map_with_key
from bmrpruner.posteriors.diagonal_gaussian import DiagonalGaussian

_IS_NEWTON = has_fields("hess", "ess", "weight_decay")

PROVIDERS = "bmrpruner.ivon (anywhere inside chain, masked, partition, MultiSteps, ...)"


def from_opt_state(opt_state: Any, params: PyTree) -> DiagonalGaussian:
    """The posterior N(params, 1 / (ess * (hess + weight_decay))) of a variational optimizer.

    States are recognised by their fields `hess`, `ess` and `weight_decay`, wherever they sit.
    Given a `SparseState`, pruned weights have mean 0 and variance 0.

    Args:
      opt_state: Any optimizer state.
      params: The parameters, which are the posterior's mean.

    Returns:
      The posterior; precision None where no optimizer keeps one for a leaf.

    Raises:
      ValueError: If no posterior is to be found.

    Example:
      >>> from bmrpruner.optimizers import ivon
      >>> params = {'w': jnp.ones(2)}
      >>> state = ivon(0.1, ess=25, hess_init=0.5, weight_decay=0.5).init(params)
      >>> from_opt_state(state, params).std['w']
      Array([0.2, 0.2], dtype=float32)

    References:
      Shen et al. 2024, https://arxiv.org/abs/2402.17641
    """
    states = find_states(opt_state, _IS_NEWTON)
    if not states:
        raise ValueError(
            f"No posterior found in a state of type {type(opt_state).__name__}. Optimizers that "
            f"provide one: {PROVIDERS}. A posterior from elsewhere is given as `posterior=`."
        )
    precision: dict[Key, Any] = {}
    prior: dict[Key, Any] = {}
    for state in states:
        prior_precision = jnp.asarray(state.ess * state.weight_decay)
        for key, hess in keyed_leaves(state.hess):
            if hess is not None:
                precision[key] = state.ess * (hess + state.weight_decay)
                prior[key] = prior_precision
    posterior = DiagonalGaussian(
        params,
        map_with_key(lambda key, _: precision.get(key), params),
        map_with_key(lambda key, _: prior.get(key), params),
    )
    masks = find_masks(opt_state, params)
    return posterior.prune(masks) if jax.tree.leaves(masks) else posterior
