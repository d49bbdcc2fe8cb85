"""IVON, the improved variational online Newton method."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import optax

from bmrpruner._tree import map_leaves
from bmrpruner.optimizers.scale_by_ivon import at, informed, scale_by_ivon


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
    clip_norm: float | None = 1.0,
) -> optax.GradientTransformation:
    """IVON, variational learning of a mean and a variance for every weight.

    Take gradients with `noisy_value_and_grad`, at weights drawn from the posterior
    N(params, 1 / (ess * (hess + weight_decay))); the parameters are its mean.

    Three settings are to be chosen: the learning rate, 0.3 decaying to zero by a cosine; `ess`; and
    for a run of other than some 12,000 steps `b2`, as 1 - 6 / steps. No warm-up is needed.

    Temperature: with `ess` the number of training examples N, the posterior is that of Bayes' rule.
    With ess = N / T every example counts 1 / T times, which is a posterior of temperature T. Colder
    (T < 1) means less noise in the weights: up to ess = 10 N networks get more accurate, and
    averaged predictions, too unsure at N, calibrated. The evidence ΔF for removing a weight of the
    same value falls, so that fewer have ΔF > 0. Choose 10 N for the most accurate dense network,
    3 N for one that is to be pruned after training, N for one that is pruned during it, 20 N on a
    few thousand examples.

    The posterior starts at a precision of 25 √ess under a prior of precision 60 (σ = 0.13). The
    first steps are those of gradient descent whose gradients are clipped to a norm of `clip_norm`.
    Without that bound the first step of a convolutional network at a rate of 0.3 can be so long
    that its units die.

    Should a run become NaN or infinite all the same, `optax.apply_if_finite` around it skips such
    steps, which then leave no trace, and counts them.

    Args:
      learning_rate: Step size α, a number or a schedule. With `rescale_lr` 0.3 is a start.
      ess: Effective sample size: the number of training examples, for a loss that is averaged over
        the batch, or a multiple of it. All but `hess_init`, `hess_every`, `clip_norm` and the flags
        may be schedules.
      hess_init: h₀, the Hessian to start from; by default 25 / √ess.
      clip_radius: Bound on each element of the update before the learning rate; None for none.
      b1: β₁, decay of the momentum.
      b2: β₂, decay of the Hessian, which forgets its start in about 1 / (1 - b2) steps.
      weight_decay: δ, precision of the prior N(0, 1 / (ess * δ)); by default 60 / ess. Updates at
        which a schedule falls leave h at 0 or above: no precision is then below the prior's.
      hess_every: Refresh the Hessian every so many updates.
      rescale_lr: Multiply the learning rate by hess_init + weight_decay, which makes the first
        steps as long as plain gradient descent's.
      m_dtype: Dtype of the momentum; by default the parameter's.
      clip_norm: Bound on the norm, over all leaves, of (hess_init + weight_decay) * u, where u is
        the update before the learning rate: a bound on the gradient's norm in the first steps.
        None for none.

    Returns:
      A transformation whose state holds a `ScaleByIvonState` first.

    Raises:
      ValueError: If ess, hess_init, hess_every, clip_radius or clip_norm is not positive,
        weight_decay is negative, or b1 or b2 is not in [0, 1).
      TypeError: From `init`, if no leaf is an array, or one is complex.

    Example:
      >>> import jax
      >>> from bmrpruner.optimizers import noisy_value_and_grad
      >>> loss_fn = lambda params, x, key: jnp.mean((params['w'] * x - 1.0) ** 2)
      >>> steps, examples = 2_000, 100
      >>> rate = optax.cosine_decay_schedule(0.3, steps)
      >>> tx = ivon(rate, ess=10 * examples, b2=1 - 6 / steps)
      >>> params = {'w': jnp.zeros(3)}
      >>> state = tx.init(params)
      >>> key, x = jax.random.key(0), jnp.ones(3)
      >>> value, grads, state = noisy_value_and_grad(loss_fn, state, params, key, x)
      >>> updates, state = tx.update(grads, state, params)
      >>> params = optax.apply_updates(params, updates)

      Steps that are not finite are skipped, up to ten in a row, and counted:

      >>> tx = optax.apply_if_finite(tx, max_consecutive_errors=10)
      >>> _, state = tx.update({'w': jnp.full(3, jnp.nan)}, tx.init(params), params)
      >>> int(state.total_notfinite)
      1

    References:
      Shen et al. 2024, Variational learning is effective for large deep networks,
      https://arxiv.org/abs/2402.17641; for the bound on the norm, Pascanu et al. 2013, On the
      difficulty of training recurrent neural networks, https://arxiv.org/abs/1211.5063.
    """
    hess_init, weight_decay = informed(ess, hess_init, weight_decay)
    if rescale_lr:
        learning_rate = _rescaled(learning_rate, hess_init, weight_decay)
    return optax.chain(
        scale_by_ivon(
            ess, hess_init, clip_radius, b1, b2, weight_decay, hess_every, m_dtype, clip_norm
        ),
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


def _rescaled(
    learning_rate: optax.ScalarOrSchedule, hess_init: float, weight_decay: optax.ScalarOrSchedule
) -> optax.ScalarOrSchedule:
    """The learning rate times hess_init + weight_decay, as one factor, which is rounded once."""
    if callable(learning_rate) or callable(weight_decay):
        return lambda count: at(learning_rate, count) * (hess_init + at(weight_decay, count))
    return learning_rate * (hess_init + weight_decay)
