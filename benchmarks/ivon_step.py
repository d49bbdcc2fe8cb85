"""What an IVON training step costs beside AdamW's: 784-300-100-10, one draw; ratios in one run.

python benchmarks/ivon_step.py
"""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
import rich.box
import rich.console
from networks import NETWORKS
from rich.table import Table
from starting import start

import bmrpruner

NETWORK = NETWORKS["mlp"]


@dataclasses.dataclass
class Settings:
    """Time scans of training steps on random images."""

    batch_sizes: tuple[int, ...] = (100, 500)
    """Images a step."""
    steps: int = 100
    """Steps a scan."""
    repeats: int = 11
    """Scans of each optimizer, in turn; the median counts."""


def main(settings: Settings) -> None:
    """Measure and print."""
    table = Table(title="784-300-100-10, milliseconds a step", box=rich.box.SIMPLE_HEAD)
    for name in ("batch", "AdamW", "IVON", "IVON / AdamW"):
        table.add_column(name, justify="right")
    for batch_size in settings.batch_sizes:
        adam, ivon = step_times(batch_size, settings)
        table.add_row(str(batch_size), f"{adam:.2f}", f"{ivon:.2f}", f"{ivon / adam:.2f}")
    rich.console.Console().print(table)


def step_times(batch_size: int, settings: Settings) -> list[float]:
    """Milliseconds a step of AdamW and of IVON, scanned in turn."""
    image_key, label_key = jax.random.split(jax.random.key(0))
    images = jax.random.normal(image_key, (batch_size, 784))
    labels = jax.random.randint(label_key, (batch_size,), 0, 10)

    def loss_fn(params: Any, key: Any = None) -> jax.Array:
        logits = NETWORK.apply(params, images)
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    def plain(state: Any, params: Any, key: Any) -> tuple[Any, Any]:
        return jax.grad(loss_fn)(params), state

    def noisy(state: Any, params: Any, key: Any) -> tuple[Any, Any]:
        return bmrpruner.noisy_value_and_grad(loss_fn, state, params, key)[1:]

    runs = [
        make_run(optax.adamw(1e-4), plain, settings.steps),
        make_run(bmrpruner.ivon(1e-3, ess=60_000), noisy, settings.steps),
    ]
    times: list[list[float]] = [[], []]
    for _ in range(settings.repeats):
        for run, column in zip(runs, times, strict=True):
            start = time.perf_counter()
            run()
            column.append(1e3 * (time.perf_counter() - start) / settings.steps)
    return [statistics.median(column) for column in times]


def make_run(
    tx: optax.GradientTransformation, gradients: Callable[..., Any], steps: int
) -> Callable[[], None]:
    """A compiled scan of training steps; every call goes on from where the last one ended."""
    params = NETWORK.init(jax.random.key(0))
    carry = (params, tx.init(params))

    def step(carry: Any, key: jax.Array) -> tuple[Any, None]:
        params, state = carry
        grads, state = gradients(state, params, key)
        updates, state = tx.update(grads, state, params)
        return (optax.apply_updates(params, updates), state), None

    keys = jax.random.split(jax.random.key(1), steps)
    scan = jax.jit(lambda carry: jax.lax.scan(step, carry, keys)[0], donate_argnums=0)
    carry = jax.block_until_ready(scan(jax.tree.map(jnp.array, carry)))

    def run() -> None:
        nonlocal carry
        carry = jax.block_until_ready(scan(carry))

    return run


if __name__ == "__main__":
    start(main, Settings)
