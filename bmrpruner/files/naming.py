"""Group the tensors of a file into the leaves of a network by name, and check them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from bmrpruner._tree import Key, PyTree, is_array, join, keyed_leaves
from bmrpruner.posteriors import DiagonalGaussian

SPREADS = ("std", "rho", "precision", "draws")
# What a tensor of each role holds where the weight is pruned: mean 0 and variance 0.
PRUNED_VALUES = {"": 0, "mean": 0, "std": 0, "draws": 0, "rho": -np.inf, "precision": np.inf}


def group(names: Iterable[str]) -> dict[str, dict[str, str]]:
    """Group names of tensors by leaf and role.

    Args:
      names: Names of tensors, such as `'dense/kernel/mean'`.

    Returns:
      For each leaf, the names of its tensors by role: `mean` and one of `SPREADS`, or `''`.

    Raises:
      ValueError: If the tensors of a leaf do not belong together; the message names one.

    Example:
      >>> group(['w/mean', 'w/std', 'bias'])
      {'w': {'mean': 'w/mean', 'std': 'w/std'}, 'bias': {'': 'bias'}}
    """
    names = list(names)
    leaves: dict[str, dict[str, str]] = {}
    for name in names:
        leaf, _, role = name.rpartition("/")
        # Normalisation layers keep a mean and a variance of their inputs: no posterior.
        is_statistic = role == "mean" and f"{leaf}/var" in names
        if role not in ("mean", *SPREADS) or not leaf or is_statistic:
            leaf, role = name, ""
        leaves.setdefault(leaf, {})[role] = name
    for leaf, roles in leaves.items():
        _check_roles(leaf, roles)
    return leaves


def _check_roles(leaf: str, roles: dict[str, str]) -> None:
    spreads = [role for role in SPREADS if role in roles]
    if "" in roles and len(roles) > 1:
        below = f"{leaf}/{max(roles)}"
        raise ValueError(f"{leaf!r}: expected no tensor below it, got {below!r}.")
    if "mean" in roles and not spreads:
        raise ValueError(
            f"'{leaf}/mean': expected '{leaf}/std' (or rho, precision, draws) beside it, got none."
        )
    if len(spreads) > 1:
        raise ValueError(f"'{leaf}/mean': expected one of {', '.join(spreads)}, got all of them.")
    if spreads and "mean" not in roles and spreads != ["draws"]:
        raise ValueError(f"'{leaf}/{spreads[0]}': expected '{leaf}/mean' beside it, got none.")


def check_values(name: str, role: str, tensor: np.ndarray) -> None:
    """Check that a tensor holds numbers that its role allows.

    Args:
      name: The tensor's name, for the message.
      role: One of `PRUNED_VALUES`.
      tensor: The numbers.

    Raises:
      ValueError: If it holds others, such as NaN, or standard deviations below zero.

    Example:
      >>> check_values('w/std', 'std', np.array([0.1, -0.1]))
      Traceback (most recent call last):
      ValueError: 'w/std': expected values >= 0, got -0.1.
    """
    if role and not jnp.issubdtype(tensor.dtype, jnp.floating):
        raise ValueError(f"{name!r}: expected floating-point numbers, got {tensor.dtype}.")
    if not jnp.issubdtype(tensor.dtype, jnp.number) and tensor.dtype != bool:
        raise ValueError(f"{name!r}: expected numbers, got {tensor.dtype}.")
    if np.any(np.isnan(tensor)):
        nans = np.isnan(tensor).sum()
        raise ValueError(f"{name!r}: expected numbers, got {nans} NaN among {tensor.size}.")
    if role in ("std", "precision") and np.any(tensor < 0):
        raise ValueError(f"{name!r}: expected values >= 0, got {tensor.min()}.")
    if role == "precision" and np.any(tensor == 0):
        raise ValueError(f"{name!r}: expected values > 0, got 0, which is an infinite variance.")
    allowed = PRUNED_VALUES[role]
    if np.any(np.isinf(tensor) & (tensor != allowed)):
        raise ValueError(f"{name!r}: expected finite values, got infinite ones.")


def check_shapes(leaf: str, roles: dict[str, str], tensors: Mapping[str, np.ndarray]) -> None:
    """Check that the spread of a leaf has the shape of its mean.

    Args:
      leaf: The leaf's name, for the message.
      roles: The names of its tensors by role.
      tensors: The tensors by name.

    Raises:
      ValueError: If it has another.

    Example:
      >>> tensors = {'w/mean': np.ones(3), 'w/std': np.ones(2)}
      >>> check_shapes('w', group(tensors)['w'], tensors)
      Traceback (most recent call last):
      ValueError: 'w/std': expected shape (3,) as 'w/mean' has, got (2,).
    """
    if set(roles) == {""}:
        return
    (role,) = roles.keys() - {"mean"}
    spread = tensors[roles[role]]
    mean_shape = tensors[roles["mean"]].shape if "mean" in roles else spread.shape[2:]
    if role != "draws" and spread.shape != mean_shape:
        raise ValueError(
            f"{roles[role]!r}: expected shape {mean_shape} as '{leaf}/mean' has, "
            f"got {spread.shape}."
        )
    leading = spread.shape[: spread.ndim - len(mean_shape)]
    axes = (1, 2) if "mean" in roles else (2,)
    if role == "draws" and (
        spread.shape != leading + mean_shape or len(leading) not in axes or np.prod(leading) < 2
    ):
        raise ValueError(
            f"{roles[role]!r}: expected [chain, draw, ...] or, with a mean, [draw, ...], of two "
            f"draws or more of shape {mean_shape}, got {spread.shape}."
        )


def nest(leaves: Mapping[str, Any]) -> PyTree:
    """Make nested dicts by the parts of the names.

    Args:
      leaves: Anything by name.

    Raises:
      ValueError: If there is a leaf under the name of a parent of another.

    Example:
      >>> nest({'a/b': 1, 'a/c': 2})
      {'a': {'b': 1, 'c': 2}}
    """
    return nest_keys({tuple(name.split("/")): leaf for name, leaf in leaves.items()})


def nest_keys(leaves: Mapping[Key, Any]) -> PyTree:
    """Make nested dicts by key paths; the leaf itself, if it is alone and its path is empty.

    Args:
      leaves: Anything by key path.

    Raises:
      ValueError: If there is a leaf under the path of a parent of another.

    Example:
      >>> nest_keys({('a/b', 'c'): 1}), nest_keys({(): 1})
      ({'a/b': {'c': 1}}, 1)
    """
    if list(leaves) == [()]:
        return leaves[()]
    tree: dict[str, Any] = {}
    for key, leaf in leaves.items():
        *parents, last = key
        name = join(key)
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
            if not isinstance(node, dict):
                raise ValueError(f"{name!r}: expected no tensor above it, got {parent!r}.")
        if last in node:
            raise ValueError(
                f"{name!r}: expected no tensors below it, got {', '.join(node[last])}."
            )
        node[last] = leaf
    return tree


def named(network: DiagonalGaussian | PyTree) -> dict[str, np.ndarray]:
    """Name the tensors of parameters or of a posterior.

    Args:
      network: A posterior, of which the means and precisions are taken, or any tree of arrays.

    Returns:
      Arrays by name: the key paths, joined by `/`.

    Raises:
      ValueError: If two leaves have the same name.

    Example:
      >>> named(({'w': jnp.ones(2)},))
      {'0/w': array([1., 1.], dtype=float32)}
    """
    if not isinstance(network, DiagonalGaussian):
        return _unique([(join(k), leaf) for k, leaf in keyed_leaves(network) if is_array(leaf)])
    precisions = dict(keyed_leaves(network.precision))
    pairs: list[tuple[str, Any]] = []
    for key, mean in keyed_leaves(network.mean):
        if precisions.get(key) is not None:
            pairs += [(f"{join(key)}/mean", mean), (f"{join(key)}/precision", precisions[key])]
        elif is_array(mean):
            pairs.append((join(key), mean))
    return _unique(pairs)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, np.ndarray]:
    tensors = {name or "params": np.asarray(array) for name, array in pairs}
    if len(tensors) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{twice!r}: expected one leaf of this name, got two.")
    return tensors
