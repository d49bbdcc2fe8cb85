"""Metrics of quality, calibration, uncertainty and size: pure functions of arrays.

One convention throughout. Class probabilities are `probs` of shape `(n, classes)`, rows summing to
one; from logits, `probs = jax.nn.softmax(logits)`. Labels are integers of shape `(n,)`. Posterior
draws come first: `(draws, n, classes)`, whose predictive probabilities are `probs.mean(0)`. More
leading axes: `jax.vmap`.

Shapes and dtypes are checked when a function is traced; values cannot be. NaN in the input and
labels outside 0 ... classes-1 make the result NaN. Floats
narrower than 32 bits are computed in float32.
"""

from bmrpruner.metrics.calibration import (
    ReliabilityDiagram,
    classwise_ece,
    ece,
    ece_standard_error,
    reliability_diagram,
    uce,
)
from bmrpruner.metrics.classification import accuracy, brier, nll
from bmrpruner.metrics.compression import (
    Nonzeros,
    bits,
    compression_ratio,
    multiply_adds,
    nonzeros,
    sparsity,
)
from bmrpruner.metrics.detection import aupr, auroc, auroc_standard_error
from bmrpruner.metrics.regression import gaussian_nll, interval_coverage, rmse
from bmrpruner.metrics.uncertainty import (
    log_predictive_density,
    max_probability,
    mutual_information,
    predictive_entropy,
)

__all__ = [
    "Nonzeros",
    "ReliabilityDiagram",
    "accuracy",
    "aupr",
    "auroc",
    "auroc_standard_error",
    "bits",
    "brier",
    "classwise_ece",
    "compression_ratio",
    "ece",
    "ece_standard_error",
    "gaussian_nll",
    "interval_coverage",
    "log_predictive_density",
    "max_probability",
    "multiply_adds",
    "mutual_information",
    "nll",
    "nonzeros",
    "predictive_entropy",
    "reliability_diagram",
    "rmse",
    "sparsity",
    "uce",
]
