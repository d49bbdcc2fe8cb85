"""Refit the layers of a network in the order of execution."""

from __future__ import annotations

import dataclasses
import time
from typing import Any

import jax
import jax.numpy as jnp

from bmrpruner import oneshot, selection
from bmrpruner._frames import framed
from bmrpruner._progress import shown
from bmrpruner._tree import PyTree, keyed_leaves
from bmrpruner.algorithms.one_shot import refitted
from bmrpruner.mask_calculator import topk_n_by_m_mask_calculator
from bmrpruner.posteriors import LayerwiseGaussian, LinearLayer
from bmrpruner.posteriors._moments import CrossSums, add_cross_moments
from bmrpruner.sparsity_types import NByM, Unstructured


def refit_in_order(
    found: Any,
    params: PyTree,
    masks: PyTree,
    posterior: LayerwiseGaussian,
    batches: Any,
    kind: Any = None,
) -> tuple[PyTree, PyTree, dict[str, float]]:
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
      The refitted parameters, the masks, and the seconds that each layer with masks took.
    """
    by_key = dict(keyed_leaves(masks))
    pruned, seconds = params, {}
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
        seconds[layer.name] = time.perf_counter() - begin
    return pruned, masks, seconds


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
    (frame, before_arrays), (_, now_arrays) = framed(dense), framed(pruned)
    for batch in shown(layer.name, batches):
        sums = add_cross_moments(
            found, frame, number, before_arrays, now_arrays, batch, sums, shift
        )
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
