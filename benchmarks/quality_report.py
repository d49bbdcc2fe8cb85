"""The report of the quality benchmark: results.json, table.md and pictures."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import rich.console
import rich.markdown

from bmrpruner.files.atomic import atomic_write
from bmrpruner.study import draw_rounds, save_figure

mpl.use("Agg")

Row = dict[str, Any]
MODES = {"dense": "none", "one-shot": "after training", "gradual": "during training"}
METHODS = {
    ("AdamW", "magnitude"): "AdamW + magnitude, layer-wise",
    ("AdamW", "global_magnitude"): "AdamW + magnitude",
    ("IVON", "global_magnitude"): "IVON + magnitude",
    ("IVON", "global_snr"): "IVON + SNR",
    ("IVON", "global_bmr"): "IVON + BMR",
    ("IVON", "cold_bmr"): "IVON + BMR, T = 1/4",
    ("IVON", "adaptive_bmr"): "IVON + adaptive BMR",
}


def write_report(out: Path, results: list[dict[str, Any]]) -> None:
    """Print the tables, write the files, and say where."""
    rows = [row for result in results for row in result["rows"]]
    if not rows:
        raise ValueError(f"{out}: there are no runs to report.")
    networks = dict.fromkeys(row["network"] for row in rows)
    text = "\n\n".join(tables(network, of(rows, network=network)) for network in networks)
    rich.console.Console(width=140).print(rich.markdown.Markdown(text))
    with atomic_write(out / "table.md", force=True) as path:
        path.write_text(text + "\n")
    with atomic_write(out / "results.json", force=True) as path:
        path.write_text(json.dumps(results, indent=1))
    for network in networks:
        save_figure(out / f"{network}.png", draw_curves(network, of(rows, network=network)))
        records = [
            result["rounds"]
            for result in results
            if result["rounds"] and result["rows"][0]["network"] == network
        ]
        if records:
            save_figure(out / f"{network}-rounds.png", draw_rounds(records))
    print(f"Written to {out}/")


def of(rows: Iterable[Row], **wanted: Any) -> list[Row]:
    """The rows that have all these values."""
    return [row for row in rows if all(row[name] == value for name, value in wanted.items())]


def tables(network: str, rows: list[Row]) -> str:
    """Accuracy of every method, then NLL and ECE of the Bayesian ones."""
    seeds = len({row["seed"] for row in rows})
    methods = {key: name for key, name in METHODS.items() if key[1] != "adaptive_bmr"}
    lines = [f"**{network}**: test accuracy in %, mean ± standard deviation of {seeds} seeds", ""]
    lines += table_line(["weights pruned", *methods.values()])
    lines += ["|" + "---|" * (1 + len(methods))]
    dense = [of(rows, mode="dense", optimizer=optimizer) for optimizer, _ in methods]
    lines += table_line(["none", *(spread(group, "mean", "accuracy", 100, 2) for group in dense)])
    for mode in ("one-shot", "gradual"):
        for sparsity in levels(rows, mode):
            groups = [
                of(rows, mode=mode, optimizer=optimizer, algorithm=algorithm, sparsity=sparsity)
                for optimizer, algorithm in methods
            ]
            cells = [spread(group, "mean", "accuracy", 100, 2) for group in groups]
            lines += table_line([f"{MODES[mode]}, {sparsity:.1%}", *cells])
    return "\n".join([*lines, "", *calibration_table(network, rows)])


def calibration_table(network: str, rows: list[Row]) -> list[str]:
    """NLL and ECE of averaged predictions; sparsity where the evidence chose it."""
    columns = [
        "weights pruned",
        "by",
        "counted",
        "accuracy, mean weights",
        "accuracy",
        "NLL",
        "ECE",
        "NLL, cold",
        "ECE, cold",
    ]
    lines = [
        f"**{network}**, averaged over draws from IVON's posterior; cold: temperature 1/4",
        "",
    ]
    lines += [*table_line(columns), "|" + "---|" * len(columns)]
    for mode in MODES:
        for algorithm, sparsity in (
            ("no_prune", 0.0),
            *(("global_bmr", sparsity) for sparsity in levels(rows, mode)),
            ("adaptive_bmr", None),
        ):
            group = of(rows, mode=mode, optimizer="IVON", algorithm=algorithm, sparsity=sparsity)
            if not group:
                continue
            counted = spread([{"all": row} for row in group], "all", "counted_sparsity", 100, 2)
            name = METHODS.get(("IVON", algorithm), "").removeprefix("IVON + ")
            lines += table_line(
                [
                    MODES[mode],
                    name,
                    counted,
                    *(spread(group, kind, "accuracy", 100, 2) for kind in ("mean", "averaged")),
                    *(
                        spread(group, kind, metric, 1, 4)
                        for kind in ("averaged", "cold")
                        for metric in ("nll", "ece")
                    ),
                ]
            )
    return lines


def levels(rows: list[Row], mode: str) -> list[float]:
    """The sparsities of a mode."""
    return sorted({row["sparsity"] for row in of(rows, mode=mode) if row["sparsity"]})


def table_line(cells: list[str]) -> list[str]:
    """A line of a Markdown table."""
    return ["| " + " | ".join(cells) + " |"]


def spread(group: list[Row], kind: str, metric: str, scale: float, digits: int) -> str:
    """`mean ± standard deviation`, or a dash."""
    values = [scale * row[kind][metric] for row in group]
    if not values:
        return "-"
    return f"{statistics.mean(values):.{digits}f} ± {deviation(values):.{digits}f}"


def deviation(values: list[float]) -> float:
    """The sample standard deviation; zero for a single value."""
    return statistics.stdev(values) if len(values) > 1 else 0.0


def draw_curves(network: str, rows: list[Row]) -> Any:
    """Accuracy, NLL and ECE against the sparsity, after training and during it."""
    kinds = (("mean", "accuracy"), ("mean", "nll"), ("mean", "ece"))
    figure, axes = plt.subplots(3, 2, figsize=(10, 10), sharex=True, layout="constrained")
    for column, mode in enumerate(("one-shot", "gradual")):
        for line, (kind, metric) in enumerate(kinds):
            ax = axes[line, column]
            for (optimizer, algorithm), label in METHODS.items():
                group = of(rows, mode=mode, optimizer=optimizer, algorithm=algorithm)
                draw_method(ax, group, kind, metric, label)
            ax.set_ylabel(metric if metric == "accuracy" else metric.upper())
            ax.set_yscale("logit" if metric == "accuracy" else "log")
            ax.grid(alpha=0.3)
        axes[0, column].set_title(f"{mode}: {MODES[mode]}")
        axes[2, column].set_xlabel("weights kept (%)")
        axes[2, column].set_xscale("log")
        axes[2, column].invert_xaxis()
    axes[0, 0].legend(fontsize="small")
    figure.suptitle(f"{network}, test set, mean weights; bars: one standard deviation")
    return figure


def draw_method(ax: Any, rows: list[Row], kind: str, metric: str, label: str) -> None:
    """A line through the sparsities, or a point where the evidence chose it."""
    groups = [of(rows, sparsity=s) for s in sorted({r["sparsity"] for r in rows}, key=str)]
    if not groups:
        return
    values = [[row[kind][metric] for row in group] for group in groups]
    ax.errorbar(
        [100 - 100 * statistics.mean(r["counted_sparsity"] for r in group) for group in groups],
        [statistics.mean(v) for v in values],
        [deviation(v) for v in values],
        marker="o",
        markersize=4,
        capsize=3,
        label=label,
    )
