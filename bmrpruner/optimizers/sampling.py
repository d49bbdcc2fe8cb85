"""Draws and standard deviations of the posterior that an IVON state holds."""

from __future__ import annotations

from typing import Any

import jax
import optax

from bmrpruner._state import find_states, has_fields, plain_state
from bmrpruner._tree import PyTree, is_array, map_leaves
from bmrpruner.posteriors.opt_state import from_opt_state

is_ivon = has_fields("hess", "hess_sum", "hess_count")


def get_scale(state: Any) -> PyTree:
    """Posterior standard deviations σ = 1/√(N(h + δ)); zero where a weight is pruned.

    Args:
      state: Any optimizer state with a `ScaleByIvonState` in it.

    Returns:
      A tree like the parameters, float32 at least. For the state of an `nnx.Optimizer` it holds
      arrays and no Variables.

    Raises:
      ValueError: If the state holds no IVON state.

    Example:
      >>> from bmrpruner.optimizers import ivon
      >>> get_scale(ivon(0.1, ess=25, hess_init=0.5, weight_decay=0.5).init(jax.numpy.zeros(2)))
      Array([0.2, 0.2], dtype=float32)
    """
    state = plain_state(state)
    hessians = [s.hess for s in ivon_states(state)]
    # Under optax.partition every IVON state has placeholders for the leaves of the others.
    merged = jax.tree.map(
        lambda *leaves: next((x for x in leaves if not _is_absent(x)), None),
        *hessians,
        is_leaf=_is_absent,
    )
    return from_opt_state(state, merged).std


def sample_posterior(
    key: jax.Array, params: PyTree, state: Any, shape: tuple[int, ...] = (), mask: PyTree = None
) -> tuple[PyTree, PyTree]:
    """Draw weights from IVON's posterior N(params, σ²).

    Args:
      key: JAX key.
      params: The posterior's mean.
      state: Any optimizer state with a `ScaleByIvonState` in it, such as the `opt_state` of an
        `nnx.Optimizer`.
      shape: Leading axes of draws.
      mask: Masks to use in place of the state's; see `noisy_value_and_grad`.

    Returns:
      The draws, and the noise `draws - params`. A pruned weight is zero in every draw.

    Raises:
      ValueError: If the state holds no IVON state.

    Example:
      >>> from bmrpruner.optimizers import ivon
      >>> params = jax.numpy.zeros(2)
      >>> draws, noise = sample_posterior(
      ...     jax.random.key(0), params, ivon(0.1, ess=100).init(params), shape=(5,))
      >>> draws.shape
      (5, 2)
    """
    state = plain_state(state)
    states = ivon_states(state)
    posterior = from_opt_state(states if mask is not None else state, params)
    if mask is not None:
        posterior = posterior.prune(mask)
    draws = posterior.sample(key, shape)
    noise = map_leaves(lambda d, m: d - m if is_array(d) else None, draws, posterior.mean)
    return draws, noise


def ivon_states(opt_state: Any) -> list[Any]:
    """The IVON states in `opt_state`; a ValueError if there are none."""
    states = find_states(opt_state, is_ivon)
    if not states:
        raise ValueError(
            f"opt_state: expected an IVON state somewhere in it, got {type(opt_state).__name__}; "
            "build the optimizer with bmrpruner.ivon, or take plain gradients with "
            "jax.value_and_grad."
        )
    return states


def _is_absent(node: Any) -> bool:
    return isinstance(node, optax.MaskedNode)
