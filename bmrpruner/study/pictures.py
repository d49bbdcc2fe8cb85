"""Pictures of a sweep: metrics against sparsity, histograms, reliability, layers."""

from __future__ import annotations

import io
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
from bmrpruner.study.charts import draw_kept, draw_reliability_panels, new_figure

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

    Args:
      points: What `sweep` returns.

    Returns:
      A Matplotlib figure.

    Example:
      >>> scores = {'accuracy': 0.9, 'nll': 0.3, 'ece': 0.1, 'ood_auroc': 0.8}
      >>> point = {'algorithm': 'snr', 'sparsity': 0.5, 'mean': scores, 'averaged': None}
      >>> [axes.get_ylabel() for axes in draw_metrics([point]).axes]
      ['accuracy', 'NLL (nats)', 'ECE', 'OOD AUROC']
    """
    figure, axes = new_figure(2, 2, (10, 7))
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
    axes[0, 0].legend(fontsize="small", loc="lower left")
    return figure


def draw_histograms(
    params: PyTree, posterior: DiagonalGaussian | None, pruned: Mapping[str, Pruned]
) -> Any:
    """Weights and signal-to-noise ratios, all and what each rule keeps of them.

    Args:
      params: The parameters before pruning, a pytree of arrays.
      posterior: Their posterior; None leaves out the signal-to-noise ratios.
      pruned: The pruned network of each rule, by label; at least one.

    Returns:
      A Matplotlib figure.

    Example:
      >>> from bmrpruner.pruning import Rule, prune
      >>> params = {'w': np.array([[1.0, -3.0]], np.float32)}
      >>> pruned = prune(params, Rule('magnitude', sparsity=0.5))
      >>> draw_histograms(params, None, {'half': pruned}).axes[0].get_xlabel()
      'weight'
    """
    figure, axes = new_figure(1, 1 if posterior is None else 2, (10, 4))
    seen = next(iter(pruned.values())).masks
    weights = _values(params, seen)
    _draw_histogram(axes.flat[0], weights, {k: _values(v.params, seen) for k, v in pruned.items()})
    axes.flat[0].set(xlabel="weight", yscale="log", ylabel="count")
    if posterior is not None:
        decibels = _decibels(_values(posterior.snr, seen))
        kept = {k: _decibels(_values(v.snr, seen)) for k, v in pruned.items()}
        _draw_histogram(axes.flat[1], decibels, kept)
        axes.flat[1].set(xlabel="signal-to-noise ratio (dB)", yscale="log", ylabel="count")
    axes.flat[0].legend(fontsize="small", loc="upper right")
    return figure


def draw_reliability(points: Points) -> Any:
    """Accuracy against confidence, for each algorithm dense and pruned hardest.

    Args:
      points: What `sweep` returns.

    Returns:
      A Matplotlib figure.

    Example:
      >>> bins = {'confidence': [0.0, 0.8], 'accuracy': [0.0, 0.7], 'counts': [0, 9]}
      >>> scores = {'reliability': bins}
      >>> point = {'algorithm': 'snr', 'sparsity': 0.5, 'mean': scores, 'averaged': None}
      >>> draw_reliability([point]).axes[0].get_title()
      'snr'
    """
    panels = {}
    for algorithm in algorithms_of(points):
        line = by_sparsity(points, algorithm)
        panels[algorithm] = [
            (f"{p['sparsity']:.1%} pruned", (p["averaged"] or p["mean"])["reliability"])
            for p in ([line[0], line[-1]] if len(line) > 1 else line)
        ]
    return draw_reliability_panels(panels)


def draw_layers(points: Points) -> Any:
    """What is left of each layer, for each algorithm pruned hardest.

    Args:
      points: What `sweep` returns.

    Returns:
      A Matplotlib figure.

    Example:
      >>> point = {'algorithm': 'snr', 'sparsity': 0.9, 'leaf_sparsity': {'dense_0': 0.9}}
      >>> [round(float(bar.get_height())) for bar in draw_layers([point]).axes[0].patches]
      [10]
    """
    hardest = [by_sparsity(points, algorithm)[-1] for algorithm in algorithms_of(points)]
    return draw_kept(
        {f"{p['algorithm']}, {p['sparsity']:.1%} pruned": p["leaf_sparsity"] for p in hardest}
    )


def algorithms_of(points: Points) -> list[str]:
    """The algorithms, in the order in which they first appear.

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
    """Write a picture as PNG, replacing an earlier one, and close it.

    Args:
      path: The file to write.
      figure: A Matplotlib figure.

    Raises:
      FileNotFoundError: If the directory does not exist.

    Example:
      >>> import tempfile
      >>> path = Path(tempfile.mkdtemp(), 'layers.png')
      >>> save_figure(path, draw_kept({'snr': {'dense_0': 0.9}}))
      >>> path.read_bytes()[1:4]
      b'PNG'
    """
    with atomic_write(path, force=True) as temporary:
        temporary.write_bytes(as_png(figure))


def as_png(figure: Any) -> bytes:
    """The bytes of a picture as PNG; closes it.

    Args:
      figure: A Matplotlib figure.

    Example:
      >>> as_png(draw_kept({'snr': {'dense_0': 0.9}}))[1:4]
      b'PNG'
    """
    file = io.BytesIO()
    figure.savefig(file, dpi=120, format="png")
    optional("matplotlib.pyplot", "plot").close(figure)
    return file.getvalue()


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
    """Decibels of the ratios that are not pruned, at least -100."""
    return np.maximum(20 * np.log10(snr[(snr > 0) & np.isfinite(snr)]), -100)


def _draw_histogram(ax: Any, everything: np.ndarray, kept: Mapping[str, np.ndarray]) -> None:
    edges = np.histogram_bin_edges(everything, 100)
    ax.hist(everything, edges, color="lightgray", label="before")
    for i, (label, values) in enumerate(kept.items()):
        ax.hist(values[values != 0], edges, histtype="step", color=f"C{i}", label=label)
