"""The directory of a sweep: results.json, a CSV, pictures."""

from __future__ import annotations

import csv
import dataclasses
import json
from pathlib import Path
from typing import Any

from bmrpruner.files import Checkpoint, atomic_write
from bmrpruner.pruning.pruned import prune
from bmrpruner.pruning.rules import Rule
from bmrpruner.study import pictures

NAME = "results.json"
PICTURES = {
    "metrics.png": "Metrics against sparsity; bands are one standard error",
    "histograms.png": "Weights and signal-to-noise ratios, before and after",
    "reliability.png": "Is it right as often as it says?",
    "layers.png": "What is left of each layer",
}
_WITH_ERRORS = ("accuracy", "nll", "ece", "ood_auroc")
COLUMNS = (*(f"{name}{end}" for name in _WITH_ERRORS for end in ("", "_se")), "brier")


@dataclasses.dataclass(frozen=True)
class Results:
    """What a sweep found.

    Attributes:
      settings: What the numbers depend on, besides the rules.
      points: One for each rule.
      version: Of this library.
      complete: Whether all rules are among the points.
    """

    settings: dict[str, Any]
    points: list[dict[str, Any]]
    version: str
    complete: bool


def start(out: Path, settings: dict[str, Any], resume: bool, force: bool) -> list[dict[str, Any]]:
    """Make the directory; the points of an earlier run if it is to be resumed.

    Raises:
      FileExistsError: If the directory holds something, unless `resume` or `force`.
      ValueError: If what is there comes from other settings.

    Examples:
      >>> import tempfile
      >>> start(Path(tempfile.mkdtemp()), {}, resume=False, force=False)
      []
    """
    if out.exists() and not out.is_dir():
        raise FileExistsError(f"{out} is a file; name a directory.")
    if resume and (out / NAME).exists():
        earlier = load(out)
        if earlier.settings != settings:
            other = [key for key in settings if earlier.settings.get(key) != settings[key]]
            raise ValueError(
                f"{out}: cannot go on, as the earlier run had another {', '.join(other)}; "
                "write elsewhere, or start over with --force."
            )
        return earlier.points
    if out.is_dir() and any(out.iterdir()) and not (force or resume):
        raise FileExistsError(
            f"{out} is not empty; write elsewhere, go on with --resume, or start over with --force."
        )
    out.mkdir(parents=True, exist_ok=True)
    return []


def save(out: Path, results: Results) -> None:
    """Write results.json, replacing an earlier state."""
    with atomic_write(out / NAME, force=True) as path:
        path.write_text(json.dumps(dataclasses.asdict(results), indent=1))


def load(out: Path | str) -> Results:
    """Read results.json.

    Raises:
      FileNotFoundError: If there is none.
      ValueError: If it is not what a sweep writes.

    Examples:
      >>> import tempfile
      >>> out = Path(tempfile.mkdtemp())
      >>> save(out, Results({}, [], '0.1.0', complete=True))
      >>> load(out).version
      '0.1.0'
    """
    path = Path(out) / NAME
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is none; `bmrpruner sweep --out {out}` makes it.")
    try:
        found = Results(**json.loads(path.read_text()))
        for point in found.points:
            _ = point["rule"], point["mean"]["accuracy"]
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{path}: not the results of a sweep: {error}") from error
    return found


def save_csv(out: Path, results: Results) -> None:
    """Write results.csv, a line per point."""
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


def save_pictures(out: Path, results: Results, checkpoint: Checkpoint) -> None:
    """Draw all pictures; the histograms prune again, by the hardest rule of each algorithm."""
    params, posterior = checkpoint.params, checkpoint.posterior
    algorithms = pictures.algorithms_of(results.points)
    hardest = [pictures.by_sparsity(results.points, name)[-1] for name in algorithms]
    pruned = {point["label"]: prune(params, _rule(point["rule"]), posterior) for point in hardest}
    drawn = {
        "metrics.png": pictures.draw_metrics(results.points),
        "histograms.png": pictures.draw_histograms(params, posterior, pruned),
        "reliability.png": pictures.draw_reliability(results.points),
        "layers.png": pictures.draw_layers(results.points),
    }
    for name, figure in drawn.items():
        pictures.save_figure(out / name, figure)


def _rule(fields: dict[str, Any]) -> Rule:
    """JSON has no tuples."""
    patterns = {key: tuple(fields[key]) for key in ("include", "exclude")}
    return Rule(**(fields | patterns))
