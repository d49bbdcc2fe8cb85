"""Bayesian model reduction of weights that the data see together: a full covariance per row.

The weights of one row (the inputs of one output) have the posterior N(μ, P⁻¹) and the prior
N(0, diag(π₀)⁻¹). With Σ = P⁻¹, fixing weight q at zero costs ½μ_q²/Σ_qq, to second order, and the
weights that stay make up for it: μ ← μ − Σ_:q μ_q/Σ_qq, Σ ← Σ − Σ_:q Σ_q:/Σ_qq. The log evidence of
fixing a set S at zero is

    ΔF = ln N(0 | μ_S, Σ_SS) − ln N(0 | 0, diag(π₀_S)⁻¹),

which is the sum of the ΔF of single weights, each removed after the ones before it, in any order.

Everything is computed with P scaled to a diagonal of ones, in which conditional variances are 1 at
least: `eliminate` holds them to that bound, so that rounding does not make them small or negative.

References:
  Hassibi, Stork, *Second order derivatives for network pruning: optimal brain surgeon*, 1992.
  Frantar, Alistarh, *Optimal brain compression*, 2022, arXiv 2208.11580, algorithm 1.
  Friston, Parr, Zeidman, *Bayesian model reduction*, 2018, arXiv 1805.07092.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.linalg import solve_triangular
from jax.typing import ArrayLike

from bmrpruner._checks import did_you_mean
from bmrpruner.evidence.diagonal import as_floats, delta_f_spike
from bmrpruner.evidence.elimination import eliminate_row

CRITERIA = ("loss", "evidence")


class Elimination(NamedTuple):
    """The order in which the weights of each row go, and what each one takes with it.

    Attributes:
      order: int32 (R, D), the index of the weight that goes at each step.
      delta_f: (R, D) nats, ΔF of each step, those before it done; their sum is that of the set.
      cost: (R, D) nats, the rise of the loss with each step, to second order.

    Example:
      >>> found = eliminate(jnp.array([[3.0, 0.1]]), jnp.eye(2), 1.0)
      >>> found.order.tolist(), [round(float(x), 3) for x in found.cost[0]]
      ([[1, 0]], [0.005, 4.5])
    """

    order: jax.Array
    delta_f: jax.Array
    cost: jax.Array


def eliminate(
    mean: ArrayLike, precision: ArrayLike, prior_precision: ArrayLike, criterion: str = "loss"
) -> Elimination:
    """Remove the weights of each row one after the other, each time the one that is needed least.

    Optimal Brain Surgeon, exact for a Gaussian: after each removal the other weights of the row
    take their new means and covariance.

    Args:
      mean: (R, D) posterior means μ, R rows of D weights.
      precision: (D, D) for all rows, or (R, D, D): posterior precisions P, symmetric and positive
        definite. A weight whose entry on the diagonal is ∞ has variance zero.
      prior_precision: Prior precision π₀, a number or what broadcasts to (R, D).
      criterion: `'loss'` removes the weight of lowest cost, `'evidence'` that of highest ΔF.

    Returns:
      An `Elimination`, float32 or wider. Of equal weights, the one of lower index goes first.

    Raises:
      ValueError: If shapes do not fit, there are no weights, the prior precision is not positive,
        or the criterion is another.

    Example:
      >>> precision = jnp.array([[2.0, 1.9], [1.9, 2.0]])  # the two inputs are nearly the same
      >>> found = eliminate(jnp.array([[1.0, 1.1]]), precision, 1.0)
      >>> found.order.tolist(), [round(float(x), 2) for x in found.cost[0]]
      ([[0, 1]], [0.1, 4.2])
    """
    if criterion not in CRITERIA:
        raise ValueError(
            f"criterion: expected one of {', '.join(CRITERIA)}, got {criterion!r}."
            + did_you_mean(criterion, CRITERIA)
        )
    rows = _checked(mean, precision, prior_precision)
    if rows[0].shape[1] == 0:
        raise ValueError(f"mean: expected rows of one weight at least, got shape {rows[0].shape}.")
    return _eliminate(*rows, criterion == "evidence")


def delta_f_set(
    mean: ArrayLike, precision: ArrayLike, prior_precision: ArrayLike, keep: ArrayLike
) -> jax.Array:
    """Change of log evidence when all weights of a set are fixed at zero together.

    Args:
      mean: (R, D) posterior means, as for `eliminate`.
      precision: (D, D) or (R, D, D) posterior precisions.
      prior_precision: Prior precision, a number or what broadcasts to (R, D).
      keep: (R, D), nonzero where a weight stays.

    Returns:
      (R,) ΔF in nats, float32 or wider. Positive: the data prefer the set gone.

    Raises:
      ValueError: If shapes do not fit, or the prior precision is not positive.

    Example:
      >>> precision = jnp.array([[2.0, 1.9], [1.9, 2.0]])
      >>> kept = jnp.array([[0, 1], [0, 0]])
      >>> [round(float(x), 3) for x in delta_f_set(jnp.ones((2, 2)), precision, 1.0, kept)]
      [-0.915, -4.371]
    """
    rows = _checked(mean, precision, prior_precision)
    return _delta_f_set(*rows, _checked_keep(keep, rows[0].shape))


def condition(mean: ArrayLike, precision: ArrayLike, keep: ArrayLike) -> jax.Array:
    """The posterior means of the weights that stay, once the others are known to be zero.

    Args:
      mean: (R, D) posterior means, as for `eliminate`.
      precision: (D, D) or (R, D, D) posterior precisions.
      keep: (R, D), nonzero where a weight stays.

    Returns:
      (R, D), float32 or wider: μ_K + P_KK⁻¹ P_KS μ_S for what stays, 0 for what goes.

    Raises:
      ValueError: If shapes do not fit.

    Example:
      >>> precision = jnp.array([[2.0, 1.0], [1.0, 2.0]])
      >>> found = condition(jnp.array([[1.0, 4.0]]), precision, jnp.array([[1, 0]]))
      >>> [round(float(x), 3) for x in found[0]]
      [3.0, 0.0]
    """
    means, precisions, _ = _checked(mean, precision, 1.0)
    return _condition(means, precisions, _checked_keep(keep, means.shape))


def _checked(mean: Any, precision: Any, prior: Any) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The three as floats, the prior in the shape of the mean."""
    _check_prior(prior)
    mean, precision, prior = as_floats(*(jnp.asarray(x) for x in (mean, precision, prior)))
    if mean.ndim != 2:
        raise ValueError(f"mean: expected shape (rows, weights), got {mean.shape}.")
    rows, width = mean.shape
    if precision.shape not in ((width, width), (rows, width, width)):
        raise ValueError(
            f"precision: expected shape {(width, width)} or {(rows, width, width)}, as mean has "
            f"{mean.shape}, got {precision.shape}."
        )
    try:
        return mean, precision, jnp.broadcast_to(prior, mean.shape)
    except ValueError as error:
        raise ValueError(
            f"prior_precision: expected a shape that broadcasts to that of mean, {mean.shape}, "
            f"got {prior.shape}."
        ) from error


def _check_prior(prior: Any) -> None:
    """Raise a ValueError unless the prior precision is positive and finite, or traced."""
    if isinstance(prior, jax.core.Tracer):
        return
    values = np.asarray(prior)
    if not np.all((values > 0) & (values < np.inf)):
        raise ValueError(f"prior_precision: expected positive finite numbers, got {prior}.")


def _checked_keep(keep: Any, shape: tuple[int, ...]) -> jax.Array:
    keep = jnp.asarray(keep)
    if keep.shape != shape:
        raise ValueError(f"keep: expected the shape of mean, {shape}, got {keep.shape}.")
    return keep != 0


def map_rows(fn: Any, precision: jax.Array, *rows: jax.Array) -> Any:
    """`fn(precision, *row)` for each row: one at a time, so that memory is that of one."""
    if precision.ndim == 2:
        return jax.lax.map(lambda row: fn(precision, *row), rows)
    return jax.lax.map(lambda row: fn(*row), (precision, *rows))


def unit_diagonal(precision: jax.Array) -> tuple[jax.Array, jax.Array]:
    """P with ones on its diagonal, and the square roots of what was there.

    A weight of infinite precision is uncorrelated with the others.
    """
    diagonal = jnp.diagonal(precision, axis1=-2, axis2=-1)
    root = jnp.sqrt(diagonal)
    outer = root[..., :, None] * root[..., None, :]
    ones = jnp.eye(root.shape[-1], dtype=bool)
    return jnp.where(ones, 1, jnp.where(jnp.isinf(outer), 0, precision / outer)), root


def _scaled(mean: jax.Array, root: jax.Array) -> jax.Array:
    """The means in units in which P has ones on its diagonal, held to what can be squared."""
    limit = float(jnp.finfo(mean.dtype).max) ** 0.4
    return jnp.where(mean == 0, 0, jnp.clip(mean * root, -limit, limit))


@functools.partial(jax.jit, static_argnums=3)
def _eliminate(
    mean: jax.Array, precision: jax.Array, prior: jax.Array, by_evidence: bool
) -> Elimination:
    unit, root = unit_diagonal(precision)
    covariance = inverse(unit)
    scaled = _scaled(mean, root)
    offset = _offset(mean, prior, root) if by_evidence else jnp.zeros_like(mean)

    def one(covariance: jax.Array, scaled: jax.Array, offset: jax.Array) -> Any:
        return eliminate_row(covariance, scaled, offset, by_evidence)

    order, means, variances = map_rows(one, covariance, scaled, offset)
    roots, prior, mean = (
        jnp.take_along_axis(jnp.broadcast_to(part, mean.shape), order, -1)
        for part in (root, prior, mean)
    )
    means = jnp.where(jnp.isinf(roots), mean, means / roots)
    conditional = roots * (roots / variances)
    cost = 0.5 * jnp.where(means == 0, 0, means * (means * conditional))
    return Elimination(order, delta_f_spike(means, conditional, prior), cost)


def _offset(mean: jax.Array, prior: jax.Array, root: jax.Array) -> jax.Array:
    """The log of π₀/P_qq; the highest finite score for a weight that is certainly not zero."""
    last = float(jnp.finfo(mean.dtype).max) / 4
    is_last = jnp.isinf(root) & (mean != 0)
    return jnp.where(is_last, last, jnp.log(prior) - 2 * jnp.log(root))


def inverse(matrix: jax.Array) -> jax.Array:
    """The inverse of a symmetric positive definite matrix."""
    factor = jnp.linalg.cholesky(matrix)
    eye = jnp.broadcast_to(jnp.eye(matrix.shape[-1], dtype=matrix.dtype), matrix.shape)
    root = solve_triangular(factor, eye, lower=True)
    return jnp.matmul(jnp.swapaxes(root, -1, -2), root, precision="highest")


def _factor(precision: jax.Array, keep: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Cholesky factor of the scaled P with the weights that stay first; that order; the roots."""
    unit, root = unit_diagonal(precision)
    order = jnp.argsort(~keep, stable=True)
    return jnp.linalg.cholesky(unit[order][:, order]), order, root[order]


@jax.jit
def _delta_f_set(
    mean: jax.Array, precision: jax.Array, prior: jax.Array, keep: jax.Array
) -> jax.Array:
    def one(precision: jax.Array, mean: jax.Array, prior: jax.Array, keep: jax.Array) -> jax.Array:
        factor, order, root = _factor(precision, keep)
        goes = ~keep[order]
        removed = jnp.where(goes, _scaled(mean[order], root), 0)
        # Row i of Lᵀ(0, μ_S) is √(1/Σ_ii) μ_i at the time when weight i goes, the later ones first.
        scaled = jnp.matmul(removed, factor, precision="highest")
        conditional = (jnp.diagonal(factor) * root) ** 2
        means = jnp.where(jnp.isinf(root), mean[order], scaled / jnp.sqrt(conditional))
        return jnp.sum(jnp.where(goes, delta_f_spike(means, conditional, prior[order]), 0))

    return map_rows(one, precision, mean, prior, keep)


@jax.jit
def _condition(mean: jax.Array, precision: jax.Array, keep: jax.Array) -> jax.Array:
    def one(precision: jax.Array, mean: jax.Array, keep: jax.Array) -> jax.Array:
        factor, order, root = _factor(precision, keep)
        stays = keep[order]
        removed = jnp.where(stays, 0, _scaled(mean[order], root))
        share = jnp.where(stays, jnp.matmul(removed, factor, precision="highest"), 0)
        moved = solve_triangular(factor, share, lower=True, trans=1) / root
        return jnp.zeros_like(mean).at[order].set(jnp.where(stays, mean[order] + moved, 0))

    return map_rows(one, precision, mean, keep)
