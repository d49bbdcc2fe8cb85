"""Gradients at weights drawn from the posterior that an IVON state holds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from bmrpruner import _noise
from bmrpruner._masks import mask_tree, plain_tree
from bmrpruner._state import find_masks, plain_state, replace_states, state_like
from bmrpruner._tree import Key, PyTree, is_array, keyed_leaves, map_leaves, map_with_key
from bmrpruner.optimizers._averages import mean_over_draws, mean_over_replicas, per_replica
from bmrpruner.optimizers.sampling import is_ivon, ivon_states
from bmrpruner.posteriors.opt_state import from_opt_state


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
    axis_name: Any = None,
) -> tuple[Any, PyTree, Any]:
    """Value and gradient of the loss, averaged over weights drawn from IVON's posterior.

    Draws θ = μ + σε, averages ∇ℓ(θ), and leaves an estimate ĥ of the Hessian diagonal in the
    optimizer state for the next update: ∇ℓ(θ)·(θ - μ)/σ², or u∘(∇²ℓ(μ) u) with u of random signs.
    Called several times before an update (gradient accumulation), it averages the estimates.

    A pruned weight is zero in every draw, and has no gradient and no momentum.

    Where a gradient or an estimate is NaN or infinite, in any leaf, nothing is added to the
    estimates in the state. `optax.apply_if_finite` and `optax.MultiSteps` with
    `should_skip_update_fn=optax.skip_not_finite` skip the same steps, and training goes on as if
    there had been no such batch. A finite estimate whose step is skipped stays in the state and
    counts at the next update: the parameters have not moved, and it is an estimate at the same
    point.

    Replicas (`pmap`, `shard_map`, `vmap` with `axis_name`), each with its part of the batch and the
    same parameters and optimizer state: with `axis_name` all of them get the same value, gradients
    and state, and stay equal. Average nothing yourself. Replicas with the same key draw the same
    weights and take the step that one device takes with the whole batch; with keys of their own,
    `jax.random.fold_in(key, jax.lax.axis_index(axis_name))`, they average over as many draws.

    `nnx.Optimizer`: `optimizer.opt_state` is taken as it is, and the state that is returned has
    Variables in the same places.

    Args:
      loss_fn: `loss_fn(params, *args, key)`, a scalar averaged over the batch; with `has_aux`, a
        pair of it and anything.
      opt_state: Any optimizer state with a `ScaleByIvonState` in it. Masks are taken from a
        `SparseState` in it.
      params: The posterior's mean; any pytree. Leaves that are not floating-point arrays are
        passed through; the gradient of integers and booleans is zero in their dtype, of what is no
        array None.
      key: JAX key, for the noise and for the keys that `loss_fn` sees.
      *args: Passed on to `loss_fn`.
      mc_samples: How many draws to average over.
      mask: Masks to use in place of the state's: a tree like `params`, None where exempt, leaves
        packed or plain.
      method: `'sequential'`, one draw after the other, or `'parallel'`, all at once.
      estimator: `'sampling'`, free with the gradient, or `'hutchinson'`, a Hessian-vector product
        at the mean, less noisy.
      has_aux: Whether `loss_fn` returns a pair.
      axis_name: Name (or names) of the mapped axes of replicas to average over.

    Returns:
      The value, the gradients, and the optimizer state. With `has_aux` the first is a pair of the
      value and the auxiliary output: floating-point arrays and Python floats are averaged over
      draws and replicas; of everything else it is the last draw's, each replica's own.

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

      A step of replicas, here under `vmap`; `pmap` and `shard_map(check_vma=False)` take the same:

      >>> def step(params, state, key, x):
      ...     key = jax.random.fold_in(key, jax.lax.axis_index('batch'))
      ...     _, grads, state = noisy_value_and_grad(
      ...         loss_fn, state, params, key, x, axis_name='batch')
      ...     updates, state = tx.update(grads, state, params)
      ...     return params + updates, state
      >>> replicas = jax.vmap(step, (None, None, None, 0), axis_name='batch')
      >>> moved, _ = replicas(params, tx.init(params), jax.random.key(0), x.reshape(3, 1, 3))
      >>> bool(jnp.all(moved == moved[0]))
      True

      With Flax NNX, inside or outside of `nnx.jit`:

      >>> from flax import nnx
      >>> model = nnx.Linear(3, 1, rngs=nnx.Rngs(0))
      >>> optimizer = nnx.Optimizer(model, ivon(0.1, ess=100), wrt=nnx.Param)
      >>> graph, params = nnx.split(model, nnx.Param)
      >>> loss_fn = lambda params, x, key: jnp.mean(nnx.merge(graph, params)(x) ** 2)
      >>> _, grads, optimizer.opt_state = noisy_value_and_grad(
      ...     loss_fn, optimizer.opt_state, params, jax.random.key(0), x)
      >>> _ = optimizer.update(model, grads)

    References:
      Shen et al. 2024, https://arxiv.org/abs/2402.17641, algorithm 1 and section 3.
    """
    _check_options(mc_samples, method, estimator)
    plain = plain_state(opt_state)
    states = ivon_states(plain)
    masks = find_masks(plain, params) if mask is None else plain_tree(mask, params)
    free, fixed = _split(mask_tree(params, masks))
    free, key = per_replica((free, key), axis_name)
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
        grads = mask_tree(grads, masks)
        if estimator == "sampling":
            return value, grads, map_leaves(_curvature, free, grads, noise, posterior.precision)
        signs = mask_tree(_noise.rademacher_like(sign_key, free), masks)
        hess = _signed_curvature(jax.grad(mean_loss), free, signs, loss_key, _due(states))
        return value, grads, mask_tree(hess, masks)

    keys = jax.random.split(key, mc_samples)
    means = mean_over_draws(draw, keys, method, axis_name)
    value, grads, hess = mean_over_replicas(means, axis_name)
    recorded = _all_finite((grads, hess))
    if estimator == "hutchinson":
        recorded &= _due(states)
    recorded_state = _record(plain, hess, masks, recorded)
    return value, map_leaves(_zero_if_integer, grads, params), state_like(recorded_state, opt_state)


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


def _zero_if_integer(grad: Any, param: Any) -> Any:
    if is_array(param) and any(jnp.issubdtype(param.dtype, kind) for kind in (jnp.integer, bool)):
        return jnp.zeros_like(param)
    return grad


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
        tangents = jax.tree.map(lambda m, u: u.astype(m.dtype), mean, signs)
        products = jax.jvp(lambda m: grad_fn(m, key), (mean,), (tangents,))[1]
        return jax.tree.map(lambda u, hu: u * hu.astype(u.dtype), signs, products)

    zeros = lambda: jax.tree.map(  # noqa: E731
        lambda m: jnp.zeros_like(m, jnp.promote_types(m.dtype, jnp.float32)), mean
    )
    return jax.lax.cond(due, estimate, zeros)


def _all_finite(tree: PyTree) -> jax.Array:
    """Whether every number of `tree` is finite.

    NaN and infinity pass through a maximum, which a CPU finds in 0.4 of the time that `jnp.all`
    of `jnp.isfinite` takes.
    """
    largest = [jnp.max(jnp.abs(x), initial=0) for x in jax.tree.leaves(tree)]
    return jnp.all(jnp.array([jnp.isfinite(x) for x in largest]))


def _record(opt_state: Any, estimates: PyTree, masks: PyTree, recorded: jax.Array) -> Any:
    """`opt_state` with one more estimate in each IVON state, and no momentum where pruned.

    The data say nothing about a pruned weight: its estimate is the h it has, which so stays.

    Args:
      opt_state: Any optimizer state.
      estimates: Of the Hessian diagonal, a tree like the parameters.
      masks: Like the parameters.
      recorded: Whether the estimates count; without, the stored ones stay as they are.
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
            new = jnp.where(state.hess_count > 0, total + new, new)
            return jnp.where(recorded, new, total).astype(total.dtype)

        def silence(key: Key, momentum: Any) -> Any:
            mask = None if momentum is None else mask_of[key]
            return momentum if mask is None else jnp.where(mask, momentum, 0)

        return state._replace(
            momentum=map_with_key(silence, state.momentum),
            hess_sum=map_with_key(accumulate, state.hess_sum, state.hess),
            hess_count=state.hess_count + recorded.astype(jnp.int32),
        )

    return replace_states(opt_state, is_ivon, record)
