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
MODES = {"one-shot": "pruned after training", "gradual": "pruned during training"}
OPTIMIZERS = {
    "adamw": "AdamW",
    "adamw_decay": "AdamW, weight decay 0.3",
    "adamw_smooth": "AdamW, smoothed labels",
    "sgd": "SGD",
    "ivon_1n": "IVON, N",
    "ivon_3n": "IVON, 3N",
    "ivon_10n": "IVON, 10N",
}
ALGORITHMS = {
    "global_magnitude": "magnitude",
    "global_snr": "SNR",
    "global_bmr": "BMR",
    "adaptive_bmr": "adaptive BMR",
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
    """Dense networks, pruned after training, BMR against the others, pruned during training."""
    seeds = len({row["seed"] for row in rows})
    title = f"**{network}**, test set, mean ± standard deviation of {seeds} seeds"
    parts = [dense_table(rows), one_shot_table(rows), lead_table(rows), gradual_table(rows)]
    return "\n\n".join([title, *(part for part in parts if part)])


def dense_table(rows: list[Row]) -> str:
    """Accuracy, NLL and ECE, at the mean weights and averaged over the posterior."""
    dense = of(rows, mode="dense")
    return metrics_table("dense", [(name, of(dense, optimizer=key)) for key, name in named(dense)])


def gradual_table(rows: list[Row]) -> str:
    """The same for networks that were pruned during training."""
    groups = []
    for optimizer, algorithm in methods(rows, "gradual"):
        group = of(rows, mode="gradual", optimizer=optimizer, algorithm=algorithm)
        for sparsity in sorted({row["sparsity"] for row in group}, key=str):
            level = of(group, sparsity=sparsity)
            counted = spread([{"all": row} for row in level], "all", "counted_sparsity", 100, 1)
            share = f"{counted} %" if sparsity is None else f"{sparsity:.1%}"
            label = f"{OPTIMIZERS[optimizer]} + {ALGORITHMS[algorithm]}, {share}"
            groups.append((label, level))
    return metrics_table("pruned during training", groups)


def metrics_table(title: str, groups: list[tuple[str, list[Row]]]) -> str:
    """A line of metrics for each named group of rows."""
    if not groups:
        return ""
    kinds = ("mean", "averaged")
    lines = table_line([title, "accuracy, %", "NLL", "ECE", "averaged: accuracy", "NLL", "ECE"])
    lines += ["|" + "---|" * 7]
    for label, group in groups:
        cells = [
            spread(group, kind, metric, *form)
            for kind in kinds
            for metric, form in (("accuracy", (100, 2)), ("nll", (1, 4)), ("ece", (1, 4)))
        ]
        lines += table_line([label, *cells])
    return "\n".join(lines)


def one_shot_table(rows: list[Row]) -> str:
    """Accuracy at the mean weights of dense networks that were pruned once."""
    columns = methods(rows, "one-shot")
    columns = [pair for pair in columns if pair[1] != "adaptive_bmr"]
    if not columns:
        return ""
    names = [f"{OPTIMIZERS[optimizer]} + {ALGORITHMS[a]}" for optimizer, a in columns]
    lines = [*table_line(["pruned after training, %", *names]), "|" + "---|" * (1 + len(names))]
    for sparsity in levels(rows, "one-shot"):
        groups = [
            of(rows, mode="one-shot", optimizer=optimizer, algorithm=a, sparsity=sparsity)
            for optimizer, a in columns
        ]
        cells = [spread(group, "mean", "accuracy", 100, 2) for group in groups]
        lines += table_line([f"{100 * sparsity:g}", *cells])
    return "\n".join(lines)


def lead_table(rows: list[Row]) -> str:
    """Accuracy of BMR minus that of another score on the same networks, with standard errors."""
    once = of(rows, mode="one-shot", algorithm="global_bmr")
    names = [key for key, _ in named(once)]
    if not names:
        return ""
    columns = [(o, a) for o in names for a in ("global_magnitude", "global_snr")]
    titles = [f"{OPTIMIZERS[o]}: BMR − {ALGORITHMS[a]}" for o, a in columns]
    lines = [*table_line(["points, mean ± standard error", *titles])]
    lines += ["|" + "---|" * (1 + len(titles))]
    for sparsity in levels(rows, "one-shot"):
        cells = [lead(rows, *column, sparsity) for column in columns]
        lines += table_line([f"{100 * sparsity:g} %", *cells])
    return "\n".join(lines)


def lead(rows: list[Row], optimizer: str, other: str, sparsity: float) -> str:
    """The mean difference over the seeds, in points, and its standard error."""
    level = of(rows, mode="one-shot", optimizer=optimizer, sparsity=sparsity)
    by_seed = [
        {row["seed"]: 100 * row["mean"]["accuracy"] for row in of(level, algorithm=algorithm)}
        for algorithm in ("global_bmr", other)
    ]
    differences = [by_seed[0][seed] - by_seed[1][seed] for seed in by_seed[0]]
    error = deviation(differences) / len(differences) ** 0.5
    return f"{statistics.mean(differences):+.2f} ± {error:.2f}"


def named(rows: list[Row]) -> list[tuple[str, str]]:
    """The optimizers that have rows, with their names."""
    found = {row["optimizer"] for row in rows}
    return [(key, name) for key, name in OPTIMIZERS.items() if key in found]


def methods(rows: list[Row], mode: str) -> list[tuple[str, str]]:
    """The pairs of optimizer and algorithm that have rows."""
    found = {(row["optimizer"], row["algorithm"]) for row in of(rows, mode=mode)}
    return [(o, a) for o in OPTIMIZERS for a in ALGORITHMS if (o, a) in found]


def levels(rows: list[Row], mode: str) -> list[float]:
    """The sparsities of a mode."""
    return sorted({row["sparsity"] for row in of(rows, mode=mode) if row["sparsity"]})


def table_line(cells: list[str]) -> list[str]:
    """A line of a Markdown table."""
    return ["| " + " | ".join(cells) + " |"]


def spread(group: list[Row], kind: str, metric: str, scale: float, digits: int) -> str:
    """`mean ± standard deviation`, or a dash."""
    values = [scale * row[kind][metric] for row in group if kind in row]
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
            for optimizer, algorithm in methods(rows, mode):
                label = f"{OPTIMIZERS[optimizer]} + {ALGORITHMS[algorithm]}"
                group = of(rows, mode=mode, optimizer=optimizer, algorithm=algorithm)
                draw_method(ax, group, kind, metric, label)
            ax.set_ylabel(metric if metric == "accuracy" else metric.upper())
            ax.set_yscale("logit" if metric == "accuracy" else "log")
            ax.grid(alpha=0.3)
        axes[0, column].set_title(MODES[mode])
        axes[2, column].set_xlabel("weights kept (%)")
        axes[2, column].set_xscale("log")
        axes[2, column].invert_xaxis()
    for ax in axes[0]:
        if ax.get_legend_handles_labels()[0]:
            ax.legend(fontsize="x-small", loc="lower left")
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
