"""Prune what is already trained: rules, sweeps over them, pictures and reports."""

from bmrpruner.posthoc.pruning import Pruned, Rule, make_updater, prune, prune_checkpoint

__all__ = ["Pruned", "Rule", "make_updater", "prune", "prune_checkpoint"]
