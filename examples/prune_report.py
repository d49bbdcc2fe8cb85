"""The report of the main job: a table, results.json and two pictures."""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import rich.box
import rich.console
import rich.progress
from data import Dataset
from evaluation import scores
from prune_pictures import draw_accuracy, draw_calibration_and_size
from rich.table import Table

from bmrpruner import metrics
from bmrpruner.files import atomic_write
from bmrpruner.study import save_figure
from bmrpruner.study.models import mlp
from bmrpruner.study.shrinking import milliseconds

Row = dict[str, Any]
DURING, SMALL = "during training", "units, cut out"
WHEN = ("dense", "after training", DURING, SMALL)
SIZES = ("params", "kFLOP", "kB", "ms")


class Network(NamedTuple):
    """A network to evaluate."""

    optimizer: str  # 'AdamW' or 'IVON'
    when: str  # 'dense', or when it was pruned
    by: str  # what it was pruned by; '' if dense
    sparsity: float
    params: Any
    small: Any = None  # the compacted network, where whole units are gone


def progress_bar() -> rich.progress.Progress:
    """Bars with the time left."""
    return rich.progress.Progress(*rich.progress.Progress.get_default_columns(), transient=True)


def evaluate(network: Network, dense: Network, data: Dataset, seed: int) -> dict[str, Any]:
    """Test metrics of a network; of a compacted one its sizes and time, beside the dense one's."""
    images = jnp.asarray(data.test_images)
    params, forward = network.params, jax.jit(mlp)
    if network.small is not None:
        params, forward = network.small.params, jax.jit(network.small.fn)
    logits = forward(params, images)
    check_pruned(network, dense, logits, images)
    probs = jax.nn.softmax(logits)
    bins = metrics.reliability_diagram(probs, data.test_labels, bins=10)._asdict()
    row = {name: getattr(network, name) for name in ("optimizer", "when", "by", "sparsity")}
    row |= {"seed": seed, **scores(probs, data.test_labels)}
    row["reliability"] = {name: array.tolist() for name, array in bins.items()}
    if network.small is not None:
        whole = jax.jit(mlp)
        runs = [lambda: whole(dense.params, images), lambda: forward(params, images)]
        report = network.small.report
        row["sizes"] = {  # of the dense network and of the small one
            "params": list(report.parameters),
            "kFLOP": [count / 1e3 / len(images) for count in report.flops],
            "kB": [nbytes(dense.params) / 1e3, nbytes(params) / 1e3],
            "ms": milliseconds(runs, repeats=50),
        }
    return row


def check_pruned(network: Network, dense: Network, logits: jax.Array, images: jax.Array) -> None:
    """Make sure that what is evaluated is the pruned network."""
    if network.when == "dense":
        return
    if jnp.array_equal(logits, mlp(dense.params, images)):
        raise RuntimeError(f"{network[:4]}: pruning did not change the forward pass.")
    leaves = jax.tree.leaves(network.params)
    counted = float(metrics.sparsity([leaf for leaf in leaves if leaf.ndim > 1]))
    exact = network.small is None
    if abs(counted - network.sparsity) > 0.002 if exact else counted < network.sparsity - 0.02:
        raise RuntimeError(f"{network[:4]}: counted a sparsity of {counted:.4f}.")


def nbytes(params: Any) -> int:
    """Bytes of all arrays."""
    return sum(leaf.nbytes for leaf in jax.tree.leaves(params))


def write_report(out: Path, dataset: str, rows: list[Row]) -> None:
    """Print the table, write results.json and the pictures, and say what to look at."""
    table = make_table(dataset, rows)
    wide = rich.console.Console(width=200)
    console = rich.console.Console()
    console.width = max(console.width, wide.measure(table).maximum)
    console.print(table)
    out.mkdir(parents=True, exist_ok=True)
    with atomic_write(out / "results.json", force=True) as path:
        path.write_text(json.dumps({"dataset": dataset, "runs": rows}, indent=1))
    save_figure(out / "accuracy.png", draw_accuracy(dataset, rows))
    save_figure(out / "calibration_and_size.png", draw_calibration_and_size(dataset, rows))
    print(
        "- What is lost: compare a row with the dense ones; OBS refits what stays.\n"
        "- Calibrated: NLL and ECE; lower is better.\n"
        "- Really smaller: the sizes in the last row beside those of the dense networks.\n"
        f"Wrote results.json, accuracy.png and calibration_and_size.png to {out}/, replacing those "
        "of earlier runs."
    )


def make_table(dataset: str, rows: list[Row]) -> Table:
    """One line for each way of pruning, mean ± standard deviation over the seeds."""
    seeds = len({row["seed"] for row in rows})
    sparsities = sorted({row["sparsity"] for row in rows} - {0.0})
    shown = sparsities[len(sparsities) // 2]
    table = Table(
        title=f"{dataset}: test accuracy (%), dense and with weights pruned, "
        + (f"mean ± deviation of {seeds} seeds" if seeds > 1 else "one seed"),
        caption=f"NLL, ECE and sizes of pruned networks: at {shown:.0%}; kFLOP of an image, ms of "
        "the test set",
        box=rich.box.SIMPLE_HEAD,
        collapse_padding=True,
        pad_edge=False,
    )
    table.add_column("", no_wrap=True)
    table.add_column("pruned by", no_wrap=True)
    columns = [f"{100 * share:g} %" for share in sparsities]
    for column in ("dense", *columns, "NLL", "ECE", *SIZES):
        table.add_column(column, justify="right", no_wrap=True)
    previous = None
    for (when, optimizer, by), own in by_method(rows):
        if previous not in (None, when):
            table.add_section()
        at = [row for row in own if row["sparsity"] in (0.0, shown)]
        table.add_row(
            "" if when == previous else when,
            f"{optimizer} {by}",
            *(accuracy(own, share) for share in (0.0, *sparsities)),
            *(f"{mean(at, name):.3f}" for name in ("nll", "ece")),
            *size_cells(when, [row for row in rows if row["sparsity"] == shown]),
        )
        previous = when
    return table


def by_method(rows: list[Row]) -> list[tuple[tuple[str, str, str], list[Row]]]:
    """The rows of each method, in the order of time: dense, after training, during it, small."""
    methods = dict.fromkeys((row["when"], row["optimizer"], row["by"]) for row in rows)
    order = sorted(methods, key=lambda method: WHEN.index(method[0]))
    return [
        (method, [row for row in rows if (row["when"], row["optimizer"], row["by"]) == method])
        for method in order
    ]


def accuracy(rows: list[Row], sparsity: float) -> str:
    """Mean ± standard deviation in percent, of one seed without it; empty if there are no rows."""
    values = [100 * row["accuracy"] for row in rows if row["sparsity"] == sparsity]
    if not values:
        return ""
    found = f"{statistics.mean(values):.1f}"
    return f"{found}±{statistics.stdev(values):.1f}" if len(values) > 1 else found


def mean(rows: list[Row], name: str) -> float:
    """Over the rows."""
    return statistics.mean(row[name] for row in rows)


def size_cells(when: str, rows: list[Row]) -> list[str]:
    """Of the dense network and of the compacted one; networks under masks are as large as dense."""
    if when not in ("dense", SMALL):
        return []
    sizes = [row["sizes"] for row in rows if "sizes" in row]
    means = [statistics.mean(size[name][when == SMALL] for size in sizes) for name in SIZES]
    return [f"{value:,.0f}" if value >= 10 else f"{value:.2f}" for value in means]
