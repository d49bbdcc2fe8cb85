"""Predictions averaged over a posterior."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from bmrpruner._checks import check_positive
from bmrpruner._tree import PyTree, is_array
from bmrpruner.posteriors.diagonal_gaussian import DiagonalGaussian


def predict(
    apply_fn: Callable[..., Any],
    posterior: DiagonalGaussian,
    x: PyTree,
    key: jax.Array,
    samples: int = 32,
) -> Any:
    """The model's output, averaged over weights drawn from the posterior.

    Pruned weights are zero in every draw. The draws run one after another, in the memory of one, in
    one compiled function, which is compiled once per `apply_fn`: pass the same function object each
    time.

    Args:
      apply_fn: `apply_fn(params, x)`; returns what is to be averaged, such as class probabilities
        (not logits: the average of a model's logits is not the logits of the average model).
      posterior: The posterior; its mean may be any model, non-array leaves included.
      x: Inputs; any pytree of arrays.
      key: JAX key.
      samples: How many draws; 0 evaluates the mean of the posterior.

    Returns:
      The average of `apply_fn(draw, x)`, in its structure and shapes, floating-point.

    Raises:
      TypeError: If `posterior` is not a `DiagonalGaussian`.
      ValueError: If `samples` is not an integer, or negative.

    Example:
      >>> posterior = DiagonalGaussian(jnp.array([2.0, 0.0]), jnp.array([4.0, jnp.inf]))
      >>> apply_fn = lambda w, x: jax.nn.sigmoid(x @ w)
      >>> x, key = jnp.eye(2), jax.random.key(0)
      >>> predict(apply_fn, posterior, x, key, samples=0).round(2).tolist()
      [0.8799999952316284, 0.5]
      >>> bool(predict(apply_fn, posterior, x, key)[0] < 0.88)  # less sure than the mean
      True
    """
    if not isinstance(posterior, DiagonalGaussian):
        raise TypeError(
            f"posterior: expected a DiagonalGaussian, got a {type(posterior).__name__}; "
            "see bmrpruner.posteriors for ways to get one."
        )
    if not isinstance(samples, int):
        raise ValueError(f"samples: expected an integer, got {samples!r}.")
    check_positive("samples", samples, allow_zero=True)
    leaves, structure = jax.tree.flatten(posterior)
    arrays = [leaf if is_array(leaf) else None for leaf in leaves]
    rest = tuple(None if is_array(leaf) else leaf for leaf in leaves)
    return _averaged(apply_fn, structure, rest, samples, arrays, x, key)


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3))
def _averaged(
    apply_fn: Callable[..., Any],
    structure: Any,
    rest: tuple[Any, ...],
    samples: int,
    arrays: list[Any],
    x: PyTree,
    key: jax.Array,
) -> Any:
    leaves = [b if a is None else a for a, b in zip(arrays, rest, strict=True)]
    posterior = jax.tree.unflatten(structure, leaves)
    if samples == 0:
        return apply_fn(posterior.mean, x)
    return average_draws(apply_fn, posterior, x, jax.random.split(key, samples))


def average_draws(
    apply_fn: Callable[..., Any], posterior: DiagonalGaussian, x: PyTree, keys: jax.Array
) -> Any:
    """The mean of `apply_fn(posterior.sample(key), x)` over the keys, one draw at a time.

    `predict` without its checks and its compilation, for use inside a compiled function.

    Args:
      apply_fn: `apply_fn(params, x)`; returns a pytree of arrays.
      posterior: The posterior.
      x: Inputs; any pytree of arrays.
      keys: JAX keys, (samples,), at least one.

    Returns:
      The mean in the structure and shapes of the output: floating-point, summed in float32 or
      wider, in the dtype of the output where that is not an integer.

    Example:
      >>> posterior = DiagonalGaussian(jnp.array([2.0, 0.0]), jnp.array([jnp.inf, jnp.inf]))
      >>> average_draws(jnp.dot, posterior, jnp.ones(2), jax.random.split(jax.random.key(0), 3))
      Array(2., dtype=float32)
    """

    def outputs(key: jax.Array) -> Any:
        return apply_fn(posterior.sample(key), x)

    def add(totals: Any, key: jax.Array) -> tuple[Any, None]:
        return jax.tree.map(
            lambda total, out: total + jnp.asarray(out, total.dtype), totals, outputs(key)
        ), None

    like = jax.tree.map(_mean_like, jax.eval_shape(outputs, keys[0]))
    start = jax.tree.map(
        lambda out: jnp.zeros(out.shape, jnp.promote_types(out.dtype, jnp.float32)), like
    )
    totals, _ = jax.lax.scan(add, start, keys)
    return jax.tree.map(lambda total, out: (total / len(keys)).astype(out.dtype), totals, like)


def _mean_like(out: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
    """The shape and dtype of a mean over arrays like `out`."""
    is_inexact = jnp.issubdtype(out.dtype, jnp.inexact)
    return jax.ShapeDtypeStruct(out.shape, out.dtype if is_inexact else jnp.result_type(float))
