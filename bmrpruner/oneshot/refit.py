"""Solve for the weights that stay, given the moments of a layer's inputs."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.linalg import cho_solve

from bmrpruner.evidence.correlated import map_rows, unit_diagonal

_LEAST = 128


def refit(weights: Any, precision: Any, keep: Any, target: Any = None) -> jax.Array:
    """The weights that stay, such that the layer's outputs change least: a ridge regression.

    Minimises ½wᵀPw − tᵀw over the weights that stay, row by row: w_K = P_KK⁻¹ t_K, by Cholesky
    factors with one step of refinement.

    Args:
      weights: (R, D), the weights before.
      precision: (D, D), P = C + λI of the inputs that the layer has now.
      keep: (R, D), nonzero where a weight stays.
      target: (R, D), t: by default Pw, for inputs that have not changed. With inputs h in place of
        x it is E[x hᵀ] w + λw.

    Returns:
      (R, D), float32 or wider; zero where a weight goes.

    Raises:
      ValueError: If shapes do not fit.

    Example:
      >>> precision = jnp.array([[2.0, 1.0], [1.0, 2.0]])
      >>> found = refit(jnp.array([[1.0, 4.0]]), precision, jnp.array([[1, 0]]))
      >>> [round(float(x), 3) for x in found[0]]
      [3.0, 0.0]
    """
    weights, precision = checked_layer(weights, precision)
    keep = jnp.asarray(keep)
    for name, array in (("keep", keep), ("target", target)):
        if array is not None and array.shape != weights.shape:
            raise ValueError(
                f"{name}: expected the shape of weights, {weights.shape}, got {array.shape}."
            )
    return _refit(weights, precision, keep, target, _room(keep))


@jax.jit
def refit_bias(
    bias: jax.Array, before: jax.Array, after: jax.Array, x: jax.Array, h: jax.Array
) -> jax.Array:
    """The bias that keeps the mean of the outputs, as weights and mean inputs x (D,) become h."""
    moved = jnp.matmul(before - after, x, precision="highest")
    return bias + moved + jnp.matmul(after, x - h, precision="highest")


def checked_layer(weights: Any, precision: Any) -> tuple[jax.Array, jax.Array]:
    """Weights (R, D) and a matrix (D, D) as floats of one dtype, or a ValueError."""
    dtype = jnp.promote_types(jnp.result_type(weights, precision), jnp.float32)
    weights, precision = jnp.asarray(weights, dtype), jnp.asarray(precision, dtype)
    if weights.ndim != 2:
        raise ValueError(f"weights: expected shape (outputs, inputs), got {weights.shape}.")
    if precision.shape != (weights.shape[1],) * 2:
        raise ValueError(
            f"precision: expected shape {(weights.shape[1],) * 2} for weights of shape "
            f"{weights.shape}, got {precision.shape}."
        )
    return weights, precision


def _room(keep: jax.Array) -> int:
    """How many weights a row keeps at most, up to a power of two: few sizes are compiled.

    A size below `_LEAST` would save less time than it takes to compile.
    """
    width = keep.shape[1]
    if isinstance(keep, jax.core.Tracer):
        return width
    most = int(np.max(np.count_nonzero(np.asarray(keep), axis=1), initial=1))
    return min(width, max(_LEAST, 1 << (most - 1).bit_length()))


@functools.partial(jax.jit, static_argnums=4)
def _refit(
    weights: jax.Array, precision: jax.Array, keep: jax.Array, target: Any, room: int
) -> jax.Array:
    unit, root = unit_diagonal(precision)
    width = weights.shape[1]
    keep = keep != 0
    kept = jnp.where(keep, weights, 0)
    if target is None:
        target = jnp.matmul(weights, precision, precision="highest")
    # The change of the weights is solved for: it is smaller than they are, and so is its error.
    lacking = (target - jnp.matmul(kept, precision, precision="highest")) / root

    def one(unit: jax.Array, lacking: jax.Array, keep: jax.Array) -> jax.Array:
        first = jnp.argsort(~keep, stable=True)[:room]  # faster to compile than jnp.nonzero
        is_real = keep[first]
        index = jnp.where(is_real, first, width)
        block = unit[index][:, index]
        both = is_real[:, None] & is_real[None, :]
        block = jnp.where(both, block, jnp.eye(room, dtype=unit.dtype))
        needed = jnp.where(is_real, lacking[index], 0)
        factor = jnp.linalg.cholesky(block)

        def refine(_: Any, change: jax.Array) -> jax.Array:
            rest = needed - jnp.matmul(block, change, precision="highest")
            return change + cho_solve((factor, True), rest)

        change = jax.lax.fori_loop(0, 2, refine, jnp.zeros_like(needed))
        return jnp.zeros_like(lacking).at[index].add(change, mode="drop")

    return kept + map_rows(one, unit, lacking, keep) / root
