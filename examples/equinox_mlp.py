"""Equinox: a network that learns digits, as it is and pruned to a tenth of its weights."""

import sys

import data
import equinox as eqx
import jax
import optax

from bmrpruner import GlobalMagnitudePruning, PolynomialSchedule, metrics

STEPS = 40 if "--quick" in sys.argv else 300
_, x, y, x_test, y_test = data.load(None)
cross_entropy = optax.softmax_cross_entropy_with_integer_labels


def train(tx):
    """The network after steps on all images."""
    model = eqx.nn.MLP(64, 10, width_size=256, depth=1, key=jax.random.key(0))
    state = tx.init(eqx.filter(model, eqx.is_array))

    @eqx.filter_jit
    def step(model, state):
        grads = eqx.filter_grad(lambda m: cross_entropy(jax.vmap(m)(x), y).mean())(model)
        updates, state = tx.update(grads, state, eqx.filter(model, eqx.is_array))
        return eqx.apply_updates(model, updates), state

    for _ in range(STEPS):
        model, state = step(model, state)
    return model


schedule = PolynomialSchedule(update_freq=2, update_start_step=10, update_end_step=STEPS // 2)
pruner = GlobalMagnitudePruning(sparsity=0.9, scheduler=schedule)  # of all matrices together
adam = optax.adam(1e-2)
networks = {"dense": train(adam), "pruned": train(pruner.wrap_optax(adam, mask_updates=True))}
for name, model in networks.items():
    zero = metrics.sparsity([layer.weight for layer in model.layers])
    accuracy = metrics.accuracy(jax.vmap(model)(x_test), y_test)
    print(f"{name}: {zero:.1%} of the weights are zero, test accuracy {accuracy:.3f}")
