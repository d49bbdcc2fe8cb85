"""Storing masks: packed to bits or plain, and back."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax

from bmrpruner._sharding import gathered, sharded_like
from bmrpruner._tree import PyTree, is_none, map_leaves

MASK_DTYPE = "uint8"


def pack(mask: jax.Array | None) -> jax.Array | None:
    """Eight entries a byte: big-endian bits of the row-major mask, last byte zero-padded."""
    return None if mask is None else gathered(lambda m: jnp.packbits(jnp.ravel(m) != 0), mask)


def unpack(packed: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """The uint8 mask of `shape` that was packed."""
    size = 1
    for length in shape:
        size *= length
    return jnp.unpackbits(packed, count=size).reshape(shape)


def as_plain(mask: Any, like: Any) -> Any:
    """`mask` in the shape of the array `like`, whether it is stored packed or plain.

    The shape tells which: only for a single entry do both look the same, and there both readings
    of nonzero agree.
    """
    if mask is None or jnp.shape(mask) == jnp.shape(like):
        return mask
    return sharded_like(unpack(mask, jnp.shape(like)), like)


def pack_tree(masks: PyTree) -> PyTree:
    """`pack` for every leaf; None stays None."""
    return map_leaves(pack, masks)


def plain_tree(masks: PyTree, like: PyTree) -> PyTree:
    """`as_plain` for every leaf of the parameters (or scores) `like`."""
    return map_leaves(lambda leaf, mask: as_plain(mask, leaf), like, masks)


def fill_masked_nodes(masks: PyTree, params: PyTree) -> PyTree:
    """The masks as a tree like the parameters, None for each leaf that `optax.masked` left out.

    Example:
      >>> fill_masked_nodes({'a': 1, 'b': optax.MaskedNode()}, {'a': 1.5, 'b': [2.0, 3.0]})
      {'a': 1, 'b': [None, None]}
    """

    def fill(mask: Any, below: PyTree) -> PyTree:
        return map_leaves(lambda _: None, below) if _is_masked(mask) else mask

    return jax.tree.map(fill, masks, params, is_leaf=lambda x: is_none(x) or _is_masked(x))


def _is_masked(node: Any) -> bool:
    return isinstance(node, optax.MaskedNode)


def mask_tree(tree: PyTree, masks: PyTree) -> PyTree:
    """`tree` with zeros where its mask is zero; leaves without a mask are untouched.

    A selection rather than a product: NaN does not survive, and the dtype stays.
    """

    def apply(leaf: Any, mask: Any) -> Any:
        if leaf is None or mask is None:
            return leaf
        return jnp.where(as_plain(mask, leaf), leaf, jnp.zeros_like(leaf))

    return map_leaves(apply, tree, masks)
