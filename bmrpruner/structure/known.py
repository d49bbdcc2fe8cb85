"""What is known of a variable whatever the arguments are: values, entry by entry."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np


class Known(NamedTuple):
    """Which entries of an array are constant, and their values.

    Both arrays have the variable's rank. An axis along which nothing changes has size 1.

    Attributes:
      value: The constants; zero where they are not known.
      known: Whether they are.
    """

    value: Any
    known: Any

    @property
    def zero(self) -> Any:
        """Where the entries are known to be zero."""
        return self.known & (self.value == 0)

    @property
    def complete(self) -> bool:
        """Whether every entry is known."""
        return bool(self.known.all())


def unknown(rank: int, dtype: Any) -> Known:
    """Nothing is known of an array of this rank."""
    shape = (1,) * rank
    return Known(np.zeros(shape, plain_dtype(dtype)), np.zeros(shape, bool))


def constant(value: Any) -> Known:
    """Everything is known."""
    array = np.asarray(value)
    return Known(array, np.ones((1,) * array.ndim, bool))


def plain_dtype(dtype: Any) -> Any:
    """The NumPy dtype to hold values of `dtype`; float32 for what NumPy does not have."""
    try:
        return np.dtype(dtype)
    except TypeError:
        return np.dtype(np.float32)


def clean(value: Any, known: Any) -> Known:
    """A `Known` with zeros where nothing is known."""
    known = np.asarray(known)
    if not known.all():
        value = np.where(known, value, np.zeros((), value.dtype))
    return Known(np.asarray(value), known)


def expand(k: Known, axes: Sequence[int], shape: Sequence[int]) -> Known:
    """The same with the given axes in full size."""
    return Known(*(stretch(array, axes, shape) for array in k))


def stretch(array: Any, axes: Sequence[int], shape: Sequence[int]) -> np.ndarray:
    """An array broadcast to the sizes of `shape` along the given axes only."""
    full = tuple(shape[i] if i in axes else n for i, n in enumerate(array.shape))
    return np.broadcast_to(array, full)


def full(k: Known, shape: Sequence[int]) -> np.ndarray:
    """The values in the variable's own shape."""
    return np.broadcast_to(k.value, tuple(shape))


def squeeze_equal(k: Known, axes: Sequence[int]) -> Known:
    """The same with axes of size 1 where the entries along them are all equal."""
    value, known = k
    for axis in axes:
        first_value, first_known = (a.take([0], axis) for a in (value, known))
        if np.array_equal(np.broadcast_to(first_known, known.shape), known) and np.array_equal(
            np.broadcast_to(first_value, value.shape), value
        ):
            value, known = first_value, first_known
    return Known(value, known)


def meet(a: Known, b: Known) -> Known:
    """What is known of a variable that has either value."""
    return clean(a.value + np.zeros_like(b.value), a.known & b.known & (a.value == b.value))


def meet_along(k: Known, axis: int) -> Known:
    """What is known of a slice at an unknown index of an axis; the axis keeps size 1."""
    first = k.value.take([0], axis)
    same = (k.value == first).all(axis, keepdims=True) & k.known.all(axis, keepdims=True)
    return clean(first, same)


def equal(a: Known, b: Known) -> bool:
    """Whether the same is known."""
    return bool((a.known == b.known).all() and (a.value == b.value).all())
