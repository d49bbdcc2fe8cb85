"""Remove whole groups of a layer's inputs, such as the outputs of a hidden unit, one by one."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from bmrpruner.evidence.correlated import inverse, unit_diagonal
from bmrpruner.oneshot.refit import checked_layer


class GroupElimination(NamedTuple):
    """The order in which groups of inputs go, and what each removal costs.

    Attributes:
      order: int32 (G,), the number of the group that goes at each step.
      cost: (G,) nats per example, the rise of the loss with each step, to second order.

    Example:
      >>> found = eliminate_groups(jnp.array([[3.0, 0.1]]), jnp.eye(2), 1.0, jnp.array([[0], [1]]))
      >>> found.order.tolist(), [round(float(x), 3) for x in found.cost]
      ([1, 0], [0.005, 4.5])
    """

    order: jax.Array
    cost: jax.Array


def eliminate_groups(weights: Any, precision: Any, curvature: Any, groups: Any) -> GroupElimination:
    """Remove groups of inputs from all rows of a layer, each time the group that costs least.

    As ZipLM (Kurtic et al. 2023, https://arxiv.org/abs/2302.04089) and the structured Optimal
    Brain Compression do: removing the inputs S costs ½ Σ_r g_r w_rSᵀ(Σ_SS)⁻¹w_rS, and the others
    make up for it, w ← w − Σ_:S(Σ_SS)⁻¹w_S, with Σ = P⁻¹ for all rows.

    Args:
      weights: (R, D).
      precision: (D, D), P = C + λI.
      curvature: (R,), g of each row, or a number.
      groups: Integers (G, k), the inputs of each group; an input is in one group at most.

    Returns:
      A `GroupElimination`, float32 or wider.

    Raises:
      ValueError: If shapes do not fit.

    Example:
      >>> precision = jnp.array([[2.0, 1.9], [1.9, 2.0]])
      >>> found = eliminate_groups(jnp.array([[1.0, 1.1]]), precision, 1.0, jnp.array([[0], [1]]))
      >>> found.order.tolist(), [round(float(x), 2) for x in found.cost]
      ([0, 1], [0.1, 4.2])
    """
    weights, precision = checked_layer(weights, precision)
    groups = jnp.asarray(groups)
    if groups.ndim != 2 or not jnp.issubdtype(groups.dtype, jnp.integer):
        raise ValueError(
            f"groups: expected integers of shape (groups, inputs of each), got {groups.dtype} of "
            f"shape {groups.shape}."
        )
    rows = jnp.broadcast_to(jnp.asarray(curvature, weights.dtype), weights.shape[:1])
    return GroupElimination(*_eliminate_groups(weights, precision, rows, groups))


@jax.jit
def _eliminate_groups(
    weights: jax.Array, precision: jax.Array, curvature: jax.Array, groups: jax.Array
) -> tuple[jax.Array, jax.Array]:
    unit, root = unit_diagonal(precision)
    eye = jnp.eye(groups.shape[1], dtype=unit.dtype)

    def step(carry: Any, _: Any) -> tuple[Any, Any]:
        covariance, scaled, gone = carry
        blocks = covariance[groups[:, :, None], groups[:, None, :]]
        blocks = jnp.where(gone[:, None, None], eye, blocks)
        members = jnp.moveaxis(scaled[:, groups], 0, -1)  # (G, k, R)
        costs = 0.5 * jnp.einsum(
            "gkr,gkr,r->g", members, jnp.linalg.solve(blocks, members), curvature
        )
        q = jnp.argmin(jnp.where(gone, jnp.inf, costs)).astype(jnp.int32)
        inputs = groups[q]
        share = jnp.linalg.solve(blocks[q], covariance[inputs])  # (k, D)
        scaled = scaled - jnp.matmul(scaled[:, inputs], share, precision="highest")
        covariance -= jnp.matmul(covariance[:, inputs], share, precision="highest")
        return (covariance, scaled, gone.at[q].set(True)), (q, costs[q])

    start = inverse(unit), weights * root, jnp.zeros(len(groups), bool)
    return jax.lax.scan(step, start, None, len(groups))[1]
