"""Flax NNX: a network that learns digits, as it is and pruned to a tenth of its weights."""

import sys

import data
import jax
import optax
from flax import nnx

from bmrpruner import MagnitudePruning, PolynomialSchedule, metrics

STEPS = 40 if "--quick" in sys.argv else 300
_, x, y, x_test, y_test = data.load(None)
cross_entropy = optax.softmax_cross_entropy_with_integer_labels


def train(tx):
    """The network after steps on all images."""
    rngs = nnx.Rngs(0)
    model = nnx.Sequential(nnx.Linear(64, 256, rngs=rngs), nnx.relu, nnx.Linear(256, 10, rngs=rngs))
    optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)

    @nnx.jit
    def step(model, optimizer):
        optimizer.update(model, nnx.grad(lambda m: cross_entropy(m(x), y).mean())(model))

    for _ in range(STEPS):
        step(model, optimizer)
    return model


schedule = PolynomialSchedule(update_freq=2, update_start_step=10, update_end_step=STEPS // 2)
pruner = MagnitudePruning(sparsity=0.9, scheduler=schedule)  # of each kernel
adam = optax.adam(1e-2)
networks = {"dense": train(adam), "pruned": train(pruner.wrap_optax(adam, mask_updates=True))}
for name, model in networks.items():
    zero = metrics.sparsity([w for w in jax.tree.leaves(nnx.state(model)) if w.ndim > 1])
    accuracy = metrics.accuracy(model(x_test), y_test)
    print(f"{name}: {zero:.1%} of the weights are zero, test accuracy {accuracy:.3f}")
