"""What the metrics share: checked inputs, labels as one-hot rows, entropy."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

Axes = tuple[str, ...]


def real_array(name: str, value: ArrayLike, axes: Axes | None = None) -> jax.Array:
    """`value` as a nonempty array of float32 (float64 stays), with one axis for each of `axes`."""
    x = _array(name, value)
    if not (jnp.issubdtype(x.dtype, jnp.floating) or _is_integer(x) or x.dtype == bool):
        raise TypeError(f"{name}: expected real numbers, got dtype {x.dtype}.")
    if axes is not None and x.ndim != len(axes):
        raise ValueError(f"{name}: expected shape {_text(axes)}, got shape {x.shape}.")
    if x.size == 0:
        raise ValueError(f"{name}: expected at least one entry along every axis, got {x.shape}.")
    return x.astype(jnp.float64 if x.dtype == jnp.float64 else jnp.float32)


def labelled(probs: ArrayLike, labels: ArrayLike) -> tuple[jax.Array, jax.Array]:
    """`probs` (n, classes) as floats and `labels` (n,) as int32, checked against each other."""
    p = real_array("probs", probs, ("n", "classes"))
    y = _array("labels", labels)
    if not _is_integer(y):
        raise TypeError(f"labels: expected class indices of an integer dtype, got {y.dtype}.")
    if y.shape != p.shape[:1]:
        raise ValueError(
            f"labels: expected shape {p.shape[:1]}, one for each row of probs {p.shape}, "
            f"got shape {y.shape}."
        )
    return p, y.astype(jnp.int32)


def one_hot(labels: jax.Array, like: jax.Array) -> jax.Array:
    """Labels (n,) as rows in the shape and dtype of `like` (n, classes), NaN if out of range."""
    classes = like.shape[1]
    known = (labels >= 0) & (labels < classes)
    rows = jax.nn.one_hot(labels, classes, dtype=like.dtype)
    return jnp.where(known[:, None], rows, jnp.nan)


def correct(probs: jax.Array, labels: jax.Array) -> jax.Array:
    """1.0 where the likeliest class is the label, else 0.0; NaN for a bad label or NaN probs."""
    # Argmax takes a NaN for the maximum: a diverged network would count as choosing that class.
    known = (labels >= 0) & (labels < probs.shape[1]) & ~jnp.isnan(probs.max(1))
    hit = probs.argmax(1).astype(labels.dtype) == labels
    return jnp.where(known, hit.astype(probs.dtype), jnp.nan)


def entropy(probs: jax.Array) -> jax.Array:
    """Shannon entropy over the last axis, in nats, with 0 ln 0 = 0."""
    return jax.scipy.special.entr(probs).sum(-1)


def _array(name: str, value: ArrayLike) -> jax.Array:
    try:
        return jnp.asarray(value)
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"{name}: expected an array of numbers, got {type(value).__name__}: {error}"
        ) from error


def _is_integer(x: jax.Array) -> bool:
    return jnp.issubdtype(x.dtype, jnp.integer)


def _text(axes: Axes) -> str:
    return f"({', '.join(axes)}{',' if len(axes) == 1 else ''})"
