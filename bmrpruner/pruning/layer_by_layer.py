"""Refit the layers of a network in the order of execution."""

from __future__ import annotations

import functools
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bmrpruner import oneshot, selection
from bmrpruner._frames import framed
from bmrpruner._masks import MASK_DTYPE, mask_tree
from bmrpruner._programs import compiled
from bmrpruner._progress import shown
from bmrpruner._tree import PyTree, keyed_leaves, map_with_key
from bmrpruner.mask_calculator import topk_n_by_m_mask_calculator
from bmrpruner.oneshot.refit import refit_bias
from bmrpruner.posteriors import LayerwiseGaussian, LinearLayer
from bmrpruner.posteriors._moments import CrossSums, add_cross_moments
from bmrpruner.posteriors.layerwise_gaussian import ridge_of
from bmrpruner.sparsity_types import NByM, Unstructured

_ROUNDING = 1e-5  # relative, of sums in float32


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
      masks: A tree like `params`, None where a leaf is exempt. Those of leaves that are no layer's,
        such as biases and scales, hold while the layers behind them are refitted.
      posterior: The moments in the dense network.
      batches: Calibration inputs, gone through once for each layer.
      kind: The sparsity type by which each layer may choose anew, as many as the masks keep, given
        the inputs that it has by then; None if the masks are fixed.

    Returns:
      The refitted parameters, the masks, and the seconds that each layer with masks took.
    """
    by_key = dict(keyed_leaves(masks))
    others = map_with_key(lambda key, _: None if key in posterior.covered else by_key[key], params)
    pruned = mask_tree(params, masks)
    seconds: dict[str, float] = {}
    for number, layer in enumerate(posterior.layers):
        if by_key.get(layer.leaf) is None:
            continue
        begin = time.perf_counter()
        moved, target = _moved(found, number, layer, params, pruned, posterior, batches)
        if kind is not None and seconds:  # the first layer's inputs are those of the dense network
            masks = _chosen(layer, moved, target, params, masks, posterior, kind)
        after = _solved(layer, moved, target, params, masks, posterior)
        pruned = layer.put(pruned, after, _bias(layer, moved, params, pruned, after))
        pruned = jax.block_until_ready(mask_tree(pruned, others))
        seconds[layer.name] = time.perf_counter() - begin
    return pruned, masks, seconds


def without_zeros(masks: PyTree, params: PyTree, posterior: LayerwiseGaussian) -> PyTree:
    """The masks, zero where a layer's weight is zero already: it stays so."""
    by_key = dict(keyed_leaves(masks))

    def own(key: Any, leaf: Any) -> Any:
        mask = by_key[key]
        if mask is None or key not in posterior.covered:
            return mask
        return mask * jnp.asarray(leaf != 0, MASK_DTYPE)

    return map_with_key(own, params)


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
    shapes = ((), (width,), (width, width), (width,), (width, width))
    zeros: Any = (np.zeros(shape, np.float32) for shape in shapes)
    sums = CrossSums(*zeros)
    shift = layer.input_mean  # zero without a bias, where moments are about zero
    (frame, before_arrays), (_, now_arrays) = framed(dense), framed(pruned)
    add = compiled(functools.partial(add_cross_moments, found, frame, number))
    for batch in shown(layer.name, batches):
        sums = add(before_arrays, now_arrays, batch, sums, shift)
    if not sums.samples:
        raise ValueError(
            f"batches: expected an iterable that can be gone through again for layer "
            f"{layer.name!r}, such as a list, got one that was used up."
        )
    now, second, target = _cross_finished(
        sums, shift, layer.weights(dense), posterior.damping, layer.bias_leaf is not None
    )
    if not (np.isfinite(second).all() and np.isfinite(target).all()):
        raise ValueError(
            f"fn: expected finite inputs of layer {layer.name!r} in the pruned network, got NaN or "
            "infinite ones; prune less."
        )
    return layer.with_inputs(now, second), target


@functools.partial(jax.jit, static_argnames="is_centred")
def _cross_finished(
    sums: CrossSums, shift: jax.Array, weights: jax.Array, damping: Any, is_centred: bool
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Mean and covariance of h, about zero if not centred, and E[x hᵀ]w + λw."""
    _, now, second, before, cross = (part / sums.samples for part in sums)
    if is_centred:
        spread = second - jnp.outer(now, now)
        # Inputs that no longer change have no covariance but that of rounding.
        changes = jnp.trace(spread) > _ROUNDING * jnp.trace(second)
        second = jnp.where(changes, spread, 0)
        cross = jnp.where(changes, cross - jnp.outer(before, now), 0)
        now = now + shift
    ridge = ridge_of(second, damping)
    return now, second, jnp.matmul(weights, cross, precision="highest") + ridge * weights


def _chosen(
    layer: LinearLayer,
    moved: LinearLayer,
    target: jax.Array,
    dense: PyTree,
    masks: PyTree,
    posterior: LayerwiseGaussian,
    kind: Any,
) -> PyTree:
    """The masks, with the layer's weights chosen by what its inputs are now, as many as before."""
    if not isinstance(kind, Unstructured | NByM):
        return masks
    precision, is_there = moved.precision(posterior.damping), layer.weights(dense) != 0
    scores = oneshot.obs_scores(_unpruned(precision, target), precision, layer.curvature)
    scores = jnp.where(is_there, scores, -jnp.inf)  # what is zero stays zero
    if isinstance(kind, Unstructured):
        count = int(np.count_nonzero(layer.weights(masks)))
        return layer.put(masks, selection.top_masks([scores], [count])[0])
    mask = dict(keyed_leaves(masks))[layer.leaf]
    rest = jnp.ravel(jnp.where(mask, jnp.inf, -jnp.inf))  # of the leaf's other layers, as it is
    spread = rest.at[layer.positions].set(scores).reshape(mask.shape)
    chosen = topk_n_by_m_mask_calculator(spread, None, kind)
    return layer.put(masks, jnp.ravel(chosen)[layer.positions] * is_there.astype(MASK_DTYPE))


@jax.jit
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
    before = layer.weights(dense)
    return refit_bias(bias, before, after, layer.input_mean, moved.input_mean)
