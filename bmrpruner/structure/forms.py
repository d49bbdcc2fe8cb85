"""What tells the calls of a compacted function apart, and which need a plan of their own."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import jax

from bmrpruner._tree import PyTree, is_array, is_none


def form(params: PyTree, args: Any) -> Hashable:
    """What a plan is made for: the parameters' dtypes, the arguments' types, all other leaves.

    Dtypes are those that JAX makes of an array: float32 of NumPy's float64, unless x64 is on.
    Parameters keep the weak types of the original ones: cutting an array makes it strongly typed.

    Example:
      >>> import numpy as np
      >>> x = np.ones(3, np.float32)
      >>> form({'w': x}, (x.astype(np.float64), 2)) == form({'w': x}, (x, 2))
      True
    """
    own, rest = (jax.tree.leaves(tree, is_leaf=is_none) for tree in (params, args))
    return (
        tuple(_dtype(x) if is_array(x) else _static(x) for x in own),
        tuple((tuple(x.shape), _dtype(x), is_weak(x)) if is_array(x) else _static(x) for x in rest),
    )


def call_key(tree: Any, leaves: list[Any]) -> Hashable | None:
    """What tells calls of one form; None if that cannot be told."""
    parts: list[Any] = []
    for x in leaves:
        try:
            parts.append((x.shape, x.dtype, is_weak(x)))
        except AttributeError:
            parts.append(_static(x))
    key = (tree, tuple(parts))
    try:
        hash(key)
    except TypeError:
        return None
    return key


def is_weak(x: Any) -> bool:
    """Whether the dtype of an array gives way to others, as that of a Python number does."""
    return bool(getattr(x, "weak_type", False))


def _dtype(x: Any) -> str:
    return str(jax.dtypes.canonicalize_dtype(x.dtype, allow_extended_dtype=True))


def _static(x: Any) -> Hashable:
    """A leaf that is no array; 1, 1.0 and True differ, and so do 0.0 and -0.0."""
    if isinstance(x, float | complex):
        return type(x), repr(x)
    return type(x), x if isinstance(x, Hashable) else id(x)
