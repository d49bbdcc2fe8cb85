"""Prune a network layer by layer: each refit makes up for the errors of the layers before it."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from bmrpruner import oneshot
from bmrpruner._checks import check_positive
from bmrpruner._progress import shown
from bmrpruner._tree import PyTree, keyed_leaves
from bmrpruner.algorithms import OBSPruning
from bmrpruner.algorithms.one_shot import refitted
from bmrpruner.posteriors import LayerwiseGaussian, LinearLayer
from bmrpruner.posteriors._moments import CrossSums, add_cross_moments
from bmrpruner.posteriors.calibration import (
    captured,
    from_calibration,
    layers_of,
    peeked,
    repeatable,
)
from bmrpruner.pruning.tolerance import held_out_loss, largest_within
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
    """Prune any trained network in one pass over its layers, from calibration data.

    What goes is decided as `OBSPruning` does; then the layers are refitted in the order of
    execution, each with the inputs that it has in the network pruned so far, so that its outputs
    come closest to those of the dense network. Exactly one of `sparsity`, `max_loss_rise`, `masks`
    and an N:M pattern says what goes.

    Args:
      fn: `(params, batch) -> outputs`, logits (examples, classes) for the default loss.
      params: The trained parameters, any tree.
      batches: Inputs without labels; gone through once for each layer, so that those of a generator
        are kept. Some 10,000 examples are plenty.
      sparsity: Fraction to prune.
      max_loss_rise: Prune as much as keeps the rise of the loss on held-out data within this, nats
        per example.
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
    chosen = scope or ("global" if kind == Unstructured() else "layer")
    _check_how_much(sparsity, max_loss_rise, held_out, masks, kind)
    batches = repeatable(batches)
    capture = captured(fn, params, peeked("batches", batches)[0])
    posterior = from_calibration(capture, params, batches, damping, key, loss, prior_precision)

    def make_updater(sparsity: float | None) -> OBSPruning:
        return OBSPruning(sparsity=sparsity, sparsity_type=kind, scope=chosen)

    if max_loss_rise is None and masks is None:
        masks = make_updater(sparsity).instant_sparsify(params, posterior=posterior)[1]
    if max_loss_rise is None:
        pruned, layers = refit_in_order(capture, params, masks, posterior, batches)
    else:
        held_out = repeatable(held_out)  # type: ignore[arg-type]
        start, masks = largest_within(
            fn, params, posterior, held_out, max_loss_rise, loss, make_updater
        )
        pruned, layers = refit_in_order(capture, params, masks, posterior, batches)
        losses = [held_out_loss(fn, found, held_out, loss) for found in (start, pruned)]
        pruned = start if losses[0] < losses[1] else pruned
    return (pruned, masks, layers) if report else (pruned, masks)


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


def refit_in_order(
    capture: Any, params: PyTree, masks: PyTree, posterior: LayerwiseGaussian, batches: Any
) -> tuple[PyTree, list[LayerReport]]:
    """Refit the weights that stay, layer by layer in the order of execution.

    The inputs of a layer are those that it has in the network pruned so far, and its outputs are
    to be those of the dense network.

    Args:
      capture: The function; see `bmrpruner.posteriors`.
      params: The dense parameters.
      masks: A tree like `params`, None where a leaf is exempt.
      posterior: The moments in the dense network.
      batches: Calibration inputs, to be gone through once for each layer.

    Returns:
      The refitted parameters, and a report for each layer that has masks.
    """
    by_key = dict(keyed_leaves(masks))
    pruned, reports = params, []
    for layer, sites in zip(posterior.layers, layers_of(capture), strict=True):
        if by_key.get(layer.leaf) is None:
            continue
        begin = time.perf_counter()
        if pruned is params:
            only = dataclasses.replace(posterior, layers=(layer,))
            pruned = refitted(params, params, masks, only)
        else:
            pruned = _refit_layer(
                capture, sites, layer, params, pruned, masks, posterior.damping, batches
            )
        jax.block_until_ready(pruned)
        reports.append(_report(layer, params, pruned, masks, posterior, begin))
    return pruned, reports


def _refit_layer(
    capture: Any,
    sites: tuple[int, ...],
    layer: LinearLayer,
    dense: PyTree,
    pruned: PyTree,
    masks: PyTree,
    damping: Any,
    batches: Any,
) -> PyTree:
    width = layer.shape[1]
    square = jnp.zeros((width, width))
    sums = CrossSums(jnp.zeros(()), jnp.zeros(width), square, jnp.zeros(width), square)
    shift = layer.input_mean  # zero without a bias, where moments are about zero
    for batch in shown(layer.name, batches):
        sums = add_cross_moments(capture, sites, dense, pruned, batch, sums, shift)
    _, now, second, before, cross = (part / sums.samples for part in sums)
    if layer.bias_leaf is not None:
        second = second - jnp.outer(now, now)
        cross = cross - jnp.outer(before, now)
    moved = layer.with_inputs(shift + now, second)
    precision = moved.precision(damping)
    ridge = precision[0, 0] - second[0, 0]
    weights, keep = layer.weights(dense), layer.weights(masks)
    target = jnp.matmul(weights, cross, precision="highest") + ridge * weights
    if width >= oneshot.WIDE:
        full = oneshot.refit(weights, precision, jnp.ones_like(keep), target)
        after, _ = oneshot.sweep(full, precision, keep=keep)
    else:
        after = oneshot.refit(weights, precision, keep, target)
    bias = layer.bias(pruned)
    if bias is not None:
        bias = bias + weights @ (shift + before) - after @ (shift + now)
    return layer.put(pruned, after, bias)


def _report(
    layer: LinearLayer,
    dense: PyTree,
    pruned: PyTree,
    masks: PyTree,
    posterior: LayerwiseGaussian,
    begin: float,
) -> LayerReport:
    error = layer.weights(dense) - layer.weights(pruned)
    squares = jnp.sum(error * (error @ layer.input_covariance), 1)
    keep = layer.weights(masks)
    nats = dataclasses.replace(posterior, layers=(layer,)).delta_f(masks)
    return LayerReport(
        layer.name,
        keep.size,
        int(jnp.sum(keep == 0)),
        float(0.5 * jnp.sum(layer.curvature * squares)),
        float(nats[layer.name]),
        time.perf_counter() - begin,
    )
