"""What happens to an emitted update on its way to `optax.apply_updates`."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp

from bmrpruner._masks import as_plain
from bmrpruner._tree import PyTree, map_leaves

_UNSIGNED = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32, 8: jnp.uint64}


def round_updates(updates: PyTree, masks: PyTree, count: jax.Array) -> PyTree:
    """The same updates, opaque to the compiler where a leaf has a mask.

    XLA may fuse an update's last product into its sum with the parameter (a fused multiply-add).
    Then parameters would differ in the last bit with what the update passes through on its way.
    Flipping no bits keeps the product rounded: that the count is not negative, it cannot know.
    """
    if not isinstance(count, jax.core.Tracer):
        return updates

    @functools.cache
    def nothing(unsigned: Any) -> jax.Array:
        return (count < 0).astype(unsigned)

    def opaque(update: Any, mask: Any) -> Any:
        if update is None or mask is None or not jnp.issubdtype(update.dtype, jnp.floating):
            return update
        unsigned = _UNSIGNED.get(update.dtype.itemsize)
        if unsigned is None:
            return update
        bits = jax.lax.bitcast_convert_type(update, unsigned) ^ nothing(unsigned)
        return jax.lax.bitcast_convert_type(bits, update.dtype)

    return map_leaves(opaque, updates, masks)


def cancel_pruned(updates: PyTree, params: PyTree, masks: PyTree) -> PyTree:
    """The updates, with minus the parameter where it is pruned.

    A lower-precision update is widened to the parameter's dtype, or the sum would not be zero.
    """

    def cancel(param: Any, mask: Any, update: Any) -> Any:
        if param is None or mask is None or update is None:
            return update
        wide = jnp.promote_types(jnp.result_type(param), jnp.result_type(update))
        return jnp.where(as_plain(mask, param), update.astype(wide), -jnp.asarray(param, wide))

    return map_leaves(cancel, params, masks, updates)
