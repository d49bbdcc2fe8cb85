"""Convolutional networks written by hand."""

import jax
import jax.numpy as jnp
from jax import lax
from plain_models import apply, dense, norm, normal

NHWC = ("NHWC", "HWIO", "NHWC")


def conv(p, x, strides=(1, 1), padding="SAME", groups=1, spec=NHWC):
    y = lax.conv_general_dilated(
        x, p["w"], strides, padding, dimension_numbers=spec, feature_group_count=groups
    )
    return y + p["b"].reshape(p["b"].shape + ((1, 1) if spec[2] == "NCHW" else ()))


def kernel(n, m, size=3, seed=0):
    return {"w": normal(size, size, n, m, seed=seed), "b": normal(m, seed=seed + 1)}


def picture(channels=3):
    return normal(2, 6, 6, channels, seed=9)


def pool(x):
    return lax.reduce_window(x, -jnp.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")


def same_padding():
    """Constant channels under zero padding: what they add differs at the borders."""
    params = {"a": kernel(3, 6), "b": kernel(6, 4, seed=1), "out": dense(3 * 3 * 4, 3)}

    def fn(p, x):
        x = pool(jax.nn.relu(conv(p["b"], jax.nn.sigmoid(conv(p["a"], x)))))
        return apply(p["out"], x.reshape(x.shape[0], -1))

    return fn, params, (picture(),)


def nchw_batch_norm():
    spec = ("NCHW", "OIHW", "NCHW")
    params = {
        "a": {"w": normal(6, 3, 3, 3), "b": normal(6)},
        "bn": {**norm(6), "mean": normal(6), "var": 1 + normal(6, seed=1) ** 2},
        "b": {"w": normal(4, 6, 3, 3), "b": normal(4)},
        "out": dense(4, 3),
    }

    def fn(p, x):
        x = conv(p["a"], x, padding="VALID", spec=spec)
        mean, var, s, t = (p["bn"][k][:, None, None] for k in ("mean", "var", "s", "t"))
        x = jax.nn.relu((x - mean) / jnp.sqrt(var + 1e-5) * s + t)
        x = jax.nn.relu(conv(p["b"], x, padding="VALID", spec=spec))
        return apply(p["out"], x.mean((2, 3)))

    return fn, params, (jnp.moveaxis(picture(), 3, 1),)


def resnet():
    params = {
        "in": kernel(3, 8),
        "a": [kernel(8, 6, seed=1), kernel(6, 8, seed=2)],
        "b": [kernel(8, 6, seed=3), kernel(6, 8, seed=4)],
        "short": kernel(8, 8, size=1),
        "out": dense(8, 3),
    }

    def fn(p, x):
        x = jax.nn.relu(conv(p["in"], x))
        x = jax.nn.relu(x + conv(p["a"][1], jax.nn.relu(conv(p["a"][0], x))))
        y = conv(p["b"][1], jax.nn.relu(conv(p["b"][0], x, (2, 2))))
        x = jax.nn.relu(y + conv(p["short"], x, (2, 2)))
        return apply(p["out"], x.mean((1, 2)))

    return fn, params, (picture(),)


def depthwise():
    params = {
        "in": kernel(3, 8),
        "depth": kernel(1, 8),
        "point": kernel(8, 6, size=1),
        "out": dense(6, 3),
    }

    def fn(p, x):
        x = jax.nn.relu6(conv(p["in"], x))
        x = jax.nn.relu6(conv(p["depth"], x, groups=8))
        return apply(p["out"], conv(p["point"], x).mean((1, 2)))

    return fn, params, (picture(),)


def shuffled():
    """Grouped convolutions with a channel shuffle between them."""
    params = {
        "in": kernel(3, 8),
        "a": kernel(4, 8, seed=1),
        "b": kernel(4, 8, seed=2),
        "out": dense(8, 3),
    }

    def fn(p, x):
        x = jax.nn.relu(conv(p["in"], x))
        x = jax.nn.relu(conv(p["a"], x, groups=2))
        x = x.reshape(*x.shape[:3], 2, 4).swapaxes(3, 4).reshape(x.shape)
        x = jax.nn.relu(conv(p["b"], x, groups=2))
        return apply(p["out"], x.mean((1, 2)))

    return fn, params, (picture(),)


def squeeze_excite():
    params = {"in": kernel(3, 8), "down": dense(8, 4), "up": dense(4, 8), "out": dense(8, 3)}

    def fn(p, x):
        x = jax.nn.relu(conv(p["in"], x))
        s = jax.nn.sigmoid(apply(p["up"], jax.nn.relu(apply(p["down"], x.mean((1, 2))))))
        return apply(p["out"], (x * s[:, None, None, :]).mean((1, 2)))

    return fn, params, (picture(),)


def dense_net():
    params = {
        "a": kernel(3, 4),
        "b": kernel(7, 4, seed=1),
        "c": kernel(11, 6, seed=2),
        "out": dense(6, 3),
    }

    def fn(p, x):
        for name in "ab":
            x = jnp.concatenate([x, jax.nn.relu(conv(p[name], x))], -1)
        return apply(p["out"], jax.nn.relu(conv(p["c"], x)).mean((1, 2)))

    return fn, params, (picture(),)


def u_net():
    params = {
        "down": kernel(3, 4),
        "mid": kernel(4, 6, seed=1),
        "up": kernel(6, 4, size=2, seed=2),
        "join": kernel(8, 4, seed=3),
        "out": kernel(4, 2, size=1),
    }

    def fn(p, x):
        a = jax.nn.relu(conv(p["down"], x))
        b = jax.nn.relu(conv(p["mid"], pool(a)))
        up = lax.conv_transpose(b, p["up"]["w"], (2, 2), "SAME") + p["up"]["b"]
        x = jax.nn.relu(conv(p["join"], jnp.concatenate([a, up], -1)))
        return conv(p["out"], x)

    return fn, params, (picture(),)


def group_norm():
    params = {"in": kernel(3, 8), "norm": norm(8), "out": dense(8, 3)}

    def fn(p, x):
        x = conv(p["in"], x)
        g = x.reshape(*x.shape[:3], 2, 4)
        mean = g.mean((1, 2, 4), keepdims=True)
        g = (g - mean) * lax.rsqrt(jnp.var(g, (1, 2, 4), keepdims=True) + 1e-5)
        x = jax.nn.relu(g.reshape(x.shape) * p["norm"]["s"] + p["norm"]["t"])
        return apply(p["out"], x.mean((1, 2)))

    return fn, params, (picture(),)


def padded_shortcut():
    """A residual stream that grows by padding its channels with zeros."""
    params = {"in": kernel(3, 4), "a": kernel(4, 8, seed=1), "out": dense(8, 3)}

    def fn(p, x):
        x = jax.nn.relu(conv(p["in"], x))
        x = jnp.pad(x, ((0, 0), (0, 0), (0, 0), (2, 2))) + jax.nn.relu(conv(p["a"], x))
        return apply(p["out"], x.mean((1, 2)))

    return fn, params, (picture(),)


MODELS = [
    same_padding,
    nchw_batch_norm,
    resnet,
    depthwise,
    shuffled,
    squeeze_excite,
    dense_net,
    u_net,
    group_norm,
    padded_shortcut,
]
