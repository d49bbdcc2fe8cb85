"""Meshes with explicit axis types: results laid out like the parameter they belong to."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, NamedSharding, PartitionSpec


def sharded_like(mask: Any, param: Any) -> Any:
    """The mask, laid out as the array `param` wherever the types tell that it is not; None stays.

    Operations of two arrays adopt the layout of the one that has one. With automatic axes the
    types of traced arrays tell nothing, and the compiler does the same by itself.
    """
    if mask is None or jax.typeof(mask).sharding == jax.typeof(param).sharding:
        return mask
    return mask * jnp.ones_like(param, mask.dtype)


def gathered(fn: Callable[..., jax.Array], x: jax.Array) -> jax.Array:
    """`fn(x)` for an `fn` that reshapes: on explicit axes its result is the same on all devices."""
    mesh = jax.typeof(x).sharding.mesh
    if AxisType.Explicit not in mesh.axis_types:
        return fn(x)
    ndim = jax.eval_shape(fn, jax.ShapeDtypeStruct(x.shape, x.dtype)).ndim
    everywhere = NamedSharding(mesh, PartitionSpec(*(None,) * ndim))
    return jax.sharding.auto_axes(fn, axes=mesh.axis_names, out_sharding=everywhere)(x)
