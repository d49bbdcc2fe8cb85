"""Cutting arrays on the host, and putting them back where they were."""

from __future__ import annotations

import math
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec


def cut(array: Any, kept: tuple[np.ndarray, ...]) -> Any:
    """The kept indices of each axis, of the same kind and layout; the same array if all are kept.

    NumPy cuts: `jnp.take` would compile for every shape.

    Example:
      >>> cut(np.arange(6).reshape(2, 3), (np.array([1]), np.array([0, 2])))
      array([[3, 5]])
    """
    if all(len(own) == n for own, n in zip(kept, array.shape, strict=True)):
        return array
    host = np.asarray(array)
    for axis, own in enumerate(kept):
        if len(own) != host.shape[axis]:
            host = host.take(own, axis)
    return like(array, host)


def like(array: Any, host: np.ndarray) -> Any:
    """A host array as the same kind of array, with its sharding where that divides the shape."""
    if not isinstance(array, jax.Array):
        return host
    sharding = array.sharding
    if isinstance(sharding, NamedSharding):
        sharding = NamedSharding(sharding.mesh, _dividing(sharding, host.shape))
    return jax.device_put(host, sharding)


def _dividing(sharding: NamedSharding, shape: tuple[int, ...]) -> PartitionSpec:
    """The part of a partition that divides a shape; other axes are the same on all devices."""
    spec = []
    for entry, size in zip(sharding.spec, shape, strict=False):
        names = () if entry is None else (entry,) if isinstance(entry, str) else tuple(entry)
        parts = math.prod(sharding.mesh.shape[name] for name in names)
        spec.append(entry if size % parts == 0 else None)
    return PartitionSpec(*spec)
