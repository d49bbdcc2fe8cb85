"""A small transformer over characters: parameters, forward pass, training, bits per character."""

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax


class Sizes(NamedTuple):
    """How large the model is; hashable."""

    layers: int = 4
    width: int = 128
    heads: int = 4
    context: int = 128
    batch: int = 32


class Text(NamedTuple):
    """Characters as integers: the first 90 % to train on, 5 % for validation, 5 % to test."""

    characters: str
    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray


def read_text(text: str) -> Text:
    """Split a text into its parts."""
    characters = "".join(sorted(set(text)))
    numbers = {character: i for i, character in enumerate(characters)}
    codes = np.array([numbers[character] for character in text], np.int32)
    first, second = len(codes) * 90 // 100, len(codes) * 95 // 100
    return Text(characters, codes[:first], codes[first:second], codes[second:])


def init(key: jax.Array, sizes: Sizes, characters: int) -> dict[str, Any]:
    """Parameters: kernels (inputs, outputs), with biases in the feed-forward parts alone."""
    width = sizes.width
    shapes = {"query": (width, width), "key": (width, width), "value": (width, width)}
    shapes |= {"out": (width, width), "up": (width, 4 * width), "down": (4 * width, width)}

    def kernel(name: str, shape: tuple[int, int], scale: float = 1.0) -> jax.Array:
        own = jax.random.fold_in(key, sum(map(ord, name)) * 1009 + len(name))
        return scale * jax.random.normal(own, shape) / math.sqrt(shape[0])

    params: dict[str, Any] = {
        "embedding": kernel("embedding", (characters, width), 0.1 * math.sqrt(characters)),
        "position": kernel("position", (sizes.context, width), 0.1 * math.sqrt(sizes.context)),
        "norm": jnp.ones(width),
        "head": {"kernel": kernel("head", (width, characters)), "bias": jnp.zeros(characters)},
    }
    for i in range(sizes.layers):
        layer: dict[str, Any] = {"norm_0": jnp.ones(width), "norm_1": jnp.ones(width)}
        for name, shape in shapes.items():
            layer[name] = {"kernel": kernel(f"{i}{name}", shape)}
        layer["up"]["bias"], layer["down"]["bias"] = jnp.zeros(4 * width), jnp.zeros(width)
        params[f"layer_{i}"] = layer
    return params


def apply(params: dict[str, Any], codes: jax.Array, heads: int) -> jax.Array:
    """Logits of the next character, (texts · length, characters)."""
    x = params["embedding"][codes] + params["position"][: codes.shape[1]]
    names = sorted(name for name in params if name.startswith("layer_"))
    for name in names:
        layer = params[name]
        x = x + attention(layer, normalised(x, layer["norm_0"]), heads)
        hidden = jax.nn.gelu(dense(layer["up"], normalised(x, layer["norm_1"])))
        x = x + dense(layer["down"], hidden)
    logits = dense(params["head"], normalised(x, params["norm"]))
    return logits.reshape(-1, logits.shape[-1])


def attention(layer: dict[str, Any], x: jax.Array, heads: int) -> jax.Array:
    """Causal attention of several heads."""
    n, length, width = x.shape
    shape = (n, length, heads, width // heads)
    query, key, value = (dense(layer[k], x).reshape(shape) for k in ("query", "key", "value"))
    scores = jnp.einsum("nqhd,nkhd->nhqk", query, key) / math.sqrt(width // heads)
    is_past = jnp.tril(jnp.ones((length, length), bool))
    weights = jax.nn.softmax(jnp.where(is_past, scores, -1e9))
    mixed = jnp.einsum("nhqk,nkhd->nqhd", weights, value)
    return dense(layer["out"], mixed.reshape(n, length, width))


def dense(layer: dict[str, Any], x: jax.Array) -> jax.Array:
    """A linear layer, with its bias if it has one."""
    y = x @ layer["kernel"]
    return y + layer["bias"] if "bias" in layer else y


def normalised(x: jax.Array, scale: jax.Array) -> jax.Array:
    """RMSNorm."""
    return x * jax.lax.rsqrt(jnp.mean(x**2, -1, keepdims=True) + 1e-6) * scale


def train(key: jax.Array, text: Text, sizes: Sizes, steps: int) -> dict[str, Any]:
    """The parameters after AdamW with a warm-up and a cosine decay."""
    init_key, batch_key = jax.random.split(key)
    params = init(init_key, sizes, len(text.characters))
    tx = make_optimizer(steps)
    state, codes = tx.init(params), jnp.asarray(text.train)
    chunk = max(1, steps // 20)
    for start in range(0, steps, chunk):
        count = min(chunk, steps - start)
        keys = jax.random.split(jax.random.fold_in(batch_key, start), count)
        params, state = jax.block_until_ready(
            train_steps(sizes, steps, (params, state), codes, keys)
        )
        print(f"step {start + count} of {steps}", flush=True)
    return params


@functools.cache
def make_optimizer(steps: int) -> Any:
    """AdamW."""
    rate = optax.warmup_cosine_decay_schedule(0.0, 2e-3, max(1, steps // 20), steps)
    adamw = optax.adamw(rate, b2=0.99, weight_decay=0.1)
    return optax.chain(optax.clip_by_global_norm(1.0), adamw)


@functools.partial(jax.jit, static_argnums=(0, 1), donate_argnums=2)
def train_steps(sizes: Sizes, steps: int, carry: Any, codes: jax.Array, keys: jax.Array) -> Any:
    """Steps on random pieces of the text."""
    tx = make_optimizer(steps)

    def loss_fn(params: Any, pieces: jax.Array) -> jax.Array:
        logits = apply(params, pieces[:, :-1], sizes.heads)
        return optax.softmax_cross_entropy_with_integer_labels(logits, pieces[:, 1:].ravel()).mean()

    def step(carry: Any, key: jax.Array) -> Any:
        params, state = carry
        starts = jax.random.randint(key, (sizes.batch, 1), 0, len(codes) - sizes.context - 1)
        pieces = codes[starts + jnp.arange(sizes.context + 1)]
        updates, state = tx.update(jax.grad(loss_fn)(params, pieces), state, params)
        return (optax.apply_updates(params, updates), state), None

    return jax.lax.scan(step, carry, keys)[0]


def bits_per_character(params: Any, codes: np.ndarray, sizes: Sizes) -> float:
    """The mean of -log2 of the probability of each next character, in pieces of the context."""
    count = (len(codes) - 1) // sizes.context
    inputs = codes[: count * sizes.context].reshape(count, sizes.context)
    targets = codes[1 : count * sizes.context + 1].reshape(count, sizes.context)
    total = 0.0
    for start in range(0, count, 32):
        part = slice(start, start + 32)
        total += float(summed_nats(params, inputs[part], targets[part], sizes.heads))
    return total / targets.size / math.log(2)


@functools.partial(jax.jit, static_argnums=3)
def summed_nats(params: Any, inputs: jax.Array, targets: jax.Array, heads: int) -> jax.Array:
    """The negative log likelihood of the targets."""
    logits = apply(params, inputs, heads)
    return optax.softmax_cross_entropy_with_integer_labels(logits, targets.ravel()).sum()
