"""Pack masks into bits, and pruned networks into the bytes of the weights that are kept."""

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
    """Add masks to tensors: eight entries a byte, named after their leaves.

    Args:
      tensors: Arrays by name.
      masks: 0 or 1, by leaf name.

    Returns:
      The tensors, and the masks under the names `leaf/mask`.

    Example:
      >>> with_masks({'w': np.zeros(3)}, {'w': np.array([1, 0, 1])})['w/mask']
      array([160], dtype=uint8)
    """
    return {**tensors, **{_mask_name(leaf): np.packbits(mask) for leaf, mask in masks.items()}}


def split_masks(arrays: Arrays) -> tuple[Arrays, Arrays]:
    """Undo `with_masks`.

    Args:
      arrays: Tensors and packed masks by name.

    Returns:
      The tensors by name, and the masks by leaf name, uint8 in the shape of the leaf.

    Raises:
      ValueError: If a mask does not have as many bits as its leaf has entries.

    Example:
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
    """Squeeze tensors into bytes; of a tensor with a mask, only the entries that are kept.

    Args:
      tensors: Arrays by name.
      masks: 0 or 1, by leaf name, in the leaf's shape.

    Returns:
      Vectors of bytes under the names of the tensors and masks; and the dtypes and shapes that
      `unpack` needs, which JSON can hold. Kept entries are in row-major order.

    Example:
      >>> pack({'w': np.zeros(2, 'float32')}, {'w': np.array([0, 1], 'uint8')})[1]
      {'tensors': {'w': ['float32', [2]]}, 'masks': {'w': [2]}}
    """
    mask_of = _masks_by_tensor(tensors, masks)
    kept = {name: _kept(tensor, mask_of.get(name)) for name, tensor in tensors.items()}
    layout = {
        "tensors": {name: [x.dtype.name, list(x.shape)] for name, x in tensors.items()},
        "masks": {leaf: list(mask.shape) for leaf, mask in masks.items()},
    }
    return {name: squeeze(array) for name, array in with_masks(kept, masks).items()}, layout


def unpack(arrays: Mapping[str, np.ndarray], layout: Mapping[str, Any]) -> tuple[Arrays, Arrays]:
    """Undo `pack`: pruned entries get the value that their role has for them, such as 0.

    Args:
      arrays: Vectors of bytes by name.
      layout: Dtypes and shapes, as `pack` returns them.

    Returns:
      Tensors by name, and masks by leaf name.

    Raises:
      ValueError: If an array is missing, or does not hold what it should; the message names it.

    Example:
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
    """Compress numbers without loss into a vector of bytes.

    First come the lowest bytes of all numbers, then the next, each compressed by itself: signs and
    exponents repeat and compress well, the lower digits do not.

    Args:
      array: Numbers of any shape.

    Returns:
      uint8 of one axis.

    Example:
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
    """Undo `squeeze` for one array.

    Args:
      name: The array's name.
      arrays: Vectors of bytes by name.
      dtype: Of the numbers.
      count: How many numbers are expected.

    Returns:
      `count` numbers, of one axis.

    Raises:
      ValueError: If the array is missing, or holds something else.

    Example:
      >>> expand('w', {'w': squeeze(np.array([1.0, 2.0]))}, 'float64', 2)
      array([1., 2.])
    """
    if name not in arrays:
        raise ValueError(f"{name!r}: expected it among the packed arrays, got none of this name.")
    try:
        raw = zlib.decompress(arrays[name].tobytes())
    except zlib.error as error:
        raise ValueError(f"{name!r}: expected whole compressed numbers, got {error}") from error
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
