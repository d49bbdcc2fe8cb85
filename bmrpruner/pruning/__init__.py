"""Prune what is already trained: networks in memory, checkpoints and files, by a rule."""

from bmrpruner.pruning.calibrated import Calibration, Pruner
from bmrpruner.pruning.checkpoints import prune_checkpoint, prune_file
from bmrpruner.pruning.pruned import Pruned, prune
from bmrpruner.pruning.rules import Rule, make_updater
from bmrpruner.pruning.sequential import LayerReport, prune_sequentially
from bmrpruner.pruning.units import prune_units

__all__ = [
    "Calibration",
    "LayerReport",
    "Pruned",
    "Pruner",
    "Rule",
    "make_updater",
    "prune",
    "prune_checkpoint",
    "prune_file",
    "prune_sequentially",
    "prune_units",
]
