"""Networks of Flax: Linen and NNX."""

import jax
import jax.numpy as jnp
from attention_models import tokens
from flax import linen as nn
from flax import nnx
from image_models import picture
from plain_models import normal


def filled(shapes):
    """Arrays for the shapes of a tree: signed numbers, positive ones for variances."""
    paths, tree = jax.tree_util.tree_flatten_with_path(shapes)

    def fill(path, x):
        if not jnp.issubdtype(x.dtype, jnp.floating):
            return jnp.zeros(x.shape, x.dtype)
        values = normal(*x.shape, seed=len(path))
        return 0.5 + jnp.abs(values) if "var" in jax.tree_util.keystr(path) else values

    return tree.unflatten([fill(path, x) for path, x in paths])


class Mlp(nn.Module):
    @nn.compact
    def __call__(self, x):
        for width in (8, 6):
            x = nn.gelu(nn.Dense(width)(x))
        return nn.Dense(3)(x)


class Cnn(nn.Module):
    train: bool = False

    @nn.compact
    def __call__(self, x):
        for width in (6, 4):
            x = nn.Conv(width, (3, 3))(x)
            x = nn.relu(nn.BatchNorm(use_running_average=not self.train)(x))
        x = nn.avg_pool(x, (2, 2), (2, 2)).reshape(x.shape[0], -1)
        return nn.Dense(3)(x)


class Normed(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.GroupNorm(2)(nn.Conv(8, (3, 3))(x)))
        x = nn.WeightNorm(nn.Dense(6))(x.mean((1, 2)))
        return nn.Dense(3)(nn.LayerNorm()(x))


class Transformer(nn.Module):
    @nn.compact
    def __call__(self, t):
        embed = nn.Embed(7, 8)
        x = embed(t) + nn.Embed(5, 8)(jnp.arange(t.shape[1]))
        mask = nn.make_causal_mask(t)
        for _ in range(2):
            x = x + nn.MultiHeadDotProductAttention(num_heads=2)(nn.LayerNorm()(x), mask=mask)
            x = x + nn.Dense(8)(nn.gelu(nn.Dense(6)(nn.RMSNorm()(x))))
        return embed.attend(nn.LayerNorm()(x))


class Recurrent(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.RNN(nn.OptimizedLSTMCell(6))(x)
        return nn.Dense(3)(nn.RNN(nn.GRUCell(4))(x)[:, -1])


def linen(module, x):
    return module.apply, filled(jax.eval_shape(module.init, jax.random.key(0), x)), (x,)


def linen_mlp():
    return linen(Mlp(), normal(4, 5))


def linen_cnn():
    return linen(Cnn(), picture())


def linen_normed():
    return linen(Normed(), picture())


def linen_transformer():
    return linen(Transformer(), tokens())


def linen_recurrent():
    return linen(Recurrent(), normal(2, 4, 5))


def of_nnx(make, *args):
    graph, state = nnx.split(nnx.eval_shape(lambda: make(nnx.Rngs(0))))
    return lambda state, *args: nnx.merge(graph, state)(*args), filled(state), args


class NnxMlp(nnx.Module):
    def __init__(self, rngs):
        self.layers = nnx.List([nnx.Linear(n, m, rngs=rngs) for n, m in ((5, 8), (8, 6), (6, 3))])
        self.norm = nnx.BatchNorm(8, use_running_average=True, rngs=rngs)

    def __call__(self, x):
        x = nnx.relu(self.norm(self.layers[0](x)))
        return self.layers[2](nnx.silu(self.layers[1](x)))


class NnxAttention(nnx.Module):
    def __init__(self, rngs):
        self.embed = nnx.Embed(7, 8, rngs=rngs)
        self.norm = nnx.LayerNorm(8, rngs=rngs)
        self.attend = nnx.MultiHeadAttention(2, 8, decode=False, rngs=rngs)
        self.out = nnx.Linear(8, 3, rngs=rngs)

    def __call__(self, t):
        x = self.embed(t)
        return self.out(x + self.attend(self.norm(x)))


def nnx_mlp():
    return of_nnx(NnxMlp, normal(4, 5))


def nnx_attention():
    return of_nnx(NnxAttention, tokens())


MODELS = [
    linen_mlp,
    linen_cnn,
    linen_normed,
    linen_transformer,
    linen_recurrent,
    nnx_mlp,
    nnx_attention,
]
