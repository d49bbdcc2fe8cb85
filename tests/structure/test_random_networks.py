"""Random small networks of supported primitives, pruned at random: exact, whatever comes out."""

import exactness
import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import lax

import bmrpruner
from bmrpruner.structure import dependency_groups

WIDTHS = (4, 6)


class Maker:
    """Makes parameters on the first run of a network, and hands them out on later ones."""

    def __init__(self, seed):
        self.rng = np.random.default_rng(seed)
        self.params = {}
        self.given = None

    def weights(self, *shape):
        if self.given is not None:
            return self.given[f"p{next(self.count)}"]
        name = f"p{len(self.params)}"
        self.params[name] = np.float32(self.rng.standard_normal(shape) * 0.7)
        return jnp.asarray(self.params[name])

    def replay(self, params):
        self.given, self.count = params, iter(range(len(params)))


def dense(m, x, width, bias=True):
    y = x @ m.weights(x.shape[-1], width)
    return y + m.weights(width) if bias else y


def attention(m, x):
    """Heads over the batch: it takes the place of the sequence."""
    q, k, v = (dense(m, x, 4).reshape(-1, 2, 2) for _ in range(3))
    p = jax.nn.softmax(jnp.einsum("thd,shd->hts", q, k))
    return dense(m, jnp.einsum("hts,shd->thd", p, v).reshape(-1, 4), x.shape[1])


def recurrent(m, x):
    w, u, b = m.weights(x.shape[1], 4), m.weights(4, 4), m.weights(4)

    def step(h, row):
        h = jnp.tanh(row @ w + h @ u + b)
        return h, h

    return lax.scan(step, jnp.zeros(4), x)[1]


def stack(m, x):
    width = x.shape[1]
    w, b, v, c = (m.weights(2, *s) for s in ((width, 4), (4,), (4, width), (width,)))

    def layer(x, p):
        return x + jax.nn.silu(x @ p[0] + p[1]) @ p[2] + p[3], None

    return lax.scan(layer, x, (w, b, v, c))[0]


def two_pass(m, x):
    mean = x.mean(-1, keepdims=True)
    y = (x - mean) / jnp.sqrt(jnp.var(x, -1, keepdims=True) + 0.1)
    return y * m.weights(x.shape[1]) + m.weights(x.shape[1])


def one_pass(m, x):
    mean, square = x.mean(-1, keepdims=True), (x * x).mean(-1, keepdims=True)
    return (x - mean) * lax.rsqrt(square - mean**2 + 0.1) * m.weights(x.shape[1])


def gate(m, x):
    a, b = jnp.split(dense(m, x, 8), 2, axis=1)
    return jax.nn.sigmoid(a) * b


def fold(m, x):
    """Mixes one of two factors of the width."""
    y = x.reshape(-1, 2, x.shape[1] // 2)
    return jnp.einsum("bij,ik->bjk", y, m.weights(2, 3)).reshape(x.shape[0], -1)


def convolve(m, x):
    y = lax.conv_general_dilated(
        x[None], m.weights(3, x.shape[1], 4), (1,), "SAME", dimension_numbers=("NWC", "WIO", "NWC")
    )
    return y[0] + m.weights(4)


STEPS = {
    "relu": lambda m, x: jax.nn.relu(x),
    "tanh": lambda m, x: jnp.tanh(x),
    "softplus": lambda m, x: jax.nn.softplus(x),
    "dense": lambda m, x: dense(m, x, 6),
    "narrow": lambda m, x: dense(m, x, 4, bias=False),
    "residual": lambda m, x: x + dense(m, jnp.cos(dense(m, x, 4)), x.shape[1]),
    "concatenate": lambda m, x: jnp.concatenate([x, jax.nn.relu(dense(m, x, 4))], 1),
    "tied": lambda m, x: (lambda w: jnp.tanh(x @ w) @ w.T)(m.weights(x.shape[1], 4)),
    "scale": lambda m, x: x * m.weights(x.shape[1]),
    "flip": lambda m, x: x[:, ::-1],
    "half": lambda m, x: x[:, : x.shape[1] // 2 * 2 - 2],
    "pad": lambda m, x: jnp.pad(x, ((0, 0), (0, 2))),
    "tile": lambda m, x: jnp.tile(x, (1, 2)) if x.shape[1] < 8 else x,
    "repeat": lambda m, x: jnp.repeat(x, 2, 1) if x.shape[1] < 8 else x,
    "excite": lambda m, x: x * jax.nn.sigmoid(dense(m, x.mean(0, keepdims=True), x.shape[1])),
    "where": lambda m, x: jnp.where(dense(m, x, x.shape[1]) > 0, x, 0.5 * x),
    "cond": lambda m, x: lax.cond(x[0, 0] > 0, jnp.sin, jnp.cos, x),
    "attention": attention,
    "recurrent": recurrent,
    "stack": stack,
    "two_pass": two_pass,
    "one_pass": one_pass,
    "gate": gate,
    "fold": fold,
    "convolve": convolve,
}


def network(steps, seed):
    """A function of parameters and an argument, its parameters, and an argument."""
    maker = Maker(seed)

    def body(x):
        x = dense(maker, x, WIDTHS[seed % 2])
        for name in steps:
            if x.shape[1] % 2 == 0 and x.shape[1] >= 4:
                x = STEPS[name](maker, x)
        return dense(maker, x, 2)

    x = jnp.asarray(np.random.default_rng(seed + 1).standard_normal((3, 3)), jnp.float32)
    jax.eval_shape(body, x)

    def fn(params, x):
        maker.replay(params)
        return body(x)

    return fn, jax.tree.map(jnp.asarray, maker.params), x


def prune(params, groups, rng):
    """Units die in all their members or in some; single weights too."""
    places = []
    for group in exactness.free(groups):
        dead = np.flatnonzero(rng.random(group.size) < 0.5)
        share = rng.choice([0.4, 0.7, 1.0])
        places += [
            (key, axis, rows[dead]) for key, axis, rows in group.members if rng.random() < share
        ]
    pruned = exactness.zeroed(params, [p for p in places if p[2].size])
    return exactness.sprinkled(pruned, int(rng.integers(99))) if rng.random() < 0.2 else pruned


@settings(max_examples=25, deadline=None)
@given(st.lists(st.sampled_from(sorted(STEPS)), min_size=1, max_size=5), st.integers(0, 999))
def test_a_random_network_pruned_at_random_computes_the_same(steps, seed):
    fn, params, x = network(steps, seed)
    groups = dependency_groups(fn, params, x)
    pruned = prune(params, groups, np.random.default_rng(seed))
    small = bmrpruner.compact(fn, pruned, x)
    got, expected = exactness.quick(lambda a, b, x: (small.fn(a, x), fn(b, x)))(
        small.params, pruned, x
    )
    assert exactness.error(got, expected) < exactness.TOLERANCE
