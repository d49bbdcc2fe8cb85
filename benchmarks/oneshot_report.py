"""The report of the one-shot benchmark: results.json and table.md."""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

import rich.console
import rich.markdown
from quality_report import OPTIMIZERS, of

from bmrpruner.files.atomic import atomic_write

Row = dict[str, Any]
METHODS = {
    "dense": "dense",
    "obs_sequential": "OBS, sequential",
    "obs_in_turn": "OBS, sequential, from the column before",
    "obs": "OBS, global",
    "bmr": "BMR, global",
    "magnitude": "magnitude, global",
    "wanda": "Wanda, by row",
    "sweep": "SparseGPT's sweep, by layer",
}
FORMS = {"accuracy": (100, 2), "nll": (1, 4), "ece": (1, 4), "seconds": (1, 1)}


def write_report(out: Path, rows: list[Row]) -> None:
    """Print the tables, write the files, and say where."""
    if not rows:
        raise ValueError(f"{out}: there are no runs to report.")
    keys = dict.fromkeys((row["network"], row["optimizer"]) for row in rows)
    text = "\n\n".join(tables(*key, of(rows, network=key[0], optimizer=key[1])) for key in keys)
    rich.console.Console(width=160).print(rich.markdown.Markdown(text))
    with atomic_write(out / "table.md", force=True) as path:
        path.write_text(text + "\n")
    with atomic_write(out / "results.json", force=True) as path:
        path.write_text(json.dumps(rows, indent=1))
    print(f"Written to {out}/")


def tables(network: str, optimizer: str, rows: list[Row]) -> str:
    """A table of each metric: lines of methods and calibration sizes, columns of sparsities."""
    seeds = len({row["seed"] for row in rows})
    title = (
        f"**{network}, {OPTIMIZERS[optimizer]}**, test set, no fine-tuning, mean ± standard "
        f"deviation of {seeds} seeds"
    )
    return "\n\n".join([title, *(table(metric, rows) for metric in FORMS)])


def table(metric: str, rows: list[Row]) -> str:
    """One metric of every method."""
    sparsities = sorted({row["sparsity"] for row in rows if row["method"] != "dense"})
    dense = spread(of(rows, method="dense"), metric)
    head = [f"{metric} (dense {dense})", "images", *(f"{s:.1%}" for s in sparsities)]
    lines = [head, ["---"] * len(head)]
    for method, name in METHODS.items():
        own = of(rows, method=method)
        if method == "dense":
            continue
        for examples in sorted({row["examples"] for row in own}, reverse=True):
            cells = [of(own, examples=examples, sparsity=s) for s in sparsities]
            line = [name, f"{examples:,}" if examples else ""]
            lines.append(line + [spread(cell, metric) for cell in cells])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def spread(rows: list[Row], metric: str) -> str:
    """Mean ± standard deviation; without the latter for one seed."""
    factor, digits = FORMS[metric]
    values = [factor * row[metric] for row in rows]
    if not values:
        return ""
    mean = f"{statistics.mean(values):.{digits}f}"
    return mean if len(values) == 1 else f"{mean} ± {statistics.stdev(values):.{digits}f}"
