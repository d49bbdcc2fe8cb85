"""A posterior out of an optimizer state."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp

from bmrpruner._checks import check_positive
from bmrpruner._state import find_masks, find_states, has_fields, plain_state
from bmrpruner._tree import Key, PyTree, keyed_leaves, map_with_key
from bmrpruner.posteriors.diagonal_gaussian import DiagonalGaussian

_is_newton = has_fields("hess", "ess", "weight_decay")
_is_second_moment = has_fields("nu")


def from_opt_state(
    opt_state: Any, params: PyTree, ess: float | None = None, weight_decay: float | None = None
) -> DiagonalGaussian:
    """The posterior N(params, 1 / (ess * (h + weight_decay))) that an optimizer keeps.

    Variational optimizers are recognised by their fields `hess`, `ess` and `weight_decay`: IVON
    here, in blrax and in ivon-optax. With `ess` and `weight_decay` given, the second moment `nu` of
    Adam and similar optimizers serves as h: a Laplace approximation by the empirical Fisher
    information of a batch, cruder than IVON. States are found inside the states of wrappers. Given
    a `SparseState`, pruned weights have mean 0 and variance 0.

    Args:
      opt_state: Any optimizer state, such as the `opt_state` of an `nnx.Optimizer`.
      params: The parameters, which are the posterior's mean.
      ess: Effective sample size, for Adam, which knows none: the number of training examples.
      weight_decay: Prior precision over `ess`, for Adam.

    Returns:
      The posterior; precision None where no optimizer keeps one for a leaf.

    Raises:
      ValueError: If no posterior is to be found, or `ess` is missing, or not needed.

    Example:
      >>> from bmrpruner.optimizers import ivon
      >>> params = {'w': jnp.ones(2)}
      >>> state = ivon(0.1, ess=25, hess_init=0.5, weight_decay=0.5).init(params)
      >>> from_opt_state(state, params).std['w']
      Array([0.2, 0.2], dtype=float32)

    References:
      Shen et al. 2024, https://arxiv.org/abs/2402.17641
    """
    opt_state = plain_state(opt_state)
    precision: dict[Key, Any] = {}
    prior: dict[Key, Any] = {}
    for hess, size, decay in _sources(opt_state, ess, weight_decay):
        prior_precision = jnp.asarray(size * decay)
        for key, h in keyed_leaves(hess):
            if h is not None:
                precision[key] = size * (h + decay)
                prior[key] = prior_precision
    posterior = DiagonalGaussian(
        params,
        map_with_key(lambda key, _: precision.get(key), params),
        map_with_key(lambda key, _: prior.get(key), params),
    )
    masks = find_masks(opt_state, params)
    return posterior.prune(masks) if jax.tree.leaves(masks) else posterior


def _sources(opt_state: Any, ess: Any, weight_decay: Any) -> Iterator[tuple[PyTree, Any, Any]]:
    """Trees of h, each with its ess and weight decay."""
    variational = find_states(opt_state, _is_newton)
    moments = find_states(opt_state, _is_second_moment)
    if variational:
        if ess is not None or weight_decay is not None:
            raise ValueError(
                "ess, weight_decay: expected none beside an optimizer state that holds its own, "
                f"got {ess} and {weight_decay}; leave them out."
            )
        yield from ((state.hess, state.ess, state.weight_decay) for state in variational)
    elif not moments:
        raise ValueError(
            "opt_state: expected the state of bmrpruner.ivon somewhere in it, or of Adam or a "
            "similar optimizer together with ess and weight_decay, got "
            f"{type(opt_state).__name__}. A posterior from elsewhere is given as `posterior=`."
        )
    elif ess is None or weight_decay is None:
        raise ValueError(
            "ess, weight_decay: expected both for the second moments in opt_state, got "
            f"{ess} and {weight_decay}; give them to posteriors.from_opt_state, or train with "
            "bmrpruner.ivon."
        )
    else:
        check_positive("ess", ess)
        check_positive("weight_decay", weight_decay)
        yield from ((state.nu, ess, weight_decay) for state in moments)
