"""Evidence for groups of weights that go together."""

from __future__ import annotations

from collections.abc import Sequence

import jax
from jax.typing import ArrayLike

from bmrpruner._groups import reduce_members
from bmrpruner.evidence.diagonal import as_floats


def group_delta_f(delta_f: ArrayLike, axis: int | Sequence[int] | None = None) -> jax.Array:
    """ΔF of groups of weights (channels, blocks, neurons): the sum over the members.

    Posterior and priors factorise, so log evidences add. Removing a weight that is already gone
    changes nothing: members with ΔF = +∞ count 0 and leave the decision to the others. A group with
    no other members is +∞ itself and stays pruned.

    Args:
      delta_f: ΔF per weight in nats, any shape.
      axis: The axes that run over the members of a group; None sums over everything.

    Returns:
      ΔF per group in nats, the shape without `axis`, accumulated in float32 or wider.

    Example:
      >>> import jax.numpy as jnp
      >>> group_delta_f(jnp.array([[1.0, -3.0], [jnp.inf, 0.5], [jnp.inf, jnp.inf]]), axis=1)
      Array([-2. ,  0.5,  inf], dtype=float32)
    """
    (values,) = as_floats(delta_f)
    return -reduce_members(-values, tuple(axis) if isinstance(axis, Sequence) else axis)
