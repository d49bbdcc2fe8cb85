"""The largest sparsity at which the loss on held-out data stays within a tolerance."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bmrpruner._checks import check_labels
from bmrpruner._frames import Frame, framed
from bmrpruner._programs import compiled
from bmrpruner._progress import shown
from bmrpruner._tree import PyTree
from bmrpruner.algorithms.one_shot import LayerwisePruning
from bmrpruner.posteriors import LayerwiseGaussian

TRIALS = 12  # halvings of the share that is kept, from all to a thousandth, on a logarithmic scale
LEAST = 1e-3


def largest_sparsity(
    fn: Callable[..., Any],
    params: PyTree,
    posterior: LayerwiseGaussian,
    held_out: Iterable[Any],
    max_loss_rise: float,
    loss: Any,
    updater: LayerwisePruning,
    scores: PyTree,
) -> float:
    """Bisect the sparsity, with the weights removed in one order that is found once.

    Args:
      fn: `(params, batch) -> outputs`.
      params: The dense parameters.
      posterior: The moments of the layers.
      held_out: What the loss is measured on; see `held_out_loss`.
      max_loss_rise: How much the loss may rise, nats per example.
      loss: As in `posteriors.from_calibration`.
      updater: What chooses, at a sparsity of its own.
      scores: The updater's scores of `params`.

    Returns:
      The largest sparsity among the trials whose loss stays within; 0 if none does.

    Raises:
      ValueError: If `held_out` is empty or the dense network's loss there is not finite.
    """
    measure = _measure(fn, params, held_out, loss)
    dense = measure(params)
    if not math.isfinite(dense):
        raise ValueError(
            "held_out: expected data on which the loss of params is finite, got NaN or infinity."
        )
    best, log_least, log_most = 0.0, math.log(LEAST), 0.0
    for _ in shown("max_loss_rise", range(TRIALS), "trials"):
        middle = (log_least + log_most) / 2
        sparsity = 1 - math.exp(middle)
        chooses = dataclasses.replace(updater, sparsity=sparsity)
        trial, _ = chooses.prune_by_scores(params, scores, posterior)
        if measure(trial) - dense <= max_loss_rise:
            best, log_most = sparsity, middle
        else:
            log_least = middle
    return best


def held_out_loss(fn: Callable[..., Any], params: PyTree, held_out: Any, loss: Any) -> float:
    """The mean loss of a network on held-out data.

    Args:
      fn: `(params, batch) -> outputs`.
      params: The parameters.
      held_out: Pairs of a batch and its labels: classes for `'softmax'` (negative log likelihood),
        targets for `'regression'` (half the squared error). Batches for a loss of one's own.
      loss: As in `posteriors.from_calibration`.

    Returns:
      Nats per example; ∞ if that is NaN.

    Raises:
      ValueError: If there are no batches, they are no pairs, or the labels do not fit the outputs.
    """
    return _measure(fn, params, held_out, loss)(params)


def _measure(
    fn: Callable[..., Any], like: PyTree, held_out: Any, loss: Any
) -> Callable[[PyTree], float]:
    """`held_out_loss` as a function of parameters like these."""
    run = compiled(functools.partial(_loss, fn, framed(like)[0], loss))

    def measure(params: PyTree) -> float:
        arrays, total, count = framed(params)[1], 0.0, 0
        for batch in held_out:
            _check_pair(batch, loss)
            own, examples, classes = run(arrays, batch)
            if loss == "softmax":
                check_labels("held_out", np.asarray(batch[1]), int(classes))
            total, count = total + float(own), count + int(examples)
        if not count:
            raise ValueError("held_out: expected batches, got none.")
        return total / count if math.isfinite(total) else math.inf

    return measure


def _check_pair(batch: Any, loss: Any) -> None:
    if callable(loss) or (isinstance(batch, tuple | list) and len(batch) == 2):
        return
    raise ValueError(
        f"held_out: expected pairs of a batch and its labels, got {type(batch).__name__}"
        f"{f' of {len(batch)}' if isinstance(batch, tuple | list) else ''}."
    )


def _loss(
    fn: Callable[..., Any], frame: Frame, loss: Any, arrays: list[jax.Array], batch: Any
) -> tuple[jax.Array, int, int]:
    """The sum of the losses on one batch, how many these are, and the number of classes.

    The last is 0 but for `'softmax'`.
    """
    params = frame.whole(arrays)
    if callable(loss):
        losses = loss(fn(params, batch), batch)
        return jnp.sum(losses), losses.size, 0
    inputs, labels = batch
    outputs, labels = fn(params, inputs), jnp.asarray(labels)
    if loss == "regression":
        errors = (outputs - jnp.reshape(labels, outputs.shape)) ** 2
        return 0.5 * jnp.sum(errors), len(errors), 0
    losses = _negative_log_likelihood(outputs, labels)
    return jnp.sum(losses), losses.size, outputs.shape[-1]


def _negative_log_likelihood(outputs: jax.Array, labels: jax.Array) -> jax.Array:
    if not jnp.issubdtype(labels.dtype, jnp.integer) or labels.shape != outputs.shape[:-1]:
        raise ValueError(
            f"held_out: expected integer labels of shape {outputs.shape[:-1]}, as the outputs have "
            f"{outputs.shape}, got {labels.dtype} of shape {labels.shape}."
        )
    scores = jax.nn.log_softmax(outputs.astype(jnp.promote_types(outputs.dtype, jnp.float32)))
    return -jnp.take_along_axis(scores, labels[..., None], -1)[..., 0]
