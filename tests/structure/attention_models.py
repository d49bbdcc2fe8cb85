"""Transformers and recurrent networks written by hand."""

import jax
import jax.numpy as jnp
from plain_models import apply, dense, layer_norm, norm, normal, rms_norm

WIDTH, HEADS, DEPTH = 8, 2, 4


def tokens(length=5):
    return jnp.arange(2 * length).reshape(2, length) % 7


def block(seed, kv=HEADS):
    return {
        "n1": norm(WIDTH, seed),
        "q": dense(WIDTH, HEADS * DEPTH, seed),
        "k": dense(WIDTH, kv * DEPTH, seed + 1),
        "v": dense(WIDTH, kv * DEPTH, seed + 2),
        "o": dense(HEADS * DEPTH, WIDTH, seed + 3),
        "n2": norm(WIDTH, seed + 4),
        "up": dense(WIDTH, 6, seed + 5),
        "down": dense(6, WIDTH, seed + 6),
    }


def embedding(learned=True):
    return {
        "tokens": normal(7, WIDTH, seed=1),
        **({"places": normal(5, WIDTH, seed=2)} if learned else {}),
    }


def heads(p, x, n):
    return apply(p, x).reshape(*x.shape[:2], n, -1)


def attend(q, k, v):
    scores = jnp.einsum("bthd,bshd->bhts", q, k) / jnp.sqrt(DEPTH)
    causal = jnp.tril(jnp.ones(scores.shape[2:], bool))
    return jnp.einsum("bhts,bshd->bthd", jax.nn.softmax(jnp.where(causal, scores, -1e9)), v)


def rotate(x):
    """Rotary embedding, by halves."""
    half = x.shape[-1] // 2
    angle = jnp.arange(x.shape[1])[:, None] / 10.0 ** (jnp.arange(half) / half)
    cos, sin = jnp.cos(angle)[None, :, None], jnp.sin(angle)[None, :, None]
    a, b = x[..., :half], x[..., half:]
    return jnp.concatenate([a * cos - b * sin, a * sin + b * cos], -1)


def by_hand():
    """Pre-norm, learned positions, tied embeddings."""
    params = {"emb": embedding(), "blocks": [block(10), block(20)], "norm": norm(WIDTH, 5)}

    def fn(p, t):
        x = p["emb"]["tokens"][t] + p["emb"]["places"][: t.shape[1]]
        for b in p["blocks"]:
            h = layer_norm(b["n1"], x)
            a = attend(*(heads(b[name], h, HEADS) for name in "qkv"))
            x = x + apply(b["o"], a.reshape(*a.shape[:2], -1))
            x = x + apply(b["down"], jax.nn.gelu(apply(b["up"], layer_norm(b["n2"], x))))
        return layer_norm(p["norm"], x) @ p["emb"]["tokens"].T

    return fn, params, (tokens(),)


def grouped_query():
    """Rotary embeddings, RMSNorm, two query heads on one key head, an output matrix."""
    params = {"emb": embedding(False), "block": block(10, kv=1), "out": dense(WIDTH, 7)}

    def fn(p, t):
        x, b = p["emb"]["tokens"][t], p["block"]
        h = rms_norm(b["n1"], x)
        q, k, v = heads(b["q"], h, HEADS), heads(b["k"], h, 1), heads(b["v"], h, 1)
        k, v = (jnp.repeat(y, HEADS, axis=2) for y in (rotate(k), v))
        a = attend(rotate(q), k, v)
        x = x + apply(b["o"], a.reshape(*a.shape[:2], -1))
        x = x + apply(b["down"], jax.nn.silu(apply(b["up"], rms_norm(b["n2"], x))))
        return apply(p["out"], x)

    return fn, params, (tokens(),)


def fused():
    """One matrix for queries, keys and values; jax.nn.dot_product_attention."""
    params = {
        "emb": embedding(),
        "qkv": dense(WIDTH, 3 * WIDTH),
        "o": dense(WIDTH, WIDTH),
        "out": dense(WIDTH, 7),
    }

    def fn(p, t):
        x = p["emb"]["tokens"][t] + p["emb"]["places"][: t.shape[1]]
        qkv = apply(p["qkv"], x).reshape(*x.shape[:2], 3, HEADS, DEPTH)
        a = jax.nn.dot_product_attention(qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2], is_causal=True)
        return apply(p["out"], x + apply(p["o"], a.reshape(x.shape)))

    return fn, params, (tokens(),)


def stacked_blocks():
    """A scan over stacked layers, each recomputed in the backward pass."""
    params = {
        "emb": embedding(),
        "blocks": jax.tree.map(lambda *x: jnp.stack(x), block(10), block(20)),
        "out": dense(WIDTH, 7),
    }

    @jax.checkpoint
    def layer(x, b):
        h = layer_norm(b["n1"], x)
        a = attend(*(heads(b[name], h, HEADS) for name in "qkv"))
        x = x + apply(b["o"], a.reshape(*a.shape[:2], -1))
        return x + apply(b["down"], jnp.tanh(apply(b["up"], rms_norm(b["n2"], x)))), None

    def fn(p, t):
        x = p["emb"]["tokens"][t] + p["emb"]["places"][: t.shape[1]]
        return apply(p["out"], jax.lax.scan(layer, x, p["blocks"])[0])

    return fn, params, (tokens(),)


def lstm_fused():
    params = {"x": normal(5, 24), "h": normal(6, 24), "b": normal(24), "out": dense(6, 3)}

    def fn(p, x):
        def step(carry, x):
            c, h = carry
            i, f, g, o = jnp.split(x @ p["x"] + h @ p["h"] + p["b"], 4, axis=-1)
            c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
            return (c, jax.nn.sigmoid(o) * jnp.tanh(c)), None

        zero = jnp.zeros((x.shape[1], 6))
        return apply(p["out"], jax.lax.scan(step, (zero, zero), x)[0][1])

    return fn, params, (normal(4, 2, 5),)


def gru_separate():
    gates = {
        g: {"x": normal(5, 6, seed=i), "h": normal(6, 6, seed=i + 3), "b": normal(6, seed=i)}
        for i, g in enumerate("zrn")
    }
    params = {**gates, "out": dense(6, 3)}

    def fn(p, x):
        def gate(g, x, h):
            return x @ p[g]["x"] + h @ p[g]["h"] + p[g]["b"]

        def step(h, x):
            z, r = (jax.nn.sigmoid(gate(g, x, h)) for g in "zr")
            n = jnp.tanh(gate("n", x, r * h))
            h = (1 - z) * n + z * h
            return h, h

        return apply(p["out"], jax.lax.scan(step, jnp.zeros((x.shape[1], 6)), x)[1])

    return fn, params, (normal(4, 2, 5),)


MODELS = [by_hand, grouped_query, fused, stacked_blocks, lstm_fused, gru_separate]
