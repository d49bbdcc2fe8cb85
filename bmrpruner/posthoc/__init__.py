"""Prune what is already trained: rules, sweeps over them, pictures and reports."""

from bmrpruner.posthoc.evaluation import Evaluator
from bmrpruner.posthoc.inspection import inspect
from bmrpruner.posthoc.pictures import (
    draw_histograms,
    draw_layers,
    draw_metrics,
    draw_reliability,
    draw_rounds,
    save_figure,
)
from bmrpruner.posthoc.pruning import Pruned, prune, prune_checkpoint, prune_file
from bmrpruner.posthoc.report import write_report
from bmrpruner.posthoc.results import Results
from bmrpruner.posthoc.rules import Rule, make_updater
from bmrpruner.posthoc.sweep import make_rules, run_sweep, sweep
from bmrpruner.posthoc.tasks import Task, check_model, load_model, load_task

__all__ = [
    "Evaluator",
    "Pruned",
    "Results",
    "Rule",
    "Task",
    "check_model",
    "draw_histograms",
    "draw_layers",
    "draw_metrics",
    "draw_reliability",
    "draw_rounds",
    "inspect",
    "load_model",
    "load_task",
    "make_rules",
    "make_updater",
    "prune",
    "prune_checkpoint",
    "prune_file",
    "run_sweep",
    "save_figure",
    "sweep",
    "write_report",
]
