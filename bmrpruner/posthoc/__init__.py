"""Prune what is already trained: rules, sweeps over them, pictures and reports."""

from bmrpruner.posthoc.pictures import (
    draw_histograms,
    draw_layers,
    draw_metrics,
    draw_reliability,
    save_figure,
)
from bmrpruner.posthoc.pruning import Pruned, Rule, make_updater, prune, prune_checkpoint

__all__ = [
    "Pruned",
    "Rule",
    "draw_histograms",
    "draw_layers",
    "draw_metrics",
    "draw_reliability",
    "make_updater",
    "prune",
    "prune_checkpoint",
    "save_figure",
]
