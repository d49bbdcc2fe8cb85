"""Write one self-contained HTML page of a sweep, readable on a phone."""

from __future__ import annotations

import base64
import html
from pathlib import Path
from typing import Any

from bmrpruner.files import atomic_write
from bmrpruner.study.results import PICTURES, Results, load

_STYLE = """
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 0 auto; padding: 1rem; }
img { width: 100%; height: auto; background: white; }
figure { margin: 2rem 0; }
figcaption, p.note { color: gray; font-size: .9rem; overflow-wrap: anywhere; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: right; padding: .15rem .4rem; border-bottom: 1px solid #8884; }
th:first-child, td:first-child { text-align: left; }
@media (max-width: 45rem) {
  thead { display: none; }
  tr { display: block; margin-bottom: 1rem; }
  td { display: flex; justify-content: space-between; border: 0; }
  td::before { content: attr(data-label); color: gray; }
  td:first-child { font-weight: bold; border-bottom: 1px solid #8884; }
  td:first-child::before { content: none; }
}
"""
_HEAD = ("rule", "pruned", "nonzeros", "seconds")
_SCORES = {"accuracy": ".4f", "nll": ".3f", "ece": ".3f", "ood_auroc": ".3f"}
_NAMES = {"accuracy": "accuracy", "nll": "NLL", "ece": "ECE", "ood_auroc": "OOD AUROC"}


def write_report(directory: Path | str, out: Path | str | None = None, force: bool = False) -> Path:
    """Write an HTML page of the tables and pictures of a sweep.

    Args:
      directory: Where a sweep left its results.
      out: What to write; by default `report.html` in the directory.
      force: Replace it.

    Returns:
      The path of the page.

    Raises:
      FileNotFoundError: If there are no results, or a picture is missing.
      FileExistsError: If the page exists, unless `force`.
      ValueError: If the results are not those of a complete sweep.

    Example:
      >>> write_report('/nowhere')
      Traceback (most recent call last):
      FileNotFoundError: /nowhere/results.json: expected the results of `bmrpruner sweep`, got none.
    """
    directory = Path(directory)
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
    page = make_page(found, {name: (directory / name).read_bytes() for name in PICTURES})
    with atomic_write(target, force) as path:
        path.write_text(page, encoding="utf-8")
    return target


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
    figures = "".join(_figure(PICTURES[name], data) for name, data in pictures.items())
    settings = ", ".join(f"{key} {value}" for key, value in found.settings.items())
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,">
<title>How far can it be pruned?</title>
<style>{_STYLE}</style>
</head>
<body>
<h1>How far can it be pruned?</h1>
<p class="note">bmrpruner {html.escape(found.version)}: {html.escape(settings)}</p>
{figures}
<h2>At the mean</h2>
{_table(found, "mean")}
{_averaged(found)}
</body>
</html>
"""


def _averaged(found: Results) -> str:
    if not any(point["averaged"] for point in found.points):
        return ""
    return f"<h2>Averaged over the posterior</h2>\n{_table(found, 'averaged')}"


def _table(found: Results, kind: str) -> str:
    names = [*_HEAD, *_NAMES.values()]
    head = "".join(f"<th>{html.escape(name)}</th>" for name in names)
    rows = "".join(_row(names, point, point[kind]) for point in found.points if point[kind])
    return f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"


def _row(names: list[str], point: dict[str, Any], scores: dict[str, Any]) -> str:
    cells = [
        point["label"],
        f"{point['sparsity']:.1%}",
        f"{point['nonzeros']:,}",
        f"{point['seconds']:.2f}",
        *(format(scores[key], spec) for key, spec in _SCORES.items()),
    ]
    labelled = zip(names, cells, strict=True)
    inner = "".join(
        f'<td data-label="{html.escape(name)}">{html.escape(cell)}</td>' for name, cell in labelled
    )
    return f"<tr>{inner}</tr>"


def _figure(caption: str, data: bytes) -> str:
    source = base64.b64encode(data).decode()
    caption = html.escape(caption)
    return (
        f'<figure><img alt="{caption}" src="data:image/png;base64,{source}">'
        f"<figcaption>{caption}</figcaption></figure>"
    )
