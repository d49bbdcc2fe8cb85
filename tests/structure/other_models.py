"""Networks of Haiku and Equinox."""

from functools import partial

import equinox as eqx
import haiku as hk
import jax
import jax.numpy as jnp
from attention_models import tokens
from flax_models import filled
from image_models import picture
from plain_models import normal


def haiku(forward, x, **in_training):
    net = hk.transform_with_state(forward)
    params, state = jax.eval_shape(partial(net.init, **in_training), jax.random.key(0), x)
    tree = {"params": filled(params), "state": filled(state)}
    return lambda p, x: net.apply(p["params"], p["state"], None, x)[0], tree, (x,)


def haiku_mlp():
    return haiku(lambda x: hk.nets.MLP([8, 6, 3])(x), normal(4, 5))


def haiku_cnn():
    def forward(x, is_training=False):
        for width in (6, 4):
            x = hk.Conv2D(width, 3)(x)
            x = jax.nn.relu(hk.BatchNorm(True, True, 0.9)(x, is_training, test_local_stats=False))
        return hk.Linear(3)(hk.Flatten()(hk.max_pool(x, (2, 2, 1), (2, 2, 1), "VALID")))

    return haiku(forward, picture(), is_training=True)


def haiku_transformer():
    def forward(t):
        x = hk.Embed(7, 8)(t)
        h = hk.LayerNorm(-1, True, True)(x)
        x = x + hk.MultiHeadAttention(2, 4, w_init=hk.initializers.VarianceScaling())(h, h, h)
        h = hk.LayerNorm(-1, True, True)(x)
        x = x + hk.Linear(8)(jax.nn.gelu(hk.Linear(6)(h)))
        return hk.Linear(3)(x)

    return haiku(forward, tokens())


def haiku_recurrent():
    def forward(x):
        core = hk.LSTM(6)
        out, _ = hk.dynamic_unroll(core, x, core.initial_state(x.shape[1]))
        return hk.Linear(3)(out)

    return haiku(forward, normal(4, 2, 5))


def equinox(make, *args):
    arrays, rest = eqx.partition(eqx.filter_eval_shape(make, jax.random.key(0)), _is_shape)
    return lambda m, x: jax.vmap(m)(x), eqx.combine(filled(arrays), rest), args


def _is_shape(x):
    return isinstance(x, jax.ShapeDtypeStruct)


def equinox_mlp():
    return equinox(lambda key: eqx.nn.MLP(5, 3, 8, 2, key=key), normal(4, 5))


class Block(eqx.Module):
    embed: eqx.nn.Embedding
    norm: eqx.nn.LayerNorm
    attend: eqx.nn.MultiheadAttention
    mlp: eqx.nn.MLP
    out: eqx.nn.Linear

    def __init__(self, key):
        keys = jax.random.split(key, 4)
        self.embed = eqx.nn.Embedding(7, 8, key=keys[0])
        self.norm = eqx.nn.LayerNorm(8)
        self.attend = eqx.nn.MultiheadAttention(2, 8, key=keys[1])
        self.mlp = eqx.nn.MLP(8, 8, 6, 1, activation=jax.nn.gelu, key=keys[2])
        self.out = eqx.nn.Linear(8, 3, key=keys[3])

    def __call__(self, t):
        x = jax.vmap(self.embed)(t)
        h = jax.vmap(self.norm)(x)
        x = x + self.attend(h, h, h)
        return jax.vmap(self.out)(x + jax.vmap(self.mlp)(jax.vmap(self.norm)(x)))


def equinox_transformer():
    return equinox(Block, tokens())


class Recurrent(eqx.Module):
    cell: eqx.nn.LSTMCell
    out: eqx.nn.Linear

    def __init__(self, key):
        self.cell = eqx.nn.LSTMCell(5, 6, key=key)
        self.out = eqx.nn.Linear(6, 3, key=key)

    def __call__(self, xs):
        zero = jnp.zeros(self.cell.hidden_size)
        (h, _), _ = jax.lax.scan(lambda c, x: (self.cell(x, c), None), (zero, zero), xs)
        return self.out(h)


def equinox_recurrent():
    return equinox(Recurrent, normal(2, 4, 5))


MODELS = [
    haiku_mlp,
    haiku_cnn,
    haiku_transformer,
    haiku_recurrent,
    equinox_mlp,
    equinox_transformer,
    equinox_recurrent,
]
