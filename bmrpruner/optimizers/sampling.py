"""Gradients at weights drawn from the posterior that an IVON state holds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from bmrpruner import _noise
from bmrpruner._masks import mask_tree, plain_tree
from bmrpruner._state import find_masks, find_states, has_fields, replace_states
from bmrpruner._tree import Key, PyTree, is_array, keyed_leaves, map_leaves, map_with_key
from bmrpruner.posteriors.opt_state import from_opt_state

_is_ivon = has_fields("hess", "hess_sum", "hess_count")


def noisy_value_and_grad(
    loss_fn: Callable[..., Any],
    opt_state: Any,
    params: PyTree,
    key: jax.Array,
    *args: Any,
    mc_samples: int = 1,
    mask: PyTree = None,
    method: str = "sequential",
    estimator: str = "sampling",
    has_aux: bool = False,
) -> tuple[Any, PyTree, Any]:
    """Value and gradient of the loss, averaged over weights drawn from IVON's posterior.

    Draws θ = μ + σε, averages ∇ℓ(θ), and leaves an estimate ĥ of the Hessian diagonal in the
    optimizer state for the next update: ∇ℓ(θ)·(θ - μ)/σ², or u∘(∇²ℓ(μ) u) with u of random signs.
    Called several times before an update (gradient accumulation), it averages the estimates.

    A pruned weight is zero in every draw, and has no gradient and no momentum.

    Args:
      loss_fn: `loss_fn(params, *args, key)`, a scalar averaged over the batch; with `has_aux`, a
        pair of it and anything.
      opt_state: Any optimizer state with a `ScaleByIvonState` in it. Masks are taken from a
        `SparseState` in it.
      params: The posterior's mean; any pytree. Leaves that are not floating-point arrays are
        passed through and get a gradient of None.
      key: JAX key, for the noise and for the keys that `loss_fn` sees.
      *args: Passed on to `loss_fn`.
      mc_samples: How many draws to average over.
      mask: Masks to use in place of the state's: a tree like `params`, None where exempt, leaves
        packed or plain.
      method: `'sequential'`, one draw after the other, or `'parallel'`, all at once.
      estimator: `'sampling'`, free with the gradient, or `'hutchinson'`, a Hessian-vector product
        at the mean, less noisy.
      has_aux: Whether `loss_fn` returns a pair.

    Returns:
      The value, the gradients, and the optimizer state. With `has_aux` the first is a pair of the
      value and the auxiliary output, averaged over draws (where not floating-point, the last).

    Raises:
      ValueError: If the state holds no IVON state, or an option is unknown.

    Example:
      >>> from bmrpruner.optimizers import ivon
      >>> loss_fn = lambda params, x, key: jnp.mean((x @ params) ** 2)
      >>> tx, params, x = ivon(0.1, ess=100), jnp.ones(3), jnp.eye(3)
      >>> value, grads, state = noisy_value_and_grad(
      ...     loss_fn, tx.init(params), params, jax.random.key(0), x, mc_samples=4)
      >>> grads.shape
      (3,)

    References:
      Shen et al. 2024, https://arxiv.org/abs/2402.17641, algorithm 1 and section 3.
    """
    _check_options(mc_samples, method, estimator)
    states = _ivon_states(opt_state)
    masks = find_masks(opt_state, params) if mask is None else plain_tree(mask, params)
    free, fixed = _split(mask_tree(params, masks))
    posterior = from_opt_state(states, free)
    scale = mask_tree(posterior.std, masks)

    def loss(theta: PyTree, loss_key: jax.Array) -> Any:
        return loss_fn(_merge(theta, fixed), *args, loss_key)

    def mean_loss(mean: PyTree, loss_key: jax.Array) -> Any:
        return loss(mean, loss_key)[0] if has_aux else loss(mean, loss_key)

    def draw(draw_key: jax.Array) -> tuple[Any, PyTree, PyTree]:
        noise_key, sign_key, loss_key = jax.random.split(draw_key, 3)
        noise = _scaled_noise(noise_key, free, scale)
        theta = map_leaves(_shift, free, noise)
        value, grads = jax.value_and_grad(loss, has_aux=has_aux)(theta, loss_key)
        if estimator == "sampling":
            hess = map_leaves(_curvature, free, grads, noise, posterior.precision)
        else:
            signs = mask_tree(_noise.rademacher_like(sign_key, free), masks)
            hess = _signed_curvature(jax.grad(mean_loss), free, signs, loss_key, _due(states))
        return value, mask_tree(grads, masks), hess

    value, grads, hess = _average(draw, jax.random.split(key, mc_samples), method)
    recorded = 1 if estimator == "sampling" else _due(states).astype(jnp.int32)
    return value, grads, _record(opt_state, hess, masks, recorded)


def get_scale(state: Any) -> PyTree:
    """Posterior standard deviations σ = 1/√(N(h + δ)); zero where a weight is pruned.

    Args:
      state: Any optimizer state with a `ScaleByIvonState` in it.

    Returns:
      A tree like the parameters, float32 at least.

    Raises:
      ValueError: If the state holds no IVON state.

    Example:
      >>> from bmrpruner.optimizers import ivon
      >>> get_scale(ivon(0.1, ess=25, hess_init=0.5, weight_decay=0.5).init(jnp.zeros(2)))
      Array([0.2, 0.2], dtype=float32)
    """
    hessians = [s.hess for s in _ivon_states(state)]
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
      state: Any optimizer state with a `ScaleByIvonState` in it.
      shape: Leading axes of draws.
      mask: Masks to use in place of the state's; see `noisy_value_and_grad`.

    Returns:
      The draws, and the noise `draws - params`. A pruned weight is zero in every draw.

    Raises:
      ValueError: If the state holds no IVON state.

    Example:
      >>> from bmrpruner.optimizers import ivon
      >>> params = jnp.zeros(2)
      >>> draws, noise = sample_posterior(
      ...     jax.random.key(0), params, ivon(0.1, ess=100).init(params), shape=(5,))
      >>> draws.shape
      (5, 2)
    """
    states = _ivon_states(state)
    posterior = from_opt_state(states if mask is not None else state, params)
    if mask is not None:
        posterior = posterior.prune(mask)
    draws = posterior.sample(key, shape)
    noise = map_leaves(lambda d, m: d - m if is_array(d) else None, draws, posterior.mean)
    return draws, noise


def _is_absent(node: Any) -> bool:
    return isinstance(node, optax.MaskedNode)


def _ivon_states(opt_state: Any) -> list[Any]:
    states = find_states(opt_state, _is_ivon)
    if not states:
        raise ValueError(
            f"opt_state: no IVON state in a {type(opt_state).__name__}; build the optimizer with "
            "bmrpruner.ivon, or take plain gradients with jax.value_and_grad."
        )
    return states


def _check_options(mc_samples: int, method: str, estimator: str) -> None:
    if not isinstance(mc_samples, int) or mc_samples < 1:
        raise ValueError(f"mc_samples: expected an integer >= 1, got {mc_samples!r}.")
    if method not in ("sequential", "parallel"):
        raise ValueError(f"method: expected 'sequential' or 'parallel', got {method!r}.")
    if estimator not in ("sampling", "hutchinson"):
        raise ValueError(f"estimator: expected 'sampling' or 'hutchinson', got {estimator!r}.")


def _split(params: PyTree) -> tuple[PyTree, PyTree]:
    """The leaves to differentiate and the rest, each with None in place of the other."""

    def is_free(leaf: Any) -> bool:
        return is_array(leaf) and jnp.issubdtype(leaf.dtype, jnp.inexact)

    free = map_leaves(lambda leaf: leaf if is_free(leaf) else None, params)
    return free, map_leaves(lambda leaf: None if is_free(leaf) else leaf, params)


def _merge(free: PyTree, fixed: PyTree) -> PyTree:
    return map_leaves(lambda a, b: b if a is None else a, free, fixed)


def _scaled_noise(key: jax.Array, mean: PyTree, scale: PyTree) -> PyTree:
    return map_leaves(
        lambda e, s: None if e is None or s is None else e * s, _noise.normal_like(key, mean), scale
    )


def _shift(mean: Any, noise: Any) -> Any:
    return mean if mean is None or noise is None else (mean + noise).astype(mean.dtype)


def _curvature(mean: Any, grad: Any, noise: Any, precision: Any) -> Any:
    return None if noise is None else grad * noise * precision


def _due(states: list[Any]) -> jax.Array:
    """Whether the next update of any of the states will refresh its Hessian."""
    return jnp.any(jnp.stack([s.count % s.hess_every == 0 for s in states]))


def _signed_curvature(
    grad_fn: Callable[..., PyTree], mean: PyTree, signs: PyTree, key: jax.Array, due: jax.Array
) -> PyTree:
    """u∘(∇²ℓ(μ) u), or zeros when no update is due to use it."""

    def estimate() -> PyTree:
        products = jax.jvp(lambda m: grad_fn(m, key), (mean,), (signs,))[1]
        return jax.tree.map(
            lambda u, hu: (u * hu).astype(jnp.promote_types(u.dtype, jnp.float32)), signs, products
        )

    shapes = jax.eval_shape(estimate)
    zeros = lambda: jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)  # noqa: E731
    return jax.lax.cond(due, estimate, zeros)


def _average(draw: Callable[[jax.Array], Any], keys: jax.Array, method: str) -> Any:
    """The mean of `draw(key)` over the keys; of what is not floating-point, the last."""
    samples = keys.shape[0]
    if samples == 1:
        return draw(keys[0])

    def is_mean(x: Any) -> bool:
        return jnp.issubdtype(x.dtype, jnp.inexact)

    if method == "parallel":
        outs = jax.vmap(draw)(keys)
        return jax.tree.map(lambda x: jnp.mean(x, 0) if is_mean(x) else x[-1], outs)

    def add(total: Any, key: jax.Array) -> tuple[Any, None]:
        out = draw(key)
        return jax.tree.map(lambda t, x: t + x / samples if is_mean(x) else x, total, out), None

    zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), jax.eval_shape(draw, keys[0]))
    return jax.lax.scan(add, zeros, keys)[0]


def _record(opt_state: Any, estimates: PyTree, masks: PyTree, recorded: Any) -> Any:
    """`opt_state` with one more estimate in each IVON state, and no momentum where pruned.

    A pruned weight has no evidence: its estimate is what is known, and leaves h as it is.
    """
    estimate_of: dict[Key, Any] = dict(keyed_leaves(estimates))
    mask_of: dict[Key, Any] = dict(keyed_leaves(masks))

    def record(state: Any) -> Any:
        def accumulate(key: Key, total: Any, hess: Any) -> Any:
            if hess is None:
                return None
            new = estimate_of[key]
            if mask_of[key] is not None:
                new = jnp.where(mask_of[key], new, hess)
            return jnp.where(state.hess_count > 0, total + recorded * new, new).astype(total.dtype)

        def silence(key: Key, momentum: Any) -> Any:
            mask = None if momentum is None else mask_of[key]
            return momentum if mask is None else jnp.where(mask, momentum, 0)

        return state._replace(
            momentum=map_with_key(silence, state.momentum),
            hess_sum=map_with_key(accumulate, state.hess_sum, state.hess),
            hess_count=state.hess_count + recorded,
        )

    return replace_states(opt_state, _is_ivon, record)
