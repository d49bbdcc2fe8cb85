"""Pictures of plain numbers: reliability, weights kept by layer, shapes, rounds of adaptive BMR."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from bmrpruner.files.formats import optional


def draw_reliability_panels(
    panels: Mapping[str, Sequence[tuple[str, Mapping[str, Sequence[float]]]]],
) -> Any:
    """Accuracy against confidence, a panel for each title and a line for each reliability diagram.

    Args:
      panels: Pairs of a label and the bins of `metrics.reliability_diagram` (`confidence`,
        `accuracy` and `counts`) by title; empty bins are left out.

    Returns:
      A Matplotlib figure.

    Example:
      >>> bins = {'confidence': [0.0, 0.8], 'accuracy': [0.0, 0.7], 'counts': [0, 9]}
      >>> figure = draw_reliability_panels({'dense': [('seed 0', bins)]})
      >>> figure.axes[0].lines[-1].get_xydata().tolist()
      [[0.8, 0.7]]
    """
    figure, axes = new_figure(1, len(panels), (4 * len(panels), 4))
    for ax, (title, lines) in zip(axes.flat, panels.items(), strict=True):
        ax.plot([0, 1], [0, 1], color="gray", linewidth=1)
        for label, bins in lines:
            filled = np.asarray(bins["counts"]) > 0
            x, y = np.asarray(bins["confidence"])[filled], np.asarray(bins["accuracy"])[filled]
            ax.plot(x, y, marker="o", label=label)
        ax.set(title=title, xlabel="confidence", xlim=(0, 1), ylim=(0, 1))
        ax.grid(alpha=0.3)
        if lines:
            ax.legend(fontsize="small", loc="upper left")
    axes.flat[0].set_ylabel("accuracy")
    return figure


def draw_kept(sparsities: Mapping[str, Mapping[str, float]]) -> Any:
    """The weights kept in each layer, in percent, a bar for each network.

    Args:
      sparsities: Fraction pruned by layer, of each network by its label; all of the same layers.

    Returns:
      A Matplotlib figure.

    Example:
      >>> figure = draw_kept({'snr': {'dense_0': 0.9, 'dense_1': 0.5}})
      >>> [round(float(bar.get_height())) for bar in figure.axes[0].patches]
      [10, 50]
    """
    figure, axes = new_figure(1, 1, (9, 4.5))
    ax = axes.flat[0]
    width = 0.8 / len(sparsities)
    names = list(next(iter(sparsities.values())))
    for i, (label, pruned) in enumerate(sparsities.items()):
        positions = np.arange(len(names)) + (i - len(sparsities) / 2 + 0.5) * width
        ax.bar(positions, [100 - 100 * pruned[name] for name in names], width, label=label)
    ax.set_xticks(range(len(names)), names, rotation=20 if len(names) > 4 else 0)
    ax.set_ylabel("weights kept (%)")
    ax.legend(fontsize="small", loc="upper left")
    return figure


def draw_shapes(leaves: Sequence[Mapping[str, Any]]) -> Any:
    """The shape of each array before and after compaction: a rectangle within another.

    The last axis runs to the right, all others together downwards; arrays of one axis are left out
    where there are others.

    Args:
      leaves: For each array its `name`, and its shape `before` and `after`.

    Returns:
      A Matplotlib figure.

    Example:
      >>> leaf = {'name': 'dense/kernel', 'before': [784, 300], 'after': [784, 30]}
      >>> outer, inner = draw_shapes([leaf]).axes[0].patches
      >>> outer.get_width(), inner.get_width(), inner.get_height()
      (300, 30, 784)
    """
    shown = [leaf for leaf in leaves if len(leaf["before"]) > 1] or list(leaves)
    columns = min(4, max(1, len(shown)))
    rows = max(1, -(-len(shown) // columns))
    figure, axes = new_figure(rows, columns, (3 * columns, 3 * rows))
    for ax in axes.flat:
        ax.axis("off")
    for ax, leaf in zip(axes.flat, shown, strict=False):
        height, width = _rectangle(leaf["before"])
        for shape, color in ((leaf["before"], "0.88"), (leaf["after"], "C0")):
            own = _rectangle(shape)
            ax.add_patch(_patches().Rectangle((0, 0), own[1], own[0], color=color))
        before, after = ("×".join(map(str, leaf[when])) or "1" for when in ("before", "after"))
        ax.set(xlim=(0, width), ylim=(height, 0))
        ax.set_title(f"{leaf['name']}\n{before} → {after}", fontsize="small", parse_math=False)
    return figure


def _rectangle(shape: Sequence[int]) -> tuple[int, int]:
    """The height and the width of an array."""
    return (math.prod(shape[:-1]), shape[-1]) if shape else (1, 1)


def _patches() -> Any:
    return optional("matplotlib.patches", "plot")


def draw_rounds(records: Sequence[Mapping[str, Sequence[float]]]) -> Any:
    """The rounds of adaptive BMR: log odds, what qualified and went, and nats; a line per record.

    Args:
      records: What `Rounds.to_dict` returns, of one training run each.

    Returns:
      A Matplotlib figure.

    Example:
      >>> record = {'log_odds': [3.0, 0.0], 'qualified': [9, 5], 'pruned': [5, 5], 'nats': [8, 2]}
      >>> draw_rounds([record]).axes[2].lines[0].get_ydata().tolist()
      [5, 5]
    """
    titles = {
        "log_odds": "ΔF asked for (nats)",
        "qualified": "weights that qualified",
        "pruned": "weights pruned",
        "nats": "log evidence gained (nats)",
    }
    figure, axes = new_figure(2, 2, (10, 6))
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


def new_figure(rows: int, columns: int, size: tuple[float, float]) -> tuple[Any, Any]:
    """A figure of `size` inches, and its axes (rows, columns); drawn without a display."""
    optional("matplotlib", "plot").use("Agg")
    plt = optional("matplotlib.pyplot", "plot")
    return plt.subplots(rows, columns, figsize=size, squeeze=False, layout="constrained")
