"""SparseGPT's sweep over the columns of a layer: for layers too wide for an elimination by row."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp

from bmrpruner._checks import check_sparsity
from bmrpruner._masks import MASK_DTYPE
from bmrpruner.evidence.correlated import inverse, unit_diagonal
from bmrpruner.mask_calculator import largest_of_each_group, topk_mask_calculator
from bmrpruner.oneshot.refit import checked_layer
from bmrpruner.sparsity_types import NByM, as_sparsity_type, check_shape

_BLOCK = 128  # columns that are chosen together


def sweep(
    weights: Any, precision: Any, sparsity: Any = None, pattern: Any = None, keep: Any = None
) -> tuple[jax.Array, jax.Array]:
    """Go through the columns once: prune, and let the columns to come make up for the error.

    Frantar and Alistarh 2023, *SparseGPT*, arXiv 2301.00774, algorithm 1: one factor of the inverse
    serves all rows, so that time is that of a few matrix products. Exactly one of `sparsity`,
    `pattern` and `keep` says what goes.

    Args:
      weights: (R, D).
      precision: (D, D), P = C + λI.
      sparsity: Fraction to prune of every 128 columns, over all rows together.
      pattern: An N:M pattern, such as `'2:4'`, along the inputs.
      keep: (R, D), nonzero where a weight stays, if that is known.

    Returns:
      The weights, zero where they go, and a uint8 mask, both (R, D).

    Raises:
      ValueError: If not exactly one of the three is given, or shapes do not fit.

    Example:
      >>> precision = jnp.array([[2.0, 1.0], [1.0, 2.0]])
      >>> weights, mask = sweep(jnp.array([[1.0, 4.0]]), precision, sparsity=0.5)
      >>> [round(float(x), 3) for x in weights[0]], mask.tolist()
      ([0.0, 4.5], [[0, 1]])
    """
    weights, precision = checked_layer(weights, precision)
    given = [value for value in (sparsity, pattern, keep) if value is not None]
    if len(given) != 1:
        raise ValueError(
            f"sparsity, pattern, keep: expected exactly one of them, got {len(given)}."
        )
    groups = None
    if pattern is not None:
        groups = as_sparsity_type(pattern)
        if not isinstance(groups, NByM) or _BLOCK % groups.m:
            raise ValueError(
                f"pattern: expected N:M with an M that divides {_BLOCK}, got {pattern!r}."
            )
        check_shape(groups._replace(axis=-1), weights.shape, "weights")
    if sparsity is not None:
        check_sparsity("sparsity", sparsity)
    if keep is not None:
        keep = jnp.asarray(keep)
        if keep.shape != weights.shape:
            raise ValueError(
                f"keep: expected the shape of weights, {weights.shape}, got {keep.shape}."
            )
        keep = (keep != 0).astype(MASK_DTYPE)
    return _sweep(weights, precision, sparsity, keep, groups)


@functools.partial(jax.jit, static_argnames="groups")
def _sweep(weights: jax.Array, precision: jax.Array, sparsity: Any, keep: Any, groups: Any) -> Any:
    unit, root = unit_diagonal(precision)
    # U of (C + λI)⁻¹ = UᵀU: row j is what an error in column j does to the columns after it.
    upper = jnp.linalg.cholesky(inverse(unit)).T
    width = weights.shape[1]
    carry = weights * root, jnp.ones(weights.shape, MASK_DTYPE) if keep is None else keep

    def block(start: Any, carry: Any, size: int) -> Any:
        rest, mask = carry
        part = jax.lax.dynamic_slice_in_dim(rest, start, size, 1)
        rows = jax.lax.dynamic_slice_in_dim(upper, start, size, 0)
        factor = jax.lax.dynamic_slice_in_dim(rows, start, size, 1)
        kept = jax.lax.dynamic_slice_in_dim(mask, start, size, 1)
        if keep is None and groups is None:
            kept = topk_mask_calculator((part / jnp.diagonal(factor)) ** 2, sparsity)
        part, kept, errors = _sweep_block(part, factor, kept, groups)
        later = jnp.where(jnp.arange(width) < start + size, 0, rows)
        rest = rest - jnp.matmul(errors, later, precision="highest")
        rest = jax.lax.dynamic_update_slice_in_dim(rest, part, start, 1)
        return rest, jax.lax.dynamic_update_slice_in_dim(mask, kept, start, 1)

    whole, last = divmod(width, _BLOCK)
    if whole:
        carry = jax.lax.fori_loop(0, whole, lambda i, c: block(i * _BLOCK, c, _BLOCK), carry)
    if last:
        carry = block(whole * _BLOCK, carry, last)
    return carry[0] / root, carry[1]


def _sweep_block(part: jax.Array, factor: jax.Array, kept: jax.Array, groups: Any) -> Any:
    """The columns of a block one after the other: weights, mask and errors, (R, block) each."""
    size = part.shape[1]
    diagonal = jnp.diagonal(factor)

    def column(j: jax.Array, carry: Any) -> Any:
        part, kept, errors = carry
        if groups is not None:
            kept = jax.lax.cond(j % groups.m == 0, lambda: choose(j, part, kept), lambda: kept)
        error = jnp.where(kept[:, j], 0, part[:, j]) / diagonal[j]
        part = part - error[:, None] * jnp.where(jnp.arange(size) < j, 0, factor[j])
        part = part.at[:, j].set(jnp.where(kept[:, j], part[:, j], 0))
        return part, kept, errors.at[:, j].set(error)

    def choose(j: jax.Array, part: jax.Array, kept: jax.Array) -> jax.Array:
        members = jax.lax.dynamic_slice_in_dim(part / diagonal, j, groups.m, 1) ** 2
        chosen = largest_of_each_group(members, groups.n, groups.m, 1)
        return jax.lax.dynamic_update_slice_in_dim(kept, chosen, j, 1)

    return jax.lax.fori_loop(0, size, column, (part, kept, jnp.zeros_like(part)))
