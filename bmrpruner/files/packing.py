"""Masks as bits, and pruned tensors without their zeros."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from bmrpruner.files.naming import PRUNED_VALUES, group

Arrays = dict[str, np.ndarray]


def without_zeros(tensors: Arrays, masks: Mapping[str, np.ndarray]) -> Arrays:
    """The tensors with only the kept entries, row-major, of those that have a mask.

    Examples:
      >>> without_zeros({'w': np.array([[0, 1], [2, 0]])}, {'w': np.array([[0, 1], [1, 0]])})
      {'w': array([1, 2])}
    """
    leaves = group(tensors)
    kept = dict(tensors)
    for leaf, mask in masks.items():
        for name in leaves[leaf].values():
            kept[name] = _kept(tensors[name], mask)
    return kept


def with_zeros(tensors: Arrays, masks: Mapping[str, np.ndarray]) -> Arrays:
    """Inverse of `without_zeros`.

    Examples:
      >>> with_zeros({'w': np.array([1, 2])}, {'w': np.array([[0, 1], [1, 0]])})
      {'w': array([[0, 1],
             [2, 0]])}
    """
    leaves = group(tensors)
    full = dict(tensors)
    for leaf, mask in masks.items():
        for role, name in leaves[leaf].items():
            full[name] = _spread_out(name, tensors[name], mask, PRUNED_VALUES[role])
    return full


def pack_masks(masks: Mapping[str, np.ndarray]) -> Arrays:
    """Eight entries a byte, named after the leaf.

    Examples:
      >>> pack_masks({'w': np.array([1, 0, 1])})
      {'w/mask': array([160], dtype=uint8)}
    """
    return {f"{leaf}/mask": np.packbits(mask) for leaf, mask in masks.items()}


def split_masks(tensors: Arrays, shapes: Mapping[str, Any] | None = None) -> tuple[Arrays, Arrays]:
    """The tensors without masks, and the unpacked mask of each leaf that has one.

    Args:
      tensors: By name, bits of masks under `…/mask`.
      shapes: Shape of each leaf with a mask; by default that of its tensors.

    Raises:
      ValueError: If a mask does not have as many bits as its leaf has entries.

    Examples:
      >>> split_masks({'w': np.zeros(3), 'w/mask': np.array([160], 'uint8')})[1]
      {'w': array([1, 0, 1], dtype=uint8)}
    """
    bits = {
        name.removesuffix("/mask"): array
        for name, array in tensors.items()
        if name.endswith("/mask") and _is_leaf(name.removesuffix("/mask"), tensors)
    }
    rest = {
        name: array
        for name, array in tensors.items()
        if not (name.endswith("/mask") and name.removesuffix("/mask") in bits)
    }
    leaves = group(rest)
    masks = {}
    for leaf, packed in bits.items():
        shape = tuple(shapes[leaf]) if shapes else _leaf_shape(leaves[leaf], rest)
        size = int(np.prod(shape))
        if packed.dtype != np.uint8 or packed.shape != (-(-size // 8),):
            raise ValueError(
                f"'{leaf}/mask': expected {-(-size // 8)} bytes of bits for a tensor of shape "
                f"{shape}, got {packed.dtype} of shape {packed.shape}."
            )
        masks[leaf] = np.unpackbits(packed, count=size).reshape(shape)
    return rest, masks


def _kept(tensor: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The kept entries; draws keep their leading axes."""
    leading = tensor.shape[: tensor.ndim - mask.ndim]
    return tensor.reshape(*leading, -1)[..., mask.ravel() != 0]


def _spread_out(name: str, kept: np.ndarray, mask: np.ndarray, fill: Any) -> np.ndarray:
    expected = np.count_nonzero(mask)
    if not kept.ndim or kept.shape[-1] != expected:
        raise ValueError(
            f"{name!r}: expected {expected} kept weights, got an array of shape {kept.shape}."
        )
    full = np.full((*kept.shape[:-1], mask.size), fill, kept.dtype)
    full[..., mask.ravel() != 0] = kept
    return full.reshape(*kept.shape[:-1], *mask.shape)


def _leaf_shape(roles: Mapping[str, str], tensors: Arrays) -> tuple[int, ...]:
    if set(roles) == {"draws"}:
        return tensors[roles["draws"]].shape[2:]
    return tensors[roles.get("mean", roles.get("", ""))].shape


def _is_leaf(leaf: str, names: Mapping[str, Any]) -> bool:
    return leaf in names or f"{leaf}/mean" in names or f"{leaf}/draws" in names
