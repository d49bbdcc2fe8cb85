"""How long a mask update takes, and what a wrapped step costs; ratios within one run.

python benchmarks/speed.py --out speed.json              # 1e6, 1e7 and 1e8 weights
python benchmarks/speed.py --large                       # and 1e9 scores
python benchmarks/speed.py --sizes 1000000 --repeats 3   # a short form
"""

from __future__ import annotations

import dataclasses
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import rich.box
import rich.console
from rich.table import Table
from starting import start

import bmrpruner
from bmrpruner import selection
from bmrpruner.files import atomic_write


@dataclasses.dataclass
class Settings:
    """Time the selection and the wrapped step on the devices at hand."""

    sizes: tuple[int, ...] = (10**6, 10**7, 10**8)
    """Numbers of float32 scores to select from."""
    large: bool = False
    """Add 1e9 scores."""
    step_params: int = 25_000_000
    """Parameters of the step benchmark; 0 leaves it out."""
    repeats: int = 5
    """Timed calls; the smallest time counts."""
    sort_limit: int = 10**7
    """Largest size at which to sort as well, for comparison."""
    out: Path | None = None
    """Where to write the results as JSON."""


def main(settings: Settings) -> None:
    """Measure, print tables, write JSON."""
    sizes = settings.sizes + ((10**9,) if settings.large else ())
    rows = [selection_times(size, settings) for size in sizes]
    console = rich.console.Console()
    console.width = max(console.width, 110)
    console.print(table(f"Keep 10 % of the scores, {device_name()}, milliseconds", rows))
    results: dict[str, Any] = {"device": device_name(), "selection": rows}
    if settings.step_params:
        model = f"Adam on {settings.step_params:,} parameters in 161 leaves, all with masks"
        results["step"] = step_times(settings)
        console.print(table(f"{model}: a step without a mask update", [results["step"]]))
        results["compile"] = compile_times(settings)
        console.print(table(f"{model}: compilation", [results["compile"]]))
    if settings.out:
        with atomic_write(settings.out, force=True) as path:
            path.write_text(json.dumps(results, indent=1))


def device_name() -> str:
    """The accelerator's kind, or the number of CPU cores."""
    device = jax.devices()[0]
    return f"{os.cpu_count()} CPU cores" if device.platform == "cpu" else device.device_kind


def resnet_sizes(total: int) -> list[int]:
    """Leaf sizes in the proportions of a ResNet-50's 161 leaves, adding up to `total`."""
    sizes, channels_in = [7 * 7 * 3 * 64, 64, 64], 64
    for width, blocks in ((64, 3), (128, 4), (256, 6), (512, 3)):
        for block in range(blocks):
            sizes += [channels_in * width, width, width, 9 * width * width, width, width]
            sizes += [width * 4 * width, 4 * width, 4 * width]
            if block == 0:
                sizes += [channels_in * 4 * width, 4 * width, 4 * width]
            channels_in = 4 * width
    sizes += [2048 * 1000, 1000]
    scaled = np.maximum(1, np.floor(np.array(sizes) * total / sum(sizes)).astype(int))
    scaled[-2] += total - scaled.sum()
    return scaled.tolist()


def selection_times(size: int, settings: Settings) -> dict[str, Any]:
    """One row: our selection, a sort, and one pass over the same memory."""
    make = jax.jit(lambda key: jnp.abs(jax.random.normal(key, (size,))))
    scores = make(jax.random.key(0))
    keep = size // 10
    one = jax.jit(lambda x: selection.top_masks([x], [keep])[0])
    row: dict[str, Any] = {"scores": size, "one leaf": best(one, settings, scores)}
    row["temporary bytes / score"] = temporary_bytes(one, scores) / size

    ends = np.cumsum(resnet_sizes(size))[:-1].tolist()
    leaves = jax.jit(lambda x: jnp.split(x, ends))(scores)
    joint = jax.jit(lambda xs: selection.top_masks_jointly(xs, keep))
    row["161 leaves"] = best(joint, settings, leaves)
    del leaves
    row["read"] = best(jax.jit(jnp.sum), settings, scores)
    row["copy"] = best(jax.jit(lambda x: x + 1), settings, scores)
    if size <= settings.sort_limit:
        row["argsort"] = best(jax.jit(lambda x: argsort_mask(x, keep)), settings, scores)
        row["argsort / ours"] = row["argsort"] / row["one leaf"]
    return row


def argsort_mask(scores: jax.Array, keep: int) -> jax.Array:
    """The mask as a sort makes it."""
    order = jnp.argsort(-scores)
    return jnp.zeros(scores.shape, "uint8").at[order].set(jnp.arange(scores.size) < keep)


def step_times(settings: Settings) -> dict[str, Any]:
    """Adam with masking, by hand and wrapped, in turns: steps without a mask update."""
    sizes = resnet_sizes(settings.step_params)
    params = [jnp.full((1, size), 0.5) for size in sizes]
    masks = [jnp.ones((1, size), "uint8") for size in sizes]
    adam = optax.adam(1e-3)
    wrapped, wrapped_step = make_step(bmrpruner.MagnitudePruning)

    def bare_step(params: Any, state: Any, masks: Any) -> Any:
        updates, state = adam.update(params, state, params)
        params = optax.apply_updates(params, updates)
        return [jnp.where(m, p, 0) for m, p in zip(masks, params, strict=True)], state, masks

    sides = {}
    for name, step, carry in (
        ("bare + masking", bare_step, (params, adam.init(params), masks)),
        ("wrapped", wrapped_step, (params, wrapped.init(params))),
    ):
        carry = jax.tree.map(jnp.array, carry)
        sides[name] = jax.jit(step, donate_argnums=range(len(carry))), carry
    times: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(1 + 4 * settings.repeats):
        for name, (step, carry) in sides.items():
            start = time.perf_counter()
            carry = jax.block_until_ready(step(*carry))
            times[name].append(1e3 * (time.perf_counter() - start))
            sides[name] = step, carry
    row = {f"{name}, ms": float(np.median(t[1:])) for name, t in times.items()}
    ratios = np.array(times["wrapped"][1:]) / np.array(times["bare + masking"][1:])
    return row | {"ratio": float(np.median(ratios))}


def compile_times(settings: Settings) -> dict[str, Any]:
    """Seconds to trace and compile, the median of five in turns: each step, and masks alone."""
    params = [jnp.full((1, size), 0.5) for size in resnet_sizes(settings.step_params)]
    counts = jnp.full(len(params), 5)
    algorithms = {
        "bare Adam": None,
        "magnitude": bmrpruner.MagnitudePruning,
        "global magnitude": bmrpruner.GlobalMagnitudePruning,
    }
    programs: dict[str, tuple[Any, ...]] = {}
    for name, algorithm in algorithms.items():
        tx, step = make_step(algorithm)
        programs[name] = jax.jit(step, donate_argnums=(0, 1)), params, tx.init(params)
    programs["top_masks"] = jax.jit(selection.top_masks), params, counts
    programs["top_masks_jointly"] = jax.jit(selection.top_masks_jointly), params, counts[0]
    times: dict[str, list[float]] = {name: [] for name in programs}
    for _ in range(5):
        for name, (program, *args) in programs.items():
            jax.clear_caches()
            start = time.perf_counter()
            program.lower(*args).compile()
            times[name].append(time.perf_counter() - start)
    row = {f"{name}, s": float(np.median(t)) for name, t in times.items()}
    return row | {"1.5 × bare + 3": 1.5 * row["bare Adam, s"] + 3}


def make_step(algorithm: Any) -> tuple[Any, Callable[..., Any]]:
    """An optimizer and its step, wrapped in a pruner of the algorithm; None for plain Adam."""
    if algorithm is None:
        tx = optax.adam(1e-3)
    else:
        schedule = bmrpruner.PeriodicSchedule(1000, 1000, None)
        pruner = algorithm(sparsity=0.9, scheduler=schedule)
        tx = pruner.wrap_optax(optax.adam(1e-3))

    def step(params: Any, state: Any) -> Any:
        updates, state = tx.update(params, state, params)
        params = optax.apply_updates(params, updates)
        return (params if algorithm is None else pruner.post_gradient_update(params, state)), state

    return tx, step


def best(fn: Callable[..., Any], settings: Settings, *args: Any) -> float:
    """Smallest time of a call in milliseconds, after one to compile."""
    jax.block_until_ready(fn(*args))
    times = []
    for _ in range(settings.repeats):
        start = time.perf_counter()
        jax.block_until_ready(fn(*args))
        times.append(1e3 * (time.perf_counter() - start))
    return min(times)


def temporary_bytes(fn: Any, *args: Any) -> float:
    """What the compiled function holds beside its arguments and results."""
    analysis = fn.lower(*args).compile().memory_analysis()
    return float(analysis.temp_size_in_bytes)


def table(title: str, rows: list[dict[str, Any]]) -> Table:
    """One line per row; numbers to three digits."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    result = Table(title=title, box=rich.box.SIMPLE_HEAD)
    for name in columns:
        result.add_column(name, justify="right")
    for row in rows:
        cells = [row.get(name) for name in columns]
        result.add_row(
            *("-" if c is None else f"{c:,}" if isinstance(c, int) else f"{c:.3g}" for c in cells)
        )
    return result


if __name__ == "__main__":
    start(main, Settings)
