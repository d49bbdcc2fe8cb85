"""Checks of values from users; messages name the field, what is expected and what was given."""

from __future__ import annotations

import difflib
import inspect
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import numpy as np


def concrete(value: Any) -> bool:
    """Whether `value` is a number that can be compared now, not a tracer, schedule or array."""
    return not isinstance(value, jax.core.Tracer) and np.ndim(value) == 0 and not callable(value)


def check_sparsity(field: str, value: Any) -> None:
    """Raise unless `value` is a sparsity: a number in [0, 1], or traced."""
    if isinstance(value, bool | str) or value is None:
        raise TypeError(f"{field}: expected a number in [0, 1], got {value!r}.")
    if concrete(value) and not 0 <= float(value) <= 1:
        raise ValueError(f"{field}: expected a number in [0, 1], got {value}.")


def check_positive(field: str, value: Any, *, allow_zero: bool = False) -> None:
    """Raise unless `value` is a positive number, an array, traced, or a schedule (a callable)."""
    if isinstance(value, bool | str) or value is None:
        raise TypeError(f"{field}: expected a positive number, got {value!r}.")
    if not concrete(value):
        return
    number = float(value)
    if not 0 <= number < math.inf or (number == 0 and not allow_zero):
        raise ValueError(
            f"{field}: expected a number {'>= 0' if allow_zero else '> 0'}, got {value}."
        )


def check_seed(field: str, value: Any) -> None:
    """Raise unless `value` is an integer in [0, 2**32): JAX ignores the higher bits of a seed."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise TypeError(f"{field}: expected an integer in [0, 2**32), got {value!r}.")
    if not 0 <= value < 2**32:
        raise ValueError(f"{field}: expected an integer in [0, 2**32), got {value}.")


def check_labels(field: str, labels: np.ndarray, classes: int) -> None:
    """Raise a ValueError unless labels are in [0, classes)."""
    if labels.size and (labels.max() >= classes or labels.min() < 0):
        raise ValueError(
            f"{field}: expected integers in [0, {classes}), the classes of the model, "
            f"got {labels.min()} to {labels.max()}."
        )


def did_you_mean(name: str, known: Iterable[str], *, cutoff: float = 0.5) -> str:
    """`" Did you mean 'x'?"` for the closest known name, or nothing if none reaches the cutoff."""
    close = difflib.get_close_matches(str(name), [str(k) for k in known], n=1, cutoff=cutoff)
    return f" Did you mean {close[0]!r}?" if close else ""


def accepted(fn: Callable[..., Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """The part of `kwargs` that `fn` takes."""
    if not kwargs:
        return {}
    parameters = inspect.signature(fn).parameters
    if any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values()):
        return dict(kwargs)
    return {name: value for name, value in kwargs.items() if name in parameters}
