"""Find out how far a network can be pruned: tasks, evaluation, sweeps, pictures and reports."""

from bmrpruner.study import idx, models
from bmrpruner.study.calibration import has_calibration, load_calibration
from bmrpruner.study.charts import draw_rounds, draw_shapes
from bmrpruner.study.evaluation import Evaluator
from bmrpruner.study.inspection import inspect_checkpoint
from bmrpruner.study.pictures import (
    draw_histograms,
    draw_layers,
    draw_metrics,
    draw_reliability,
    save_figure,
)
from bmrpruner.study.report import write_report
from bmrpruner.study.results import Results
from bmrpruner.study.shrinking import compact_checkpoint, compact_file
from bmrpruner.study.sweep import default_algorithms, make_rules, run_sweep, sweep
from bmrpruner.study.tasks import Task, check_model, load_model, load_task

__all__ = [
    "Evaluator",
    "Results",
    "Task",
    "check_model",
    "compact_checkpoint",
    "compact_file",
    "default_algorithms",
    "draw_histograms",
    "draw_layers",
    "draw_metrics",
    "draw_reliability",
    "draw_rounds",
    "draw_shapes",
    "has_calibration",
    "idx",
    "inspect_checkpoint",
    "load_calibration",
    "load_model",
    "load_task",
    "make_rules",
    "models",
    "run_sweep",
    "save_figure",
    "sweep",
    "write_report",
]
