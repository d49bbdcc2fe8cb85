"""The pictures of the main job."""

from __future__ import annotations

import statistics
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt

Row = dict[str, Any]
STYLES = {  # color, line and marker of a method
    ("after training", "AdamW", "magnitude"): ("0.45", ":", "v"),
    ("after training", "IVON", "magnitude"): ("C1", ":", "v"),
    ("after training", "IVON", "BMR"): ("C4", "--", "o"),
    ("after training", "AdamW", "OBS"): ("0.45", "--", "s"),
    ("after training", "IVON", "OBS"): ("C2", "--", "s"),
    ("during training", "AdamW", "magnitude"): ("0.45", "-", "v"),
    ("during training", "IVON", "BMR"): ("C0", "-", "o"),
    ("units, cut out", "IVON", "BMR"): ("C3", "-", "D"),
}


def draw_accuracy(dataset: str, rows: list[Row]) -> Any:
    """Accuracy against the share of weights that are gone; the dense networks are lines across."""
    figure, ax = plt.subplots(figsize=(9, 5.5), layout="constrained")
    for (when, optimizer, by), (color, line, marker) in STYLES.items():
        own = [r for r in rows if (r["when"], r["optimizer"], r["by"]) == (when, optimizer, by)]
        shares = sorted({row["sparsity"] for row in own})
        means, deviations = spread(own, shares)
        label = f"{when}: {optimizer}, {by}"
        x = range(len(shares))
        ax.plot(x, means, color=color, linestyle=line, marker=marker, label=label)
        lower = [m - d for m, d in zip(means, deviations, strict=True)]
        upper = [m + d for m, d in zip(means, deviations, strict=True)]
        ax.fill_between(x, lower, upper, color=color, alpha=0.15, linewidth=0)
    for optimizer, color, line in (("IVON", "black", "-"), ("AdamW", "0.45", "--")):
        dense = [r for r in rows if r["when"] == "dense" and r["optimizer"] == optimizer]
        (value,), _ = spread(dense, [0.0])
        ax.axhline(value, color=color, linestyle=line, linewidth=1, label=f"dense: {optimizer}")
    best = max(100 * row["accuracy"] for row in rows)
    lowest = min(100 * row["accuracy"] for row in rows)
    ax.set_ylim(max(best - 15, lowest - 1), best + 0.5)  # what falls further leaves the picture
    ax.set_xticks(range(len(shares)), [f"{100 * share:g} %" for share in shares])
    ax.set(xlabel="weights pruned", ylabel="test accuracy (%)")
    ax.set_title(f"{dataset}: what is lost, mean and standard deviation over the seeds")
    ax.grid(alpha=0.3)
    ax.legend(fontsize="small", loc="lower left")
    return figure


def spread(rows: list[Row], shares: list[float]) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of the accuracy in percent, for each share."""
    values = [[100 * r["accuracy"] for r in rows if r["sparsity"] == share] for share in shares]
    deviations = [statistics.stdev(v) if len(v) > 1 else 0.0 for v in values]
    return [statistics.mean(v) for v in values], deviations


def draw_calibration_and_size(dataset: str, rows: list[Row]) -> Any:
    """How sure networks are beside how often they are right; what is left of a compacted one."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.8), layout="constrained")
    sparsities = sorted({row["sparsity"] for row in rows} - {0.0})
    shown = sparsities[len(sparsities) // 2]
    draw_gaps(left, rows, shown)
    draw_sizes(right, rows, sparsities)
    figure.suptitle(dataset)
    return figure


def draw_gaps(ax: Any, rows: list[Row], shown: float) -> None:
    """The calibration error of dense and pruned networks, a bar for each."""
    kinds = [
        ("dense", "AdamW", "", 0.0),
        ("dense", "IVON", "", 0.0),
        ("after training", "AdamW", "magnitude", shown),
        ("after training", "IVON", "OBS", shown),
        ("during training", "IVON", "BMR", shown),
    ]
    for i, kind in enumerate(kinds):
        own = [r for r in rows if (r["when"], r["optimizer"], r["by"], r["sparsity"]) == kind]
        values = [100 * r["ece"] for r in own]
        ax.barh(i, statistics.mean(values), color="0.45" if kind[1] == "AdamW" else "C0")
        ax.plot(values, [i] * len(values), "k.", markersize=4)
    labels = [
        f"{optimizer}, dense" if when == "dense" else f"{optimizer}, {by},\n{share:.0%} {when}"
        for when, optimizer, by, share in kinds
    ]
    ax.set_yticks(range(len(kinds)), labels)
    ax.invert_yaxis()
    ax.set_xlabel("calibration error, ECE (percentage points); dots: seeds")
    ax.set_title("how far confidence is from accuracy")
    ax.grid(axis="x", alpha=0.3)


def draw_sizes(ax: Any, rows: list[Row], sparsities: list[float]) -> None:
    """What is left of the dense network when units are gone, in percent."""
    names = ("params", "kFLOP", "ms")
    labels = ("parameters, bytes", "FLOPs", "milliseconds")
    width = 0.8 / len(sparsities)
    for i, share in enumerate(sparsities):
        sizes = [r["sizes"] for r in rows if r["sparsity"] == share and "sizes" in r]
        accuracy = statistics.mean(
            100 * r["accuracy"] for r in rows if r["sparsity"] == share and "sizes" in r
        )
        left = [100 * statistics.mean(s[name][1] / s[name][0] for s in sizes) for name in names]
        positions = [j + (i - (len(sparsities) - 1) / 2) * width for j in range(len(names))]
        label = f"{100 * share:g} % of parameters gone: accuracy {accuracy:.1f} %"
        bars = ax.bar(positions, left, width, label=label, color=f"C{3 + i}")
        ax.bar_label(bars, [f"{value:.0f}" for value in left], fontsize="small")
    ax.set_xticks(range(len(names)), labels)
    ax.set_ylabel("left of the dense network (%)")
    ax.set_title("units gone and cut out")
    ax.set_ylim(0, 100)
    ax.legend(fontsize="small", loc="upper left")
