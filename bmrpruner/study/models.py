"""Forward passes for networks that come without code."""

from __future__ import annotations

import re
from typing import Any

import jax
import jax.numpy as jnp

from bmrpruner._tree import PyTree, join, keyed_leaves


def mlp(params: PyTree, inputs: Any) -> jax.Array:
    """Compute the logits of a multilayer perceptron with ReLU.

    Its name for `bmrpruner sweep --model` is `bmrpruner.study.models:mlp`. The layers are the
    arrays of two axes, (inputs, outputs), in the order of their names, numbers by value. An array
    of one axis under the same parent is added to the outputs.

    Args:
      params: Nested dicts, such as `{'dense_0': {'kernel': ..., 'bias': ...}, 'dense_1': ...}`.
      inputs: (n, features).

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
        x = x if name == names[-1] else jax.nn.relu(x)
    return x


def _by_number(name: str) -> list[Any]:
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]
