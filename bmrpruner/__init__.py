"""Pruning for JAX: any Optax optimizer, masks inside the jitted step, Bayesian model reduction."""

from bmrpruner import (
    algorithms,
    api,
    base_updater,
    evidence,
    mask_calculator,
    metrics,
    optimizers,
    posteriors,
    selection,
    sparsity_distributions,
    sparsity_schedules,
    sparsity_types,
)
from bmrpruner.algorithms import (
    BMRPruning,
    GlobalBMRPruning,
    GlobalMagnitudePruning,
    GlobalSaliencyPruning,
    GlobalSNRPruning,
    MagnitudePruning,
    RandomPruning,
    SaliencyPruning,
    SNRPruning,
)
from bmrpruner.api import (
    ALGORITHM_REGISTRY,
    all_algorithm_names,
    create_updater_from_config,
    register_algorithm,
)
from bmrpruner.base_updater import BaseUpdater, NoPruning, SparseState, apply_mask
from bmrpruner.optimizers import (
    get_scale,
    ivon,
    noisy_value_and_grad,
    sample_posterior,
    scale_by_ivon,
)
from bmrpruner.posteriors import DiagonalGaussian
from bmrpruner.sparsity_schedules import (
    NoUpdateSchedule,
    OneShotSchedule,
    PeriodicSchedule,
    PolynomialSchedule,
)
from bmrpruner.sparsity_types import SparsityType

__all__ = [
    "ALGORITHM_REGISTRY",
    "BMRPruning",
    "BaseUpdater",
    "DiagonalGaussian",
    "GlobalBMRPruning",
    "GlobalMagnitudePruning",
    "GlobalSNRPruning",
    "GlobalSaliencyPruning",
    "MagnitudePruning",
    "NoPruning",
    "NoUpdateSchedule",
    "OneShotSchedule",
    "PeriodicSchedule",
    "PolynomialSchedule",
    "RandomPruning",
    "SNRPruning",
    "SaliencyPruning",
    "SparseState",
    "SparsityType",
    "algorithms",
    "all_algorithm_names",
    "api",
    "apply_mask",
    "base_updater",
    "create_updater_from_config",
    "evidence",
    "get_scale",
    "ivon",
    "mask_calculator",
    "metrics",
    "noisy_value_and_grad",
    "optimizers",
    "posteriors",
    "register_algorithm",
    "sample_posterior",
    "scale_by_ivon",
    "selection",
    "sparsity_distributions",
    "sparsity_schedules",
    "sparsity_types",
]
