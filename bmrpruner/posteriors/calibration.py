"""The posterior of each linear layer from a pass over calibration data."""

from __future__ import annotations

import functools
import itertools
import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Sized
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bmrpruner._checks import check_positive, did_you_mean
from bmrpruner._frames import Frame, framed
from bmrpruner._programs import compiled
from bmrpruner._progress import shown
from bmrpruner._tree import Key, PyTree, check_params, is_array, join, keyed_leaves
from bmrpruner.posteriors import _moments
from bmrpruner.posteriors._moments import LossCotangent, Sums
from bmrpruner.posteriors.layerwise_gaussian import LayerwiseGaussian, LinearLayer
from bmrpruner.structure.layers import linear_layers

FEW = 100  # examples, below which there is a warning
TRIALS = 3  # random cotangents by which a bias is known
SAME = 1e-3  # relative difference of gradients that are the same but for rounding
LOSSES: dict[str, _moments.Cotangent] = {
    "softmax": _moments.softmax_cotangent,
    "regression": _moments.unit_cotangent,
}


def from_calibration(
    fn: Callable[..., Any],
    params: PyTree,
    batches: Iterable[Any],
    damping: float = 0.01,
    key: Any = None,
    loss: str | Callable[..., Any] = "softmax",
    prior_precision: Any = 1.0,
) -> LayerwiseGaussian:
    """The posterior of each linear layer of a function, from a pass over calibration data.

    Needs no labels: for a classifier, the curvature of the loss along a layer's outputs comes from
    the exact Hessian of the cross-entropy and one random sign per logit. Memory is D² for a layer
    of D inputs. Linear layers are found by tracing, in any framework: what is not found has no
    posterior and stays dense.

    Args:
      fn: `(params, batch) -> outputs`, logits (examples, classes) for the default loss.
      params: The trained parameters, any tree.
      batches: An iterable of inputs, arrays or trees of them; some 10,000 examples are plenty.
      damping: λ over the mean variance of a layer's inputs, > 0.
      key: JAX key for the random signs.
      loss: `'softmax'`; `'regression'`, half the squared error; or a function of one's own,
        `(outputs, batch) -> (examples,)`, whose gradients are taken as they are.
      prior_precision: π₀ of each weight.

    Returns:
      A `LayerwiseGaussian`.

    Raises:
      ValueError: If there are no batches or no layers, or something is not finite.

    Example:
      >>> from bmrpruner.study.models import init_mlp, mlp
      >>> params = init_mlp(jax.random.key(0), (6, 8, 3))
      >>> inputs = jax.random.normal(jax.random.key(1), (200, 6))
      >>> posterior = from_calibration(mlp, params, [inputs])
      >>> [(layer.name, layer.shape) for layer in posterior.layers]
      [('dense_0/kernel', (8, 6)), ('dense_1/kernel', (3, 8))]
    """
    check_positive("damping", damping)
    check_params(params)
    cotangent = as_cotangent(loss)
    key = jax.random.key(0) if key is None else key
    first, batches = peeked("batches", batches)
    found = layers_of(fn, params, first)
    frame, arrays = framed(params)
    look, add = (
        compiled(functools.partial(step, found, frame, cotangent))
        for step in (_moments.first_look, _moments.add_moments)
    )
    draw = _draw(found, frame, cotangent)
    looks = [
        look(arrays, first, draw(arrays, first, jax.random.fold_in(key, i))) for i in range(TRIALS)
    ]
    shifts, biases = looks[0].input_means, _biases(found, params, looks)
    sums = tuple(_no_sums(layer) for layer in found.layers)
    examples = 0.0
    for count, batch in enumerate(shown("calibration", batches)):
        check_batch(batch, first)
        signs = draw(arrays, batch, jax.random.fold_in(key, count))
        sums, seen = add(arrays, batch, signs, sums, shifts)
        examples += float(seen)
    if examples < FEW:
        warnings.warn(
            f"batches: expected some {FEW} examples at least, got {examples:g}; the moments of "
            "inputs are then rough, and what is pruned may cost more than it says.",
            stacklevel=3,
        )
    layers = [
        _layer(name, layer, bias, total, shift, examples)
        for name, layer, bias, total, shift in zip(
            _names(found.layers), found.layers, biases, sums, shifts, strict=True
        )
    ]
    return LayerwiseGaussian(params, tuple(layers), examples, damping, prior_precision)


def _draw(found: Any, frame: Frame, cotangent: Any) -> Callable[..., Any]:
    """A function that draws a sign for each output on a batch; None for a loss of one's own."""
    shapes: dict[Any, tuple[int, ...]] = {}

    def outputs(arrays: Any, batch: Any) -> Any:
        return found.capture(frame.whole(arrays), batch)[0]

    def draw(arrays: Any, batch: Any, key: jax.Array) -> jax.Array | None:
        if isinstance(cotangent, LossCotangent):
            return None
        sizes = tuple(np.shape(leaf) for leaf in jax.tree.leaves(batch))
        if sizes not in shapes:
            logits = jax.eval_shape(outputs, arrays, batch)
            _moments.check_floating(logits)
            shapes[sizes] = logits.shape
        return _moments.random_signs(key, shape=shapes[sizes])

    return draw


def as_cotangent(loss: Any) -> Any:
    """What to pull back through the network for a loss, by its name or a function of one's own."""
    if callable(loss):
        return LossCotangent(loss)
    if loss not in LOSSES:
        raise ValueError(
            f"loss: expected a function, or one of {', '.join(LOSSES)}, got {loss!r}."
            + did_you_mean(loss, LOSSES)
        )
    return LOSSES[loss]


def layers_of(fn: Any, params: PyTree, batch: Any) -> Any:
    """The linear layers of a function; itself, if it is what `structure.linear_layers` returned.

    Raises:
      ValueError: If there is none.
    """
    found = fn if hasattr(fn, "capture") else linear_layers(fn, params, batch)
    if not found.layers:
        why = "".join(f"; {join(key)}: {reason}" for key, reason in found.left_out.items())
        raise ValueError(f"fn: expected a linear layer of params in it, got none{why}.")
    return found


def _names(layers: Any) -> list[str]:
    """The leaves' key paths, with an index where a leaf holds several layers."""
    keys = [join(layer.key) for layer in layers]
    counts: dict[str, int] = {}
    names = []
    for key in keys:
        number = counts.get(key, 0)
        counts[key] = number + 1
        names.append(f"{key}[{number}]" if keys.count(key) > 1 else key)
    return names


def peeked(field: str, batches: Iterable[Any]) -> tuple[Any, Iterable[Any]]:
    """The first batch, and an iterable of all; a ValueError if there is none."""
    items = iter(batches)
    first = next(items, None)
    if first is None:
        raise ValueError(f"{field}: expected one batch at least, got none.")
    starts_anew = isinstance(batches, Sized) and items is not batches
    return first, batches if starts_anew else itertools.chain([first], items)


def repeatable(batches: Iterable[Any]) -> Iterable[Any]:
    """Batches that can be gone through more than once: those of an iterator are kept."""
    return list(batches) if iter(batches) is batches else batches


def check_batch(batch: Any, first: Any) -> None:
    """Raise a ValueError if a batch differs from the first by more than its number of examples."""
    shapes = [
        (jax.tree.structure(tree), [np.shape(leaf)[1:] for leaf in jax.tree.leaves(tree)])
        for tree in (batch, first)
    ]
    if shapes[0] != shapes[1]:
        raise ValueError(
            f"batches: expected arrays of shapes {shapes[1][1]} after the first axis, as in the "
            f"first batch, got {shapes[0][1]}."
        )


def _no_sums(layer: Any) -> Sums:
    outputs, inputs = layer.positions.shape
    shapes = ((), (inputs,), (inputs, inputs), (outputs,))
    zeros: Any = (np.zeros(shape, np.float32) for shape in shapes)
    return Sums(*zeros)


def _layer(
    name: str, found: Any, bias: Any, sums: Sums, shift: jax.Array, examples: float
) -> LinearLayer:
    leaf, positions = (None, None) if bias is None else bias
    *moments, is_finite = _moments.finished(sums, shift, examples, bias is not None)
    if not is_finite:
        raise ValueError(
            f"batches: expected finite inputs and gradients at layer {name!r}, got NaN or "
            "infinite ones."
        )
    indices = jnp.asarray(np.asarray(found.positions, np.int32))
    return LinearLayer(name, found.key, leaf, indices, positions, *moments)


def _biases(
    found: Any, params: PyTree, looks: list[_moments.FirstLook]
) -> list[tuple[Key, jax.Array] | None]:
    """Each layer's bias, key path and positions: what has the gradient that its outputs have.

    Several random cotangents are compared, so that none agrees by chance.
    """
    weights = {layer.key for layer in found.layers}
    keys = [key for key, leaf in keyed_leaves(params) if is_array(leaf)]
    candidates = []
    for i, key in enumerate(keys):
        grads = [look.grads[i] for look in looks]
        if grads[0] is not None and key not in weights:
            shape = np.shape(grads[0])
            candidates.append((key, shape, np.stack([_flat(grad) for grad in grads])))
    return [
        _matching(np.stack([_flat(look.output_grads[i]) for look in looks]), candidates)
        for i in range(len(found.layers))
    ]


def _flat(array: Any) -> np.ndarray:
    return np.ravel(np.asarray(array, np.float64))


def _matching(
    totals: np.ndarray, candidates: list[tuple[Key, tuple[int, ...], np.ndarray]]
) -> tuple[Key, jax.Array] | None:
    """The first part of a leaf, as long as the outputs, that has their gradients (draws, R)."""
    size, scale = totals.shape[1], np.linalg.norm(totals)
    for key, shape, grads in candidates:
        if scale == 0 or grads.shape[1] % size:
            continue
        for positions in _layouts(shape, size):
            rows = grads[:, positions].reshape(TRIALS, -1, size)
            error = np.linalg.norm(rows - totals[:, None], axis=(0, 2))
            row = int(np.argmin(error))
            if error[row] <= SAME * scale:
                return key, jnp.asarray(positions[row * size : (row + 1) * size])
    return None


def _layouts(shape: tuple[int, ...], size: int) -> Iterator[np.ndarray]:
    """The positions in a leaf in order; of one as long as the outputs by all orders of its axes."""
    positions = np.arange(math.prod(shape), dtype=np.int32).reshape(shape)
    if positions.size != size:
        yield positions.ravel()
        return
    for order in itertools.permutations(range(len(shape))):
        yield positions.transpose(order).ravel()
