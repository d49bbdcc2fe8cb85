"""Sums over batches: moments of inputs and curvatures of outputs at a function's linear layers.

`found` is what `structure.linear_layers` returns; `arrays` are those of the parameters, `frame` is
the rest of them. What takes these is run by `_programs.compiled`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from bmrpruner._frames import Frame
from bmrpruner._tree import PyTree, is_array, is_prunable

Cotangent = Callable[..., tuple[Any, jax.Array]]  # of outputs, batch and random signs

# Compiled apart, as the generator takes longer to compile than a small network, unless it is told
# to hurry, which makes it no slower.
random_signs = jax.jit(
    functools.partial(jax.random.rademacher, dtype=jnp.float32),
    static_argnames="shape",
    compiler_options={"xla_backend_optimization_level": 1},
)


class Sums(NamedTuple):
    """What is added up for one layer; inputs are taken from a shift, so that no digits cancel."""

    samples: jax.Array  # ()
    first: jax.Array  # (D,), inputs
    second: jax.Array  # (D, D), inputs times inputs
    curvature: jax.Array  # (R,), squares of output gradients


class CrossSums(NamedTuple):
    """The same for a layer whose inputs h have changed from x."""

    samples: jax.Array  # ()
    first: jax.Array  # (D,), h
    second: jax.Array  # (D, D), h times h
    before: jax.Array  # (D,), x
    cross: jax.Array  # (D, D), x times h


def softmax_cotangent(outputs: Any, batch: Any, signs: jax.Array) -> tuple[Any, jax.Array]:
    """√p∘ε − p(√p·ε) for random signs ε, whose outer product is diag(p) − ppᵀ on average.

    That is the Hessian of the cross-entropy with respect to the logits, whatever the labels.

    Returns:
      The cotangent, in the shape of the logits, and the number of examples.

    Raises:
      TypeError: If the outputs are not floating.
      ValueError: If they are not logits of two classes at least.
    """
    check_floating(outputs)
    if outputs.ndim < 2 or outputs.shape[-1] < 2:
        raise ValueError(
            "fn: expected logits (examples, classes) of two classes at least, got outputs of shape "
            f"{outputs.shape}; for one logit, give loss=."
        )
    probabilities = jax.nn.softmax(outputs.astype(jnp.float32))
    root = jnp.sqrt(probabilities) * signs
    found = root - probabilities * jnp.sum(root, -1, keepdims=True)
    return found.astype(outputs.dtype), jnp.float32(outputs.size // outputs.shape[-1])


def unit_cotangent(outputs: Any, batch: Any, signs: jax.Array) -> tuple[Any, jax.Array]:
    """Random signs: the Hessian of half the squared error is one."""
    check_floating(outputs)
    if outputs.ndim < 1:
        raise ValueError("fn: expected outputs (examples, ...), got a scalar.")
    return signs.astype(outputs.dtype), jnp.float32(outputs.shape[0])


class LossCotangent(NamedTuple):
    """The gradients of a loss of one's own, `loss(outputs, batch) -> (examples,)`."""

    loss: Callable[..., Any]

    def __call__(self, outputs: Any, batch: Any, signs: Any = None) -> tuple[Any, jax.Array]:
        """The gradients of the sum of the losses, and how many these are."""
        losses, pull = jax.vjp(lambda outputs: self.loss(outputs, batch), outputs)
        if jnp.ndim(losses) < 1:
            raise ValueError("loss: expected one loss per example, got a scalar.")
        return pull(jnp.ones_like(losses))[0], jnp.float32(losses.size)


def check_floating(outputs: Any) -> None:
    """Raise a TypeError unless a function's outputs are one floating array."""
    if not is_array(outputs) or not jnp.issubdtype(outputs.dtype, jnp.floating):
        got = outputs.dtype if is_array(outputs) else type(outputs).__name__
        raise TypeError(f"fn: expected outputs that are a floating array, got {got}.")


def add_moments(
    found: Any,
    frame: Frame,
    cotangent: Cotangent,
    arrays: list[jax.Array],
    batch: Any,
    signs: Any,
    sums: tuple[Sums, ...],
    shifts: tuple[jax.Array, ...],
) -> tuple[tuple[Sums, ...], jax.Array]:
    """The sums with a batch added, and its number of examples."""
    params = frame.whole(arrays)

    def run(probes: Any) -> Any:
        return found.capture(params, batch, probes=probes)

    outputs, pull, inputs = jax.vjp(run, found.probes(params, batch), has_aux=True)
    pulled, examples = cotangent(outputs, batch, signs)
    (grads,) = pull(pulled)
    added = []
    for uses, grad, total, shift in zip(inputs, grads, sums, shifts, strict=True):
        x = _stacked(uses) - shift
        squares = jnp.sum(_stacked(grad) ** 2, 0)
        moments = Sums(jnp.float32(len(x)), jnp.sum(x, 0), _product(x, x), squares)
        added.append(jax.tree.map(jnp.add, total, moments))
    return tuple(added), examples


def add_cross_moments(
    found: Any,
    frame: Frame,
    number: int,
    dense: list[jax.Array],
    pruned: list[jax.Array],
    batch: Any,
    sums: CrossSums,
    shift: jax.Array,
) -> CrossSums:
    """The sums of one layer with a batch added, whose inputs x and h two networks give."""
    networks = frame.whole(dense), frame.whole(pruned)
    x, h = (_stacked(_inputs(found, number, params, batch)) - shift for params in networks)
    moments = CrossSums(
        jnp.float32(len(h)), jnp.sum(h, 0), _product(h, h), jnp.sum(x, 0), _product(x, h)
    )
    return jax.tree.map(jnp.add, sums, moments)


class FirstLook(NamedTuple):
    """What one batch and one cotangent say about the layers."""

    input_means: tuple[jax.Array, ...]  # by layer, (D,)
    output_grads: tuple[jax.Array, ...]  # by layer, (R,), summed over rows
    grads: list[Any]  # by array of the parameters; None where it is none of floats


def first_look(
    found: Any,
    frame: Frame,
    cotangent: Cotangent,
    arrays: list[jax.Array],
    batch: Any,
    signs: Any,
) -> FirstLook:
    """The mean inputs of each layer, and the gradients of its outputs and of the parameters.

    The gradient of a layer's bias is the sum of those of its outputs.
    """
    free = {i: array for i, array in enumerate(arrays) if is_prunable(array)}

    def run(free: Any, probes: Any) -> Any:
        full = [free.get(i, array) for i, array in enumerate(arrays)]
        return found.capture(frame.whole(full), batch, probes=probes)

    probes = found.probes(frame.whole(arrays), batch)
    outputs, pull, inputs = jax.vjp(run, free, probes, has_aux=True)
    grads, output_grads = pull(cotangent(outputs, batch, signs)[0])
    return FirstLook(
        tuple(jnp.mean(_stacked(uses), 0) for uses in inputs),
        tuple(jnp.sum(_stacked(uses), 0) for uses in output_grads),
        [grads.get(i) for i in range(len(arrays))],
    )


@functools.partial(jax.jit, static_argnames="is_centred")
def finished(
    sums: Sums, shift: jax.Array, examples: Any, is_centred: bool
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """Mean and covariance of a layer's inputs, its curvature, and whether all are finite.

    If not centred, the mean is zero and the covariance is about zero. What is not finite in the
    inputs is so on the diagonal of the covariance.
    """
    offset = sums.first / sums.samples
    covariance = sums.second / sums.samples - jnp.outer(offset, offset)
    mean = shift + offset
    if not is_centred:
        covariance, mean = covariance + jnp.outer(mean, mean), jnp.zeros_like(mean)
    curvature = sums.curvature / examples
    is_finite = jnp.all(jnp.isfinite(jnp.diagonal(covariance))) & jnp.all(jnp.isfinite(curvature))
    return mean, covariance, curvature, is_finite


def _inputs(found: Any, number: int, params: PyTree, batch: Any) -> list[jax.Array]:
    """The inputs of one layer, for each of its uses."""
    collected = found.capture(params, batch, collect=lambda i, rows: rows if i == number else None)[
        1
    ]
    return collected[number]


def _stacked(uses: Any) -> jax.Array:
    """The rows of all uses of a layer, float32 or wider."""
    wide = [jnp.asarray(rows, jnp.promote_types(rows.dtype, jnp.float32)) for rows in uses]
    return wide[0] if len(wide) == 1 else jnp.concatenate(wide)


def _product(a: jax.Array, b: jax.Array) -> jax.Array:
    return jnp.matmul(a.T, b, precision="highest")
