"""Models of every make that are linear in their parameters: `(fn, params, inputs)`."""

import equinox as eqx
import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
from flax import linen, nnx


def normal(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def plain():
    return lambda p, x: x @ p["w"], {"w": normal(5, 3)}, normal(120, 5, seed=1)


def transposed_with_bias():
    params = {"w": normal(3, 5), "b": normal(3)}
    return lambda p, x: 1.0 * (x @ p["w"].T) + p["b"], params, 1 + normal(120, 5, seed=1)


def einsum_heads():
    def fn(p, x):
        return jnp.einsum("nti,hdi->nthd", x, p["w"]) + p["b"]

    return fn, {"w": normal(2, 3, 4), "b": normal(2, 3)}, 0.5 + normal(100, 3, 4, seed=1)


def bias_of_other_layout():
    def fn(p, x):
        return jnp.einsum("ni,idh->nhd", x, p["w"]) + p["b"]

    return fn, {"w": normal(5, 2, 3), "b": normal(3, 2)}, 1 + normal(120, 5, seed=1)


def jit_remat_vmap():
    def fn(p, x):
        return jax.vmap(jax.jit(jax.checkpoint(lambda x: p[0] @ x + p[1])))(x)

    return fn, (normal(3, 5), normal(3)), 1 + normal(120, 5, seed=1)


def with_linen(module, x):
    params = module.init(jax.random.key(0), x)
    return module.apply, jax.tree.map(lambda p: p + 0.1, params), x


def linen_dense():
    return with_linen(linen.Dense(3), 1 + normal(120, 5, seed=1))


def linen_conv():
    x = 0.5 + normal(100, 5, 5, 2, seed=1)
    return with_linen(linen.Conv(2, (3, 2), strides=(2, 1)), x)


def conv_nchw():
    def fn(p, x):
        y = jax.lax.conv_general_dilated(x, p["w"], (1, 1), "VALID", rhs_dilation=(1, 2))
        return y + p["b"][:, None, None]

    return fn, {"w": normal(2, 3, 2, 2), "b": normal(2)}, 1 + normal(100, 3, 4, 5, seed=1)


def nnx_linear():
    module = nnx.Linear(5, 3, rngs=nnx.Rngs(0))
    graph, params = nnx.split(module)
    return lambda p, x: nnx.merge(graph, p)(x), params, 1 + normal(120, 5, seed=1)


def equinox_linear():
    """With an activation among its leaves, and None."""
    module = eqx.nn.Linear(5, 3, key=jax.random.key(0)), jax.nn.relu, None
    return lambda m, x: jax.vmap(m[0])(x), module, 1 + normal(120, 5, seed=1)


def haiku_linear():
    net = hk.without_apply_rng(hk.transform(lambda x: hk.Linear(3)(x)))
    x = 1 + normal(120, 5, seed=1)
    params = jax.tree.map(lambda p: p + 0.1, net.init(jax.random.key(0), x))
    return net.apply, params, x


def scanned_stack():
    def fn(p, x):
        return jax.lax.scan(lambda c, layer: (c, x @ layer["w"] + layer["b"]), None, p)[1].swapaxes(
            0, 1
        )

    return fn, {"w": normal(2, 5, 3), "b": normal(2, 3)}, 1 + normal(120, 5, seed=1)


def tied():
    def fn(p, x):
        return jnp.stack([part @ p["w"] for part in (x[:, 0], 2 * x[:, 1], x[:, 2])], 1)

    return fn, {"w": normal(5, 3)}, normal(100, 3, 5, seed=1)


MODELS = [
    *(plain, transposed_with_bias, einsum_heads, bias_of_other_layout, jit_remat_vmap),
    *(linen_dense, linen_conv),
    *(conv_nchw, nnx_linear, equinox_linear, haiku_linear, scanned_stack, tied),
]
