"""Storing masks: packed to bits or plain, and back."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bmrpruner._sharding import gathered, sharded_like
from bmrpruner._tree import PyTree, is_array, is_numeric, join, keyed_leaves, map_leaves

MASK_DTYPE = "uint8"
"""The dtype of every mask.

Example:
  >>> topk_mask_calculator(jnp.array([3.0, 1.0]), 0.5).dtype == MASK_DTYPE
  True
"""


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


def checked_plain(field: str, mask: Any, like: Any, owner: str) -> Any:
    """`as_plain`, after a check that `mask` fits the array `like`; None for None.

    Raises:
      TypeError: If `mask` is neither None nor an array of numbers, or `like` is no array.
      ValueError: If `mask` has neither the shape of `like` nor that of its packed bits; the message
        names the mask `field` and the array `owner`.
    """
    if mask is None:
        return None
    if not is_numeric(mask) or not is_array(like):
        raise TypeError(
            f"{field}: expected None, or an array for an array, got {type(mask).__name__} "
            f"for {type(like).__name__}."
        )
    packed = (-(-like.size // 8),)
    if mask.shape != like.shape and (mask.shape, mask.dtype) != (packed, np.uint8):
        raise ValueError(
            f"{field}: expected the shape of {owner}, {like.shape}, or {packed} packed to uint8, "
            f"got {mask.dtype} of shape {mask.shape}."
        )
    return as_plain(mask, like)


def masks_by_leaf(params: PyTree, masks: PyTree) -> list[Any]:
    """The given mask of every leaf of the parameters, checked and plain; None where it has none.

    Masks belong to the leaves of their key paths, so that a dict may hold those of Flax Variables.
    None in place of the tree has no mask for any leaf. The list has the order of the leaves of
    `params`, None among them counted.

    Raises:
      ValueError: If the masks are for other leaves, or for leaves of other shapes.
      TypeError: If a mask is no array, or is for a leaf that is none.
    """
    leaves = keyed_leaves(params)
    if masks is None:
        return [None] * len(leaves)
    found = dict(keyed_leaves(masks))
    if found.keys() != {key for key, _ in leaves}:
        alone = join(min(found.keys() ^ {key for key, _ in leaves})) or "(root)"
        raise ValueError(
            "masks: expected a mask or None for each leaf of params and no other, got "
            f"{alone!r} in one of them only."
        )
    return [
        checked_plain(f"masks, {join(key) or '(root)'}", found[key], leaf, "params")
        for key, leaf in leaves
    ]


def pack_tree(masks: PyTree) -> PyTree:
    """`pack` for every leaf; None stays None."""
    return map_leaves(pack, masks)


def plain_tree(masks: PyTree, like: PyTree) -> PyTree:
    """`as_plain` for every leaf of the parameters (or scores) `like`."""
    return map_leaves(lambda leaf, mask: as_plain(mask, leaf), like, masks)


def mask_tree(tree: PyTree, masks: PyTree) -> PyTree:
    """`tree` with zeros where its mask is zero; leaves without a mask are untouched.

    A selection rather than a product: NaN does not survive, and the dtype stays.
    """

    def apply(leaf: Any, mask: Any) -> Any:
        if leaf is None or mask is None:
            return leaf
        return jnp.where(as_plain(mask, leaf), leaf, jnp.zeros_like(leaf))

    return map_leaves(apply, tree, masks)
