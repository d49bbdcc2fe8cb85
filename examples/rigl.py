"""RigL: a network that is sparse from the first step on, and moves its connections as it learns."""

import sys

import data
import jax
import optax

from bmrpruner import NoPruning, PeriodicSchedule, RigL, StaticRandomSparse, metrics
from bmrpruner.study.models import init_mlp, mlp

STEPS = 40 if "--quick" in sys.argv else 300
_, x, y, x_test, y_test = data.load(None)
cross_entropy = optax.softmax_cross_entropy_with_integer_labels


def train(pruner):
    """The parameters after steps on all images."""
    params = init_mlp(jax.random.key(0), (64, 256, 10))
    tx = pruner.wrap_optax(optax.adam(1e-2), mask_updates=True)
    state = tx.init(params)

    @jax.jit
    def step(params, state):
        grads = jax.grad(lambda p: cross_entropy(mlp(p, x), y).mean())(params)
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    for _ in range(STEPS):
        params, state = step(params, state)
    return params


often = PeriodicSchedule(update_freq=5, update_start_step=5, update_end_step=STEPS * 3 // 4)
rigl, fixed = RigL(sparsity=0.98, scheduler=often), StaticRandomSparse(sparsity=0.98)
for name, pruner in {"dense": NoPruning(), "fixed": fixed, "RigL": rigl}.items():
    params = train(pruner)
    zero = metrics.sparsity([layer["kernel"] for layer in params.values()])
    accuracy = metrics.accuracy(mlp(params, x_test), y_test)
    print(f"{name}: {zero:.1%} of the weights are zero, test accuracy {accuracy:.3f}")
