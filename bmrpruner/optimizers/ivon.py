"""IVON, the improved variational online Newton method."""

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
    hess_init, weight_decay = _informed(ess, hess_init, weight_decay)
    check_positive("hess_init", hess_init)
    check_positive("weight_decay", weight_decay, allow_zero=True)
    check_positive("hess_every", hess_every)
    if clip_radius is not None:
        check_positive("clip_radius", clip_radius)
    _check_decay("b1", b1)
    _check_decay("b2", b2)

    def init_fn(params: optax.Params) -> ScaleByIvonState:
        check_params(params)
        _check_real(params)
        count = jnp.zeros([], jnp.int32)
        return ScaleByIvonState(
            count=count,
            ess=_at(ess, count),
            weight_decay=_at(weight_decay, count),
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
        wd = _at(weight_decay, state.count)
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
        hess = jax.tree.map(
            lambda h, total: _updated_hess(h, total * per_estimate, wd, step),
            state.hess,
            state.hess_sum,
        )
        radius = None if clip_radius is None else _at(clip_radius, state.count)

        def direction(g: Any, m: Any, h: Any, param: Any) -> Any:
            if g is None or m is None:
                return None if g is None else jnp.zeros_like(param)
            u = (m * correction + wd * param) / (h + wd)
            return (u if radius is None else jnp.clip(u, -radius, radius)).astype(g.dtype)

        new_updates = map_leaves(direction, updates, momentum, hess, params)
        count = optax.safe_increment(state.count)
        return new_updates, state._replace(
            count=count,
            ess=_at(ess, count),
            weight_decay=_at(weight_decay, count),
            b1_power=b1_power,
            momentum=momentum,
            hess=hess,
            hess_count=jnp.zeros_like(state.hess_count),
        )

    return optax.GradientTransformation(init_fn, update_fn)


def ivon(
    learning_rate: optax.ScalarOrSchedule,
    ess: optax.ScalarOrSchedule,
    hess_init: float | None = None,
    clip_radius: optax.ScalarOrSchedule | None = None,
    b1: optax.ScalarOrSchedule = 0.9,
    b2: optax.ScalarOrSchedule = 0.9995,
    weight_decay: optax.ScalarOrSchedule | None = None,
    hess_every: int = 1,
    rescale_lr: bool = True,
    m_dtype: Any = None,
) -> optax.GradientTransformation:
    """IVON, variational learning of a mean and a variance for every weight.

    Take gradients with `noisy_value_and_grad`, at weights drawn from the posterior
    N(params, 1 / (ess * (hess + weight_decay))); the parameters are its mean.

    With the defaults a learning rate and N are enough for a Hessian that differs from weight to
    weight as the data say; with one that does not, scores that read the posterior rank as the
    magnitude does. At any N the posterior starts at σ = 0.023, narrower than common initialisers,
    under a prior of σ = 0.13. One estimate of the Hessian is mostly noise, so `b2` averages over
    2,000 steps, at any batch size. Train for several times as many steps, or lower `b2`, and let
    the learning rate decay to zero. The paper's settings for large networks are hess_init=1,
    b2=0.99999, weight_decay=1e-4; such a Hessian hardly changes within 10,000 steps.

    Args:
      learning_rate: Step size α, a number or a schedule. With `rescale_lr` 0.3 is a start; where
        first gradients are large, as in convolutional networks, let it rise from zero over some
        hundred steps.
      ess: Effective sample size N: the number of training examples, for a loss that is averaged
        over the batch. All but `hess_init`, `hess_every` and the flags may be schedules.
      hess_init: h₀, the Hessian to start from; by default 1800 / ess.
      clip_radius: Bound on each element of the update before the learning rate; None for none.
      b1: β₁, decay of the momentum.
      b2: β₂, decay of the Hessian, which forgets its start in about 1 / (1 - b2) steps.
      weight_decay: δ, precision of the prior N(0, 1 / (ess * δ)); by default 60 / ess.
      hess_every: Refresh the Hessian every so many updates.
      rescale_lr: Multiply the learning rate by hess_init + weight_decay, which makes the first
        steps as long as plain gradient descent's.
      m_dtype: Dtype of the momentum; by default the parameter's.

    Returns:
      A transformation whose state holds a `ScaleByIvonState` first.

    Raises:
      ValueError: If ess, hess_init, hess_every or clip_radius is not positive, weight_decay is
        negative, or b1 or b2 is not in [0, 1).
      TypeError: From `init`, if no leaf is an array, or one is complex.

    Example:
      >>> from bmrpruner.optimizers import noisy_value_and_grad
      >>> loss_fn = lambda params, x, key: jnp.mean((params['w'] * x - 1.0) ** 2)
      >>> tx = ivon(learning_rate=0.1, ess=100)
      >>> params = {'w': jnp.zeros(3)}
      >>> state = tx.init(params)
      >>> key, x = jax.random.key(0), jnp.ones(3)
      >>> value, grads, state = noisy_value_and_grad(loss_fn, state, params, key, x)
      >>> updates, state = tx.update(grads, state, params)
      >>> params = optax.apply_updates(params, updates)

    References:
      Shen et al. 2024, Variational learning is effective for large deep networks,
      https://arxiv.org/abs/2402.17641
    """
    hess_init, weight_decay = _informed(ess, hess_init, weight_decay)
    if rescale_lr:
        learning_rate = _rescaled(learning_rate, hess_init, weight_decay)
    return optax.chain(
        scale_by_ivon(ess, hess_init, clip_radius, b1, b2, weight_decay, hess_every, m_dtype),
        _without_integers(optax.scale_by_learning_rate(learning_rate)),
    )


def _without_integers(tx: optax.GradientTransformation) -> optax.GradientTransformation:
    """`tx` for all but integers: a zero update in another dtype would round large ones."""

    def is_scaled(update: Any) -> bool:
        return update is not None and jnp.issubdtype(update.dtype, jnp.inexact)

    def update_fn(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        floating = map_leaves(lambda u: u if is_scaled(u) else None, updates)
        new, state = tx.update(floating, state, params)
        return map_leaves(lambda u, n: n if is_scaled(u) else u, updates, new), state

    return optax.GradientTransformation(tx.init, update_fn)


def _informed(ess: Any, hess_init: Any, weight_decay: Any) -> tuple[Any, Any]:
    """`hess_init` and `weight_decay`, with the defaults that `ivon` documents where None."""
    check_positive("ess", ess)
    examples = ess(0) if callable(ess) else ess
    return (
        1800 / examples if hess_init is None else hess_init,
        60 / examples if weight_decay is None else weight_decay,
    )


def _rescaled(
    learning_rate: optax.ScalarOrSchedule, hess_init: float, weight_decay: optax.ScalarOrSchedule
) -> optax.ScalarOrSchedule:
    """The learning rate times hess_init + weight_decay, as one factor, which is rounded once."""
    if callable(learning_rate) or callable(weight_decay):
        return lambda count: _at(learning_rate, count) * (hess_init + _at(weight_decay, count))
    return learning_rate * (hess_init + weight_decay)


def _updated_hess(h: jax.Array, estimate: jax.Array, wd: jax.Array, step: jax.Array) -> jax.Array:
    """The average h after one more estimate; a `step` (1 - β₂) of zero returns h exactly."""
    change = step * (estimate - h)
    return h + change + 0.5 * change**2 / (h + wd)


def _full_like(params: PyTree, value: Any, dtype: Any, at_least: Any = None) -> PyTree:
    def full(param: Any) -> Any:
        if not is_array(param) or not jnp.issubdtype(param.dtype, jnp.inexact):
            return None
        wanted = dtype or (jnp.promote_types(param.dtype, at_least) if at_least else param.dtype)
        return jnp.full_like(param, value, dtype=wanted)

    return map_leaves(full, params)


def _at(value: optax.ScalarOrSchedule, count: jax.Array) -> jax.Array:
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
