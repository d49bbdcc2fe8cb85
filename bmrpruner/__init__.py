"""Pruning for JAX: any Optax optimizer, masks inside the jitted step, Bayesian model reduction."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from bmrpruner import (
    algorithms,
    api,
    base_updater,
    evidence,
    files,
    kept,
    mask_calculator,
    metrics,
    oneshot,
    optimizers,
    posteriors,
    projects,
    pruning,
    sparsity_distributions,
    sparsity_schedules,
    sparsity_types,
    structure,
    utils,
)
from bmrpruner.algorithms import (
    SET,
    AbosluteZscorePruning,  # the spelling of an earlier package
    AdaptiveBMR,
    BMRPruning,
    FixedMasks,
    GlobalBMRPruning,
    GlobalMagnitudePruning,
    GlobalOBSPruning,
    GlobalRandomPruning,
    GlobalSaliencyPruning,
    GlobalSNRPruning,
    GlobalUncertaintyMagnitudePruning,
    MagnitudePruning,
    OBSPruning,
    PosteriorVariancePruning,
    RandomPruning,
    RigL,
    SaliencyPruning,
    SNRPruning,
    StaticRandomSparse,
    SteBMRPruning,
    SteMagnitudePruning,
    SteRandomPruning,
    UncertaintyMagnitudePruning,
    WandaPruning,
)
from bmrpruner.api import (
    ALGORITHM_REGISTRY,
    all_algorithm_names,
    create_updater_from_config,
    register_algorithm,
)
from bmrpruner.base_updater import BaseUpdater, NoPruning, SparseState, apply_mask
from bmrpruner.kept import apply_masks, ravel_kept
from bmrpruner.optimizers import (
    ivon,
    noisy_value_and_grad,
    sample_posterior,
)
from bmrpruner.posteriors import DiagonalGaussian, LayerwiseGaussian, predict
from bmrpruner.pruning import prune_sequentially
from bmrpruner.sparsity_schedules import (
    NoUpdateSchedule,
    OneShotSchedule,
    PeriodicSchedule,
    PolynomialSchedule,
)
from bmrpruner.sparsity_types import SparsityType
from bmrpruner.structure import compact, dependency_groups
from bmrpruner.utils import summarize_intersection, summarize_sparsity

if TYPE_CHECKING:
    from bmrpruner import study
else:

    def __getattr__(name: str) -> Any:
        """Import `study`, which few programs need, when it is first asked for."""
        if name != "study":
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return importlib.import_module("bmrpruner.study")


__all__ = [
    "ALGORITHM_REGISTRY",
    "SET",
    "AbosluteZscorePruning",
    "AdaptiveBMR",
    "BMRPruning",
    "BaseUpdater",
    "DiagonalGaussian",
    "FixedMasks",
    "GlobalBMRPruning",
    "GlobalMagnitudePruning",
    "GlobalOBSPruning",
    "GlobalRandomPruning",
    "GlobalSNRPruning",
    "GlobalSaliencyPruning",
    "GlobalUncertaintyMagnitudePruning",
    "LayerwiseGaussian",
    "MagnitudePruning",
    "NoPruning",
    "NoUpdateSchedule",
    "OBSPruning",
    "OneShotSchedule",
    "PeriodicSchedule",
    "PolynomialSchedule",
    "PosteriorVariancePruning",
    "RandomPruning",
    "RigL",
    "SNRPruning",
    "SaliencyPruning",
    "SparseState",
    "SparsityType",
    "StaticRandomSparse",
    "SteBMRPruning",
    "SteMagnitudePruning",
    "SteRandomPruning",
    "UncertaintyMagnitudePruning",
    "WandaPruning",
    "algorithms",
    "all_algorithm_names",
    "api",
    "apply_mask",
    "apply_masks",
    "base_updater",
    "compact",
    "create_updater_from_config",
    "dependency_groups",
    "evidence",
    "files",
    "ivon",
    "kept",
    "mask_calculator",
    "metrics",
    "noisy_value_and_grad",
    "oneshot",
    "optimizers",
    "posteriors",
    "predict",
    "projects",
    "prune_sequentially",
    "pruning",
    "ravel_kept",
    "register_algorithm",
    "sample_posterior",
    "sparsity_distributions",
    "sparsity_schedules",
    "sparsity_types",
    "structure",
    "study",
    "summarize_intersection",
    "summarize_sparsity",
    "utils",
]
