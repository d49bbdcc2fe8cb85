"""Parameter trees of every make, and where the real data is."""

import os
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from flax import nnx
from flax.core import FrozenDict

import bmrpruner

SHAPES = ((8, 4), (4, 12))
# The algorithms that wrap an optimizer; the others prune once, from calibration data.
WRAPPING = tuple(
    name
    for name in bmrpruner.all_algorithm_names()
    if not bmrpruner.ALGORITHM_REGISTRY[name].is_one_shot
)


def dict_params(dtype=jnp.float32):
    keys = jax.random.split(jax.random.key(7), len(SHAPES))
    return {
        f"layer_{i}": {
            "kernel": jax.random.normal(key, shape).astype(dtype),
            "bias": jnp.full(shape[1], 0.5, dtype),
        }
        for i, (key, shape) in enumerate(zip(keys, SHAPES, strict=True))
    }


def tuple_params():
    return tuple([layer["kernel"], layer["bias"]] for layer in dict_params().values())


def frozen_params():
    return FrozenDict(dict_params())


def nnx_params():
    class Net(nnx.Module):
        def __init__(self, rngs):
            self.first = nnx.Linear(*SHAPES[0], rngs=rngs)
            self.second = nnx.Linear(*SHAPES[1], rngs=rngs)

    return nnx.state(Net(nnx.Rngs(0)), nnx.Param)


def equinox_params():
    """A whole module: activation functions and None among its leaves."""
    import equinox as eqx

    class Net(eqx.Module):
        layers: list
        activation: object
        scale: jax.Array
        extra: object = None

    keys = jax.random.split(jax.random.key(3), 2)
    layers = [eqx.nn.Linear(n, m, key=key) for (n, m), key in zip(SHAPES, keys, strict=True)]
    return Net(layers, jax.nn.relu, jnp.ones(3))


TREES = {
    "dict": dict_params,
    "tuple": tuple_params,
    "frozen": frozen_params,
    "nnx": nnx_params,
    "equinox": equinox_params,
}


@pytest.fixture(params=TREES)
def tree(request):
    return TREES[request.param]()


@pytest.fixture(scope="session")
def data_dir():
    """The directory of real data that BMRPRUNER_DATA names."""
    path = os.environ.get("BMRPRUNER_DATA")
    if not path or not Path(path).is_dir():
        pytest.skip("real data: set BMRPRUNER_DATA to its directory")
    return Path(path)


@pytest.fixture(autouse=True)
def quick_to_compile(request):
    """Compile without most optimizations, which takes less time, but where the program is read."""
    optimized = request.node.get_closest_marker("compiled") is not None
    jax.config.update("jax_disable_most_optimizations", not optimized)
