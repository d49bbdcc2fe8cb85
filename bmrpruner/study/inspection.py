"""Describe the network in a file: leaves, quantiles, and what thresholds would prune."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from bmrpruner._tree import PyTree, join, keyed_leaves
from bmrpruner.files import Checkpoint
from bmrpruner.metrics import nonzeros
from bmrpruner.posteriors import DiagonalGaussian

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
SNR_THRESHOLDS = (0.1, 0.25, 0.5, 1.0, 2.0, 3.0)


def inspect_checkpoint(checkpoint: Checkpoint) -> dict[str, Any]:
    """Describe leaves, quantiles of SNR and ΔF, and how much each threshold would prune.

    Args:
      checkpoint: A network from a file.

    Returns:
      A dictionary that JSON can hold. `leaves`: name, shape, dtype, zeros and, with a posterior,
      quantiles of SNR and ΔF (of the weights not pruned yet). `evidence`: fraction with ΔF >= 0.
      `snr`: fraction at or below each threshold. `rhat`: the largest of each leaf that comes
      from four draws a chain or more, at most 1e6. `info`: what the file says about itself.

    Example:
      >>> weights = {'w/mean': np.array([1.0, 0.1]), 'w/std': np.full(2, 0.5)}
      >>> found = inspect_checkpoint(Checkpoint(weights))
      >>> found['weights'], found['snr']['0.5']
      (2, 0.5)
    """
    params, posterior = checkpoint.params, checkpoint.posterior
    snr = {} if posterior is None else _by_name(posterior.snr)
    delta_f = {} if posterior is None else _by_name(posterior.delta_f())
    leaves = [_leaf(name, leaf, snr, delta_f) for name, leaf in _by_name(params).items()]
    return {
        "leaves": leaves,
        "weights": sum(leaf["size"] for leaf in leaves),
        "nonzeros": sum(leaf["size"] - leaf["zeros"] for leaf in leaves),
        "evidence": _share([values >= 0 for values in delta_f.values()]),
        "snr": {f"{t:g}": _share([v <= t for v in snr.values()]) for t in SNR_THRESHOLDS},
        "prior_precision": None if posterior is None else _prior_precision(posterior),
        "rhat": {leaf: min(r, 1e6) for leaf, r in checkpoint.rhat.items() if not np.isnan(r)},
        "info": dict(checkpoint.info),
    }


def _by_name(tree: PyTree) -> dict[str, np.ndarray]:
    leaves = jax.device_get([(join(key), leaf) for key, leaf in keyed_leaves(tree)])
    return {name: leaf for name, leaf in leaves if leaf is not None}


def _leaf(
    name: str, leaf: np.ndarray, snr: dict[str, np.ndarray], delta_f: dict[str, np.ndarray]
) -> dict[str, Any]:
    alive = np.isfinite(delta_f.get(name, ()))  # a pruned weight has an infinite ΔF
    return {
        "name": name,
        "shape": list(leaf.shape),
        "dtype": str(leaf.dtype),
        "size": int(leaf.size),
        "zeros": leaf.size - int(nonzeros(leaf).total),
        "snr": _quantiles(snr[name][alive]) if alive.any() else None,
        "delta_f": _quantiles(delta_f[name][alive]) if alive.any() else None,
    }


def _quantiles(values: np.ndarray) -> list[float]:
    return [float(q) for q in np.quantile(values, QUANTILES)]


def _share(chosen: list[np.ndarray]) -> float | None:
    if not chosen:
        return None
    return sum(int(array.sum()) for array in chosen) / max(1, sum(array.size for array in chosen))


def _prior_precision(posterior: DiagonalGaussian) -> float | None:
    prior = posterior.prior_precision
    return float(prior) if np.ndim(prior) == 0 else None
