"""IVON's recipe on networks of several makes, beside AdamW: accuracy on images held out.

python benchmarks/recipe.py                      # a table, in some minutes
python benchmarks/recipe.py --networks cnn       # one network

Shows whether the settings that IVON's docstring recommends hold beyond perceptrons: a perceptron, a
convolutional network with group normalisation and a small transformer, on scikit-learn's digits.
Every fifth image is held out; no test set is involved.
"""

from __future__ import annotations

import dataclasses
import functools
import statistics
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
import rich.console
import rich.markdown
from networks import convolved
from sklearn.datasets import load_digits
from starting import start

import bmrpruner
from bmrpruner import metrics
from bmrpruner.study.models import init_mlp, mlp

WIDTH = 32
ESS = (1, 3, 10, 30)  # times the number of examples


@dataclasses.dataclass
class Settings:
    """Train with AdamW and with IVON at several temperatures; mean ± deviation over the seeds."""

    networks: tuple[str, ...] = ("mlp", "cnn", "transformer")
    """mlp, cnn (convolutions and group normalisation), transformer (attention, layer norms)."""
    batch_sizes: tuple[int, ...] = (32, 128)
    """Images in a step."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """The random seeds."""
    epochs: int = 60
    """Passes through the training images."""


class Network(NamedTuple):
    """A network as two functions."""

    init: Callable[[jax.Array], Any]
    apply: Callable[[Any, jax.Array], jax.Array]  # (params, images (n, 64)) -> logits (n, 10)


class Split(NamedTuple):
    """Images (n, 64) in [0, 1] and their labels, to train on and held out."""

    images: jax.Array
    labels: jax.Array
    held_images: jax.Array
    held_labels: jax.Array


def main(settings: Settings) -> None:
    """Print a line for each network and batch size."""
    for name in settings.networks:
        if name not in NETWORKS:
            raise ValueError(f"networks: expected some of {', '.join(NETWORKS)}, got {name!r}.")
    split = read_split()
    head = ["network", "batch", "AdamW", *(f"IVON, {times}N" for times in ESS)]
    lines = [head, ["---"] * len(head)]
    for name in settings.networks:
        for batch_size in settings.batch_sizes:
            cells = [cell(name, batch_size, times, split, settings) for times in (None, *ESS)]
            lines.append([name, str(batch_size), *cells])
            print(" ".join(lines[-1]), flush=True)
    text = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    rich.console.Console(width=120).print(rich.markdown.Markdown(text))


def read_split() -> Split:
    """The digits; every fifth is held out."""
    images, labels = load_digits(return_X_y=True)
    held = jnp.arange(len(images)) % 5 == 0
    images, labels = jnp.asarray(images / 16, jnp.float32), jnp.asarray(labels)
    return Split(images[~held], labels[~held], images[held], labels[held])


def cell(name: str, batch_size: int, times: int | None, split: Split, settings: Settings) -> str:
    """Accuracy in percent and NLL, mean ± standard deviation over the seeds."""
    network, examples = NETWORKS[name], len(split.images)
    steps = settings.epochs * (examples // batch_size)
    if times is None:
        tx = optax.adamw(optax.cosine_decay_schedule(1e-3, steps))
    else:
        rate = optax.cosine_decay_schedule(0.3, steps)
        tx = bmrpruner.ivon(rate, ess=times * examples, b2=1 - 6 / steps)
    found = []
    for seed in settings.seeds:
        key = jax.random.key(seed)
        params = train(tx, network, times is not None, batch_size, steps, split, key)
        probs = jax.nn.softmax(network.apply(params, split.held_images))
        found.append(
            (
                100 * metrics.accuracy(probs, split.held_labels),
                metrics.nll(probs, split.held_labels),
            )
        )
    accuracies, losses = zip(*((float(a), float(b)) for a, b in found), strict=True)
    spread = statistics.stdev(accuracies) if len(accuracies) > 1 else 0.0
    return f"{statistics.mean(accuracies):.1f} ± {spread:.1f} ({statistics.mean(losses):.3f})"


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3, 4))
def train(
    tx: Any,
    network: Network,
    noisy: bool,
    batch_size: int,
    steps: int,
    split: Split,
    key: jax.Array,
) -> Any:
    """Train from scratch on random batches."""

    def loss_fn(params: Any, rows: jax.Array, key: Any = None) -> jax.Array:
        logits, labels = network.apply(params, split.images[rows]), split.labels[rows]
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    def step(carry: Any, key: jax.Array) -> Any:
        params, state = carry
        rows = jax.random.randint(key, (batch_size,), 0, len(split.images))
        if noisy:
            _, grads, state = bmrpruner.noisy_value_and_grad(loss_fn, state, params, key, rows)
        else:
            grads = jax.grad(loss_fn)(params, rows)
        updates, state = tx.update(grads, state, params)
        return (optax.apply_updates(params, updates), state), None

    params = network.init(key)
    return jax.lax.scan(step, (params, tx.init(params)), jax.random.split(key, steps))[0][0]


def init_cnn(key: jax.Array) -> Any:
    """Two 3 × 3 convolutions, each followed by a group normalisation, and a linear layer."""
    keys, he = jax.random.split(key, 3), jax.nn.initializers.he_normal(in_axis=(0, 1, 2))
    return {
        "conv_0": he(keys[0], (3, 3, 1, WIDTH)),
        "norm_0": {"scale": jnp.ones(WIDTH), "bias": jnp.zeros(WIDTH)},
        "conv_1": he(keys[1], (3, 3, WIDTH, WIDTH)),
        "norm_1": {"scale": jnp.ones(WIDTH), "bias": jnp.zeros(WIDTH)},
        "dense": init_mlp(keys[2], (WIDTH, 10))["dense_0"],
    }


def cnn(params: Any, images: jax.Array) -> jax.Array:
    """The logits."""
    x = images.reshape(-1, 8, 8, 1)
    for i, stride in enumerate((1, 2)):
        norm = params[f"norm_{i}"]
        x = convolved(x, params[f"conv_{i}"])[:, ::stride, ::stride]
        groups = x.reshape(len(x), -1, 4, WIDTH // 4)
        x = jax.nn.standardize(groups, axis=(1, 3)).reshape(x.shape)
        x = jax.nn.relu(x * norm["scale"] + norm["bias"])
    return x.mean((1, 2)) @ params["dense"]["kernel"] + params["dense"]["bias"]


def init_transformer(key: jax.Array) -> Any:
    """Patches of 2 × 2 pixels, two layers of attention and a perceptron, and a linear layer."""
    keys = jax.random.split(key, 4)

    def layer(key: jax.Array) -> Any:
        qkv, out, hidden = jax.random.split(key, 3)
        lecun = jax.nn.initializers.lecun_normal()
        return {
            "norm_0": {"scale": jnp.ones(WIDTH), "bias": jnp.zeros(WIDTH)},
            "qkv": lecun(qkv, (WIDTH, 3 * WIDTH)),
            "out": lecun(out, (WIDTH, WIDTH)),
            "norm_1": {"scale": jnp.ones(WIDTH), "bias": jnp.zeros(WIDTH)},
            "mlp": init_mlp(hidden, (WIDTH, 2 * WIDTH, WIDTH)),
        }

    return {
        "embed": init_mlp(keys[0], (4, WIDTH)),
        "positions": 0.1 * jax.random.normal(keys[1], (16, WIDTH)),
        "layers": [layer(key) for key in jax.random.split(keys[2])],
        "dense": init_mlp(keys[3], (WIDTH, 10)),
    }


def transformer(params: Any, images: jax.Array) -> jax.Array:
    """The logits."""
    patches = images.reshape(-1, 4, 2, 4, 2).swapaxes(2, 3).reshape(-1, 16, 4)
    x = mlp(params["embed"], patches) + params["positions"]
    for layer in params["layers"]:
        normed = jax.nn.standardize(x) * layer["norm_0"]["scale"] + layer["norm_0"]["bias"]
        q, k, v = jnp.split((normed @ layer["qkv"]).reshape(*x.shape[:2], 2, -1), 3, axis=-1)
        x = x + jax.nn.dot_product_attention(q, k, v).reshape(x.shape) @ layer["out"]
        normed = jax.nn.standardize(x) * layer["norm_1"]["scale"] + layer["norm_1"]["bias"]
        x = x + mlp(layer["mlp"], normed)
    return mlp(params["dense"], jax.nn.standardize(x).mean(1))


NETWORKS = {
    "mlp": Network(lambda key: init_mlp(key, (64, 128, 64, 10)), mlp),
    "cnn": Network(init_cnn, cnn),
    "transformer": Network(init_transformer, transformer),
}

if __name__ == "__main__":
    start(main, Settings)
