"""Read and write the directory of a sweep: results.json, results.csv and pictures."""

from __future__ import annotations

import csv
import dataclasses
import json
import os
from pathlib import Path
from typing import Any

from bmrpruner.files import atomic_write
from bmrpruner.pruning.calibrated import Pruner
from bmrpruner.pruning.rules import rule_of
from bmrpruner.study import pictures, schema

NAME = "results.json"
PICTURES = {
    "metrics.png": "Metrics against sparsity; bands are one standard error",
    "histograms.png": "Weights and signal-to-noise ratios, before and after",
    "reliability.png": "Accuracy against confidence",
    "layers.png": "What is left of each layer",
}
_WITH_ERRORS = ("accuracy", "nll", "ece", "ood_auroc")
COLUMNS = (*(f"{name}{end}" for name in _WITH_ERRORS for end in ("", "_se")), "brier")


@dataclasses.dataclass(frozen=True)
class Results:
    """The results of a sweep.

    Attributes:
      settings: What the numbers depend on, besides the rules.
      points: One for each rule, as `sweep` returns them.
      version: Of this library.
      complete: Whether all rules are among the points.

    Example:
      >>> Results({'samples': 20}, [], '0.1.0', complete=False).settings['samples']
      20
    """

    settings: dict[str, Any]
    points: list[dict[str, Any]]
    version: str
    complete: bool


def start(out: Path, settings: dict[str, Any], resume: bool, force: bool) -> list[dict[str, Any]]:
    """Make the directory of a sweep, or take up an earlier run in it.

    Args:
      out: The directory.
      settings: What the numbers depend on.
      resume: Go on with the results that are there.
      force: Start over in a directory that is not empty.

    Returns:
      The points of the earlier run if it is to be resumed, else none.

    Raises:
      FileExistsError: If `out` is a file or a broken link, or a directory that holds something,
        unless `resume` or `force`.
      ValueError: If what is there comes from other settings, or is no result of a sweep.

    Example:
      >>> import tempfile
      >>> start(Path(tempfile.mkdtemp()), {}, resume=False, force=False)
      []
    """
    if os.path.lexists(out) and not out.is_dir():
        raise FileExistsError(f"{out}: expected a directory, got a file or a broken link.")
    if resume and (out / NAME).exists():
        earlier = load(out)
        if earlier.settings != settings:
            keys = [*settings, *(key for key in earlier.settings if key not in settings)]
            other = [key for key in keys if earlier.settings.get(key) != settings.get(key)]
            raise ValueError(
                f"{out}: expected the settings of the earlier run, got another {', '.join(other)}; "
                "write elsewhere, or start over with --force."
            )
        return earlier.points
    if out.is_dir() and any(out.iterdir()) and not (force or resume):
        raise FileExistsError(
            f"{out}: expected an empty directory, got one with files; write elsewhere, go on with "
            "--resume, or start over with --force."
        )
    out.mkdir(parents=True, exist_ok=True)
    return []


def save(out: Path, results: Results) -> None:
    """Write results.json, replacing an earlier state.

    Args:
      out: The directory.
      results: What to write.
    """
    with atomic_write(out / NAME, force=True) as path:
        path.write_text(json.dumps(dataclasses.asdict(results), indent=1))


def load(out: Path | str) -> Results:
    """Read results.json and check that it has the structure that a sweep writes.

    Args:
      out: The directory.

    Returns:
      The `Results`.

    Raises:
      FileNotFoundError: If there is none.
      ValueError: If it is something else; the message names the entry.

    Example:
      >>> import tempfile
      >>> out = Path(tempfile.mkdtemp())
      >>> save(out, Results({}, [], '0.1.0', complete=True))
      >>> load(out).version
      '0.1.0'
    """
    path = Path(out) / NAME
    if not path.is_file():
        raise FileNotFoundError(f"{path}: expected the results of `bmrpruner sweep`, got none.")
    try:
        content = json.loads(path.read_text())
        schema.check_results(content)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: {error}") from error
    return Results(**content)


def save_csv(out: Path, results: Results) -> None:
    """Write results.csv, a line per point.

    Args:
      out: The directory.
      results: What to write.
    """
    averaged = [f"averaged_{column}" for column in COLUMNS]
    with atomic_write(out / "results.csv", force=True) as path, path.open("w", newline="") as file:
        writer = csv.writer(file)
        head = ["algorithm", "rule", "sparsity", "nonzeros", "seconds"]
        writer.writerow([*head, *COLUMNS, *averaged])
        for point in results.points:
            mean, average = point["mean"], point["averaged"] or {}
            writer.writerow(
                [point["algorithm"], point["label"]]
                + [point[key] for key in head[2:]]
                + [mean.get(column, "") for column in COLUMNS]
                + [average.get(column, "") for column in COLUMNS]
            )


def save_pictures(out: Path, results: Results, pruner: Pruner) -> None:
    """Draw all pictures; for the histograms, prune again by the hardest rule of each algorithm.

    Args:
      out: The directory.
      results: Points of one rule or more.
      pruner: Has the dense network.
    """
    params, posterior = pruner.params, pruner.posterior
    algorithms = pictures.algorithms_of(results.points)
    hardest = [pictures.by_sparsity(results.points, name)[-1] for name in algorithms]
    pruned = {point["label"]: pruner(rule_of(point["rule"])) for point in hardest}
    drawn = {
        "metrics.png": pictures.draw_metrics(results.points),
        "histograms.png": pictures.draw_histograms(params, posterior, pruned),
        "reliability.png": pictures.draw_reliability(results.points),
        "layers.png": pictures.draw_layers(results.points),
    }
    for name, figure in drawn.items():
        pictures.save_figure(out / name, figure)
