"""The tables and the figures of the sampling study."""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

import numpy as np
import rich.box
import rich.console
from mcmc_data import Problem
from rich.table import Table
from scipy.stats import rankdata

from bmrpruner import files, study
from bmrpruner.study.charts import new_figure

Results = dict[str, list[dict[str, Any]]]
NOT_NUMBERS = ("chains", "predictions")
CAUTION = (
    "joint ΔF is that of the Gaussian of the draws: trust it up to about half of the weights, and "
    "beyond by what sampling again says."
)

CONVERGED = 1.05  # the largest R-hat of predictions of chains that agree


def report(out: Path, problem: Problem, found: Results) -> None:
    """Print the tables of the last data set; save its figures, and the numbers of all so far."""
    out.mkdir(parents=True, exist_ok=True)
    name = problem.name
    console = rich.console.Console(record=True, width=150)
    for table in (sampler_table(name, found[name]), pruning_table(name, found[name])):
        console.print(table)
    console.print(CAUTION)
    for seed in found[name]:
        lowest = seed["samplers"][seed["best"]]["max_rhat"]
        if lowest >= CONVERGED:
            console.print(
                f"Seed {seed['seed']} has NOT converged: the best sampler's R-hat is {lowest:.2f}."
            )
    with files.atomic_write(out / f"{name}.txt", force=True) as path:
        path.write_text(console.export_text())
    numbers = {
        key: [{k: v for k, v in seed.items() if k not in NOT_NUMBERS} for seed in seeds]
        for key, seeds in found.items()
    }
    with files.atomic_write(out / "results.json", force=True) as path:
        path.write_text(json.dumps(numbers, indent=1))
    study.save_figure(out / f"{name}_chains.png", draw_chains(found[name][0]))
    study.save_figure(out / f"{name}_pruning.png", draw_pruning(found[name]))
    if problem.is_regression:
        study.save_figure(out / f"{name}_bands.png", draw_bands(problem, found[name][0]))
    print(f"Wrote results.json and the tables and figures of {name} to {out}/.", flush=True)


def sampler_table(name: str, seeds: list[dict[str, Any]]) -> Table:
    """One line for each sampler, and what the weights say raw and aligned."""
    seconds = seeds[0]["seconds"]
    title = f"{name}: the whole network, a value for each seed drawn ({seconds:.0f} s in all)"
    table = Table(title=title, box=rich.box.SIMPLE_HEAD)
    table.add_column("", no_wrap=True)
    quality = list(seeds[0]["rows"][0]["masked"])
    columns = ["max R-hat of predictions", "min n_eff", "acceptance", "divergences", *quality]
    for column in columns:
        table.add_column(column, justify="right")
    for sampler in seeds[0]["samplers"]:
        found = [seed["samplers"][sampler] for seed in seeds if sampler in seed["samplers"]]
        table.add_row(
            sampler,
            joined(f["max_rhat"] for f in found),
            joined((f["min_n_eff"] for f in found), 0),
            joined((f["acceptance"] for f in found), 2),
            joined((f["divergences"] for f in found), 0),
            *(joined(f[k] for f in found) for k in quality),
        )
    notes = []
    for kind in ("raw", "aligned"):
        found = [seed["weights"][kind] for seed in seeds]
        for label in ("mean_weights", "independent"):
            cells = [joined(f[label][k] for f in found) for k in quality]
            table.add_row(f"{kind} draws, {label.replace('_', ' ')}", *[""] * 4, *cells)
        notes += [
            f"{kind} draws of weights: median R-hat {joined(f['median_rhat'] for f in found)}, "
            f"median SNR {joined(f['median_snr'] for f in found)}, "
            f"warned of symmetry: {' / '.join(str(f['library_warns']) for f in found)}"
        ]
    table.caption = "\n".join(notes)
    return table


def pruning_table(name: str, seeds: list[dict[str, Any]]) -> Table:
    """One line for each rule and sparsity: the masked draws, and those of the pruned network."""
    best = "/".join(dict.fromkeys(seed["best"] for seed in seeds))
    title = f"{name}: draws of {best}, means over {len(seeds)} seeds; masked → sampled again"
    table = Table(title=title, box=rich.box.SIMPLE_HEAD)
    quality = list(seeds[0]["rows"][0]["masked"])
    after = ["max R-hat", "acceptance", "divergences"]
    for column in ("rule", "pruned", *quality, *after, "joint ΔF", "ΔF by SMC"):
        table.add_column(column, justify="left" if column == "rule" else "right", no_wrap=True)
    for rows in zip(*(seed["rows"] for seed in seeds), strict=True):
        again = [r["resampled"] for r in rows if "resampled" in r]
        chains = [r["chains"] for r in rows if "chains" in r]
        cells = [_change([r["masked"] for r in rows], again, k) for k in quality]
        if chains:
            cells += [
                f"{max(c['max_rhat'] for c in chains):.2f}",
                f"{_mean(chains, 'acceptance'):.2f}",
                joined([_sum(chains, "divergences")], 0),
            ]
        else:
            cells += [""] * len(after)
        deltas = [_mean(rows, k) for k in ("delta_f", "delta_f_smc")]
        cells += ["" if d is None else f"{d:.1f}" for d in deltas]
        table.add_row(rows[0]["rule"], f"{rows[0]['sparsity']:.0%}", *cells)
    return table


def joined(values: Any, digits: int = 3) -> str:
    """The values of all seeds; nothing for one that is unknown."""
    return " / ".join("-" if v is None else f"{v:.{digits}f}" for v in values)


def _mean(rows: Any, name: str) -> float | None:
    """The mean over the seeds that have a value."""
    values = [row[name] for row in rows if row.get(name) is not None]
    return statistics.mean(values) if values else None


def _sum(rows: Any, name: str) -> int | None:
    """The sum over the seeds that have a value."""
    values = [row[name] for row in rows if row.get(name) is not None]
    return sum(values) if values else None


def _change(masked: Any, again: Any, name: str) -> str:
    before = f"{_mean(masked, name):.3f}"
    return f"{before} → {_mean(again, name):.3f}" if again else before


def draw_chains(found: dict[str, Any]) -> Any:
    """Traces and ranks of the log density and of the two predictions of largest R-hat."""
    predicted = found["predictions"]
    columns = predicted.reshape(*predicted.shape[:2], -1)
    spread = columns.mean(1).std(0) / (columns.std((0, 1)) + 1e-9)
    worst = np.argsort(spread)[-2:]
    shown = {"log posterior density": np.asarray(found["chains"].log_density)}
    shown |= {f"prediction {i}": columns[:, :, i] for i in worst}
    figure, axes = new_figure(2, 3, (14, 6))
    for (label, draws), trace, rank in zip(shown.items(), axes[0], axes[1], strict=True):
        ranks = rankdata(draws).reshape(draws.shape)  # equal draws share the mean of theirs
        for i, chain in enumerate(draws):
            trace.plot(chain, linewidth=0.5, label=f"chain {i}")
            rank.hist(ranks[i], bins=20, range=(0, draws.size), histtype="step")
        trace.set(title=label, xlabel="draw")
        rank.set(xlabel="rank among all draws", ylabel="draws of a chain")
    axes[0, 0].legend(fontsize=7, loc="lower right")
    return figure


def draw_pruning(seeds: list[dict[str, Any]]) -> Any:
    """NLL against sparsity: the masked draws, and those of the pruned network."""
    figure, axes = new_figure(1, 2, (11, 4.5))
    for axis, kind in zip(axes[0], ("masked", "resampled"), strict=True):
        lines: dict[str, list[tuple[float, float]]] = {}
        for rows in zip(*(seed["rows"] for seed in seeds), strict=True):
            if kind in rows[0]:
                nll = statistics.mean(row[kind]["nll"] for row in rows)
                lines.setdefault(rows[0]["rule"], []).append((100 * rows[0]["sparsity"], nll))
        dense = statistics.mean(seed["rows"][0]["masked"]["nll"] for seed in seeds)
        axis.axhline(dense, color="black", linestyle="--", label="dense")
        lines.pop("none", None)
        for rule, points in lines.items():
            axis.plot(*zip(*points, strict=True), "o-", label=rule, markersize=4)
        axis.set(title=f"{kind} draws", xlabel="pruned (%)", ylabel="test NLL")
        axis.legend(fontsize=7, loc="upper left")
    return figure


def draw_bands(problem: Problem, found: dict[str, Any]) -> Any:
    """The predictive mean and its central 90 % for the first 100 test rows."""
    rows = slice(100)
    predicted, draws = found["predictions"][:, :, rows], found["chains"].draws
    noise = np.asarray(draws["log_noise"])[..., None]
    generator = np.random.default_rng(0)
    simulated = predicted + np.exp(noise) * generator.normal(size=predicted.shape)
    low, high = np.quantile(simulated, (0.05, 0.95), axis=(0, 1))
    figure, axes = new_figure(1, 1, (11, 4))
    axis, index = axes[0, 0], np.arange(predicted.shape[2])
    in_units = [problem.shift + problem.scale * np.asarray(v) for v in (low, high)]
    axis.fill_between(index, *in_units, alpha=0.3, label="90 % of the predictive draws")
    mean = problem.shift + problem.scale * predicted.mean((0, 1))
    axis.plot(index, mean, linewidth=1, label="mean")
    observed = problem.shift + problem.scale * np.asarray(problem.y_test[rows])
    axis.plot(index, observed, "k.", markersize=4, label="observed")
    axis.set(title=f"{problem.name}, test rows", xlabel="row")
    axis.legend(fontsize=8, loc="upper right")
    return figure
