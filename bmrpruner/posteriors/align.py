"""Draws of networks whose units can be exchanged, brought into one order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from bmrpruner._leaves import check_draws, flatten, is_concrete
from bmrpruner._tree import Key, PyTree, is_array, join, leaf_keys

_MOST_SWEEPS = 30
_LEAST_GROWTH = 3e-3  # of the mean's squared length, in a sweep that is followed by another


class _Layer(NamedTuple):
    """Exchangeable units: for each axis they own a part of, key, axis and indices (size, k)."""

    size: int
    members: tuple[tuple[Key, int, np.ndarray], ...]


def align_units(draws: PyTree, groups: Sequence[Any], odd: bool = False) -> PyTree:
    """Bring the hidden units of every draw into the order, and the signs, of one reference.

    A network computes the same when hidden units are exchanged and, with an odd activation such as
    tanh, when the signs of all weights of a unit are flipped. Chains that mix visit all these
    copies, so that means and variances of single weights say nothing about the units. Each draw's
    units are matched to those of the mean draw by the Hungarian method, layer by layer, and again
    until the mean draw's squared length grows by less than .3 %; the first reference is the last
    draw. What a draw computes stays the same, up to the rounding of sums in another order.

    Args:
      draws: A tree of floating arrays `[chain, draw, *shape]`, alike in the first two axes. Leaves
        that are no arrays, and arrays of which no group owns a part, stay as they are.
      groups: One for each hidden layer. Either a dict of key paths of weights to the axis of
        `shape` along which the units lie, as `{('hid', 'kernel'): 1, ('hid', 'bias'): 0,
        ('out', 'kernel'): 0}`: all weights into and out of the units. Or a dependency group, with
        `size`, `members` ((key path, axis, indices (size, k)), ...) and `frozen`, as tracing finds
        it; frozen ones (inputs and outputs) are left alone.
      odd: Flip signs too, of all that a unit owns. True only for activations with f(-x) = -f(x);
        with ReLU only the order is free.

    Returns:
      A tree like `draws`, of its dtypes, in NumPy arrays where something was aligned.

    Raises:
      ValueError: For draws as `from_samples` refuses them or that are not finite; for a group that
        names a leaf or an axis that is not there, or axes of different lengths.
      TypeError: For traced draws, draws that are not floating, or a group of another kind.

    Example:
      >>> import jax.numpy as jnp
      >>> one = {'in': jnp.array([[1.0, 5.0]]), 'out': jnp.array([2.0, -3.0])}
      >>> other = {'in': jnp.array([[-5.0, 1.0]]), 'out': jnp.array([3.0, 2.0])}  # the same, if odd
      >>> draws = jax.tree.map(lambda *leaves: jnp.stack(leaves)[None], other, one)
      >>> aligned = align_units(draws, [{('in',): 1, ('out',): 0}], odd=True)
      >>> aligned['in'].tolist(), aligned['out'].tolist()
      ([[[[1.0, 5.0]], [[1.0, 5.0]]]], [[[2.0, -3.0], [2.0, -3.0]]])
    """
    paths, leaves, structure = flatten(draws)
    check_draws(paths, leaves)
    if not all(is_concrete(leaf) for leaf in leaves if is_array(leaf)):
        raise TypeError("draws: expected concrete arrays, which SciPy can match, got traced ones.")
    keys = leaf_keys(draws)
    shapes = {k: leaf.shape[2:] for k, leaf in zip(keys, leaves, strict=True) if is_array(leaf)}
    found = [_layer(f"groups[{i}]", group, shapes) for i, group in enumerate(_listed(groups))]
    layers = [layer for layer in found if layer is not None]
    owned = {key for layer in layers for key, _, _ in layer.members}
    weights = {k: _flat(k, x) for k, x in zip(keys, leaves, strict=True) if k in owned}
    if weights:
        _align(weights, layers, odd)
    aligned = [
        weights[k].reshape(x.shape).astype(x.dtype) if k in owned else x
        for k, x in zip(keys, leaves, strict=True)
    ]
    return jax.tree.unflatten(structure, aligned)


def _listed(groups: Any) -> Sequence[Any]:
    if isinstance(groups, Mapping | str) or not isinstance(groups, Sequence):
        raise TypeError(
            f"groups: expected a list with one group for each hidden layer, got a "
            f"{type(groups).__name__}."
        )
    return groups


def _layer(field: str, group: Any, shapes: Mapping[Key, tuple[int, ...]]) -> _Layer | None:
    """A group in one form, checked; None where its units cannot be exchanged."""
    if isinstance(group, Mapping):
        members = [(key, axis, None) for key, axis in group.items()]
    elif hasattr(group, "members"):
        if group.frozen is not None:
            return None
        members = list(group.members)
    else:
        raise TypeError(
            f"{field}: expected a dict of key paths to axes, or a dependency group, got a "
            f"{type(group).__name__}."
        )
    found: list[tuple[Key, int, np.ndarray]] = []
    for key, axis, indices in members:
        if key not in shapes:
            raise ValueError(
                f"{field}: expected key paths of arrays in draws, such as "
                f"{next(iter(shapes), None)!r}, got {key!r}."
            )
        ndim = len(shapes[key])
        if not -ndim <= axis < ndim:
            raise ValueError(
                f"{field}: expected an axis of {join(key)!r}, of shape {shapes[key]} after chains "
                f"and draws, got {axis}."
            )
        if indices is None:
            indices = np.arange(shapes[key][axis])[:, None]
        found.append((key, axis % ndim, np.asarray(indices)))
    sizes = {len(indices) for _, _, indices in found}
    if len(sizes) != 1:
        raise ValueError(
            f"{field}: expected axes with the same number of units, got "
            f"{ {join(key): len(indices) for key, _, indices in found} }."
        )
    return _Layer(sizes.pop(), tuple(found))


def _flat(key: Key, leaf: Any) -> np.ndarray:
    """The draws of a leaf, [draw, *shape], float64."""
    values = np.asarray(leaf, np.float64).reshape(-1, *leaf.shape[2:])
    if not np.all(np.isfinite(values)):
        raise ValueError(f"draws, {join(key)}: expected finite values, got others.")
    return values


def _align(weights: dict[Key, np.ndarray], layers: list[_Layer], odd: bool) -> None:
    """Permute and flip the units of all draws in place."""
    reference = {key: values[-1] for key, values in weights.items()}
    pending = list(layers)
    while pending:
        layer = min(pending, key=lambda layer: _share_disordered(weights, layer, pending))
        _match(weights, reference, layer, odd, pending)
        pending.remove(layer)
    length = _mean_length(weights)
    for _ in range(_MOST_SWEEPS):
        for layer in layers:
            mean = {key: weights[key].mean(0) for key, _, _ in layer.members}
            _match(weights, mean, layer, odd, [])
        before, length = length, _mean_length(weights)
        if length <= (1 + _LEAST_GROWTH) * before:
            return


def _mean_length(weights: Mapping[Key, np.ndarray]) -> float:
    """The squared length of the mean draw, which no sweep makes smaller."""
    return sum(float(np.sum(values.mean(0) ** 2)) for values in weights.values())


def _share_disordered(
    weights: Mapping[Key, np.ndarray], layer: _Layer, pending: Sequence[_Layer]
) -> float:
    """The share of a layer's weights that depends on the order of other layers' units too."""
    sizes = {key: weights[key][0].size for key, _, _ in layer.members}
    comparable = {key for key, _, _ in _comparable(layer, pending)}
    return 1 - sum(sizes[key] for key in comparable) / sum(sizes.values())


def _comparable(layer: _Layer, pending: Sequence[_Layer]) -> list[tuple[Key, int, np.ndarray]]:
    """The members in which only the layer's own units may be out of order."""
    disordered = {key for other in pending if other is not layer for key, _, _ in other.members}
    return [member for member in layer.members if member[0] not in disordered]


def _match(
    weights: dict[Key, np.ndarray],
    reference: Mapping[Key, np.ndarray],
    layer: _Layer,
    odd: bool,
    pending: Sequence[_Layer],
) -> None:
    """Match a layer's units in each draw to the reference, in place."""
    from scipy.optimize import linear_sum_assignment  # slow to import

    members = _comparable(layer, pending) or layer.members
    similarity = sum(
        _by_unit(reference[key][None], axis, indices)
        @ _by_unit(weights[key], axis, indices).transpose(0, 2, 1)
        for key, axis, indices in members
    )
    score = np.abs(similarity) if odd else similarity
    order = np.stack([linear_sum_assignment(s, maximize=True)[1] for s in score])
    matched = np.take_along_axis(similarity, order[:, :, None], 2)[:, :, 0]
    signs = np.where(odd & (matched < 0), -1.0, 1.0)
    moved = np.any(order != np.arange(layer.size), axis=1) | np.any(signs < 0, axis=1)
    for key, axis, indices in layer.members:
        weights[key][moved] = _rearranged(
            weights[key][moved], axis, indices, order[moved], signs[moved]
        )


def _by_unit(values: np.ndarray, axis: int, indices: np.ndarray) -> np.ndarray:
    """What each unit owns of [draw, *shape], as [draw, unit, entry]."""
    first = np.moveaxis(values, axis + 1, 1)[:, indices]
    return first.reshape(len(values), len(indices), -1)


def _rearranged(
    values: np.ndarray, axis: int, indices: np.ndarray, order: np.ndarray, signs: np.ndarray
) -> np.ndarray:
    """Unit `u` of draw `n` gets what unit `order[n, u]` owns, times `signs[n, u]`."""
    first = np.moveaxis(values, axis + 1, 1).copy()
    taken = first[np.arange(len(values))[:, None, None], indices[order]]
    factors = signs.reshape(*signs.shape, *[1] * (taken.ndim - 2))
    first[:, indices] = taken * factors
    return np.moveaxis(first, 1, axis + 1)
