"""The algorithms: each a score, and for some a rule of their own for the masks."""

from bmrpruner.algorithms.bmr_pruners import (
    BMRPruning,
    GlobalBMRPruning,
    GlobalSNRPruning,
    PosteriorPruning,
    SNRPruning,
)
from bmrpruner.algorithms.global_pruners import (
    GlobalMagnitudePruning,
    GlobalPruningMixin,
    GlobalSaliencyPruning,
)
from bmrpruner.algorithms.pruners import (
    MagnitudePruning,
    RandomPruning,
    SaliencyPruning,
    generate_random_scores,
)

__all__ = [
    "BMRPruning",
    "GlobalBMRPruning",
    "GlobalMagnitudePruning",
    "GlobalPruningMixin",
    "GlobalSNRPruning",
    "GlobalSaliencyPruning",
    "MagnitudePruning",
    "PosteriorPruning",
    "RandomPruning",
    "SNRPruning",
    "SaliencyPruning",
    "generate_random_scores",
]
