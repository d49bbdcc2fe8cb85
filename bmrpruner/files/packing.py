"""Masks as bits, and pruned networks in as few bytes as is simple."""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from bmrpruner.files.naming import PRUNED_VALUES, group

Arrays = dict[str, np.ndarray]


def with_masks(tensors: Mapping[str, np.ndarray], masks: Mapping[str, np.ndarray]) -> Arrays:
    """The tensors, and beside them the masks, eight entries a byte and named after their leaves.

    Examples:
      >>> with_masks({'w': np.zeros(3)}, {'w': np.array([1, 0, 1])})['w/mask']
      array([160], dtype=uint8)
    """
    return {**tensors, **{_mask_name(leaf): np.packbits(mask) for leaf, mask in masks.items()}}


def split_masks(arrays: Arrays) -> tuple[Arrays, Arrays]:
    """Inverse of `with_masks`: the tensors, and the mask of each leaf that has one.

    Raises:
      ValueError: If a mask does not have as many bits as its leaf has entries.

    Examples:
      >>> split_masks({'w': np.zeros(3), 'w/mask': np.array([160], 'uint8')})[1]
      {'w': array([1, 0, 1], dtype=uint8)}
    """
    stems = [name.removesuffix("/mask") for name in arrays if name.endswith("/mask")]
    masked = [leaf for leaf in stems if _is_leaf(leaf, arrays)]
    tensors = dict(arrays)
    bits = {leaf: tensors.pop(_mask_name(leaf)) for leaf in masked}
    leaves = group(tensors)
    shapes = {leaf: _leaf_shape(leaves[leaf], tensors) for leaf in masked}
    return tensors, {leaf: _unpackbits(leaf, bits[leaf], shapes[leaf]) for leaf in masked}


def pack(tensors: Arrays, masks: Mapping[str, np.ndarray]) -> tuple[Arrays, dict[str, Any]]:
    """The same names with all that is left squeezed into bytes, and what `unpack` needs to know.

    Of a tensor with a mask only the kept entries are left, in row-major order.
    """
    mask_of = _masks_by_tensor(tensors, masks)
    kept = {name: _kept(tensor, mask_of.get(name)) for name, tensor in tensors.items()}
    layout = {
        "tensors": {name: [x.dtype.name, list(x.shape)] for name, x in tensors.items()},
        "masks": {leaf: list(mask.shape) for leaf, mask in masks.items()},
    }
    return {name: squeeze(array) for name, array in with_masks(kept, masks).items()}, layout


def unpack(arrays: Mapping[str, np.ndarray], layout: Mapping[str, Any]) -> tuple[Arrays, Arrays]:
    """Inverse of `pack`: tensors with zeros (or what a pruned entry is), and masks.

    Raises:
      ValueError: If an array is missing, or does not hold what it should; the message names it.

    Examples:
      >>> packed = pack({'w': np.array([0., 2.])}, {'w': np.array([0, 1], 'uint8')})
      >>> unpack(*packed)
      ({'w': array([0., 2.])}, {'w': array([0, 1], dtype=uint8)})
    """
    masks = {}
    for leaf, shape in layout["masks"].items():
        bits = expand(_mask_name(leaf), arrays, "uint8", -(-math.prod(shape) // 8))
        masks[leaf] = _unpackbits(leaf, bits, tuple(shape))
    leaves = group(layout["tensors"]).values()
    fills = {name: PRUNED_VALUES[role] for roles in leaves for role, name in roles.items()}
    mask_of = _masks_by_tensor(layout["tensors"], masks)
    tensors = {}
    for name, (dtype, shape) in layout["tensors"].items():
        full = np.full(shape, fills[name], jnp.dtype(dtype))
        mask = np.broadcast_to(mask_of.get(name, np.uint8(1)), shape) != 0
        full[mask] = expand(name, arrays, dtype, int(np.count_nonzero(mask)))
        tensors[name] = full
    return tensors, masks


def squeeze(array: np.ndarray) -> np.ndarray:
    """A lossless image of the numbers as a vector of bytes.

    First come the lowest bytes of all numbers, then the next, each compressed by itself: signs and
    exponents are much alike, while the lower digits are noise.

    Examples:
      >>> squeeze(np.full(1000, 0.5, 'float32')).size < 100
      True
    """
    flat = np.ascontiguousarray(array).reshape(-1)
    packer = zlib.compressobj(9)
    parts = [
        packer.compress(plane.tobytes()) + packer.flush(zlib.Z_FULL_FLUSH)
        for plane in flat.view(np.uint8).reshape(-1, flat.itemsize).T
    ]
    return np.frombuffer(b"".join(parts) + packer.flush(), np.uint8)


def expand(name: str, arrays: Mapping[str, np.ndarray], dtype: str, count: int) -> np.ndarray:
    """Inverse of `squeeze` for the array of that name: a vector of `count` numbers."""
    try:
        raw = zlib.decompress(arrays[name].tobytes())
    except (KeyError, zlib.error) as error:
        raise ValueError(f"{name!r} cannot be unpacked: {error}") from error
    kind = jnp.dtype(dtype)
    if len(raw) != count * kind.itemsize:
        raise ValueError(
            f"{name!r}: expected {count} numbers of {dtype}, got {len(raw)} bytes of them."
        )
    planes = np.frombuffer(raw, np.uint8).reshape(kind.itemsize, count)
    return np.ascontiguousarray(planes.T).reshape(-1).view(kind)


def _kept(tensor: np.ndarray, mask: np.ndarray | None) -> np.ndarray:
    return tensor if mask is None else tensor[np.broadcast_to(mask, tensor.shape) != 0]


def _unpackbits(leaf: str, bits: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    size = math.prod(shape)
    if bits.dtype != np.uint8 or bits.shape != (-(-size // 8),):
        raise ValueError(
            f"{_mask_name(leaf)!r}: expected {-(-size // 8)} bytes of bits for a tensor of shape "
            f"{shape}, got {bits.dtype} of shape {bits.shape}."
        )
    return np.unpackbits(bits, count=size).reshape(shape)


def _masks_by_tensor(names: Mapping[str, Any], masks: Mapping[str, np.ndarray]) -> Arrays:
    leaves = group(names)
    return {name: mask for leaf, mask in masks.items() for name in leaves[leaf].values()}


def _leaf_shape(roles: Mapping[str, str], tensors: Arrays) -> tuple[int, ...]:
    if set(roles) == {"draws"}:
        return tensors[roles["draws"]].shape[2:]
    return tensors[roles.get("mean", roles.get("", ""))].shape


def _is_leaf(leaf: str, names: Mapping[str, Any]) -> bool:
    return leaf in names or f"{leaf}/mean" in names or f"{leaf}/draws" in names


def _mask_name(leaf: str) -> str:
    return f"{leaf}/mask"
