"""The report of a run: a table, results.json and pictures."""

from __future__ import annotations

import dataclasses
import json
import statistics
from collections.abc import Iterable
from itertools import groupby
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import rich.box
import rich.console
import rich.progress
from rich.table import Table

from bmrpruner.files import atomic_write
from bmrpruner.study import draw_rounds, save_figure
from bmrpruner.study.charts import draw_kept, draw_reliability_panels

mpl.use("Agg")


@dataclasses.dataclass
class Run:
    """One network, evaluated on the test set."""

    mode: str
    optimizer: str
    algorithm: str
    sparsity: float | None  # None where the evidence decided
    seed: int
    seconds: float
    counted_sparsity: float
    layer_sparsity: dict[str, float]
    accuracy: float
    nll: float
    ece: float
    reliability: dict[str, list[float]]
    averaged_accuracy: float | None = None
    averaged_nll: float | None = None
    averaged_ece: float | None = None
    averaged_reliability: dict[str, list[float]] | None = None
    rounds: dict[str, list[float]] | None = None

    @property
    def row(self) -> tuple[str, str, str, float | None]:
        """What the seeds are averaged over."""
        return self.mode, self.optimizer, self.algorithm, self.sparsity

    @property
    def method(self) -> str:
        """Optimizer and score, for a legend."""
        is_dense = self.algorithm == "no_prune"
        return self.optimizer if is_dense else f"{self.optimizer} + {self.algorithm}"


def progress_bar() -> rich.progress.Progress:
    """Bars with the time left."""
    return rich.progress.Progress(*rich.progress.Progress.get_default_columns(), transient=True)


def write_report(out: Path, dataset: str, runs: list[Run]) -> None:
    """Print the table, write results.json and the pictures, and say where."""
    console = rich.console.Console()
    console.width = max(console.width, 104)
    console.print(make_table(dataset, runs))
    out.mkdir(parents=True, exist_ok=True)
    results = {"dataset": dataset, "runs": [dataclasses.asdict(run) for run in runs]}
    with atomic_write(out / "results.json", force=True) as path:
        path.write_text(json.dumps(results, indent=1))
    pictures = {
        "sparsity.png": draw_sparsity,
        "reliability.png": draw_reliability,
        "layers.png": draw_layers,
        "rounds.png": lambda _, runs: draw_rounds([run.rounds for run in runs if run.rounds]),
    }
    for name, draw in pictures.items():
        save_figure(out / name, draw(dataset, runs))
    print(f"Wrote results.json, {', '.join(pictures)} to {out}/, replacing those of earlier runs.")


def make_table(dataset: str, runs: list[Run]) -> Table:
    """One line per row, mean ± standard deviation over the seeds."""
    seeds = len({run.seed for run in runs})
    table = Table(
        title=f"{dataset}, test set, {seeds} seed{'s' * (seeds > 1)}",
        caption="NLL (nats) and ECE of IVON's networks are averaged over draws from the posterior.",
        box=rich.box.SIMPLE_HEAD,
    )
    table.add_column("pruning", no_wrap=True)
    table.add_column("method", no_wrap=True)
    for column in ("pruned", "accuracy (%)", "NLL", "ECE", "seconds"):
        table.add_column(column, justify="right", no_wrap=True)
    previous = None
    for row, group in by_row(runs):
        if previous not in (None, row[0]):
            table.add_section()
        previous = row[0]
        table.add_row(
            row[0],
            group[0].method,
            f"{statistics.mean(run.counted_sparsity for run in group):.1%}",
            spread([100 * run.accuracy for run in group], 2),
            spread([run.nll if run.averaged_nll is None else run.averaged_nll for run in group], 3),
            spread([run.ece if run.averaged_ece is None else run.averaged_ece for run in group], 3),
            spread([run.seconds for run in group], 1),
        )
    return table


def by_row(runs: Iterable[Run]) -> list[tuple[Any, list[Run]]]:
    """The runs of each row, rows in their first order."""
    order = list(dict.fromkeys(run.row for run in runs))
    ordered = sorted(runs, key=lambda run: order.index(run.row))
    return [(row, list(group)) for row, group in groupby(ordered, key=lambda run: run.row)]


def spread(values: list[float], digits: int) -> str:
    """`mean ± standard deviation`."""
    return f"{statistics.mean(values):.{digits}f} ± {deviation(values):.{digits}f}"


def deviation(values: list[float]) -> float:
    """The sample standard deviation; zero for a single value."""
    return statistics.stdev(values) if len(values) > 1 else 0.0


def draw_sparsity(dataset: str, runs: list[Run]) -> Any:
    """Accuracy and NLL against sparsity."""
    modes = ("one-shot", "gradual")
    figure, axes = plt.subplots(2, 2, figsize=(10, 7), sharex=True, layout="constrained")
    for column, mode in enumerate(modes):
        for line, (metric, label) in enumerate((("accuracy", "accuracy"), ("nll", "NLL (nats)"))):
            ax = axes[line, column]
            for method in dict.fromkeys(run.method for run in runs if run.mode == mode):
                points = [run for run in runs if run.mode == mode and run.method == method]
                draw_spread(ax, points, metric, method)
            ax.set_ylabel(label)
            ax.grid(alpha=0.3)
        axes[0, column].set_title(f"{mode}: {'after' if mode == 'one-shot' else 'during'} training")
        axes[0, column].set_yscale("logit")
        axes[1, column].set_yscale("log")
        axes[1, column].set_xlabel("weights pruned (%)")
    axes[0, 0].legend(fontsize="small")
    figure.suptitle(f"{dataset}, test set")
    return figure


def draw_spread(ax: Any, runs: list[Run], metric: str, label: str) -> None:
    """A line through the means, with error bars of one standard deviation."""
    groups = by_row(runs)
    values = [[getattr(run, metric) for run in group] for _, group in groups]
    deviations = [deviation(v) for v in values]
    ax.errorbar(
        [100 * statistics.mean(run.counted_sparsity for run in group) for _, group in groups],
        [statistics.mean(v) for v in values],
        deviations,
        marker="o",
        capsize=3,
        label=label,
    )


def draw_reliability(dataset: str, runs: list[Run]) -> Any:
    """Reliability of the posterior-averaged network, dense and pruned hardest."""
    sparsest = max(run.sparsity or 0 for run in runs)
    ivon = [run for run in runs if run.optimizer == "IVON"]
    groups = {
        "dense": [run for run in ivon if run.mode == "dense"],
        f"BMR, one-shot, {sparsest:.1%} pruned": select(ivon, "one-shot", sparsest),
        f"BMR, gradual, {sparsest:.1%} pruned": select(ivon, "gradual", sparsest),
    }
    figure = draw_reliability_panels(
        {
            title: [(f"seed {run.seed}", run.averaged_reliability) for run in group]
            for title, group in groups.items()
        }
    )
    figure.suptitle(f"{dataset}: reliability of predictions averaged over the posterior")
    return figure


def select(runs: list[Run], mode: str, sparsity: float) -> list[Run]:
    """The BMR runs of a mode and sparsity."""
    return [r for r in runs if (r.mode, r.algorithm, r.sparsity) == (mode, "bmr", sparsity)]


def draw_layers(dataset: str, runs: list[Run]) -> Any:
    """Which layers the scores prune, at the highest sparsity."""
    sparsest = max(run.sparsity or 0 for run in runs)
    pruned = [run for run in runs if run.mode == "gradual" and run.sparsity == sparsest]
    figure = draw_kept(
        {
            group[0].method: {
                name: statistics.mean(run.layer_sparsity[name] for run in group)
                for name in group[0].layer_sparsity
            }
            for _, group in by_row(pruned)
        }
    )
    (ax,) = figure.axes
    ax.set_yscale("log")
    ax.set_title(f"{dataset}, gradual, {sparsest:.1%} pruned over the whole network")
    return figure
