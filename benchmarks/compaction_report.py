"""The report of the compaction benchmark: results.json, table.md and pictures."""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import rich.console
import rich.markdown

from bmrpruner.files.atomic import atomic_write
from bmrpruner.study import save_figure

mpl.use("Agg")

Row = dict[str, Any]
MODES = {"dense": "dense", "after": "after training", "during": "during training"}
NAMES = {
    "no_prune": "dense",
    "adaptive_bmr": "BMR, ΔF > 0",
    "obs": "OBS, refitted",
    "bmr": "BMR",
    "snr": "SNR",
    "magnitude": "magnitude",
    "random": "random",
}


def write_report(out: Path, results: list[dict[str, Any]]) -> None:
    """Print the tables, write the files, and say where."""
    rows = [row for result in results for row in result["rows"]]
    if not rows:
        raise ValueError(f"{out}: there are no runs to report.")
    networks = dict.fromkeys(row["network"] for row in rows)
    parts = {name: [row for row in rows if row["network"] == name] for name in networks}
    text = "\n\n".join(table(name, own) for name, own in parts.items())
    rich.console.Console(width=140).print(rich.markdown.Markdown(text))
    with atomic_write(out / "table.md", force=True) as path:
        path.write_text(text + "\n")
    with atomic_write(out / "results.json", force=True) as path:
        path.write_text(json.dumps(results, indent=1))
    for name, own in parts.items():
        save_figure(out / f"{name}.png", curves(own))
    print(f"Written to {out}/")


def table(network: str, rows: list[Row]) -> str:
    """A line for each way of pruning and each share of the FLOPs."""
    lines = [
        f"**{network}**, test set, mean ± standard deviation of {seeds(rows)} seeds",
        "",
        "| pruned | by | FLOPs to go | accuracy % | fewer FLOPs | fewer parameters | ms | faster |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for (mode, algorithm, share), own in points(rows):
        asked = "" if mode == "dense" else "ΔF decides" if share is None else f"{share:.0%}"
        before, after = (mean([row["milliseconds"][i] for row in own]) for i in (0, 1))
        lines.append(
            f"| {MODES[mode]} | {NAMES[algorithm]} | {asked} | {accuracy(own)} "
            f"| {ratio(own, 'flops')} | {ratio(own, 'parameters')} "
            f"| {before:.3f} → {after:.3f} | {ratio(own, 'milliseconds')} |"
        )
    return "\n".join(lines)


def points(rows: list[Row]) -> list[tuple[tuple[str, str, Any], list[Row]]]:
    """The rows of all seeds together, in the order of the modes, algorithms and shares."""
    found: dict[Any, list[Row]] = {}
    for row in rows:
        found.setdefault((row["mode"], row["algorithm"], row["share"]), []).append(row)
    modes, names = list(MODES), list(NAMES)
    return sorted(
        found.items(),
        key=lambda item: (modes.index(item[0][0]), names.index(item[0][1]), item[0][2] or 0.0),
    )


def seeds(rows: list[Row]) -> int:
    """How many seeds there are."""
    return len({row["seed"] for row in rows})


def mean(values: list[float]) -> float:
    """The mean."""
    return statistics.fmean(values)


def accuracy(rows: list[Row]) -> str:
    """Mean and standard deviation, in percent."""
    values = [100 * row["accuracy"] for row in rows]
    spread = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"{mean(values):.2f}{spread}"


def ratio(rows: list[Row], name: str) -> str:
    """How many times more it was before, the mean over seeds."""
    return f"{mean([row[name][0] / row[name][1] for row in rows]):.1f} ×"


def curves(rows: list[Row]) -> Any:
    """Accuracy against the FLOPs that are left, pruned after and during training."""
    figure, axes = plt.subplots(1, 2, figsize=(11, 4.5), sharey=True, layout="constrained")
    dense = [row["accuracy"] for row in rows if row["mode"] == "dense"]
    for ax, mode in zip(axes, ("after", "during"), strict=True):
        for number, (name, label) in enumerate(list(NAMES.items())[1:]):
            own = [p for p in points(rows) if p[0][:2] == (mode, name)]
            left = [mean([r["flops"][1] / r["flops"][0] for r in p[1]]) for p in own]
            height = [100 * mean([r["accuracy"] for r in p[1]]) for p in own]
            ax.plot(left, height, marker="o", color=f"C{number}", label=label)
        if dense:
            ax.axhline(100 * mean(dense), color="gray", linewidth=1, label="dense")
        ax.set(title=f"pruned {MODES[mode]}", xlabel="share of FLOPs left", xscale="log")
        ax.grid(alpha=0.3)
    axes[0].set_ylabel("accuracy (%)")
    axes[1].legend(fontsize="small", loc="lower right")
    return figure
