"""Networks of dicts, whose linear layers are captured by hand."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np


class Site(NamedTuple):
    name: str
    leaf: tuple[str, ...]
    positions: np.ndarray


class PlainMLP:
    """`x @ kernel + bias`, with ReLU between layers, of the names given; a name may come twice."""

    def __init__(self, params, names):
        self.names = names
        self.sites = [
            Site(
                f"{name}/kernel",
                (name, "kernel"),
                np.arange(params[name]["kernel"].size).reshape(params[name]["kernel"].shape).T,
            )
            for name in names
        ]

    def zeros(self, params, batch):
        return tuple(jnp.zeros((len(batch), len(site.positions))) for site in self.sites)

    def run(self, params, zeros, batch) -> tuple[jax.Array, Any]:
        x, inputs = jnp.asarray(batch), []
        for i, name in enumerate(self.names):
            inputs.append(x)
            x = x @ params[name]["kernel"] + zeros[i] + params[name].get("bias", 0)
            x = jax.nn.relu(x) if i < len(self.names) - 1 else x
        return x, tuple(inputs)

    def __call__(self, params, batch):
        return self.run(params, self.zeros(params, batch), batch)[0]
