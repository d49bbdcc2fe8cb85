"""What the commands print: tables for people, JSON for programs.

Names from files are printed as they are: they are not rich markup, and characters that would act on
the terminal are replaced by their escapes.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from typing import Any

import rich.box
import rich.console
import rich.progress
from rich.table import Table


def visible(text: str) -> str:
    r"""Replace characters that cannot be printed by their escapes.

    Args:
      text: A name or a message, which may hold control characters.

    Returns:
      The text, with `\x1b` spelled out in place of an escape character, and so on.

    Example:
      >>> print(visible('red: \x1b[31m'))
      red: \x1b[31m
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def show(found: dict[str, Any], as_json: bool, make_tables: Callable[..., list[Any]]) -> None:
    """Print JSON, or tables: as wide as they need to be, unless a terminal is narrower.

    Args:
      found: What JSON can hold.
      as_json: Print JSON in place of tables.
      make_tables: Makes tables and lines of text of `found`.
    """
    if as_json:
        print(json.dumps(found, indent=1))
        return
    console = _console()
    if not console.is_terminal:
        console.width = 10_000
    for item in make_tables(found):
        console.print(visible(item) if isinstance(item, str) else item)


@contextlib.contextmanager
def progress(total: int) -> Iterator[Callable[[list[Any]], None]]:
    """Show a bar on stderr, or print a line for each point where stderr is no terminal.

    Args:
      total: How many points there will be.

    Yields:
      A function to call with all points so far.
    """
    console = _console(stderr=True)
    columns = rich.progress.Progress.get_default_columns()
    hidden = not console.is_terminal
    with rich.progress.Progress(*columns, console=console, transient=True, disable=hidden) as bar:
        task = bar.add_task("Rules", total=total)

        def advance(points: list[Any]) -> None:
            bar.update(task, completed=len(points))
            if points and hidden:
                label = visible(points[-1]["label"])
                console.print(f"{len(points)} of {total}: {label}", highlight=False)

        yield advance


def inspection(found: dict[str, Any]) -> list[Any]:
    """Make tables of the leaves with their quantiles, and of what thresholds would prune."""
    table = _table("leaf", "shape", "dtype", "zeros", *_QUANTILES)
    for leaf in found["leaves"]:
        _add_row(
            table,
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
        _add_row(shares, "share", *(f"{value:.1%}" for value in values))
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
    """Make a table of what is left of each leaf, and lines about the file."""
    table = _table("leaf", "pruned", title=done["rule"])
    for name, sparsity in done["leaf_sparsity"].items():
        _add_row(table, name, f"{sparsity:.2%}")
    table.add_section()
    _add_row(table, "all of these", f"{done['sparsity']:.2%}")
    before, after = done["bytes_before"], done["bytes_after"]
    hint = "" if done["packed"] else " With --packed, fewer: then only bmrpruner reads it."
    return [
        table,
        f"{done['nonzeros']:,} of {done['weights']:,} weights are left; "
        f"{before:,} bytes became {after:,} ({after / before:.1%}).",
        *_calibrated(done),
        f"Wrote {done['out']}.{hint}",
    ]


def _calibrated(done: dict[str, Any]) -> list[str]:
    """A line about the data of obs and its kin, and one about what they could not see."""
    if "calibration" not in done:
        return []
    found = done["calibration"]
    lines = [f"Calibrated with {found['examples']:,.0f} examples."]
    if found["left_dense"]:
        names = ", ".join(found["left_dense"])
        lines.append(f"Left dense, as in no linear layer of the model: {names}.")
    return lines


def compacted(done: dict[str, Any]) -> list[Any]:
    """Make a table of shapes, one of totals, and lines about what stayed and the file."""
    shapes = _table("leaf", "before", "after")
    for leaf in done["leaves"]:
        _add_row(shapes, leaf["name"], *("×".join(map(str, leaf[k])) for k in ("before", "after")))
    totals = _table("", "before", "after", "ratio")
    for name, spec in _TOTALS.items():
        before, after = done[name]
        ratio = f"{before / after:.1f} ×" if after else ""
        _add_row(totals, name.replace("_", " "), format(before, spec), format(after, spec), ratio)
    lines = [
        f"{entry['leaf']} axis {entry['axis']}: stayed: "
        + ", ".join(f"{count} {why}" for why, count in entry["why"].items())
        for entry in done["stayed"]
        if entry["why"]
    ]
    fits = "The model's own code runs the smaller file."
    if not done["fits"]:
        fits = "Only the compacted function runs the smaller file: see structure.save_function."
    return [
        shapes,
        totals,
        *lines,
        *done["notes"],
        f"FLOPs and milliseconds are of one call with inputs {'×'.join(map(str, done['inputs']))}; "
        f"outputs differ by {done['error']:.0e} at most.",
        fits,
        f"Wrote {done['out']}.",
        *(_exported(done["export"]) if "export" in done else []),
    ]


def _exported(export: dict[str, Any]) -> list[str]:
    return [f"Wrote {export['file']}, which takes inputs of batch size: {export['batch']}."]


def swept(found: dict[str, Any]) -> list[Any]:
    """Make a table of a line per point: its metrics at the mean, and averaged."""
    table = _table("rule", "pruned", "nonzeros", "s", "accuracy", "NLL", "ECE", "OOD", *_AVERAGED)
    previous = None
    for point in found["points"]:
        if previous not in (None, point["algorithm"]):
            table.add_section()
        previous = point["algorithm"]
        _add_row(
            table,
            point["label"],
            f"{point['sparsity']:.1%}",
            f"{point['nonzeros']:,}",
            f"{point['seconds']:.1f}",
            *_scores(point["mean"]),
            *_scores(point["averaged"]),
        )
    return [table, "OOD: AUROC by entropy. avg.: averaged over draws from the posterior."]


_TOTALS = {"parameters": ",", "flops": ",", "milliseconds": ".3f", "file_bytes": ","}
_QUANTILES = ("SNR 5 %", "50 %", "95 %", "ΔF 5 %", "50 %", "95 %")
_AVERAGED = ("avg. accuracy", "NLL", "ECE", "OOD")


def _console(stderr: bool = False) -> rich.console.Console:
    return rich.console.Console(stderr=stderr, markup=False, emoji=False)


def _table(first: str, *others: str, title: str = "") -> Table:
    table = Table(box=rich.box.SIMPLE_HEAD, title=visible(title) or None)
    table.add_column(first, no_wrap=True)
    for column in others:
        table.add_column(column, justify="right", no_wrap=True)
    return table


def _add_row(table: Table, *cells: str) -> None:
    table.add_row(*map(visible, cells))


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
