"""Pictures of a sweep: metrics against sparsity, histograms, reliability, layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from bmrpruner._tree import PyTree, join, keyed_leaves
from bmrpruner.files import atomic_write
from bmrpruner.files.formats import optional
from bmrpruner.posteriors import DiagonalGaussian
from bmrpruner.pruning.pruned import Pruned

_METRICS = {
    "accuracy": "accuracy",
    "nll": "NLL (nats)",
    "ece": "ECE",
    "ood_auroc": "OOD AUROC",
}
Points = Sequence[Mapping[str, Any]]


def draw_metrics(points: Points) -> Any:
    """Each metric against sparsity, a line per algorithm, at the mean and posterior-averaged.

    Bands are one standard error over the test examples.
    """
    figure, axes = _figure(2, 2, (10, 7))
    for ax, (metric, label) in zip(axes.flat, _METRICS.items(), strict=True):
        for color, algorithm in enumerate(algorithms_of(points)):
            for kind, style in (("mean", "--"), ("averaged", "-")):
                line = by_sparsity(points, algorithm)
                _draw_line(ax, line, kind, metric, f"C{color}", style)
        ax.set_ylabel(label)
        ax.grid(alpha=0.3)
    for ax in axes[1]:
        ax.set_xlabel("weights pruned (%)")
    for color, algorithm in enumerate(algorithms_of(points)):
        axes[0, 0].plot([], [], color=f"C{color}", label=algorithm)
    axes[0, 0].plot([], [], color="gray", linestyle="--", label="at the mean")
    axes[0, 0].plot([], [], color="gray", label="posterior-averaged")
    axes[0, 0].legend(fontsize="small")
    return figure


def draw_histograms(
    params: PyTree, posterior: DiagonalGaussian | None, pruned: Mapping[str, Pruned]
) -> Any:
    """Weights and signal-to-noise ratios, all and what each rule keeps of them."""
    figure, axes = _figure(1, 1 if posterior is None else 2, (10, 4))
    seen = next(iter(pruned.values())).masks
    weights = _values(params, seen)
    _draw_histogram(axes.flat[0], weights, {k: _values(v.params, seen) for k, v in pruned.items()})
    axes.flat[0].set(xlabel="weight", yscale="log", ylabel="count")
    if posterior is not None:
        decibels = _decibels(_values(posterior.snr, seen))
        kept = {k: _decibels(_values(v.snr, seen)) for k, v in pruned.items()}
        _draw_histogram(axes.flat[1], decibels, kept)
        axes.flat[1].set(xlabel="signal-to-noise ratio (dB)", yscale="log", ylabel="count")
    axes.flat[0].legend(fontsize="small")
    return figure


def draw_reliability(points: Points) -> Any:
    """Accuracy against confidence, for each algorithm dense and pruned hardest."""
    algorithms = algorithms_of(points)
    figure, axes = _figure(1, len(algorithms), (4 * len(algorithms), 4))
    for ax, algorithm in zip(axes.flat, algorithms, strict=True):
        ax.plot([0, 1], [0, 1], color="gray", linewidth=1)
        line = by_sparsity(points, algorithm)
        for point in (line[0], line[-1]) if len(line) > 1 else line:
            bins = (point["averaged"] or point["mean"])["reliability"]
            filled = np.asarray(bins["counts"]) > 0
            ax.plot(
                np.asarray(bins["confidence"])[filled],
                np.asarray(bins["accuracy"])[filled],
                marker="o",
                label=f"{point['sparsity']:.1%} pruned",
            )
        ax.set(title=algorithm, xlabel="confidence", xlim=(0, 1), ylim=(0, 1))
        ax.grid(alpha=0.3)
        ax.legend(fontsize="small")
    axes.flat[0].set_ylabel("accuracy")
    return figure


def draw_layers(points: Points) -> Any:
    """What is left of each layer, for each algorithm pruned hardest."""
    figure, axes = _figure(1, 1, (9, 4.5))
    ax = axes.flat[0]
    algorithms = algorithms_of(points)
    width = 0.8 / len(algorithms)
    for i, algorithm in enumerate(algorithms):
        point = by_sparsity(points, algorithm)[-1]
        kept = [100 - 100 * sparsity for sparsity in point["leaf_sparsity"].values()]
        positions = np.arange(len(kept)) + (i - len(algorithms) / 2 + 0.5) * width
        ax.bar(positions, kept, width, label=f"{algorithm}, {point['sparsity']:.1%} pruned")
    names = list(points[0]["leaf_sparsity"])
    ax.set_xticks(range(len(names)), names, rotation=20 if len(names) > 4 else 0)
    ax.set_ylabel("weights kept (%)")
    ax.legend(fontsize="small")
    return figure


def draw_rounds(records: Sequence[Mapping[str, Sequence[float]]]) -> Any:
    """The rounds of adaptive BMR: log odds, what qualified and went, and nats; a line per record.

    Args:
      records: What `Rounds.to_dict` returns, of one training run each.
    """
    titles = {
        "log_odds": "ΔF asked for (nats)",
        "qualified": "weights that qualified",
        "pruned": "weights pruned",
        "nats": "log evidence gained (nats)",
    }
    figure, axes = _figure(2, 2, (10, 6))
    for ax, (name, title) in zip(axes.flat, titles.items(), strict=True):
        for record in records:
            ax.plot(np.arange(1, 1 + len(record[name])), record[name], linewidth=1)
        ax.set_title(title, fontsize="medium")
        ax.grid(alpha=0.3)
        if name != "log_odds":
            ax.set_yscale("symlog")
    for ax in axes[1]:
        ax.set_xlabel("round")
    return figure


def algorithms_of(points: Points) -> list[str]:
    """The algorithms, in their first order.

    Example:
      >>> algorithms_of([{'algorithm': 'snr'}, {'algorithm': 'bmr'}, {'algorithm': 'snr'}])
      ['snr', 'bmr']
    """
    return list(dict.fromkeys(point["algorithm"] for point in points))


def by_sparsity(points: Points, algorithm: str) -> list[Mapping[str, Any]]:
    """The points of an algorithm, the sparsest last.

    Example:
      >>> points = [{'algorithm': 'snr', 'sparsity': 0.9}, {'algorithm': 'snr', 'sparsity': 0.5}]
      >>> [point['sparsity'] for point in by_sparsity(points, 'snr')]
      [0.5, 0.9]
    """
    chosen = [point for point in points if point["algorithm"] == algorithm]
    return sorted(chosen, key=lambda point: point["sparsity"])


def save_figure(path: Path, figure: Any) -> None:
    """Write a picture, replacing an earlier one, and let go of it."""
    with atomic_write(path, force=True) as temporary:
        figure.savefig(temporary, dpi=120, format="png")
    optional("matplotlib.pyplot", "plot").close(figure)


def _figure(rows: int, columns: int, size: tuple[float, float]) -> tuple[Any, Any]:
    optional("matplotlib", "plot").use("Agg")
    plt = optional("matplotlib.pyplot", "plot")
    return plt.subplots(rows, columns, figsize=size, squeeze=False, layout="constrained")


def _draw_line(ax: Any, line: Points, kind: str, metric: str, color: str, style: str) -> None:
    line = [point for point in line if point[kind] is not None]
    if not line:
        return
    x = [100 * point["sparsity"] for point in line]
    y = np.array([point[kind][metric] for point in line])
    ax.plot(x, y, color=color, linestyle=style, marker="o", markersize=3)
    if all(f"{metric}_se" in point[kind] for point in line):
        error = np.array([point[kind][f"{metric}_se"] for point in line])
        ax.fill_between(x, y - error, y + error, color=color, alpha=0.2, linewidth=0)


def _values(tree: PyTree, seen: Mapping[str, Any]) -> np.ndarray:
    """All numbers of the leaves that were looked at."""
    leaves = [leaf for key, leaf in keyed_leaves(tree) if join(key) in seen and leaf is not None]
    return np.concatenate([np.ravel(leaf) for leaf in jax.device_get(leaves)]).astype(float)


def _decibels(snr: np.ndarray) -> np.ndarray:
    """Of those that are not pruned; what is below -100 dB is as good as nothing."""
    return np.maximum(20 * np.log10(snr[(snr > 0) & np.isfinite(snr)]), -100)


def _draw_histogram(ax: Any, everything: np.ndarray, kept: Mapping[str, np.ndarray]) -> None:
    edges = np.histogram_bin_edges(everything, 100)
    ax.hist(everything, edges, color="lightgray", label="before")
    for i, (label, values) in enumerate(kept.items()):
        ax.hist(values[values != 0], edges, histtype="step", color=f"C{i}", label=label)
