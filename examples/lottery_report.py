"""What a lottery ticket is worth: its scores, the table, and the figure."""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import rich.box
import rich.console
from evaluation import predict, scores
from lottery_data import Data
from rich.table import Table

from bmrpruner import files, metrics, structure, study
from bmrpruner.study.charts import new_figure
from bmrpruner.study.models import mlp

Rows = list[dict[str, Any]]


def evaluate(params: Any, data: Data) -> dict[str, Any]:
    """Test metrics, and what is left, counted from the arrays."""
    probs = predict(params, data.test.x)
    doubt = metrics.predictive_entropy(probs[None])
    kernels = [layer["kernel"] for layer in params.values()]
    return {
        "left": 1 - float(metrics.sparsity(kernels)),
        **compacted(params, data),
        **scores(probs, data.test.y),
        "uce": float(metrics.uce(probs, data.test.y)),
        "auroc": {
            name: float(metrics.auroc(doubt, metrics.predictive_entropy(predict(params, x)[None])))
            for name, x in data.ood.items()
        },
    }


def compacted(params: Any, data: Data) -> dict[str, int]:
    """The hidden units that an exact, smaller network does without, and the parameters it has."""
    small = structure.compact(mlp, params, data.test.x)
    before, after = mlp(params, data.test.x), small(data.test.x)
    if not jnp.allclose(before, after, rtol=1e-3, atol=1e-3):
        raise RuntimeError("The compacted network computes something else.")
    hidden = sum(len(layer["bias"]) for layer in params.values())
    left = sum(len(layer["bias"]) for layer in small.params.values())
    return {"neurons_removed": hidden - left, "parameters": small.report.parameters[1]}


def check_pruned(params: Any, masks: Any, dense_params: Any, data: Data) -> None:
    """Make sure that what is evaluated is the pruned network."""
    for name, layer in params.items():
        if bool(jnp.any(layer["kernel"] * (1 - masks[name]["kernel"]))):
            raise RuntimeError(f"{name}: a pruned weight is not zero.")
    is_pruned = not all(bool(jnp.all(m)) for m in jax.tree.leaves(masks))
    x = data.test.x
    if is_pruned and jnp.array_equal(predict(params, x), predict(dense_params, x)):
        raise RuntimeError("Pruning did not change the forward pass.")


def report(out: Path, dataset: str, target: float, rows: Rows) -> None:
    """Print the table; save it, the numbers and the figure."""
    out.mkdir(parents=True, exist_ok=True)
    table = make_table(dataset, target, rows)
    console = rich.console.Console(record=True, width=200)
    console.print(table)
    with files.atomic_write(out / "table.txt", force=True) as path:
        path.write_text(console.export_text())
    with files.atomic_write(out / "results.json", force=True) as path:
        content = {"dataset": dataset, "target": target, "rows": rows}
        path.write_text(json.dumps(content, indent=1))
    study.save_figure(out / "tickets.png", draw(target, rows))
    print(f"Wrote table.txt, results.json, tickets.png to {out}/.")


def make_table(dataset: str, target: float, rows: Rows) -> Table:
    """One line for each method and share of weights; values of the seeds side by side."""
    title = f"{dataset}, test set at early stopping, one value for each seed"
    table = Table(title=title, box=rich.box.SIMPLE_HEAD)
    table.add_column("method", no_wrap=True)
    outsiders = list(rows[0]["auroc"])
    columns = ["left", "neurons gone", "parameters", "accuracy (%)", "ECE", "UCE"]
    columns += [f"AUROC {name}" for name in outsiders]
    for column in (*columns, "early stop", f"steps to {target:.1%}"):
        table.add_column(column, justify="right", no_wrap=True)
    for group in grouped(rows):
        first = group[0]
        table.add_row(
            first["method"],
            f"{first['left']:.1%}",
            joined(group, lambda r: str(r["neurons_removed"])),
            joined(group, lambda r: f"{r['parameters']:,}"),
            joined(group, lambda r: f"{100 * r['accuracy']:.2f}"),
            joined(group, lambda r: f"{r['ece']:.4f}"),
            joined(group, lambda r: f"{r['uce']:.4f}"),
            *(joined(group, lambda r, n=name: f"{r['auroc'][n]:.3f}") for name in outsiders),
            joined(group, lambda r: str(r["early_stop"])),
            joined(group, lambda r: str(r["steps_to_target"] or "never")),
        )
    return table


def grouped(rows: Rows) -> list[Rows]:
    """The rows of all seeds of each method and number of rounds."""
    found: dict[tuple[str, int], Rows] = {}
    for row in rows:
        found.setdefault((row["method"], row["rounds"]), []).append(row)
    return list(found.values())


def joined(group: Rows, text: Any) -> str:
    """The texts of all seeds."""
    return " / ".join(text(row) for row in group)


def draw(target: float, rows: Rows) -> Any:
    """Accuracy and steps to the target against the weights left; validation curves."""
    figure, axes = new_figure(1, 3, (15, 4.5))
    accuracy, steps, curves = axes[0]
    lines: dict[str, list[Rows]] = {}
    for group in grouped(rows):
        lines.setdefault(group[0]["method"], []).append(group)
    dense = lines.pop("dense")[0]
    for name, groups in lines.items():
        points = [dense, *groups]
        left = [100 * group[0]["left"] for group in points]
        means = [100 * statistics.mean(r["accuracy"] for r in group) for group in points]
        accuracy.plot(left, means, "o-", label=name, markersize=4)
        reached = [
            (x, statistics.mean(r["steps_to_target"] for r in group))
            for x, group in zip(left, points, strict=True)
            if all(r["steps_to_target"] for r in group)
        ]
        steps.plot(*zip(*reached, strict=True), "o-", markersize=4) if reached else steps.plot([])
        last = groups[-1][0]
        curves.plot(last["looks"], last["valid_accuracy"], label=f"{name}, {last['left']:.1%}")
    curves.plot(dense[0]["looks"], dense[0]["valid_accuracy"], "k--", label="dense")
    for axis in (accuracy, steps):
        axis.set_xscale("log")
        axis.invert_xaxis()
        axis.set_xlabel("weights left (%)")
    accuracy.set_ylabel("test accuracy at early stopping (%)")
    steps.set_ylabel(f"steps to a validation accuracy of {target:.1%}")
    curves.set(xlabel="step", ylabel="validation accuracy, first seed")
    low = min(min(r["valid_accuracy"][len(r["looks"]) // 4 :]) for r in rows)
    curves.set_ylim(low, 1)
    accuracy.legend(fontsize=7, loc="lower left")
    return figure
