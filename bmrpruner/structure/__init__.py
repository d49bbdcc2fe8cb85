"""Structure: which units of a model belong together, and smaller models, by tracing functions."""

from bmrpruner.structure.compact import Compacted, compact
from bmrpruner.structure.groups import Group, dependency_groups
from bmrpruner.structure.layers import Layer, LinearLayers, linear_layers
from bmrpruner.structure.report import GroupReport, Report

__all__ = [
    "Compacted",
    "Group",
    "GroupReport",
    "Layer",
    "LinearLayers",
    "Report",
    "compact",
    "dependency_groups",
    "linear_layers",
]
