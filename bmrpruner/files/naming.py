"""Which tensors of a file make up which leaf of a network, and whether they can."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from bmrpruner._tree import PyTree, is_array, join, keyed_leaves
from bmrpruner.posteriors import DiagonalGaussian

SPREADS = ("std", "rho", "precision", "draws")
# What a tensor of each role holds where the weight is pruned: mean 0 and variance 0.
PRUNED_VALUES = {"": 0, "mean": 0, "std": 0, "draws": 0, "rho": -np.inf, "precision": np.inf}


def group(names: Iterable[str]) -> dict[str, dict[str, str]]:
    """The names of the tensors of each leaf, by role.

    Examples:
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
        raise ValueError(f"{leaf!r} is a tensor, and so is {leaf + '/' + max(roles)!r} below it.")
    if "mean" in roles and not spreads:
        raise ValueError(f"'{leaf}/mean' has no '{leaf}/std' (or rho, precision, draws) beside it.")
    if len(spreads) > 1:
        raise ValueError(f"'{leaf}/mean': expected one of {', '.join(spreads)}, got all of them.")
    if spreads and "mean" not in roles and spreads != ["draws"]:
        raise ValueError(f"'{leaf}/{spreads[0]}' has no '{leaf}/mean' beside it.")


def check_values(name: str, role: str, tensor: np.ndarray) -> None:
    """Raise a ValueError that names the tensor if it holds what its role cannot."""
    if role and not jnp.issubdtype(tensor.dtype, jnp.floating):
        raise ValueError(f"{name!r}: expected floating-point numbers, got {tensor.dtype}.")
    if not jnp.issubdtype(tensor.dtype, jnp.number) and tensor.dtype != bool:
        raise ValueError(f"{name!r}: expected numbers, got {tensor.dtype}.")
    if np.any(np.isnan(tensor)):
        raise ValueError(f"{name!r} has {np.isnan(tensor).sum()} NaN among its {tensor.size}.")
    if role in ("std", "precision") and np.any(tensor < 0):
        raise ValueError(f"{name!r} has values below zero, the smallest {tensor.min()}.")
    if role == "precision" and np.any(tensor == 0):
        raise ValueError(f"{name!r} has precisions of zero, which is an infinite variance.")
    allowed = PRUNED_VALUES[role]
    if np.any(np.isinf(tensor) & (tensor != allowed)):
        raise ValueError(f"{name!r} has infinite values.")


def check_shapes(leaf: str, roles: dict[str, str], tensors: Mapping[str, np.ndarray]) -> None:
    """Raise a ValueError unless the spread of a leaf has the shape of its mean."""
    if set(roles) == {""}:
        return
    (role,) = roles.keys() - {"mean"}
    spread = tensors[roles[role]]
    mean_shape = tensors[roles["mean"]].shape if "mean" in roles else spread.shape[2:]
    if role != "draws" and spread.shape != mean_shape:
        raise ValueError(
            f"{roles[role]!r} has shape {spread.shape}, but '{leaf}/mean' has {mean_shape}."
        )
    leading = spread.shape[: spread.ndim - len(mean_shape)]
    if role == "draws" and (
        spread.shape != leading + mean_shape or len(leading) not in (1, 2) or np.prod(leading) < 2
    ):
        raise ValueError(
            f"{roles[role]!r}: expected [chain, draw, ...] or, with a mean, [draw, ...], of two "
            f"draws or more of shape {mean_shape}, got {spread.shape}."
        )


def nest(leaves: Mapping[str, Any]) -> PyTree:
    """Nested dicts by the parts of the names.

    Examples:
      >>> nest({'a/b': 1, 'a/c': 2})
      {'a': {'b': 1, 'c': 2}}
    """
    tree: dict[str, Any] = {}
    for name, leaf in leaves.items():
        *parents, last = name.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
            if not isinstance(node, dict):
                raise ValueError(f"{name!r}: its parent {parent!r} is a tensor itself.")
        if last in node:
            raise ValueError(f"{name!r} is a tensor, and there are tensors below it.")
        node[last] = leaf
    return tree


def named(network: DiagonalGaussian | PyTree) -> dict[str, np.ndarray]:
    """The tensors of parameters or of a posterior, by name."""
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
        raise ValueError(f"{twice!r}: two leaves have this name.")
    return tensors
