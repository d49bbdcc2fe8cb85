"""Cutting arrays on the host, and putting them back where they were."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np


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
    try:
        return jax.device_put(host, array.sharding)
    except ValueError:  # the mesh does not divide the new shape
        return jax.device_put(host)
