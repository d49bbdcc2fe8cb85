"""Prune a trained network once by a rule, and check that the weights are gone."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bmrpruner._tree import Key, PyTree, is_array, join, keyed_leaves, map_leaves
from bmrpruner.metrics import nonzeros
from bmrpruner.posteriors import DiagonalGaussian, LayerwiseGaussian
from bmrpruner.pruning.rules import Rule, make_updater


class Pruned(NamedTuple):
    """A pruned network: its parameters, posterior and masks.

    Attributes:
      params: The parameters (means), zero where pruned.
      posterior: Mean and variance zero where pruned; None without a `DiagonalGaussian`.
      masks: By leaf name, for the leaves that the rule looked at.

    Example:
      >>> pruned = prune({'w': np.array([[1.0, -3.0]])}, Rule('magnitude', sparsity=0.5))
      >>> pruned.sparsity, pruned.nonzeros, pruned.masks['w'].tolist()
      (0.5, 1, [[0, 1]])
    """

    params: PyTree
    posterior: DiagonalGaussian | None
    masks: dict[str, np.ndarray]

    @property
    def sparsity(self) -> float:
        """Fraction of zeros in the leaves that the rule looked at, counted from the arrays."""
        leaves = [leaf for key, leaf in keyed_leaves(self.params) if self._is_seen(key)]
        size = sum(leaf.size for leaf in leaves)
        return (size - sum(map(_count, leaves))) / max(1, size)

    @property
    def leaf_sparsity(self) -> dict[str, float]:
        """The same for each of these leaves."""
        return {
            join(key): (leaf.size - _count(leaf)) / max(1, leaf.size)
            for key, leaf in keyed_leaves(self.params)
            if self._is_seen(key)
        }

    @property
    def snr(self) -> PyTree:
        """Signal-to-noise ratios, zero where pruned; None without a posterior."""
        return None if self.posterior is None else self.posterior.snr

    @property
    def nonzeros(self) -> int:
        """How many numbers of the whole network are not zero."""
        return sum(_count(leaf) for leaf in jax.tree.leaves(self.params))

    def _is_seen(self, key: Key) -> bool:
        return join(key) in self.masks


def prune(
    params: PyTree,
    rule: Rule,
    posterior: DiagonalGaussian | LayerwiseGaussian | None = None,
    moments: LayerwiseGaussian | None = None,
    scores: PyTree = None,
) -> Pruned:
    """Prune a network by a rule, and check the result against the masks.

    Args:
      params: Any pytree of arrays.
      rule: Which weights go.
      posterior: For the algorithms that read one.
      moments: For the algorithms that refit what stays, beside a posterior of single weights: that
        moves to the refitted weights, and keeps its precision.
      scores: Scores of these algorithms, if they are known from another sparsity.

    Returns:
      What is left, with the masks.

    Raises:
      ValueError: If the rule does not fit the network.

    Example:
      >>> import jax.numpy as jnp
      >>> pruned = prune({'w': jnp.array([[1.0, -3.0]])}, Rule('magnitude', sparsity=0.5))
      >>> pruned.params['w'].tolist(), pruned.sparsity
      ([[0.0, -3.0]], 0.5)
    """
    params = as_arrays(params)
    reads = posterior if moments is None else moments
    updater: Any = make_updater(params, rule, reads)
    if scores is None:
        pruned, mask_tree = updater.instant_sparsify(params, posterior=reads)
    else:
        pruned, mask_tree = updater.prune_by_scores(params, scores, reads)
    masks = {join(k): np.asarray(m) for k, m in keyed_leaves(mask_tree) if m is not None}
    reduced = None
    if isinstance(posterior, DiagonalGaussian):
        mean = pruned if updater.is_one_shot else posterior.mean
        reduced = dataclasses.replace(posterior, mean=mean).prune(mask_tree)
    result = Pruned(pruned, reduced, masks)
    # What refits the weights that it keeps has other values there.
    _check_gone(pruned if updater.is_one_shot else params, result)
    return result


def as_arrays(params: PyTree) -> PyTree:
    """The parameters in JAX's dtypes, in which pruned leaves come out."""
    return map_leaves(lambda leaf: jnp.asarray(leaf) if is_array(leaf) else leaf, params)


def _count(leaf: Any) -> int:
    return int(nonzeros(leaf).total)


def _check_gone(dense: PyTree, result: Pruned) -> None:
    """Raise unless every weight whose mask is 0 is 0, and no other weight has changed."""
    before, after = dict(keyed_leaves(dense)), dict(keyed_leaves(result.params))
    for key, leaf in before.items():
        mask = result.masks.get(join(key))
        expected = leaf if mask is None else np.where(mask, leaf, np.zeros_like(leaf))
        if is_array(leaf) and not np.array_equal(after[key], expected):
            raise RuntimeError(
                f"{join(key)}: expected the dense array under its mask, got other values."
            )
