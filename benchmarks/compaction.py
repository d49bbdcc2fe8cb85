"""How much smaller and faster compacted models are: shapes, FLOPs, milliseconds, bytes.

Every model is pruned at random to the share of units in the table, in each group or, where widths
are multiples, over all of them, and then compacted. Both functions are timed in one run, in turns;
beside the perceptrons a third one, which was written with the small widths.
Run: python benchmarks/compaction.py
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

import bmrpruner
from bmrpruner._tree import keyed_leaves
from bmrpruner.sparsity_types import Group
from bmrpruner.study.shrinking import milliseconds


class Case(NamedTuple):
    """A model, what goes of it, and the input that it is timed with."""

    name: str
    fn: Callable[..., Any]
    params: Any
    args: tuple[Any, ...]
    share: float
    multiple: int = 1  # of which each width is one
    written_small: Callable[..., Any] | None = None  # of the small parameters


def mlp(widths: tuple[int, ...], share: float, multiple: int = 1) -> Case:
    """A perceptron at batch 128."""
    rng = np.random.default_rng(0)
    params = [
        {"w": jnp.asarray(rng.normal(0, n**-0.5, (n, m)), "float32"), "b": jnp.full(m, 0.1)}
        for n, m in itertools.pairwise(widths)
    ]

    def fn(params: Any, x: jax.Array) -> jax.Array:
        for p in params[:-1]:
            x = jax.nn.relu(x @ p["w"] + p["b"])
        return x @ params[-1]["w"] + params[-1]["b"]

    x = jnp.asarray(rng.normal(size=(128, widths[0])), "float32")
    return Case(f"MLP {'-'.join(map(str, widths))}", fn, params, (x,), share, multiple, fn)


class Cnn(nn.Module):
    """Three convolutions with batch norm, pooling, and a dense layer."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Logits of images (batch, 28, 28, 1)."""
        for width in (64, 128, 128):
            x = nn.relu(nn.BatchNorm(use_running_average=True)(nn.Conv(width, (3, 3))(x)))
            x = nn.max_pool(x, (2, 2), (2, 2))
        x = nn.relu(nn.Dense(256)(x.reshape(x.shape[0], -1)))
        return nn.Dense(10)(x)


def cnn(share: float) -> Case:
    """A convolutional network at batch 128."""
    x = jnp.asarray(np.random.default_rng(0).normal(size=(128, 28, 28, 1)), "float32")
    params = Cnn().init(jax.random.key(0), x)
    return Case("CNN 64-128-128, BatchNorm", Cnn().apply, params, (x,), share)


class Transformer(nn.Module):
    """Two blocks of width 128 over a vocabulary of 64."""

    @nn.compact
    def __call__(self, t: jax.Array) -> jax.Array:
        """Logits of tokens (batch, length)."""
        x = nn.Embed(64, 128)(t) + nn.Embed(64, 128)(jnp.arange(t.shape[1]))
        mask = nn.make_causal_mask(t)
        for _ in range(2):
            x = x + nn.MultiHeadDotProductAttention(num_heads=4)(nn.LayerNorm()(x), mask=mask)
            x = x + nn.Dense(128)(nn.gelu(nn.Dense(512)(nn.LayerNorm()(x))))
        return nn.Dense(64)(nn.LayerNorm()(x))


def transformer(share: float) -> Case:
    """A transformer at 64 sequences of 32 tokens."""
    t = jnp.asarray(np.random.default_rng(0).integers(0, 64, (64, 32)))
    net = Transformer()
    return Case("transformer, width 128", net.apply, net.init(jax.random.key(0), t), (t,), share)


def pruned(case: Case) -> Any:
    """Parameters of which a random share of the units of every group is zero."""
    groups = bmrpruner.dependency_groups(case.fn, case.params, *case.args)
    if case.multiple > 1:
        kind = Group(groups, multiple=case.multiple)
        pruner = bmrpruner.RandomPruning(sparsity=case.share, sparsity_type=kind)
        return pruner.instant_sparsify(case.params)[0]
    rng = np.random.default_rng(1)
    arrays = {key: np.array(leaf) for key, leaf in keyed_leaves(case.params)}
    for group in groups:
        if group.frozen is None and group.size > 1:
            dead = rng.permutation(group.size)[: round(case.share * group.size)]
            for key, axis, rows in group.members:
                index: list[Any] = [slice(None)] * arrays[key].ndim
                index[axis] = np.unique(rows[dead])
                arrays[key][tuple(index)] = 0
    return jax.tree.unflatten(jax.tree.structure(case.params), map(jnp.asarray, arrays.values()))


def row(case: Case, repeats: int) -> str:
    """One line of the table."""
    params = pruned(case)
    small = bmrpruner.compact(case.fn, params, *case.args)
    large, little = jax.jit(case.fn), jax.jit(small.fn)
    expected, got = large(params, *case.args), little(small.params, *case.args)
    error = float(jnp.abs(got - expected).max() / jnp.abs(expected).max())
    assert error < 2e-5, error
    runs = [lambda: large(params, *case.args), lambda: little(small.params, *case.args)]
    if case.written_small is not None:
        written = jax.jit(case.written_small)
        runs.append(lambda: written(small.params, *case.args))
    before, after, *others = milliseconds(runs, repeats)
    r = small.report
    widths = f", multiples of {case.multiple}" if case.multiple > 1 else ""
    return (
        f"| {case.name}, {case.share:.0%} of units{widths} "
        f"| {r.parameters[0]:,} → {r.parameters[1]:,} "
        f"| {r.bytes[0] / 1e6:.2f} → {r.bytes[1] / 1e6:.2f} | {r.flops[0] / r.flops[1]:.1f} × "
        f"| {before:.2f} → {after:.2f} | {before / after:.1f} × "
        f"| {''.join(f'{before / other:.1f} ×' for other in others)} | {error:.0e} |"
    )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=50, help="calls that are timed")
    repeats = parser.parse_args().repeats
    print("| model | parameters | MB | fewer FLOPs | ms | faster | written small | error |")
    print("|---|---|---|---|---|---|---|---|")
    cases = [
        mlp((784, 300, 100, 10), 0.9),
        mlp((784, 300, 100, 10), 0.9, multiple=16),
        mlp((784, 1024, 1024, 10), 0.9),
        cnn(0.75),
        cnn(0.5),
        transformer(0.5),
    ]
    for case in cases:
        print(row(case, repeats), flush=True)


if __name__ == "__main__":
    main()
