"""The networks of the quality benchmark: LeCun's 784-300-100-10 and LeNet-5."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from bmrpruner.study.models import init_mlp, mlp


class Network(NamedTuple):
    """How to make the parameters, and what to do with them."""

    init: Callable[[jax.Array], Any]  # key -> parameters
    apply: Callable[[Any, jax.Array], jax.Array]  # parameters, (n, 784) -> logits (n, 10)
    batch: int  # images to average predictions of at once


def init_lenet5(key: jax.Array) -> dict[str, Any]:
    """Two convolutions of 6 and 16 channels, 5 × 5; three dense layers."""
    first, second, rest = jax.random.split(key, 3)
    initializer = jax.nn.initializers.he_normal()
    convolutions = {
        "conv_0": {"kernel": initializer(first, (5, 5, 1, 6)), "bias": jnp.zeros(6)},
        "conv_1": {"kernel": initializer(second, (5, 5, 6, 16)), "bias": jnp.zeros(16)},
    }
    return convolutions | init_mlp(rest, (400, 120, 84, 10))


def lenet5(params: dict[str, Any], images: jax.Array) -> jax.Array:
    """Logits. ReLU and maximum pooling, as LeNet-5 is built today."""
    x = images.reshape(-1, 28, 28, 1)
    for name, padding in (("conv_0", 2), ("conv_1", 0)):
        x = jnp.pad(x, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
        x = jax.nn.relu(pooled(convolved(x, params[name]["kernel"])) + params[name]["bias"])
    dense = {name: layer for name, layer in params.items() if name.startswith("dense")}
    return mlp(dense, x.reshape(len(images), -1))


def convolved(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """A convolution as one matrix product: on CPUs, within a scan, several times as fast."""
    size, _, _, channels = kernel.shape
    height, width = x.shape[1] - size + 1, x.shape[2] - size + 1
    patches = [x[:, i : i + height, j : j + width] for i in range(size) for j in range(size)]
    return jnp.concatenate(patches, -1) @ kernel.reshape(-1, channels)


def pooled(x: jax.Array) -> jax.Array:
    """The maximum of every 2 × 2 pixels."""
    rows = jnp.maximum(x[:, ::2], x[:, 1::2])
    return jnp.maximum(rows[:, :, ::2], rows[:, :, 1::2])


NETWORKS = {
    "mlp": Network(lambda key: init_mlp(key, (784, 300, 100, 10)), mlp, 2500),
    "lenet5": Network(init_lenet5, lenet5, 200),
}
