"""Prune a network layer by layer: each refit makes up for the errors of the layers before it."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bmrpruner import oneshot
from bmrpruner._checks import check_positive
from bmrpruner._masks import MASK_DTYPE, checked_plain
from bmrpruner._tree import PyTree, align, is_none, join, keyed_leaves
from bmrpruner.algorithms import OBSPruning
from bmrpruner.posteriors import LayerwiseGaussian
from bmrpruner.posteriors.calibration import from_calibration, layers_of, peeked, repeatable
from bmrpruner.pruning.layer_by_layer import refit_in_order, without_zeros
from bmrpruner.pruning.tolerance import held_out_loss, largest_sparsity
from bmrpruner.sparsity_types import NByM, Unstructured, as_sparsity_type


class LayerReport(NamedTuple):
    """What became of one layer.

    Attributes:
      name: The layer's.
      weights: How many it has.
      pruned: How many of them went.
      cost: The rise of the loss by its own error, nats per example, to second order.
      delta_f: Log evidence gained, nats, for the Gaussian of `LayerwiseGaussian`. A network that
        fits its data perfectly has no curvature left, and everything seems to gain evidence there.
        NaN for a wide layer, for which it would take long.
      seconds: How long it took.

    Example:
      >>> LayerReport('kernel', 100, 90, 0.01, 250.0, 0.1).pruned
      90
    """

    name: str
    weights: int
    pruned: int
    cost: float
    delta_f: float
    seconds: float


def prune_sequentially(
    fn: Callable[..., Any],
    params: PyTree,
    batches: Iterable[Any],
    sparsity: float | None = None,
    *,
    max_loss_rise: float | None = None,
    held_out: Iterable[Any] | None = None,
    masks: PyTree = None,
    sparsity_type: Any = "unstructured",
    scope: str | None = None,
    damping: float = 0.01,
    key: Any = None,
    loss: str | Callable[..., Any] = "softmax",
    prior_precision: Any = 1.0,
    report: bool = False,
) -> Any:
    """Prune any trained network layer by layer, from calibration data.

    What goes is decided as `OBSPruning` of the same `scope` does; then the layers are refitted in
    the order of execution, each with the inputs that it has in the network pruned so far, so that
    its outputs come closest to those of the dense network. Exactly one of `sparsity`,
    `max_loss_rise`, `masks` and an N:M pattern says what goes.

    Args:
      fn: `(params, batch) -> outputs`, logits (examples, classes) for the default loss.
      params: The trained parameters, any tree.
      batches: Inputs without labels; gone through once for each layer, so that those of a generator
        are kept. Some 10,000 examples are plenty.
      sparsity: Fraction to prune.
      max_loss_rise: Prune as much as keeps the rise of the loss on held-out data within this, nats
        per example. How much that is, is found before the layers are refitted in sequence, so that
        the rise of what is returned is mostly below the bound.
      held_out: Pairs of a batch and its labels; batches for a loss of one's own.
      masks: A tree like `params`, None where a leaf is exempt: refit what stays under them.
      sparsity_type: What is pruned together.
      scope: `'global'` for one ranking over all layers, by default for single weights, or
        `'layer'`.
      damping: λ over the mean variance of a layer's inputs.
      key: JAX key for random signs.
      loss: `'softmax'`, `'regression'` or a function, as in `posteriors.from_calibration`.
      prior_precision: π₀, for ΔF.
      report: Return a third: a `LayerReport` for each layer.

    Returns:
      The refitted parameters, biases included, and the masks.

    Raises:
      ValueError: If not exactly one says what goes, or the data do not fit.

    Example:
      >>> from bmrpruner.study.models import init_mlp, mlp
      >>> params = init_mlp(jax.random.key(0), (6, 8, 3))
      >>> inputs = jax.random.normal(jax.random.key(1), (200, 6))
      >>> pruned, masks = prune_sequentially(mlp, params, [inputs], sparsity=0.5)
      >>> int(masks['dense_0']['kernel'].sum() + masks['dense_1']['kernel'].sum())
      36
    """
    kind = as_sparsity_type(sparsity_type)
    scope = scope or ("global" if kind == Unstructured() else "layer")
    _check_how_much(sparsity, max_loss_rise, held_out, masks, kind)
    refits = max_loss_rise is not None  # else what stays is refitted in order alone
    updater = OBSPruning(sparsity=sparsity, sparsity_type=kind, scope=scope, refits=refits)
    may_choose = kind if masks is None else None
    masks = None if masks is None else _checked_masks(masks, params)
    batches, held_out = repeatable(batches), repeatable(() if held_out is None else held_out)
    found = layers_of(fn, params, peeked("batches", batches)[0])
    if max_loss_rise is not None:
        peeked("held_out", held_out)
    posterior = from_calibration(found, params, batches, damping, key, loss, prior_precision)

    start = params
    if max_loss_rise is not None:
        scores = updater.calculate_scores(params, posterior=posterior)
        updater.warn_of_others(params, scores)
        share = largest_sparsity(
            fn, params, posterior, held_out, max_loss_rise, loss, updater, scores
        )
        updater = dataclasses.replace(updater, sparsity=share)
        start, masks = updater.prune_by_scores(params, scores, posterior)
    elif masks is None:
        masks = updater.instant_sparsify(params, posterior=posterior)[1]
    if may_choose is not None:
        masks = without_zeros(masks, params, posterior)
    pruned, kept, seconds = refit_in_order(found, params, masks, posterior, batches, may_choose)
    if max_loss_rise is not None:
        losses = [held_out_loss(fn, p, held_out, loss) for p in (start, pruned)]
        if not losses[1] <= losses[0]:
            pruned, kept = start, masks
    if not report:
        return pruned, kept
    return pruned, kept, _reports(posterior, pruned, kept, seconds)


def _check_how_much(
    sparsity: Any, max_loss_rise: Any, held_out: Any, masks: Any, kind: Any
) -> None:
    pattern = kind if isinstance(kind, NByM) else None
    given = [value for value in (sparsity, max_loss_rise, masks, pattern) if value is not None]
    if len(given) != 1:
        raise ValueError(
            "sparsity, max_loss_rise, masks, sparsity_type: expected exactly one that says what "
            f"goes (an N:M pattern does), got {len(given)}."
        )
    if max_loss_rise is not None:
        check_positive("max_loss_rise", max_loss_rise)
    if (max_loss_rise is None) != (held_out is None):
        raise ValueError("max_loss_rise, held_out: expected both or neither, got one of them.")


def _reports(
    posterior: LayerwiseGaussian, pruned: PyTree, masks: PyTree, seconds: dict[str, float]
) -> list[LayerReport]:
    rows = []
    for layer in posterior.layers:
        if layer.name not in seconds:
            continue
        networks = layer.weights(posterior.mean), layer.weights(pruned)
        keep, nats = layer.weights(masks), math.nan
        if layer.shape[1] < oneshot.WIDE:
            only = dataclasses.replace(posterior, layers=(layer,))
            nats = float(only.delta_f(masks)[layer.name])
        cost = float(_cost(*networks, layer.input_covariance, layer.curvature))
        gone = keep.size - int(np.count_nonzero(keep))
        rows.append(LayerReport(layer.name, keep.size, gone, cost, nats, seconds[layer.name]))
    return rows


@jax.jit
def _cost(
    before: jax.Array, after: jax.Array, covariance: jax.Array, curvature: jax.Array
) -> jax.Array:
    error = before - after
    return 0.5 * jnp.sum(curvature * jnp.sum(error * (error @ covariance), 1))


def _checked_masks(masks: PyTree, params: PyTree) -> PyTree:
    """The masks as uint8 in the shapes of the parameters, packed or not."""
    structure: Any = jax.tree.structure(params, is_leaf=is_none)
    leaves = align("masks", masks, structure, "params")
    plain = [
        checked_plain(f"masks: {join(key)}", mask, leaf, "params")
        for (key, leaf), mask in zip(keyed_leaves(params), leaves, strict=True)
    ]
    return structure.unflatten([m if m is None else jnp.asarray(m != 0, MASK_DTYPE) for m in plain])
