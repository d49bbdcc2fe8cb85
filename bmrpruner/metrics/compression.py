"""Size of a pruned network, counted from its arrays.

A tree is parameters or (plain, unpacked) masks, in any pytree. Only its arrays of numbers count:
None, functions, names and random keys are passed over. In a tree of masks the exempt leaves are
None, so what is counted there is the prunable part only.

Counts are exact integers as long as the largest value that the shapes allow fits the default
integer (2³¹ - 1, or 2⁶³ - 1 with x64); beyond that they are floats, which never overflow but
round to about seven digits.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np

from bmrpruner._masks import checked_plain
from bmrpruner._tree import PyTree, align, is_none, is_numeric, join, keyed_leaves

Array = jax.Array | np.ndarray


class Nonzeros(NamedTuple):
    """Numbers of entries that are not zero.

    Attributes:
      per_leaf: Scalars in the structure of the tree, None for what is not an array.
      total: Scalar.

    Example:
      >>> int(nonzeros([jnp.ones(3), jnp.zeros(2)]).total)
      3
    """

    per_leaf: PyTree
    total: jax.Array


def nonzeros(tree: PyTree) -> Nonzeros:
    """Entries that are not zero, per leaf and in all. NaN is not zero.

    Args:
      tree: Parameters or masks, any pytree.

    Returns:
      `Nonzeros`, its scalars int32 (float32 for more entries than that can count).

    Example:
      >>> import jax.numpy as jnp
      >>> count = nonzeros({'kernel': jnp.array([[1.0, 0.0], [2.0, 3.0]]), 'bias': None})
      >>> int(count.per_leaf['kernel']), int(count.total)
      (3, 3)
    """
    per_leaf = jax.tree.map(lambda leaf: _count(leaf) if is_numeric(leaf) else None, tree)
    dtype = _count_dtype(_size(tree))
    counts = [count.astype(dtype) for count in jax.tree.leaves(per_leaf)]
    return Nonzeros(per_leaf, sum(counts, start=jnp.zeros((), dtype)))


def sparsity(tree: PyTree) -> jax.Array:
    """Fraction of all entries that are zero.

    Args:
      tree: Parameters or masks, any pytree.

    Returns:
      A float scalar in [0, 1]; 0 for a tree without entries.

    Example:
      >>> import jax.numpy as jnp
      >>> float(sparsity({'kernel': jnp.array([[1.0, 0.0], [2.0, 3.0]]), 'bias': None}))
      0.25
    """
    size, kept = _size_and_kept(tree)
    return (size - kept) / size


def compression_ratio(tree: PyTree) -> jax.Array:
    """Entries over nonzeros, |W| / |W ≠ 0|: 50 at 98 % sparsity.

    The cost of storing where the nonzeros are is not counted; `bits` counts it.

    Args:
      tree: Parameters or masks, any pytree.

    Returns:
      A float scalar, at least 1; infinite if all entries are zero, 1 for a tree without entries.

    Example:
      >>> import jax.numpy as jnp
      >>> float(compression_ratio([jnp.array([0.0, 0.0, 0.0, 1.0])]))
      4.0

    References:
      Molchanov et al., `Variational Dropout Sparsifies Deep Neural Networks
      <https://arxiv.org/abs/1701.05369>`_, 2017, table 1.
    """
    size, kept = _size_and_kept(tree)
    return size / kept


def bits(params: PyTree, masks: PyTree | None = None) -> jax.Array:
    """Bits to store the parameters: the values that are kept, and one mask bit per entry.

    Without `masks`, the nonzeros are kept, and every leaf is stored with a mask. With them, a
    leaf whose mask is None is stored in full without one. Metadata is not counted.

    Args:
      params: Parameters, any pytree; their dtypes say how wide a value is.
      masks: A tree like `params` of plain or packed masks, with None for exempt leaves.

    Returns:
      A scalar, int32 (float32 where that could overflow, from 65 million float32 entries on).

    Raises:
      TypeError: If a mask is neither an array nor None.
      ValueError: If `masks` has another structure than `params`, or a mask another shape than its
        leaf.

    Example:
      >>> import jax.numpy as jnp
      >>> params = {'kernel': jnp.array([[1.0, 0.0], [2.0, 3.0]]), 'bias': jnp.zeros(2)}
      >>> int(bits(params))  # 3 values and 4 mask bits; no value and 2 mask bits
      102
      >>> int(bits(params, {'kernel': params['kernel'] != 0, 'bias': None}))
      164
    """
    counted, constant = [], 0
    for leaf, mask in _masked_leaves(params, masks):
        width = _value_bits(leaf)
        if mask is None:
            constant += leaf.size * width
        else:
            counted.append((width, mask))
            constant += leaf.size
    return _weighted_count(counted, constant)


def multiply_adds(params: PyTree, positions: PyTree | None = None) -> jax.Array:
    """Multiply-adds for one example that the nonzeros of the kernels ask for.

    A nonzero weight of a dense or convolution kernel costs one of them at each output position
    where it is applied: 1 for a dense layer, height × width of the output for a convolution, the
    sequence length for a layer applied to every token, 0 for an embedding that is looked up.
    Leaves of fewer than two axes (biases, scales) do not count.

    Args:
      params: Parameters (or masks), any pytree.
      positions: Output positions: an integer for all kernels, or a tree of integers that is
        `params` or its upper part, such as `{'conv': 784, 'dense': 1}`. Left out, every kernel
        must have two axes and counts as a dense layer.

    Returns:
      A scalar, int32 (float32 where that could overflow).

    Raises:
      TypeError: If `positions` holds something else than integers.
      ValueError: If `positions` is negative or does not fit `params`; if it is left out and a
        kernel has more than two axes.

    Example:
      >>> import jax.numpy as jnp
      >>> params = {'conv': jnp.ones((3, 3, 1, 8)), 'dense': jnp.array([[1.0, 0.0]])}
      >>> int(multiply_adds(params, {'conv': 28 * 28, 'dense': 1}))  # 72 * 784 + 1
      56449
    """
    if positions is None:
        _check_dense(params)
        positions = 1
    numbers, structure = jax.tree.leaves(positions), cast(Any, jax.tree.structure(positions))
    try:
        subtrees = structure.flatten_up_to(params)
    except ValueError as error:
        raise ValueError(
            f"positions: expected the tree structure of params, or of its upper part; {error}"
        ) from error
    return _weighted_count(
        (_checked_positions(number), leaf)
        for number, subtree in zip(numbers, subtrees, strict=True)
        for leaf in _arrays(subtree)
        if leaf.ndim >= 2
    )


def _arrays(tree: PyTree) -> list[Array]:
    return [leaf for leaf in jax.tree.leaves(tree) if is_numeric(leaf)]


def _size(tree: PyTree) -> int:
    return sum(leaf.size for leaf in _arrays(tree))


def _size_and_kept(tree: PyTree) -> tuple[jax.Array, jax.Array]:
    """Entries and nonzeros in all; a tree without entries is dense, as if it had one."""
    kept = nonzeros(tree).total
    size = _size(tree)
    return jnp.asarray(np.asarray(max(size, 1), kept.dtype)), kept if size else kept + 1


def _count(leaf: Array) -> jax.Array:
    """Nonzeros of one array."""
    # Rows first, in integers: a float stops counting by ones at 2²⁴.
    rows = jnp.count_nonzero(jnp.atleast_1d(leaf != leaf.dtype.type(0)), axis=-1)
    return rows.sum(dtype=_count_dtype(leaf.size))


def _weighted_count(terms: Iterable[tuple[int, Array]], constant: int = 0) -> jax.Array:
    """`constant` plus the nonzeros of each array times its weight."""
    terms = list(terms)
    dtype = _count_dtype(constant + sum(weight * leaf.size for weight, leaf in terms))
    total = jnp.asarray(np.asarray(constant, dtype))
    for weight, leaf in terms:
        total += _count(leaf).astype(dtype) * np.asarray(weight, dtype)
    return total


def _count_dtype(largest: int) -> np.dtype:
    exact = jnp.result_type(int)
    return exact if largest <= jnp.iinfo(exact).max else jnp.result_type(float)


def _value_bits(leaf: Array) -> int:
    if leaf.dtype == bool:
        return 1
    if jnp.issubdtype(leaf.dtype, jnp.integer):
        return jnp.iinfo(leaf.dtype).bits
    parts = 2 if jnp.issubdtype(leaf.dtype, jnp.complexfloating) else 1
    return parts * int(jnp.finfo(leaf.dtype).bits)


def _masked_leaves(params: PyTree, masks: PyTree | None) -> list[tuple[Array, Array | None]]:
    """Every array of `params` with its plain mask; without `masks`, with itself."""
    if masks is None:
        return [(leaf, leaf) for leaf in _arrays(params)]
    found = align("masks", masks, jax.tree.structure(params, is_leaf=is_none), "params")
    return [
        (leaf, checked_plain(f"masks[{join(key)!r}]", mask, leaf, "params"))
        for (key, leaf), mask in zip(keyed_leaves(params), found, strict=True)
        if is_numeric(leaf)
    ]


def _check_dense(params: PyTree) -> None:
    for key, leaf in keyed_leaves(params):
        if is_numeric(leaf) and leaf.ndim > 2:
            raise ValueError(
                f"positions: expected the output positions of each kernel, as leaf {join(key)!r} "
                f"of shape {leaf.shape} has more than the two axes of a dense layer; got None."
            )


def _checked_positions(number: Any) -> int:
    try:
        index = operator.index(number)
    except TypeError:
        raise TypeError(f"positions: expected integers, at least 0, got {number!r}.") from None
    if index < 0:
        raise ValueError(f"positions: expected integers, at least 0, got {index}.")
    return index
