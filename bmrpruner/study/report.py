"""Write one self-contained HTML page of a sweep or of a compaction, readable on a phone."""

from __future__ import annotations

import html
from pathlib import Path
from typing import Any

from bmrpruner.files import atomic_write
from bmrpruner.files import load as load_network
from bmrpruner.study.charts import draw_shapes
from bmrpruner.study.page import figure, page, table
from bmrpruner.study.pictures import as_png
from bmrpruner.study.results import PICTURES, Results, load

_HEAD = ("rule", "pruned", "nonzeros", "seconds")
_SCORES = {"accuracy": ".4f", "nll": ".3f", "ece": ".3f", "ood_auroc": ".3f"}
_NAMES = {"accuracy": "accuracy", "nll": "NLL", "ece": "ECE", "ood_auroc": "OOD AUROC"}


def write_report(directory: Path | str, out: Path | str | None = None, force: bool = False) -> Path:
    """Write an HTML page of the tables and pictures of a sweep, or of a compaction.

    Args:
      directory: Where a sweep left its results, or a file that `compact_file` wrote.
      out: What to write; by default `report.html` in the directory, or the file's name with
        `.html`.
      force: Replace it.

    Returns:
      The path of the page.

    Raises:
      FileNotFoundError: If there are no results, or a picture is missing.
      FileExistsError: If the page exists, unless `force`.
      ValueError: If the results are not those of a complete sweep, or the file has no report.

    Example:
      >>> write_report('/nowhere')
      Traceback (most recent call last):
      FileNotFoundError: /nowhere/results.json: expected the results of `bmrpruner sweep`, got none.
    """
    directory = Path(directory)
    if directory.is_file():
        target = directory.with_suffix(".html") if out is None else Path(out)
        _write(target, _compaction(directory), force)
        return target
    found = load(directory)
    if not found.complete:
        raise ValueError(
            f"{directory}: expected a complete sweep, got a part; go on with `sweep --resume`."
        )
    missing = [name for name in PICTURES if not (directory / name).is_file()]
    if missing:
        raise FileNotFoundError(
            f"{directory}: expected {missing[0]} in it, got none; repeat the sweep."
        )
    target = directory / "report.html" if out is None else Path(out)
    pictures = {name: (directory / name).read_bytes() for name in PICTURES}
    _write(target, make_page(found, pictures), force)
    return target


def _write(target: Path, text: str, force: bool) -> None:
    with atomic_write(target, force) as path:
        path.write_text(text, encoding="utf-8")


def make_page(found: Results, pictures: dict[str, bytes]) -> str:
    """Make the text of the page.

    Args:
      found: The results of a sweep.
      pictures: PNG files by their name in `PICTURES`.

    Returns:
      HTML that holds the pictures as data.

    Example:
      >>> page = make_page(Results({'model': 'm:f'}, [], '0.1.0', True), {})
      >>> page.startswith('<!doctype html>'), 'http' in page
      (True, False)
    """
    figures = "".join(figure(PICTURES[name], data) for name, data in pictures.items())
    settings = ", ".join(f"{key} {value}" for key, value in found.settings.items())
    body = f"{figures}\n<h2>At the mean</h2>\n{_table(found, 'mean')}\n{_averaged(found)}"
    return page("How far can it be pruned?", f"bmrpruner {found.version}: {settings}", body)


def _averaged(found: Results) -> str:
    if not any(point["averaged"] for point in found.points):
        return ""
    return f"<h2>Averaged over the posterior</h2>\n{_table(found, 'averaged')}"


def _table(found: Results, kind: str) -> str:
    points = [point for point in found.points if point[kind]]
    return table([*_HEAD, *_NAMES.values()], [_cells(point, point[kind]) for point in points])


def _cells(point: dict[str, Any], scores: dict[str, Any]) -> list[str]:
    return [
        point["label"],
        f"{point['sparsity']:.1%}",
        f"{point['nonzeros']:,}",
        f"{point['seconds']:.2f}",
        *(format(scores[key], spec) for key, spec in _SCORES.items()),
    ]


def _compaction(file: Path) -> str:
    """The page of a file that `compact_file` wrote."""
    done = load_network(file).info.get("compaction")
    if not isinstance(done, dict):
        raise ValueError(
            f"{file}: expected what `bmrpruner compact` writes, got a file without its report."
        )
    try:
        shapes = [(x["name"], _times(x["before"]), _times(x["after"])) for x in done["leaves"]]
        counts = [(name, *(f"{x:,}" for x in done[name])) for name in ("parameters", "flops")]
        counts.append(("milliseconds", *(f"{x:.3f}" for x in done["milliseconds"])))
        picture = as_png(draw_shapes(done["leaves"]))
        stayed = [
            (f"{x['leaf']} axis {x['axis']}", str(count), why)
            for x in done["stayed"]
            for why, count in x["why"].items()
        ]
        note = f"{file.name}: {done['model']}, inputs {_times(done['inputs'])}"
        notes = "".join(f"<p>{html.escape(text)}</p>" for text in done["notes"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(
            f"{file}: expected the report of `bmrpruner compact`, got another "
            f"({type(error).__name__}: {error})."
        ) from error
    parts = [
        figure("Shapes before and after", picture),
        table(("of one call", "before", "after"), counts),
        "<h2>Shapes</h2>",
        table(("leaf", "before", "after"), shapes),
        "<h2>What stayed, and why</h2>",
        table(("units", "stayed", "why"), stayed),
        notes,
    ]
    return page("How small did it get?", note, "\n".join(parts))


def _times(shape: list[int]) -> str:
    return "×".join(map(str, shape))
