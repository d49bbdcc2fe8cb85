"""What a network predicts, and how good that is."""

from __future__ import annotations

from typing import Any

import jax

from bmrpruner import metrics
from bmrpruner.study.models import mlp


@jax.jit
def predict(params: Any, images: Any) -> jax.Array:
    """Class probabilities (n, classes)."""
    return jax.nn.softmax(mlp(params, images))


def scores(probs: jax.Array, labels: Any) -> dict[str, float]:
    """Accuracy, NLL in nats, and ECE."""
    return {
        "accuracy": float(metrics.accuracy(probs, labels)),
        "nll": float(metrics.nll(probs, labels)),
        "ece": float(metrics.ece(probs, labels)),
    }
