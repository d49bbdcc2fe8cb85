"""Structure: which units of a model belong together, and smaller models, by tracing functions."""

from bmrpruner.structure.compact import Compacted, compact
from bmrpruner.structure.exporting import load_function, save_function
from bmrpruner.structure.flops import entry_flops
from bmrpruner.structure.groups import Group, dependency_groups
from bmrpruner.structure.layers import Layer, LinearLayers, linear_layers
from bmrpruner.structure.report import GroupReport, Report
from bmrpruner.structure.saving import Saved, kept_info, load_compacted, save_compacted

__all__ = [
    "Compacted",
    "Group",
    "GroupReport",
    "Layer",
    "LinearLayers",
    "Report",
    "Saved",
    "compact",
    "dependency_groups",
    "entry_flops",
    "kept_info",
    "linear_layers",
    "load_compacted",
    "load_function",
    "save_compacted",
    "save_function",
]
