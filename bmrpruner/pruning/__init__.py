"""Prune what is already trained: networks in memory, checkpoints and files, by a rule."""

from bmrpruner.pruning.checkpoints import prune_checkpoint, prune_file
from bmrpruner.pruning.pruned import Pruned, prune
from bmrpruner.pruning.rules import Rule, make_updater

__all__ = ["Pruned", "Rule", "make_updater", "prune", "prune_checkpoint", "prune_file"]
