"""The training that one device, a mesh of eight and two processes must all agree on."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import NamedSharding, PartitionSpec

import bmrpruner
from bmrpruner.sparsity_types import Block, Channel, Group, NByM
from bmrpruner.structure import Group as Family

SHAPES = {"dense": (16, 64), "conv": (3, 3, 8, 16), "bias": (16,)}
LAYOUTS = {
    "fsdp": {
        "dense": PartitionSpec(("fsdp", "tensor")),
        "conv": PartitionSpec(None, None, ("fsdp", "tensor")),
        "bias": PartitionSpec("fsdp"),
    },
    "tensor parallel": {
        "dense": PartitionSpec("fsdp", "tensor"),
        "conv": PartitionSpec(None, None, None, "tensor"),
        "bias": PartitionSpec(),
    },
}
SCHEDULE = bmrpruner.PolynomialSchedule(update_freq=2, update_start_step=1, update_end_step=7)
STEPS = 6


def wrapped(name, **kwargs):
    make, inner = {
        "adam, magnitude": (bmrpruner.MagnitudePruning, optax.adam(1e-2)),
        "adam, global magnitude": (bmrpruner.GlobalMagnitudePruning, optax.adam(1e-2)),
        # The norm of a step and a temperature that is found are sums of floats, which round.
        "ivon, bmr": (
            functools.partial(bmrpruner.BMRPruning, temperature=1.0),
            bmrpruner.ivon(0.1, ess=50, clip_norm=None),
        ),
    }[name]
    sparsity = None if isinstance(kwargs.get("sparsity_type"), NByM) else 0.8
    pruner = make(sparsity=sparsity, scheduler=SCHEDULE, **kwargs)
    return pruner.wrap_optax(inner, mask_updates=True)


NAMES = ("adam, magnitude", "adam, global magnitude", "ivon, bmr")
EACH = {size: np.arange(size)[:, None] for size in (16, 64)}
UNITS = [
    Family(16, ((("dense",), 0, EACH[16]), (("conv",), 3, EACH[16]), (("bias",), 0, EACH[16]))),
    Family(64, ((("dense",), 1, EACH[64]),)),
]
TYPES = {
    "2:4": {"sparsity_type": NByM(2, 4)},
    "blocks": {"sparsity_type": Block((4, 4))},
    "channels": {"sparsity_type": Channel()},
    "units": {"sparsity_type": Group(UNITS, "parameters")},
    "units, four at a time": {"sparsity_type": Group(UNITS, "parameters", multiple=4)},
    "packed": {"use_packed_masks": True},
}


def random_like_params(seed):
    rng = np.random.default_rng(seed)
    return {key: rng.standard_normal(shape).astype(np.float32) for key, shape in SHAPES.items()}


def shardings(mesh, layout):
    return {key: NamedSharding(mesh, spec) for key, spec in LAYOUTS[layout].items()}


def start(tx, put):
    params = put(random_like_params(99))
    # Python floats as arrays, so that every step has the same types.
    return params, jax.tree.map(lambda x: x if np.ndim(x) else jnp.asarray(x), tx.init(params))


def compiled(tx, carry, put):
    def step(params, state, grads):
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    return jax.jit(step).lower(*carry, put(random_like_params(0))).compile()


def train(step, carry, put, first=0, last=STEPS):
    """Parameters and state after the steps; `put` lays host arrays out on devices."""
    for i in range(first, last):
        carry = step(*carry, put(random_like_params(i)))
    return carry


def start_and_train(tx, put):
    carry = start(tx, put)
    return train(compiled(tx, carry, put), carry, put)
