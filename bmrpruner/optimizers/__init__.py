"""Optimizers that learn a posterior, in the shape of `optax.contrib`."""

from bmrpruner.optimizers.bayes_by_backprop import (
    GaussianPrior,
    MeanField,
    ScaleMixturePrior,
    init_mean_field,
    mean_field_posterior,
    mean_field_value_and_grad,
    minibatch_kl_weight,
    sample_mean_field,
)
from bmrpruner.optimizers.ivon import ivon
from bmrpruner.optimizers.noisy_gradients import noisy_value_and_grad
from bmrpruner.optimizers.sampling import get_scale, sample_posterior
from bmrpruner.optimizers.scale_by_ivon import ScaleByIvonState, scale_by_ivon

__all__ = [
    "GaussianPrior",
    "MeanField",
    "ScaleByIvonState",
    "ScaleMixturePrior",
    "get_scale",
    "init_mean_field",
    "ivon",
    "mean_field_posterior",
    "mean_field_value_and_grad",
    "minibatch_kl_weight",
    "noisy_value_and_grad",
    "sample_mean_field",
    "sample_posterior",
    "scale_by_ivon",
]
