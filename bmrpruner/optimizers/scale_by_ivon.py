"""The step of IVON before the learning rate, and its state."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from bmrpruner._checks import check_positive, concrete
from bmrpruner._tree import PyTree, check_params, is_array, join, keyed_leaves, map_leaves


class ScaleByIvonState(NamedTuple):
    """State of `scale_by_ivon`; the posterior is N(params, 1 / (ess * (hess + weight_decay))).

    Attributes:
      count: Updates taken.
      ess: Effective sample size N.
      weight_decay: δ; the prior precision is ess * weight_decay.
      hess_every: Updates from one refresh of `hess` to the next.
      b1_power: Product of the b1 so far, for the bias correction of the momentum.
      momentum: g, the average gradient; dtype `m_dtype`, or the parameter's.
      hess: h, the average Hessian diagonal.
      hess_sum: Sum of the estimates ĥ since the last update.
      hess_count: How many estimates `hess_sum` holds; where it is 0, `hess_sum` has no meaning.

    Example:
      >>> state = scale_by_ivon(ess=100, hess_init=0.5).init(jnp.zeros(2))
      >>> state.hess
      Array([0.5, 0.5], dtype=float32)
    """

    count: jax.Array  # type: ignore[assignment]  # () int32
    ess: jax.Array  # () float32
    weight_decay: jax.Array  # () float32
    hess_every: jax.Array  # () int32
    b1_power: jax.Array  # () float32
    momentum: optax.Updates  # like the parameters
    hess: optax.Updates  # like the parameters, at least float32
    hess_sum: optax.Updates  # like hess
    hess_count: jax.Array  # () int32


def scale_by_ivon(
    ess: optax.ScalarOrSchedule,
    hess_init: float | None = None,
    clip_radius: optax.ScalarOrSchedule | None = None,
    b1: optax.ScalarOrSchedule = 0.9,
    b2: optax.ScalarOrSchedule = 0.9995,
    weight_decay: optax.ScalarOrSchedule | None = None,
    hess_every: int = 1,
    m_dtype: Any = None,
    clip_norm: float | None = None,
) -> optax.GradientTransformation:
    r"""Rescale gradients by IVON's preconditioner.

    .. math::
      g &\leftarrow \beta_1 g + (1 - \beta_1) \hat g \\
      h &\leftarrow \beta_2 h + (1 - \beta_2) \hat h
          + \tfrac12 (1 - \beta_2)^2 (h - \hat h)^2 / (h + \delta) \\
      u &= (g / (1 - \beta_1^t) + \delta \mu) / (h + \delta)

    The estimate ĥ comes from `noisy_value_and_grad`, which adds it to the state. An update without
    a new estimate takes the gradient and leaves h as it is. The arguments are those of `ivon`,
    which has a learning rate beside.

    Returns:
      A transformation with a `ScaleByIvonState`.

    Raises:
      ValueError, TypeError: As `ivon`.

    Example:
      >>> tx = optax.chain(scale_by_ivon(ess=100), optax.scale(-0.1))
      >>> type(tx.init(jnp.zeros(2))[0]).__name__
      'ScaleByIvonState'

    References:
      Shen et al. 2024, Variational learning is effective for large deep networks,
      https://arxiv.org/abs/2402.17641, algorithm 1.
    """
    hess_init, weight_decay = informed(ess, hess_init, weight_decay)
    check_positive("hess_init", hess_init)
    check_positive("weight_decay", weight_decay, allow_zero=True)
    check_positive("hess_every", hess_every)
    for field, bound in (("clip_radius", clip_radius), ("clip_norm", clip_norm)):
        if bound is not None:
            check_positive(field, bound)
    _check_decay("b1", b1)
    _check_decay("b2", b2)

    def init_fn(params: optax.Params) -> ScaleByIvonState:
        check_params(params)
        _check_real(params)
        count = jnp.zeros([], jnp.int32)
        return ScaleByIvonState(
            count=count,
            ess=at(ess, count),
            weight_decay=at(weight_decay, count),
            hess_every=jnp.asarray(hess_every, jnp.int32),
            b1_power=jnp.ones([], jnp.float32),
            momentum=_full_like(params, 0.0, m_dtype),
            hess=_full_like(params, hess_init, None, at_least=jnp.float32),
            hess_sum=_full_like(params, 0.0, None, at_least=jnp.float32),
            hess_count=jnp.zeros([], jnp.int32),
        )

    def update_fn(
        updates: optax.Updates, state: ScaleByIvonState, params: optax.Params | None = None
    ) -> tuple[optax.Updates, ScaleByIvonState]:
        if params is None:
            raise ValueError("params: expected those that IVON updates, got None.")
        gain = _complement_at(b1, state.count)
        b1_power = state.b1_power * (1 - gain)
        wd = at(weight_decay, state.count)
        momentum = map_leaves(
            lambda g, m: m if g is None or m is None else (m + gain * (g - m)).astype(m.dtype),
            updates,
            state.momentum,
        )
        refresh = (state.hess_count > 0) & (state.count % state.hess_every == 0)
        step = jnp.where(refresh, _complement_at(b2, state.count), 0.0)
        # Multiplying by reciprocals makes one device and a mesh agree in the last bit: the compiler
        # turns divisions by a scalar into such products in some programs and not in others.
        per_estimate = 1 / jnp.maximum(state.hess_count, 1).astype(jnp.float32)
        correction = 1 / (1 - b1_power)
        count = optax.safe_increment(state.count)
        next_wd = at(weight_decay, count)
        hess = jax.tree.map(
            lambda h, total: _updated_hess(h, total * per_estimate, wd, next_wd, step),
            state.hess,
            state.hess_sum,
        )
        radius = None if clip_radius is None else at(clip_radius, state.count)

        def direction(g: Any, m: Any, h: Any, param: Any) -> Any:
            if g is None or m is None:
                return None if g is None else jnp.zeros_like(param)
            u = (m * correction + wd * param) / (h + wd)
            return (u if radius is None else jnp.clip(u, -radius, radius)).astype(g.dtype)

        new_updates = map_leaves(direction, updates, momentum, hess, params)
        if clip_norm is not None:
            new_updates = _clipped(new_updates, clip_norm / (hess_init + wd))
        return new_updates, state._replace(
            count=count,
            ess=at(ess, count),
            weight_decay=next_wd,
            b1_power=b1_power,
            momentum=momentum,
            hess=hess,
            hess_count=jnp.zeros_like(state.hess_count),
        )

    return optax.GradientTransformation(init_fn, update_fn)


def informed(ess: Any, hess_init: Any, weight_decay: Any) -> tuple[Any, Any]:
    """`hess_init` and `weight_decay`, with the defaults that `ivon` documents where None."""
    check_positive("ess", ess)
    examples = ess(0) if callable(ess) else ess
    return (
        25 / examples**0.5 if hess_init is None else hess_init,
        60 / examples if weight_decay is None else weight_decay,
    )


def _updated_hess(
    h: jax.Array, estimate: jax.Array, wd: jax.Array, next_wd: jax.Array, step: jax.Array
) -> jax.Array:
    """The average h after one more estimate; a `step` (1 - β₂) of zero returns h exactly.

    With a constant δ the precision, which is ∝ h + δ, at most halves. Where δ falls, h is at least
    0, so that the precision is at least the prior's: a negative h, which was harmless beside the
    larger δ, would leave next to none beside the smaller.
    """
    change = step * (estimate - h)
    new = h + change + 0.5 * change**2 / (h + wd)
    return jnp.where(next_wd < wd, jnp.maximum(new, 0), new)


def _clipped(updates: PyTree, bound: jax.Array) -> PyTree:
    """`updates`, made shorter where their norm over all leaves is above the bound."""
    scaled = [u for u in jax.tree.leaves(updates) if jnp.issubdtype(u.dtype, jnp.inexact)]
    norm = jnp.sqrt(sum(jnp.sum(jnp.square(u.astype(jnp.float32))) for u in scaled))
    factor = jnp.where(norm > bound, bound / norm, 1.0)
    return jax.tree.map(lambda u: u * factor.astype(u.dtype), updates)


def _full_like(params: PyTree, value: Any, dtype: Any, at_least: Any = None) -> PyTree:
    def full(param: Any) -> Any:
        if not is_array(param) or not jnp.issubdtype(param.dtype, jnp.inexact):
            return None
        wanted = dtype or (jnp.promote_types(param.dtype, at_least) if at_least else param.dtype)
        return jnp.full_like(param, value, dtype=wanted)

    return map_leaves(full, params)


def at(value: optax.ScalarOrSchedule, count: jax.Array) -> jax.Array:
    """The number, or the schedule's number at `count`, as a float32 scalar."""
    return jnp.asarray(value(count) if callable(value) else value, jnp.float32)


def _complement_at(decay: optax.ScalarOrSchedule, count: jax.Array) -> jax.Array:
    """1 - decay; a number is subtracted in double precision, as 1 - 0.99999 in float32 is off."""
    return jnp.asarray(1 - (decay(count) if callable(decay) else decay), jnp.float32)


def _check_real(params: PyTree) -> None:
    for key, leaf in keyed_leaves(params):
        if is_array(leaf) and jnp.issubdtype(leaf.dtype, jnp.complexfloating):
            raise TypeError(
                f"params: expected real arrays, got leaf {join(key) or '(root)'!r} of dtype "
                f"{leaf.dtype}; train it by another optimizer, with optax.partition."
            )


def _check_decay(field: str, value: Any) -> None:
    check_positive(field, value, allow_zero=True)
    if concrete(value) and float(value) >= 1:
        raise ValueError(f"{field}: expected a number in [0, 1), got {value}.")
