"""Posteriors over weights, and the ways to get one."""

from bmrpruner.posteriors.align import align_units
from bmrpruner.posteriors.calibration import from_calibration
from bmrpruner.posteriors.diagonal_gaussian import DiagonalGaussian
from bmrpruner.posteriors.layerwise_gaussian import LayerwiseGaussian, LinearLayer
from bmrpruner.posteriors.mean_field import from_mean_field
from bmrpruner.posteriors.opt_state import from_opt_state
from bmrpruner.posteriors.predict import predict
from bmrpruner.posteriors.samples import SampledPosterior, from_samples

__all__ = [
    "DiagonalGaussian",
    "LayerwiseGaussian",
    "LinearLayer",
    "SampledPosterior",
    "align_units",
    "from_calibration",
    "from_mean_field",
    "from_opt_state",
    "from_samples",
    "predict",
]
