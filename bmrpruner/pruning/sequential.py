"""Prune a network layer by layer: each refit makes up for the errors of the layers before it."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from bmrpruner import oneshot, selection
from bmrpruner._checks import check_positive
from bmrpruner._progress import shown
from bmrpruner._tree import PyTree, keyed_leaves
from bmrpruner.algorithms import OBSPruning
from bmrpruner.algorithms.one_shot import refitted
from bmrpruner.mask_calculator import topk_n_by_m_mask_calculator
from bmrpruner.posteriors import LayerwiseGaussian, LinearLayer
from bmrpruner.posteriors._moments import CrossSums, add_cross_moments
from bmrpruner.posteriors.calibration import (
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
    found = layers_of(fn, params, peeked("batches", batches)[0])
    posterior = from_calibration(found, params, batches, damping, key, loss, prior_precision)

    def make_updater(sparsity: float | None) -> OBSPruning:
        return OBSPruning(sparsity=sparsity, sparsity_type=kind, scope=chosen)

    start = params
    chooses = OBSPruning(sparsity=sparsity, sparsity_type=kind, scope=chosen)
    if max_loss_rise is not None:
        held_out = repeatable(held_out)  # type: ignore[arg-type]
        start, chosen_masks = largest_within(
            fn, params, posterior, held_out, max_loss_rise, loss, chooses
        )
    elif masks is None:
        chosen_masks = chooses.instant_sparsify(params, posterior=posterior)[1]
    else:
        chosen_masks = masks
    may_choose = None if masks is not None else kind
    pruned, kept, layers = refit_in_order(
        found, params, chosen_masks, posterior, batches, may_choose
    )
    if max_loss_rise is not None:
        losses = [held_out_loss(fn, p, held_out, loss) for p in (start, pruned)]
        if losses[0] < losses[1]:
            pruned, kept = start, chosen_masks
    return (pruned, kept, layers) if report else (pruned, kept)


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
    found: Any,
    params: PyTree,
    masks: PyTree,
    posterior: LayerwiseGaussian,
    batches: Any,
    kind: Any = None,
) -> tuple[PyTree, PyTree, list[LayerReport]]:
    """Refit the weights that stay, layer by layer in the order of execution.

    Args:
      found: The layers, as `structure.linear_layers` returns them.
      params: The dense parameters.
      masks: A tree like `params`, None where a leaf is exempt.
      posterior: The moments in the dense network.
      batches: Calibration inputs, gone through once for each layer.
      kind: The sparsity type by which each layer may choose anew, as many as the masks keep, given
        the inputs that it has by then; None if the masks are fixed.

    Returns:
      The refitted parameters, the masks, and a report for each layer that has masks.
    """
    by_key = dict(keyed_leaves(masks))
    pruned, reports = params, []
    for number, layer in enumerate(posterior.layers):
        if by_key.get(layer.leaf) is None:
            continue
        begin = time.perf_counter()
        if pruned is params:
            only = dataclasses.replace(posterior, layers=(layer,))
            pruned = refitted(params, params, masks, only)
        else:
            moved, target = _moved(found, number, layer, params, pruned, posterior, batches)
            if kind is not None:
                masks = layer.put(masks, _chosen(layer, moved, target, masks, posterior, kind))
            after = _solved(layer, moved, target, params, masks, posterior)
            pruned = layer.put(pruned, after, _bias(layer, moved, params, pruned, after))
        jax.block_until_ready(pruned)
        reports.append(_report(layer, params, pruned, masks, posterior, begin))
    return pruned, masks, reports


def _moved(
    found: Any,
    number: int,
    layer: LinearLayer,
    dense: PyTree,
    pruned: PyTree,
    posterior: LayerwiseGaussian,
    batches: Any,
) -> tuple[LinearLayer, jax.Array]:
    """The layer with the inputs h that it has by now, and E[x hᵀ]w + λw of each row w."""
    width = layer.shape[1]
    square = jnp.zeros((width, width))
    sums = CrossSums(jnp.zeros(()), jnp.zeros(width), square, jnp.zeros(width), square)
    shift = layer.input_mean  # zero without a bias, where moments are about zero
    for batch in shown(layer.name, batches):
        sums = add_cross_moments(found, number, dense, pruned, batch, sums, shift)
    _, now, second, before, cross = (part / sums.samples for part in sums)
    if layer.bias_leaf is not None:
        second = second - jnp.outer(now, now)
        cross = cross - jnp.outer(before, now)
        now = now + shift
    moved = layer.with_inputs(now, second)
    weights = layer.weights(dense)
    ridge = moved.precision(posterior.damping)[0, 0] - second[0, 0]
    return moved, jnp.matmul(weights, cross, precision="highest") + ridge * weights


def _chosen(
    layer: LinearLayer,
    moved: LinearLayer,
    target: jax.Array,
    masks: PyTree,
    posterior: LayerwiseGaussian,
    kind: Any,
) -> jax.Array:
    """The layer's mask: as many weights as before, chosen by what the inputs are now."""
    keep = layer.weights(masks)
    if not isinstance(kind, Unstructured | NByM):
        return keep
    precision = moved.precision(posterior.damping)
    scores = oneshot.obs_scores(_unpruned(precision, target), precision, layer.curvature)
    if isinstance(kind, Unstructured):
        return selection.top_masks([scores], [jnp.sum(keep != 0)])[0]
    leaf = dict(keyed_leaves(masks))[layer.leaf]
    spread = jnp.zeros(leaf.size).at[layer.positions].set(scores).reshape(leaf.shape)
    chosen = topk_n_by_m_mask_calculator(spread, None, kind)
    return jnp.ravel(chosen)[layer.positions]


def _unpruned(precision: jax.Array, target: jax.Array) -> jax.Array:
    """What the weights would be if all stayed."""
    return jax.scipy.linalg.solve(precision, target.T, assume_a="pos").T


def _solved(
    layer: LinearLayer,
    moved: LinearLayer,
    target: jax.Array,
    dense: PyTree,
    masks: PyTree,
    posterior: LayerwiseGaussian,
) -> jax.Array:
    precision, keep = moved.precision(posterior.damping), layer.weights(masks)
    if layer.shape[1] >= oneshot.WIDE:
        return oneshot.sweep(_unpruned(precision, target), precision, keep=keep)[0]
    return oneshot.refit(layer.weights(dense), precision, keep, target)


def _bias(
    layer: LinearLayer, moved: LinearLayer, dense: PyTree, pruned: PyTree, after: jax.Array
) -> jax.Array | None:
    """The bias with which the mean of the outputs stays; None without one."""
    bias = layer.bias(pruned)  # which another layer may have moved
    if bias is None:
        return None
    return bias + layer.weights(dense) @ layer.input_mean - after @ moved.input_mean


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
