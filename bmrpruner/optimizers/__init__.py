"""Optimizers that learn a posterior, in the shape of `optax.contrib`."""

from bmrpruner.optimizers.ivon import ScaleByIvonState, ivon, scale_by_ivon
from bmrpruner.optimizers.sampling import get_scale, noisy_value_and_grad, sample_posterior

__all__ = [
    "ScaleByIvonState",
    "get_scale",
    "ivon",
    "noisy_value_and_grad",
    "sample_posterior",
    "scale_by_ivon",
]
