"""Remove hidden units and channels, and let the layers that read them make up for it."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from bmrpruner import oneshot
from bmrpruner._checks import check_sparsity
from bmrpruner._dependency import check_multiple
from bmrpruner._masks import MASK_DTYPE
from bmrpruner._tree import Key, PyTree, join, keyed_leaves, map_with_key
from bmrpruner.posteriors import LayerwiseGaussian
from bmrpruner.posteriors.calibration import from_calibration, layers_of, peeked, repeatable
from bmrpruner.pruning.layer_by_layer import refit_in_order, without_zeros
from bmrpruner.structure.groups import Group, dependency_groups


class _Bundle(NamedTuple):
    """Units of a group that may go at once, and their mean cost by weight, nats per example."""

    cost: float
    group: int
    place: int  # of equal bundles of a group the later goes first
    units: tuple[int, ...]


def prune_units(
    fn: Callable[..., Any],
    params: PyTree,
    batches: Iterable[Any],
    sparsity: float,
    *,
    damping: float = 0.01,
    key: Any = None,
    loss: str | Callable[..., Any] = "softmax",
    multiple: int = 1,
) -> tuple[PyTree, PyTree]:
    """Remove whole units of a trained network, and refit what stays layer by layer.

    A unit goes with all that belongs to it, as `structure.dependency_groups` says. Its cost is that
    of removing its values from the inputs of the layers that read them, the other inputs making up
    for it (ZipLM, Kurtic et al. 2023, https://arxiv.org/abs/2302.04089); the units of all groups
    are ranked by cost over their number of weights. `bmrpruner.compact` makes the result smaller.

    Args:
      fn: `(params, batch) -> outputs`, as in `prune_sequentially`.
      params: The trained parameters, any tree.
      batches: Inputs without labels, gone through once for each layer.
      sparsity: Fraction of the weights that belong to units to remove; of each group `multiple`
        units stay.
      damping: λ over the mean variance of a layer's inputs.
      key: JAX key for random signs.
      loss: As in `posteriors.from_calibration`.
      multiple: How many units of a group go at once, as in `sparsity_types.Group`.

    Returns:
      The refitted parameters and masks for all leaves that units have a part in.

    Raises:
      ValueError: If no unit can go, or the data do not fit.

    Example:
      >>> import jax
      >>> from bmrpruner.study.models import init_mlp, mlp
      >>> params = init_mlp(jax.random.key(0), (6, 8, 3))
      >>> inputs = jax.random.normal(jax.random.key(1), (200, 6))
      >>> pruned, masks = prune_units(mlp, params, [inputs], sparsity=0.5)
      >>> int(masks['dense_0']['bias'].sum())
      4
    """
    check_sparsity("sparsity", sparsity)
    check_multiple(multiple)
    multiple = int(multiple)
    batches = repeatable(batches)
    first = peeked("batches", batches)[0]
    found = layers_of(fn, params, first)
    groups = [g for g in dependency_groups(fn, params, first) if g.frozen is None]
    posterior = from_calibration(found, params, batches, damping, key, loss)
    costs = [_costs(group, found, params, posterior) for group in groups]
    unread = [group for group, cost in zip(groups, costs, strict=True) if cost is None]
    if unread:
        names = ", ".join(join(group.members[0][0]) for group in unread)
        warnings.warn(
            f"fn: expected linear layers to read all units, got none for those of {names}: left "
            "whole.",
            stacklevel=2,
        )
    read = {i: cost for i, cost in enumerate(costs) if cost is not None}
    bundles = sorted(b for i, cost in read.items() for b in _bundles(i, cost, multiple))
    if not bundles:
        raise ValueError(
            f"fn: expected more than {multiple} units in a group that linear layers read, got none."
        )
    masks = _masks(params, {i: groups[i] for i in read}, bundles, sparsity)
    keep = without_zeros(masks, params, posterior)
    return refit_in_order(found, params, keep, posterior, batches)[0], masks


def _costs(group: Group, found: Any, params: PyTree, posterior: LayerwiseGaussian) -> Any:
    """Each unit's cost, summed over the layers that read it, over its weights; None if none does.

    As for weights, it is the largest cost of a removal up to its own.
    """
    leaves = dict(keyed_leaves(params))
    total: Any = None
    for layer, where in zip(posterior.layers, found.layers, strict=True):
        for key, axis, indices in group.members:
            if key != layer.leaf or axis not in where.inputs:
                continue
            along = np.unravel_index(np.asarray(layer.positions[0]), leaves[key].shape)[axis]
            inputs = [np.flatnonzero(np.isin(along, own)) for own in indices]
            if not all(len(own) for own in inputs):
                continue  # another layer of the same leaf
            removal = oneshot.eliminate_groups(
                layer.weights(params),
                layer.precision(posterior.damping),
                layer.curvature,
                np.stack(inputs),
            )
            cost = np.zeros(group.size)
            cost[np.asarray(removal.order)] = np.maximum.accumulate(np.asarray(removal.cost))
            total = cost if total is None else total + cost
    if total is None:
        return None
    return total / sum(
        indices.shape[1] * leaves[key].size / leaves[key].shape[axis]
        for key, axis, indices in group.members
    )


def _bundles(group: int, costs: Any, multiple: int) -> Iterator[_Bundle]:
    """What may go of a group: all but the units of highest cost, `multiple` at a time."""
    order = np.argsort(costs, kind="stable")[::-1]
    for first in range(multiple, len(order), multiple):
        units = order[first : first + multiple]
        mean = np.clip(costs[units].mean(), costs[units[-1]], costs[units[0]])  # despite rounding
        yield _Bundle(float(mean), group, -first, tuple(map(int, units)))


def _masks(
    params: PyTree, groups: dict[int, Group], bundles: list[_Bundle], sparsity: float
) -> PyTree:
    """Masks without the first bundles, as few as leave no more weights than the sparsity says."""
    keys = {key for group in groups.values() for key, _, _ in group.members}
    shapes = {key: leaf.shape for key, leaf in keyed_leaves(params) if key in keys}
    size = sum(math.prod(shape) for shape in shapes.values())

    def without(count: int) -> dict[Key, np.ndarray]:
        masks = {key: np.ones(shape, MASK_DTYPE) for key, shape in shapes.items()}
        for bundle in bundles[:count]:
            for key, axis, indices in groups[bundle.group].members:
                np.moveaxis(masks[key], axis, 0)[indices[list(bundle.units)]] = 0
        return masks

    least, most = 0, len(bundles)
    while least < most:
        middle = (least + most) // 2
        zeros = sum(int((mask == 0).sum()) for mask in without(middle).values())
        least, most = (least, middle) if zeros >= sparsity * size else (middle + 1, most)
    masks = without(least)
    return map_with_key(lambda key, leaf: jnp.asarray(masks[key]) if key in masks else None, params)
