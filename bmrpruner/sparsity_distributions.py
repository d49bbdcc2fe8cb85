"""How much of each leaf is pruned, given the sparsity of the whole."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from bmrpruner._checks import check_sparsity, did_you_mean
from bmrpruner._tree import (
    Key,
    PyTree,
    is_array,
    is_prunable,
    join,
    keyed_leaves,
    map_with_key,
)

__all__ = [
    "KERNEL_FILTER_FN",
    "NOT_DIM_ONE_FILTER_FN",
    "CustomSparsityMapType",
    "FilterFnType",
    "erk",
    "get_n_zeros",
    "get_sparsities_erdos_renyi",
    "uniform",
]

FilterFnType = Callable[[Key, Any], bool]
"""Type of a filter: key path and parameter to whether it is pruned.

Example:
  >>> no_embeddings: FilterFnType = lambda key, param: 'embedding' not in key
  >>> no_embeddings(('token', 'embedding'), np.ones((8, 4)))
  False
"""

CustomSparsityMapType = Mapping[Key, float | None]
"""Type of a custom map: key path to sparsity, None to exempt the leaf.

Example:
  >>> sparsities: CustomSparsityMapType = {('head', 'kernel'): 0.5, ('stem', 'kernel'): None}
  >>> params = {name: {'kernel': np.ones((4, 4))} for name in ('body', 'head', 'stem')}
  >>> uniform(params, 0.9, custom_sparsity_map=sparsities)['head']['kernel']
  0.5
"""


def KERNEL_FILTER_FN(key: Key, param: Any) -> bool:
    """Accept leaves whose last key is `'kernel'`.

    Args:
      key: The key path, a tuple of strings.
      param: The leaf; not read.

    Returns:
      Whether the leaf is pruned.

    Example:
      >>> KERNEL_FILTER_FN(('dense', 'kernel'), None), KERNEL_FILTER_FN(('dense', 'bias'), None)
      (True, False)
    """
    return key[-1] == "kernel"


def NOT_DIM_ONE_FILTER_FN(key: Key, param: Any) -> bool:
    """Accept leaves with more than one axis: kernels, not biases or scales.

    Args:
      key: The key path, a tuple of strings; not read.
      param: The leaf, an array.

    Returns:
      Whether the leaf is pruned.

    Example:
      >>> NOT_DIM_ONE_FILTER_FN(('dense', 'kernel'), np.ones((2, 2)))
      True
      >>> NOT_DIM_ONE_FILTER_FN(('dense', 'bias'), np.ones(2))
      False
    """
    return param.ndim > 1


def uniform(
    params: PyTree,
    sparsity: float,
    filter_fn: FilterFnType = NOT_DIM_ONE_FILTER_FN,
    custom_sparsity_map: CustomSparsityMapType | None = None,
) -> PyTree:
    """The same sparsity for every floating-point leaf that the filter accepts.

    Args:
      params: Any pytree of arrays. A bare array has the key `('kernel',)`.
      sparsity: Fraction to prune, in [0, 1].
      filter_fn: `(key, param) -> bool` with the key path as a tuple of strings.
      custom_sparsity_map: Sparsity by key path, None to exempt a leaf; it wins over the filter.

    Returns:
      A tree like `params` with a sparsity, or None (exempt), for each leaf.

    Raises:
      ValueError, TypeError: If a sparsity is not a number in [0, 1].

    Example:
      >>> import jax.numpy as jnp
      >>> uniform({'kernel': jnp.ones((4, 4)), 'bias': jnp.ones(4)}, 0.9)
      {'bias': None, 'kernel': 0.9}
    """
    check_sparsity("sparsity", sparsity)
    custom = checked_custom_map(params, custom_sparsity_map)

    def leaf_sparsity(key: Key, param: Any) -> Any:
        key = filter_key(key)
        if not is_prunable(param):
            return None
        if key in custom:
            return custom[key]
        return sparsity if filter_fn(key, param) else None

    return map_with_key(leaf_sparsity, params)


def erk(
    param_tree: PyTree,
    sparsity: float,
    filter_fn: FilterFnType = NOT_DIM_ONE_FILTER_FN,
    custom_sparsity_map: CustomSparsityMapType | None = None,
) -> PyTree:
    """Erdos-Renyi-kernel: larger leaves sparser, `sparsity` over all accepted leaves together.

    Evci et al. 2020, arXiv:1911.11134, section 3. Runs on the host, from shapes alone.

    Args:
      param_tree: Any pytree of arrays, not a bare array.
      sparsity: Fraction to prune over all leaves that the filter accepts, in [0, 1].
      filter_fn: `(key, param) -> bool` with the key path as a tuple of strings; it comes first.
      custom_sparsity_map: Sparsity by key path, for accepted leaves; these leave the budget.

    Returns:
      A tree like `param_tree` with a sparsity, or None (exempt), for each leaf.

    Raises:
      ValueError: If `param_tree` is a bare array, or a sparsity is not in [0, 1].

    Example:
      >>> import jax.numpy as jnp
      >>> tree = erk({'a': jnp.ones((4, 4)), 'b': jnp.ones((16, 16))}, 0.5)
      >>> {name: round(sparsity, 3) for name, sparsity in tree.items()}
      {'a': 0.0, 'b': 0.531}
    """
    if is_array(param_tree):
        raise ValueError(
            "param_tree: expected a tree of leaves to distribute sparsity over, got a bare array."
        )
    custom = checked_custom_map(param_tree, custom_sparsity_map)
    shapes = {
        key: tuple(param.shape)
        for key, param in keyed_leaves(param_tree)
        if is_prunable(param) and filter_fn(key, param)
    }
    if not shapes:
        check_sparsity("sparsity", sparsity)
        return map_with_key(lambda key, param: None, param_tree)
    sparsities = get_sparsities_erdos_renyi(shapes, sparsity, custom)
    return map_with_key(lambda key, param: sparsities.get(key), param_tree)


def get_n_zeros(size: int, sparsity: float) -> int:
    """The number of zeros that a sparsity makes, `floor(sparsity * size)`.

    Args:
      size: How many weights there are.
      sparsity: Fraction of them to prune.

    Returns:
      An integer.

    Example:
      >>> get_n_zeros(10, 0.55)
      5
    """
    return int(np.floor(sparsity * size))


def get_sparsities_erdos_renyi(
    var_shape_dict: Mapping[Any, tuple[int, ...]],
    default_sparsity: float,
    custom_sparsity_map: Mapping[Any, float] | None = None,
    include_kernel: bool = True,
    erk_power_scale: float = 1.0,
) -> dict[Any, float]:
    """Sparsity of each shape: density proportional to (sum of dims / product of dims)**power.

    Layers whose density would exceed one are dense, and the rest make up for them.

    Args:
      var_shape_dict: Shape by name; names are any hashable.
      default_sparsity: Sparsity over all layers that the custom map does not name, in [0, 1].
      custom_sparsity_map: Sparsity by name, taken as it is and left out of every sum.
      include_kernel: Use all dims; otherwise the last two, without the power.
      erk_power_scale: The power.

    Returns:
      Sparsity by name.

    Raises:
      ValueError: For an empty dictionary, or a sparsity that is None or outside [0, 1].

    Example:
      >>> get_sparsities_erdos_renyi({'a': (4, 4), 'b': (12, 12)}, 0.5)
      {'a': 0.0, 'b': 0.5555555555555556}
    """
    if not var_shape_dict:
        raise ValueError("Variable shape dictionary: expected one shape at least, got none.")
    if default_sparsity is None or not 0 <= default_sparsity <= 1:
        raise ValueError(f"Default sparsity: expected a number in [0, 1], got {default_sparsity}.")
    custom = custom_sparsity_map or {}
    free = {name: shape for name, shape in var_shape_dict.items() if name not in custom}
    sizes = {name: math.prod(shape) for name, shape in free.items()}
    raw = {name: _raw_density(s, include_kernel, erk_power_scale) for name, s in free.items()}
    zeros = {name: get_n_zeros(size, default_sparsity) for name, size in sizes.items()}

    dense: set[Any] = set()
    scale = 0.0
    while scalable := [name for name in free if name not in dense]:
        ones = sum(sizes[name] - zeros[name] for name in scalable)
        budget = ones - sum(zeros[name] for name in dense)
        scale = budget / (sum(raw[name] * sizes[name] for name in scalable) or 1.0)
        largest = max(raw[name] for name in scalable)
        if scale * largest <= 1:
            break
        dense |= {name for name in scalable if raw[name] == largest}

    densities = {name: 1.0 if name in dense else scale * raw[name] for name in free}
    return {
        name: custom[name] if name in custom else 1.0 - densities[name] for name in var_shape_dict
    }


def _raw_density(shape: tuple[int, ...], include_kernel: bool, power: float) -> float:
    if include_kernel:
        return float((sum(shape) / max(1, math.prod(shape))) ** power)
    return float(sum(shape[-2:]) / max(1, math.prod(shape[-2:])))


def filter_key(key: Key) -> Key:
    """The key that filters and custom maps see: a bare array is called `('kernel',)`."""
    return key or ("kernel",)


def checked_custom_map(params: PyTree, custom: CustomSparsityMapType | None) -> Mapping[Key, Any]:
    """The custom map, its values checked; a key that names no leaf is warned about."""
    if not custom:
        return {}
    known = {join(filter_key(key)) for key, leaf in keyed_leaves(params) if is_prunable(leaf)}
    for key, value in custom.items():
        if value is not None:
            check_sparsity(f"custom_sparsity_map[{key!r}]", value)
        name = join(tuple(map(str, key))) if isinstance(key, tuple) else str(key)
        if known and (name not in known or not isinstance(key, tuple)):
            warnings.warn(
                f"custom_sparsity_map: the key {key!r} matches no leaf and has no effect."
                + did_you_mean(name, known, cutoff=0.0),
                stacklevel=3,
            )
    return custom
