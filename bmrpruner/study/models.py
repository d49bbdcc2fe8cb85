"""Multilayer perceptrons: parameters, and the forward pass for those that come without code."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from bmrpruner._tree import PyTree, join, keyed_leaves


def init_mlp(key: jax.Array, sizes: Sequence[int]) -> dict[str, dict[str, jax.Array]]:
    """Draw the parameters of an `mlp`: He-normal kernels, zero biases.

    Args:
      key: JAX key.
      sizes: Widths of the inputs, the hidden layers and the outputs, at least two.

    Returns:
      `{'dense_0': {'kernel': (sizes[0], sizes[1]), 'bias': (sizes[1],)}, 'dense_1': ...}`, float32.

    Raises:
      ValueError: If there are fewer than two sizes.

    Example:
      >>> params = init_mlp(jax.random.key(0), (784, 300, 10))
      >>> params['dense_1']['kernel'].shape, params['dense_1']['bias'].shape
      ((300, 10), (10,))
    """
    if len(sizes) < 2:
        raise ValueError(f"sizes: expected those of inputs and outputs at least, got {sizes}.")
    shapes = list(itertools.pairwise(sizes))
    initializer = jax.nn.initializers.he_normal()
    return {
        f"dense_{i}": {"kernel": initializer(layer_key, shape), "bias": jnp.zeros(shape[1])}
        for i, (layer_key, shape) in enumerate(
            zip(jax.random.split(key, len(shapes)), shapes, strict=True)
        )
    }


def mlp(
    params: PyTree, inputs: Any, activation: Callable[[jax.Array], jax.Array] = jax.nn.relu
) -> jax.Array:
    """Compute the logits of a multilayer perceptron.

    Its name for `bmrpruner sweep --model` is `bmrpruner.study.models:mlp`. The layers are the
    arrays of two axes, (inputs, outputs), in the order of their names, numbers by value. An array
    of one axis under the same parent is added to the outputs.

    Args:
      params: Nested dicts, such as `{'dense_0': {'kernel': ..., 'bias': ...}, 'dense_1': ...}`.
      inputs: (n, features).
      activation: What the outputs of all layers but the last go through.

    Returns:
      Logits, (n, classes).

    Raises:
      ValueError: If there is no layer, or an array that is no kernel and no bias.

    Example:
      >>> params = {'a': {'kernel': -jnp.eye(2)}, 'b': {'kernel': jnp.eye(2), 'bias': jnp.ones(2)}}
      >>> mlp(params, jnp.array([[1.0, -3.0]])).tolist()
      [[1.0, 4.0]]
    """
    layers: dict[str, dict[int, Any]] = {}
    for key, leaf in keyed_leaves(params):
        layer = layers.setdefault(join(key[:-1]), {})
        if leaf.ndim not in (1, 2) or leaf.ndim in layer:
            raise ValueError(
                f"{join(key)}: expected a kernel of two axes and at most one bias of one axis in a "
                f"layer of a multilayer perceptron, got another array of shape {leaf.shape}."
            )
        layer[leaf.ndim] = leaf
    names = sorted((name for name in layers if 2 in layers[name]), key=_by_number)
    if not names:
        raise ValueError("params: expected kernels of two axes, got none.")
    x = jnp.asarray(inputs)
    for name in names:
        x = x @ layers[name][2] + layers[name].get(1, 0)
        x = x if name == names[-1] else activation(x)
    return x


def _by_number(name: str) -> list[Any]:
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]
