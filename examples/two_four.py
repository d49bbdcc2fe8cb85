"""2:4: of every four neighbours two weights stay, as NVIDIA's sparse tensor cores ask for."""

import sys

import data
import jax
import optax

from bmrpruner import MagnitudePruning, OneShotSchedule, metrics
from bmrpruner.study.models import init_mlp, mlp

STEPS = 40 if "--quick" in sys.argv else 300
_, x, y, x_test, y_test = data.load(None)
cross_entropy = optax.softmax_cross_entropy_with_integer_labels


def train(tx):
    """The parameters after steps on all images."""
    params = init_mlp(jax.random.key(0), (64, 256, 10))
    state = tx.init(params)

    @jax.jit
    def step(params, state):
        grads = jax.grad(lambda p: cross_entropy(mlp(p, x), y).mean())(params)
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    for _ in range(STEPS):
        params, state = step(params, state)
    return params


# Fours are neighbours along the last axis; sparsity_types.NByM(2, 4, axis=0) takes the first.
what = {"sparsity_type": "2:4", "filter_fn": lambda key, w: key == ("dense_0", "kernel")}
pruner, adam = MagnitudePruning(scheduler=OneShotSchedule(STEPS // 2), **what), optax.adam(1e-2)
for name, tx in {"dense": adam, "2:4": pruner.wrap_optax(adam, mask_updates=True)}.items():
    params = train(tx)
    zero = metrics.sparsity(params["dense_0"]["kernel"])
    accuracy = metrics.accuracy(mlp(params, x_test), y_test)
    print(f"{name}: {zero:.1%} of the hidden weights are zero, test accuracy {accuracy:.3f}")
