"""What the commands print: tables for people, JSON for programs."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from typing import Any

import rich.box
import rich.console
import rich.progress
from rich.table import Table


def show(found: dict[str, Any], as_json: bool, make_tables: Callable[..., list[Any]]) -> None:
    """Print JSON, or tables: as wide as they need to be, unless a terminal is narrower."""
    if as_json:
        print(json.dumps(found, indent=1))
        return
    console = rich.console.Console()
    if not console.is_terminal:
        console.width = 160
    for table in make_tables(found):
        console.print(table)


@contextlib.contextmanager
def progress(total: int) -> Iterator[Callable[[list[Any]], None]]:
    """A bar on stderr; a line for each point where stderr is no terminal."""
    console = rich.console.Console(stderr=True)
    columns = rich.progress.Progress.get_default_columns()
    hidden = not console.is_terminal
    with rich.progress.Progress(*columns, console=console, transient=True, disable=hidden) as bar:
        task = bar.add_task("Rules", total=total)

        def advance(points: list[Any]) -> None:
            bar.update(task, completed=len(points))
            if points and hidden:
                console.print(f"{len(points)} of {total}: {points[-1]['label']}", highlight=False)

        yield advance


def inspection(found: dict[str, Any]) -> list[Any]:
    """Leaves with their quantiles, and what thresholds would prune."""
    table = _table("leaf", "shape", "dtype", "zeros", *_QUANTILES)
    for leaf in found["leaves"]:
        table.add_row(
            leaf["name"],
            "×".join(map(str, leaf["shape"])),
            leaf["dtype"],
            f"{leaf['zeros'] / max(1, leaf['size']):.1%}",
            *_middle(leaf["snr"]),
            *_middle(leaf["delta_f"]),
        )
    tables: list[Any] = [table]
    if found["evidence"] is not None:
        shares = _table("pruned by", *(f"SNR ≤ {t}" for t in found["snr"]), "ΔF ≥ 0")
        values = [*found["snr"].values(), found["evidence"]]
        shares.add_row("share", *(f"{value:.1%}" for value in values))
        tables.append(shares)
        tables.append(f"Prior precision {found['prior_precision'] or 'by leaf'}.")
    tables.append(f"{found['weights']:,} weights, {found['nonzeros']:,} of them not zero.")
    worst = max(found["rhat"].values(), default=1.0)
    if worst > 1.05:
        tables.append(f"The chains have not converged: R-hat reaches {worst:.2f} (1 is good).")
    if "algorithm" in found["info"]:
        settings = found["info"]["settings"].items()
        chosen = (f"{key} {value}" for key, value in settings if value not in (None, [], 0))
        tables.append(f"Pruned by {', '.join(chosen)}.")
    return tables


def pruned(done: dict[str, Any]) -> list[Any]:
    """What is left of each leaf, and of the file."""
    table = _table("leaf", "pruned", title=done["rule"])
    for name, sparsity in done["leaf_sparsity"].items():
        table.add_row(name, f"{sparsity:.2%}")
    table.add_section()
    table.add_row("all of these", f"{done['sparsity']:.2%}")
    before, after = done["bytes_before"], done["bytes_after"]
    hint = "" if done["packed"] else " With --packed, fewer: then only bmrpruner reads it."
    return [
        table,
        f"{done['nonzeros']:,} of {done['weights']:,} weights are left; "
        f"{before:,} bytes became {after:,} ({after / before:.1%}).",
        f"Wrote {done['out']}.{hint}",
    ]


def swept(found: dict[str, Any]) -> list[Any]:
    """One line per point, at the mean and averaged."""
    table = _table("rule", "pruned", "nonzeros", "s", "accuracy", "NLL", "ECE", "OOD", *_AVERAGED)
    previous = None
    for point in found["points"]:
        if previous not in (None, point["algorithm"]):
            table.add_section()
        previous = point["algorithm"]
        table.add_row(
            point["label"],
            f"{point['sparsity']:.1%}",
            f"{point['nonzeros']:,}",
            f"{point['seconds']:.1f}",
            *_scores(point["mean"]),
            *_scores(point["averaged"]),
        )
    return [table, "OOD: AUROC by entropy. avg.: averaged over draws from the posterior."]


_QUANTILES = ("SNR 5 %", "50 %", "95 %", "ΔF 5 %", "50 %", "95 %")
_AVERAGED = ("avg. accuracy", "NLL", "ECE", "OOD")


def _table(first: str, *others: str, title: str | None = None) -> Table:
    table = Table(box=rich.box.SIMPLE_HEAD, title=title)
    table.add_column(first, no_wrap=True)
    for column in others:
        table.add_column(column, justify="right", no_wrap=True)
    return table


def _middle(quantiles: list[float] | None) -> list[str]:
    """The lowest, the median and the highest of the quantiles."""
    if quantiles is None:
        return [""] * 3
    return [f"{quantiles[i]:.3g}" for i in (0, len(quantiles) // 2, -1)]


def _scores(metrics: dict[str, Any] | None) -> list[str]:
    if metrics is None:
        return [""] * 4
    return [
        f"{metrics['accuracy']:.4f}",
        f"{metrics['nll']:.3f}",
        f"{metrics['ece']:.3f}",
        f"{metrics['ood_auroc']:.3f}",
    ]
