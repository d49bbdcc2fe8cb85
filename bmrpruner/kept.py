"""Parameters under masks that are given: masked, and as the vector of what the masks keep."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bmrpruner._masks import masks_by_leaf
from bmrpruner._tree import PyTree, is_none, is_prunable
from bmrpruner.sparse_state import apply_mask

__all__ = ["apply_masks", "ravel_kept"]


def apply_masks(params: PyTree, masks: PyTree) -> PyTree:
    """The parameters with zeros where their masks are zero.

    Args:
      params: Any pytree; leaves that are no arrays stay as they are.
      masks: A mask for each leaf of `params`, plain or packed; None leaves a leaf as it is, and
        None in place of the tree leaves all as they are.

    Returns:
      A tree like `params`, of its dtypes. NaN and infinities do not survive a zero mask.

    Raises:
      ValueError: If the masks are for other leaves, or for leaves of other shapes.
      TypeError: If a mask is no array, or is for a leaf that is none.

    Example:
      >>> params = {'w': jnp.array([1.0, jnp.nan]), 'b': jnp.ones(1)}
      >>> apply_masks(params, {'w': jnp.array([1, 0], 'uint8'), 'b': None})['w'].tolist()
      [1.0, 0.0]
    """
    leaves, structure = jax.tree.flatten(params, is_leaf=is_none)
    masked = [
        leaf if mask is None else apply_mask(leaf, mask)
        for leaf, mask in zip(leaves, masks_by_leaf(params, masks), strict=True)
    ]
    return jax.tree.unflatten(structure, masked)


def ravel_kept(
    params: PyTree, masks: PyTree = None
) -> tuple[jax.Array, Callable[[jax.Array], PyTree]]:
    """A vector of the entries that the masks keep, and the way back to parameters.

    A sampler, or any optimizer of flat vectors, then works on the pruned model alone:
    `log_density = lambda z: log_posterior(unravel(z))`. Both directions may be compiled,
    differentiated and vmapped over; the masks are constants, as they say how long the vector is.

    Args:
      params: Any pytree. Leaves that are not floating-point or complex arrays have no entries in
        the vector.
      masks: As in `apply_masks`; None keeps everything.

    Returns:
      The vector, (kept,), leaf after leaf in row-major order, in the dtype that holds them all; a
      complex leaf has its real parts and then its imaginary ones. And `unravel`, which takes such a
      vector and returns a tree like `params`, of its dtypes: zero where pruned, and with the leaves
      of `params` that have no entries. `unravel(vector)` equals `apply_masks(params, masks)`.

    Raises:
      ValueError: As `apply_masks` does; `unravel` for a vector of another shape.
      TypeError: As `apply_masks` does, and for masks that are traced.

    Example:
      >>> params = {'w': jnp.array([1.0, 2.0, 3.0]), 'steps': 7}
      >>> vector, unravel = ravel_kept(params, {'w': jnp.array([1, 0, 1], 'uint8'), 'steps': None})
      >>> vector.tolist(), unravel(2 * vector)['w'].tolist(), unravel(vector)['steps']
      ([1.0, 3.0], [2.0, 0.0, 6.0], 7)
    """
    traced = [m for m in jax.tree.leaves(masks) if isinstance(m, jax.core.Tracer)]
    if traced:
        raise TypeError(
            "masks: expected concrete arrays, as they say how long the vector is, got traced ones."
        )
    leaves, structure = jax.tree.flatten(apply_masks(params, masks), is_leaf=is_none)
    with jax.ensure_compile_time_eval():
        kept = [None if m is None else _indices(m) for m in masks_by_leaf(params, masks)]
    parts = [
        _entries(leaf, indices)
        for leaf, indices in zip(leaves, kept, strict=True)
        if is_prunable(leaf)
    ]
    vector = jnp.concatenate(parts) if parts else jnp.zeros(0)
    ends = np.cumsum([part.size for part in parts])

    def unravel(vector: jax.Array) -> PyTree:
        expected = (int(ends[-1]) if parts else 0,)
        if jnp.shape(vector) != expected:
            raise ValueError(
                f"vector: expected the shape {expected}, which the masks keep, got "
                f"{jnp.shape(vector)}; vmap over more axes."
            )
        pieces = iter(jnp.split(jnp.asarray(vector), ends[:-1]))
        filled = [
            _filled(leaf, indices, next(pieces)) if is_prunable(leaf) else leaf
            for leaf, indices in zip(leaves, kept, strict=True)
        ]
        return jax.tree.unflatten(structure, filled)

    return vector, unravel


def _indices(mask: Any) -> np.ndarray:
    """Where a mask keeps, in the row-major order of its entries."""
    return np.flatnonzero(np.asarray(mask))


def _entries(leaf: Any, indices: np.ndarray | None) -> jax.Array:
    """The kept entries of a leaf, (kept,), real."""
    flat = jnp.ravel(leaf)
    flat = flat if indices is None else flat[indices]
    if jnp.iscomplexobj(flat):
        return jnp.concatenate([flat.real, flat.imag])
    return flat


def _filled(leaf: Any, indices: np.ndarray | None, entries: jax.Array) -> jax.Array:
    """An array like a leaf with the entries where it keeps, and zero elsewhere."""
    if jnp.iscomplexobj(leaf):
        entries = jax.lax.complex(*jnp.split(entries, 2))
    entries = entries.astype(jnp.asarray(leaf).dtype)
    if indices is None:
        return entries.reshape(jnp.shape(leaf))
    zeros = jnp.zeros(np.size(leaf), entries.dtype)
    return zeros.at[indices].set(entries).reshape(jnp.shape(leaf))
