"""The largest sparsity at which the loss on held-out data stays within a tolerance."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp

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
      Nats per example.

    Raises:
      ValueError: If there are no batches, or the loss is not finite.
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
            own, examples = run(arrays, batch)
            total, count = total + float(own), count + int(examples)
        if not count:
            raise ValueError("held_out: expected batches, got none.")
        if not math.isfinite(total):
            raise ValueError(f"held_out: expected a finite loss, got {total / count}.")
        return total / count

    return measure


def _loss(
    fn: Callable[..., Any], frame: Frame, loss: Any, arrays: list[jax.Array], batch: Any
) -> tuple[jax.Array, int]:
    """The sum of the losses on one batch, and how many these are."""
    losses = _losses(fn, frame.whole(arrays), loss, batch)
    return jnp.sum(losses), losses.size


def _losses(fn: Callable[..., Any], params: PyTree, loss: Any, batch: Any) -> jax.Array:
    if callable(loss):
        return loss(fn(params, batch), batch)
    inputs, labels = batch
    outputs = fn(params, inputs)
    if loss == "regression":
        errors = (outputs - jnp.reshape(labels, outputs.shape)) ** 2
        return 0.5 * jnp.sum(errors.reshape(len(errors), -1), 1)
    scores = jax.nn.log_softmax(outputs.astype(jnp.promote_types(outputs.dtype, jnp.float32)))
    return -jnp.take_along_axis(scores, jnp.asarray(labels)[..., None], -1)[..., 0]
