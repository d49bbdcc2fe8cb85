"""Prune a layer once, given the moments of its inputs: pure functions of matrices."""

from bmrpruner.oneshot.groups import GroupElimination, eliminate_groups
from bmrpruner.oneshot.refit import refit
from bmrpruner.oneshot.scores import WIDE, obs_scores, wanda_scores
from bmrpruner.oneshot.sweep import sweep

__all__ = [
    "WIDE",
    "GroupElimination",
    "eliminate_groups",
    "obs_scores",
    "refit",
    "sweep",
    "wanda_scores",
]
