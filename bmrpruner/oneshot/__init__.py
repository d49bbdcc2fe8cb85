"""Prune a layer once, given the moments of its inputs: pure functions of matrices."""

from bmrpruner.oneshot.refit import refit
from bmrpruner.oneshot.scores import WIDE, obs_scores, wanda_scores
from bmrpruner.oneshot.sweep import sweep

__all__ = ["WIDE", "obs_scores", "refit", "sweep", "wanda_scores"]
