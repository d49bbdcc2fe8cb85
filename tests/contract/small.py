"""A small network, its gradients, and a magnitude pruner."""

import jax.numpy as jnp

from bmrpruner import MagnitudePruning, PeriodicSchedule

PARAMS = {"w": jnp.arange(1.0, 9.0).reshape(2, 4), "b": jnp.ones(4)}
GRADS = {"w": jnp.full((2, 4), 0.5), "b": jnp.ones(4)}
EVERY_OTHER = PeriodicSchedule(2, 0, None)


def pruner(cls=MagnitudePruning, sparsity=0.5, **fields):
    return cls(sparsity=sparsity, **fields)
