"""Networks written by hand: multilayer perceptrons and what is made from them."""

import jax
import jax.numpy as jnp
import numpy as np


def normal(*shape, seed=0, scale=0.5):
    rng = np.random.default_rng([seed, *shape])
    return jnp.asarray(scale * rng.standard_normal(shape), jnp.float32)


def dense(n, m, seed=0):
    return {"w": normal(n, m, seed=seed), "b": normal(m, seed=seed + 1)}


def apply(p, x):
    return x @ p["w"] + p["b"]


def mlp():
    params = [dense(5, 8), dense(8, 6, 1), dense(6, 3, 2)]

    def fn(params, x):
        for p in params[:-1]:
            x = jax.nn.relu(apply(p, x))
        return apply(params[-1], x)

    return fn, params, (normal(4, 5),)


def residual():
    params = {
        "in": dense(5, 8),
        "up": dense(8, 6, 1),
        "down": dense(6, 8, 2),
        "out": dense(8, 3, 3),
    }

    def fn(p, x):
        x = jnp.tanh(apply(p["in"], x))
        for _ in range(2):
            x = x + apply(p["down"], jax.nn.gelu(apply(p["up"], x)))
        return apply(p["out"], x)

    return fn, params, (normal(4, 5),)


def weight_norm():
    params = {
        "v": normal(5, 8),
        "g": normal(8),
        "b": normal(8, seed=1),
        "v2": normal(8, 4),
        "g2": normal(4),
    }

    def fn(p, x):
        w = p["v"] * p["g"] / jnp.sqrt(jnp.sum(p["v"] ** 2, 0) + 1e-6)
        w2 = p["v2"] * p["g2"] / (jnp.linalg.norm(p["v2"] + 1e-9, axis=0))
        return jnp.tanh(x @ w + p["b"]) @ w2

    return fn, params, (normal(4, 5),)


def layer_norm(p, x):
    mean = jnp.mean(x, -1, keepdims=True)
    return (x - mean) * jax.lax.rsqrt(jnp.var(x, -1, keepdims=True) + 1e-5) * p["s"] + p["t"]


def rms_norm(p, x):
    return x * jax.lax.rsqrt(jnp.mean(x * x, -1, keepdims=True) + 1e-5) * p["s"]


def norm(n, seed=0):
    return {"s": 1 + normal(n, seed=seed), "t": normal(n, seed=seed + 1)}


def normed():
    params = {
        "in": dense(5, 8),
        "norm": norm(8),
        "mid": dense(8, 6, 2),
        "rms": norm(6, 3),
        "out": dense(6, 3, 3),
    }

    def fn(p, x):
        x = layer_norm(p["norm"], apply(p["in"], x))
        return apply(p["out"], rms_norm(p["rms"], apply(p["mid"], jnp.tanh(x))))

    return fn, params, (normal(4, 5),)


def gated():
    params = {"up": normal(5, 16), "down": normal(8, 3)}

    def fn(p, x):
        a, b = jnp.split(x @ p["up"], 2, axis=-1)
        return (jax.nn.silu(a) * b) @ p["down"]

    return fn, params, (normal(4, 5),)


def tied():
    params = {"w": normal(5, 8), "b": normal(8)}

    def fn(p, x):
        return jnp.tanh(x @ p["w"] + p["b"]) @ p["w"].T

    return fn, params, (normal(4, 5),)


def stacked():
    params = {
        "w": normal(3, 6, 6),
        "b": normal(3, 6),
        "v": normal(3, 6, 6, seed=1),
        "c": normal(3, 6, seed=1),
    }

    def fn(p, x):
        def layer(x, p):
            return x + jnp.tanh(x @ p["w"] + p["b"]) @ p["v"] + p["c"], None

        return jax.lax.scan(layer, x, p)[0] @ jnp.ones((6, 2))

    return fn, params, (normal(4, 6),)


def branches():
    params = {"in": dense(5, 8), "a": dense(8, 6, 1), "b": dense(8, 6, 2), "out": dense(6, 3, 3)}

    def fn(p, x, n):
        x = jnp.tanh(apply(p["in"], x))
        x = jax.lax.cond(n > 0, lambda x: apply(p["a"], x), lambda x: jnp.sin(apply(p["b"], x)), x)
        x = jax.lax.while_loop(lambda c: c[0] < 2, lambda c: (c[0] + 1, jnp.tanh(c[1])), (0, x))[1]
        return apply(p["out"], x)

    return fn, params, (normal(4, 5), jnp.array(1))


def experts():
    params = {"w": normal(3, 5, 8), "b": normal(3, 1, 8), "v": normal(3, 8, 2)}

    def fn(p, x):
        h = jax.nn.relu(jnp.einsum("bi,eio->ebo", x, p["w"]) + p["b"])
        return jnp.einsum("ebi,eio->ebo", h, p["v"])

    return fn, params, (normal(4, 5),)


def custom():
    @jax.custom_vjp
    def straight(x):
        return jnp.round(x)

    straight.defvjp(lambda x: (straight(x), None), lambda _, ct: (ct,))

    @jax.custom_jvp
    def clipped(x, y):
        return jnp.clip(x, -1, 1) * y

    @clipped.defjvp
    def _(primals, tangents):
        return clipped(*primals), tangents[0] * primals[1] + tangents[1]

    params = [dense(5, 8), dense(8, 6, 1), dense(6, 3, 2)]

    def fn(params, x):
        @jax.checkpoint
        def block(p, x):
            return clipped(jax.nn.relu(apply(p, x)), jnp.cos(x[:, :1]))

        x = block(params[0], x)
        return apply(params[2], straight(3 * apply(params[1], x)))

    return fn, params, (normal(4, 5),)


MODELS = [mlp, residual, weight_norm, normed, gated, tied, stacked, branches, experts, custom]
