"""The algorithms: classes that compute scores and, some of them, the masks as well."""

from bmrpruner.algorithms.acdc import ACDC
from bmrpruner.algorithms.adam_fisher import AdamBasedFisherPruning
from bmrpruner.algorithms.adaptive_bmr import AdaptiveBMR, AdaptiveState, Rounds
from bmrpruner.algorithms.bmr_pruners import (
    BMRPruning,
    GlobalBMRPruning,
    GlobalSNRPruning,
    GlobalUncertaintyMagnitudePruning,
    PosteriorPruning,
    PosteriorVariancePruning,
    SNRPruning,
    UncertaintyMagnitudePruning,
)
from bmrpruner.algorithms.fixed_masks import FixedMasks
from bmrpruner.algorithms.global_pruners import (
    GlobalMagnitudePruning,
    GlobalPruningMixin,
    GlobalSaliencyPruning,
)
from bmrpruner.algorithms.iterative_nm import IterativeNMPruning
from bmrpruner.algorithms.one_shot import (
    GlobalOBSPruning,
    LayerwisePruning,
    OBSPruning,
    WandaPruning,
)
from bmrpruner.algorithms.pruners import (
    GlobalRandomPruning,
    MagnitudePruning,
    RandomPruning,
    SaliencyPruning,
    generate_random_scores,
)
from bmrpruner.algorithms.sparse_trainers import (
    SET,
    RigL,
    StaticRandomSparse,
    restart_inner_state,
)
from bmrpruner.algorithms.ste import (
    SteBMRPruning,
    SteMagnitudePruning,
    SteMixin,
    SteRandomPruning,
)

BayesianGlobalPruning = GlobalBMRPruning
AdaptiveBMRPruning = AdaptiveBMR  # these two: names of an earlier package, its spelling included
AbosluteZscorePruning = SNRPruning

__all__ = [
    "ACDC",
    "SET",
    "AbosluteZscorePruning",
    "AdamBasedFisherPruning",
    "AdaptiveBMR",
    "AdaptiveBMRPruning",
    "AdaptiveState",
    "BMRPruning",
    "BayesianGlobalPruning",
    "FixedMasks",
    "GlobalBMRPruning",
    "GlobalMagnitudePruning",
    "GlobalOBSPruning",
    "GlobalPruningMixin",
    "GlobalRandomPruning",
    "GlobalSNRPruning",
    "GlobalSaliencyPruning",
    "GlobalUncertaintyMagnitudePruning",
    "IterativeNMPruning",
    "LayerwisePruning",
    "MagnitudePruning",
    "OBSPruning",
    "PosteriorPruning",
    "PosteriorVariancePruning",
    "RandomPruning",
    "RigL",
    "Rounds",
    "SNRPruning",
    "SaliencyPruning",
    "StaticRandomSparse",
    "SteBMRPruning",
    "SteMagnitudePruning",
    "SteMixin",
    "SteRandomPruning",
    "UncertaintyMagnitudePruning",
    "WandaPruning",
    "generate_random_scores",
    "restart_inner_state",
]
