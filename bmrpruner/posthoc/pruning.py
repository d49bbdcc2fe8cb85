"""Prune a trained network once: a rule, what it takes away, and the proof that it did."""

from __future__ import annotations

import dataclasses
import importlib.metadata
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bmrpruner import files
from bmrpruner._tree import Key, PyTree, is_array, join, keyed_leaves, map_leaves
from bmrpruner.files import Checkpoint
from bmrpruner.files.formats import check_writable
from bmrpruner.posteriors import DiagonalGaussian
from bmrpruner.posthoc.rules import Rule, make_updater


class Pruned(NamedTuple):
    """What a rule leaves.

    Attributes:
      params: The parameters (means), zero where pruned.
      posterior: Mean and variance zero where pruned; None without a posterior.
      masks: By leaf name, for the leaves that the rule looked at.
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


def prune(params: PyTree, rule: Rule, posterior: DiagonalGaussian | None = None) -> Pruned:
    """Take away what the rule says, and check that it is gone.

    Args:
      params: Any pytree of arrays.
      rule: Which weights go.
      posterior: For the algorithms that read one.

    Raises:
      ValueError: If the rule does not fit the network.

    Examples:
      >>> import jax.numpy as jnp
      >>> pruned = prune({'w': jnp.array([[1.0, -3.0]])}, Rule('magnitude', sparsity=0.5))
      >>> pruned.params['w'].tolist(), pruned.sparsity
      ([[0.0, -3.0]], 0.5)
    """
    # In JAX's dtypes, or the noise of random pruning would be asked for in one that it has not.
    params = map_leaves(lambda leaf: jnp.asarray(leaf) if is_array(leaf) else leaf, params)
    updater = make_updater(params, rule, posterior)
    pruned, mask_tree = updater.instant_sparsify(params, posterior=posterior)
    masks = {join(k): np.asarray(m) for k, m in keyed_leaves(mask_tree) if m is not None}
    reduced = None if posterior is None else posterior.prune(mask_tree)
    result = Pruned(pruned, reduced, masks)
    _check_gone(params, result)
    return result


def prune_checkpoint(checkpoint: Checkpoint, rule: Rule) -> Checkpoint:
    """The file's tensors with zeros where the rule says, its masks, and how they came about.

    Examples:
      >>> dense = Checkpoint({'w': np.array([[1.0, -3.0]])})
      >>> pruned = prune_checkpoint(dense, Rule('magnitude', sparsity=0.5))
      >>> pruned.tensors['w'].tolist(), pruned.info['sparsity']
      ([[0.0, -3.0]], {'w': 0.5})
    """
    pruned = prune(checkpoint.params, rule, checkpoint.posterior)
    info = {
        "algorithm": rule.algorithm,
        "settings": dataclasses.asdict(rule),
        "sparsity": pruned.leaf_sparsity,
        "version": importlib.metadata.version("bmrpruner"),
    }
    return checkpoint.prune(pruned.masks, info)


def prune_file(
    path: Path | str,
    out: Path | str,
    rule: Rule,
    force: bool = False,
    packed: bool = False,
    prior_precision: float | None = None,
) -> dict[str, Any]:
    """Prune the network in a file, write it to another, and report what is there then.

    Args:
      path: The dense network.
      out: The pruned one, `.npz` or `.safetensors`.
      rule: Which weights go.
      force: Replace `out`, if it is not `path` itself.
      packed: Write only the weights that are kept, squeezed into bytes; see `files.save`.
      prior_precision: π₀; by default what the file says, or 1.

    Returns:
      What JSON can hold: the rule's label, `sparsity` over the leaves it looked at,
      `leaf_sparsity`, `weights`, `nonzeros`, whether the file is `packed`, and the sizes of both
      files in bytes.

    Raises:
      FileNotFoundError, FileExistsError, ValueError: As `bmrpruner.files` and `prune` do.

    Examples:
      >>> import tempfile
      >>> folder = Path(tempfile.mkdtemp())
      >>> files.save(folder / 'net.npz', {'w': np.array([[1.0, -3.0]])})
      >>> rule = Rule('magnitude', sparsity=0.5)
      >>> prune_file(folder / 'net.npz', folder / 'pruned.npz', rule)['leaf_sparsity']
      {'w': 0.5}
    """
    if Path(out).exists() and Path(out).samefile(path):
        raise FileExistsError(f"{out}: this is the network to prune; write elsewhere.")
    check_writable(Path(out), force)
    dense = files.load(path, prior_precision)
    files.save(out, prune_checkpoint(dense, rule), force, packed)
    pruned = files.load(out)
    seen = {name: pruned.masks[name] for name in pruned.info["sparsity"]}
    result = Pruned(pruned.params, None, seen)
    return {
        "out": str(out),
        "packed": packed,
        "rule": rule.label,
        "sparsity": result.sparsity,
        "leaf_sparsity": result.leaf_sparsity,
        "weights": sum(leaf.size for leaf in jax.tree.leaves(pruned.params)),
        "nonzeros": result.nonzeros,
        "bytes_before": _size(Path(path)),
        "bytes_after": _size(Path(out)),
    }


def _size(path: Path) -> int:
    parts = path.rglob("*") if path.is_dir() else [path]
    return sum(part.stat().st_size for part in parts if part.is_file())


def _count(leaf: Any) -> int:
    return int(np.count_nonzero(leaf))


def _check_gone(dense: PyTree, result: Pruned) -> None:
    """Every weight whose mask is 0 is 0, and no other weight has changed."""
    before, after = dict(keyed_leaves(dense)), dict(keyed_leaves(result.params))
    for key, leaf in before.items():
        mask = result.masks.get(join(key))
        expected = leaf if mask is None else np.where(mask, leaf, np.zeros_like(leaf))
        if is_array(leaf) and not np.array_equal(after[key], expected):
            raise RuntimeError(
                f"{join(key)}: the pruned array is not the dense one under its mask."
            )
