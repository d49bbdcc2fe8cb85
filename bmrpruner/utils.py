"""Summaries of how sparse a tree is, and of what two masks share."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bmrpruner._tree import PyTree, is_none, join, keyed_leaves
from bmrpruner.metrics.compression import nonzeros

__all__ = ["summarize_intersection", "summarize_sparsity"]


def summarize_sparsity(
    param_tree: PyTree, only_total_sparsity: bool = False
) -> dict[str, jax.Array | None]:
    """How many entries of each array are exactly zero.

    Args:
      param_tree: Any pytree of parameters, or of masks that are not packed. Leaves that are not
        arrays are skipped; None stays None.
      only_total_sparsity: Leave out the single arrays.

    Returns:
      float32 scalars: by key path, `'encoder/kernel'`, the fraction of zeros; and over all arrays
      `_total_sparsity`, `_nparams_nnz` and `_nparams`.

    Example:
      >>> report = summarize_sparsity({'a': jnp.array([0., 1.]), 'b': jnp.ones(2)})
      >>> {name: float(value) for name, value in report.items()}
      {'_total_sparsity': 0.25, '_nparams_nnz': 3.0, '_nparams': 4.0, 'a': 0.5, 'b': 0.0}
    """
    kept = nonzeros(param_tree)
    counts = jax.tree.leaves(kept.per_leaf, is_leaf=is_none)
    leaves = list(zip(keyed_leaves(param_tree), counts, strict=True))
    size = sum(leaf.size for (_, leaf), count in leaves if count is not None)
    report: dict[str, jax.Array | None] = {
        "_total_sparsity": _share_of_zeros(kept.total, size),
        "_nparams_nnz": kept.total.astype(jnp.float32),
        "_nparams": jnp.asarray(size, jnp.float32),
    }
    if only_total_sparsity:
        return report
    for (key, leaf), count in leaves:
        if count is not None:
            report[join(key)] = _share_of_zeros(count, leaf.size)
        elif leaf is None:
            report[join(key)] = None
    return report


def summarize_intersection(
    mask_tree1: PyTree, mask_tree2: PyTree, only_total_intersection: bool = False
) -> dict[str, jax.Array | None]:
    """The share of the first masks' ones that the second masks have too.

    Args:
      mask_tree1: Masks, plain or packed; None where exempt.
      mask_tree2: Masks of the same key paths, stored in the same way. A mask that is None in one of
        the two trees alone overlaps with nothing.
      only_total_intersection: Leave out the single masks.

    Returns:
      float32 scalars: by key path, common ones over the ones of the first mask, None if both are
      None; and the same over all masks, `_total_intersection`.

    Raises:
      ValueError: If the trees do not have the same leaves.

    Example:
      >>> first, second = jnp.array([1, 1, 0], 'uint8'), jnp.array([1, 0, 1], 'uint8')
      >>> report = summarize_intersection({'w': first, 'b': None}, {'w': second, 'b': None})
      >>> float(report['w']), report['b'], float(report['_total_intersection'])
      (0.5, None, 0.5)
    """
    first, second = dict(keyed_leaves(mask_tree1)), dict(keyed_leaves(mask_tree2))
    if first.keys() != second.keys():
        alone = join(min(first.keys() ^ second.keys()))
        raise ValueError(
            f"mask_tree1, mask_tree2: expected the same leaves, got {alone!r} in one of them only."
        )
    pairs = {join(key): (mask, second[key]) for key, mask in first.items()}
    counts = {
        name: None if a is None and b is None else (_common(a, b), _ones(a))
        for name, (a, b) in pairs.items()
    }
    known = [pair for pair in counts.values() if pair is not None]
    total = _ratio(_total(common for common, _ in known), _total(ones for _, ones in known))
    report: dict[str, jax.Array | None] = {"_total_intersection": total}
    if not only_total_intersection:
        report |= {name: pair and _ratio(*pair) for name, pair in counts.items()}
    return report


def _total(counts: Any) -> jax.Array:
    return sum((jnp.asarray(n, jnp.float32) for n in counts), start=jnp.zeros([], jnp.float32))


def _share_of_zeros(nonzero: jax.Array, size: int) -> jax.Array:
    return _ratio(np.asarray(size, nonzero.dtype) - nonzero, size)


def _ratio(part: Any, whole: Any) -> jax.Array:
    """The quotient in float32; 0 of nothing."""
    return jnp.asarray(part, jnp.float32) / jnp.maximum(jnp.asarray(whole, jnp.float32), 1)


def _ones(mask: Any) -> jax.Array:
    """The number of ones; a byte of a packed mask holds up to eight, of a plain one up to one."""
    if mask is None:
        return jnp.zeros([], jnp.int32)
    mask = jnp.asarray(mask)
    if mask.dtype == jnp.uint8:
        return jnp.sum(jax.lax.population_count(mask), dtype=jnp.int32)
    return jnp.count_nonzero(mask)


def _common(a: Any, b: Any) -> jax.Array:
    if a is None or b is None:
        return jnp.zeros([], jnp.int32)
    a, b = jnp.asarray(a), jnp.asarray(b)
    return _ones(a & b if a.dtype == b.dtype == jnp.uint8 else (a != 0) & (b != 0))
