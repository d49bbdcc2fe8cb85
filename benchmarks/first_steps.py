"""The first steps of IVON on LeNet-5 at the full learning rate, with and without a bound.

python benchmarks/first_steps.py --data mnist/

Prints the loss of the first batches and of the last twenty. A network whose outputs are constant
has a loss of ln 10 = 2.30.
"""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax
import rich.console
import rich.table
from networks import NETWORKS
from quality_training import ESS
from starting import start

import bmrpruner
from bmrpruner.study.idx import read_dataset, standardise


@dataclasses.dataclass
class Settings:
    """Train for some steps with several bounds on the norm of a step."""

    data: Path
    """Directory with MNIST-format IDX files."""
    steps: int = 200
    """Of batches of 100 standardised images."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Of the weights, the order and the noise."""
    bounds: tuple[float, ...] = (1.0, 10.0, 0.0)
    """Values of `clip_norm`; 0 for none."""


def main(settings: Settings) -> None:
    """Print a line for each temperature, bound and seed."""
    data = standardise(read_dataset(settings.data, classes=10))
    images, labels = jnp.asarray(data.train_images), jnp.asarray(data.train_labels)
    table = rich.table.Table("ess", "clip_norm", "seed", "loss 1", "2", "3", "10", "last 20")
    for name in ESS:
        for bound in settings.bounds:
            tx = bmrpruner.ivon(0.3, ESS[name] * len(images), clip_norm=bound or None)
            for seed in settings.seeds:
                losses = train(tx, settings.steps, jax.random.key(seed), images, labels)
                shown = [*losses[jnp.array([0, 1, 2, 9])], losses[-20:].mean()]
                numbers = (f"{float(loss):.2f}" for loss in shown)
                table.add_row(name, str(bound or None), str(seed), *numbers)
    rich.console.Console().print(table)


@functools.partial(jax.jit, static_argnums=(0, 1))
def train(tx: Any, steps: int, key: jax.Array, images: Any, labels: Any) -> jax.Array:
    """The loss of every batch."""
    network = NETWORKS["lenet5"]

    def loss_fn(params: Any, rows: Any, key: Any) -> jax.Array:
        logits = network.apply(params, images[rows])
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels[rows]).mean()

    def step(carry: Any, batch: Any) -> Any:
        params, state = carry
        loss, grads, state = bmrpruner.noisy_value_and_grad(loss_fn, state, params, *batch)
        updates, state = tx.update(grads, state, params)
        return (optax.apply_updates(params, updates), state), loss

    start, order, noise = jax.random.split(key, 3)
    params = network.init(start)
    rows = jax.random.choice(order, len(images), (steps, 100), replace=False)
    keys = jax.random.split(noise, steps)
    return jax.lax.scan(step, (params, tx.init(params)), (keys, rows))[1]


if __name__ == "__main__":
    start(main, Settings)
