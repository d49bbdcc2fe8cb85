"""Prune checkpoints and files, and write down how."""

from __future__ import annotations

import dataclasses
import importlib.metadata
from pathlib import Path
from typing import Any

import jax
import numpy as np

from bmrpruner import files
from bmrpruner._tree import PyTree, join, keyed_leaves
from bmrpruner.files import Checkpoint
from bmrpruner.files.formats import check_writable
from bmrpruner.pruning.calibrated import Calibration, Pruner
from bmrpruner.pruning.pruned import Pruned
from bmrpruner.pruning.rules import Rule, rule_of


def prune_checkpoint(
    checkpoint: Checkpoint, rule: Rule, calibration: Calibration | None = None
) -> Checkpoint:
    """Prune the network of a file, in memory.

    Args:
      checkpoint: The dense network.
      rule: Which weights go.
      calibration: For the algorithms that refit what stays, obs and its kin.

    Returns:
      The tensors with zeros where the rule says, refitted ones by these algorithms, the masks, and
      how they came about as `info`.

    Raises:
      ValueError: If the rule does not fit the network, or does not need a calibration.

    Example:
      >>> import numpy as np
      >>> dense = Checkpoint({'w': np.array([[1.0, -3.0]])})
      >>> pruned = prune_checkpoint(dense, Rule('magnitude', sparsity=0.5))
      >>> pruned.tensors['w'].tolist(), pruned.info['sparsity']
      ([[0.0, -3.0]], {'w': 0.5})
    """
    if calibration is not None and not rule.is_one_shot:
        raise ValueError(
            f"calibration: expected none for {rule.algorithm}, which reads no data, got one."
        )
    pruner = Pruner(checkpoint.params, checkpoint.posterior, calibration)
    rule = pruner.resolved(rule)
    pruned = pruner(rule)
    info = {
        "algorithm": rule.algorithm,
        "settings": dataclasses.asdict(rule),
        "sparsity": pruned.leaf_sparsity,
        "version": importlib.metadata.version("bmrpruner"),
    }
    if calibration is None:
        return checkpoint.prune(pruned.masks, info)
    info["calibration"] = {
        "examples": float(pruner.moments.examples),
        "max_loss_rise": calibration.max_loss_rise,
        "left_dense": pruner.moments.left_out,
    }
    return _moved(checkpoint, pruned.params).prune(pruned.masks, info)


def prune_file(
    path: Path | str,
    out: Path | str,
    rule: Rule,
    force: bool = False,
    packed: bool = False,
    prior_precision: float | None = None,
    calibration: Calibration | None = None,
) -> dict[str, Any]:
    """Prune the network in a file, write it to another, and report what is there then.

    Args:
      path: The dense network.
      out: The pruned one, `.npz` or `.safetensors`.
      rule: Which weights go.
      force: Replace `out`, if it is not `path` itself.
      packed: Write only the weights that are kept, squeezed into bytes; see `files.save`.
      prior_precision: π₀; by default what the file says, or 1.
      calibration: As in `prune_checkpoint`.

    Returns:
      What JSON can hold: the rule's label, `sparsity` over the leaves it looked at,
      `leaf_sparsity`, `weights`, `nonzeros`, whether the file is `packed`, the sizes of both
      files in bytes, and after a calibration what is known about it.

    Raises:
      FileNotFoundError, FileExistsError, ValueError: As `bmrpruner.files` and `prune` do.

    Example:
      >>> import tempfile
      >>> import numpy as np
      >>> folder = Path(tempfile.mkdtemp())
      >>> files.save(folder / 'net.npz', {'w': np.array([[1.0, -3.0]])})
      >>> rule = Rule('magnitude', sparsity=0.5)
      >>> prune_file(folder / 'net.npz', folder / 'pruned.npz', rule)['leaf_sparsity']
      {'w': 0.5}
    """
    if Path(out).exists() and Path(out).samefile(path):
        raise FileExistsError(
            f"{out}: expected another file than the network to prune, got that one."
        )
    check_writable(Path(out), force)
    dense = files.load(path, prior_precision)
    files.save(out, prune_checkpoint(dense, rule, calibration), force, packed)
    pruned = files.load(out)
    seen = {name: pruned.masks[name] for name in pruned.info["sparsity"]}
    result = Pruned(pruned.params, None, seen)
    return {
        "out": str(out),
        "packed": packed,
        "rule": rule_of(pruned.info["settings"]).label,
        "sparsity": result.sparsity,
        "leaf_sparsity": result.leaf_sparsity,
        "weights": sum(leaf.size for leaf in jax.tree.leaves(pruned.params)),
        "nonzeros": result.nonzeros,
        "bytes_before": file_size(Path(path)),
        "bytes_after": file_size(Path(out)),
        **({"calibration": pruned.info["calibration"]} if calibration is not None else {}),
    }


def _moved(checkpoint: Checkpoint, params: PyTree) -> Checkpoint:
    """The checkpoint with other parameters: draws shift with their mean, other spreads stay."""
    before, after = (
        {join(key): np.asarray(leaf) for key, leaf in keyed_leaves(tree)}
        for tree in (checkpoint.params, params)
    )
    tensors = dict(checkpoint.tensors)
    for leaf, roles in checkpoint.leaves.items():
        shift = after[leaf] - before[leaf].astype(after[leaf].dtype)
        for role, name in roles.items():
            tensor = tensors[name]
            if role in ("", "mean"):
                tensors[name] = np.where(shift != 0, after[leaf].astype(tensor.dtype), tensor)
            elif role == "draws":
                tensors[name] = (tensor + shift).astype(tensor.dtype)
    return dataclasses.replace(checkpoint, tensors=tensors)


def file_size(path: Path) -> int:
    """The bytes of a file, or of all files in a directory."""
    parts = path.rglob("*") if path.is_dir() else [path]
    return sum(part.stat().st_size for part in parts if part.is_file())
