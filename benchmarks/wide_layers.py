"""Memory and time of layers as wide as those of large language models."""

from __future__ import annotations

import resource
import time

import jax
import jax.numpy as jnp

from bmrpruner import oneshot

# Outputs and inputs of a feed-forward block, both ways.
SHAPES = ((11_008, 4_096), (4_096, 11_008))


def report_wide(width: int = 4_096, rows: int = 4_096) -> None:
    """Print what the sweep's compiled program needs, and what one layer takes for real."""
    for shape in SHAPES:
        needed = memory_of_sweep(*shape)
        print(f"sweep of {shape[0]:,} × {shape[1]:,}: " + ", ".join(map(as_text, needed.items())))
    seconds = time_sweep(rows, width)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"sweep of {rows:,} × {width:,}: {seconds:.1f} s, compilation included")
    print(f"largest memory of the process: {peak:.2f} GiB")


def memory_of_sweep(outputs: int, inputs: int) -> dict[str, float]:
    """GiB of the arguments, of the results and in between, as the compiler says."""
    arrays = [
        jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((outputs, inputs), (inputs,) * 2)
    ]
    program = jax.jit(lambda w, p: oneshot.sweep(w, p, sparsity=0.5)).lower(*arrays).compile()
    found = program.memory_analysis()
    names = {"argument": "arguments", "output": "results", "temp": "in between"}
    return {text: getattr(found, f"{name}_size_in_bytes") / 2**30 for name, text in names.items()}


def time_sweep(outputs: int, inputs: int) -> float:
    """Seconds to prune half of a layer by the sweep."""
    first, second = jax.random.split(jax.random.key(0))
    weights = jax.random.normal(first, (outputs, inputs))
    examples = jax.random.normal(second, (2 * inputs, inputs))
    precision = examples.T @ examples / len(examples) + 0.01 * jnp.eye(inputs)
    jax.block_until_ready((weights, precision))
    begin = time.perf_counter()
    pruned, mask = jax.block_until_ready(oneshot.sweep(weights, precision, sparsity=0.5))
    assert int(jnp.sum(mask == 0)) == int(jnp.sum(pruned == 0))
    return time.perf_counter() - begin


def as_text(item: tuple[str, float]) -> str:
    """A name and GiB."""
    return f"{item[0]} {item[1]:.2f} GiB"
