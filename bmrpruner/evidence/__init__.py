"""Bayesian model reduction: the change of log evidence when weights are removed."""

from bmrpruner.evidence.correlated import Elimination, condition, delta_f_set, eliminate
from bmrpruner.evidence.diagonal import delta_f, delta_f_spike, kl_divergence, reduced_posterior
from bmrpruner.evidence.groups import group_delta_f
from bmrpruner.evidence.joint import joint_delta_f
from bmrpruner.evidence.temperature import temperature_of_signals

__all__ = [
    "Elimination",
    "condition",
    "delta_f",
    "delta_f_set",
    "delta_f_spike",
    "eliminate",
    "group_delta_f",
    "joint_delta_f",
    "kl_divergence",
    "reduced_posterior",
    "temperature_of_signals",
]
