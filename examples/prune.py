"""Train a small network with AdamW and with IVON, prune it, and make it smaller.

    python examples/prune.py                  # scikit-learn's handwritten digits
    python examples/prune.py --data mnist/    # MNIST-format IDX files

Weights go in one shot after training, or during it; whole units go during it and are cut out. How
the library is used is in `make_optimizers`, `prune_after` and `train_epoch`.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import optax
from command_line import run
from data import Dataset, load, random_batches
from prune_plan import Plan, Settings, checked, make_plan
from prune_report import DURING, SMALL, Network, evaluate, progress_bar, write_report

import bmrpruner
from bmrpruner.sparsity_types import Group
from bmrpruner.study.models import init_mlp, mlp

BY = {"AdamW": "magnitude", "IVON": "BMR"}  # what prunes during training


def main(settings: Settings) -> None:
    """Train, prune, evaluate, report."""
    data = load(settings.data)
    plan = make_plan(settings, data)
    optimizers = make_optimizers(plan, settings.sparsities)
    rows, dense = [], {}
    with progress_bar() as progress:
        bar = progress.add_task("", total=settings.seeds * len(optimizers))
        for seed, (job, tx) in itertools.product(range(settings.seeds), optimizers.items()):
            optimizer, when, sparsity = job
            text = f"seed {seed}: {optimizer}, {when}, {sparsity:.1%}"
            progress.update(bar, description=text)
            if not progress.console.is_terminal:
                print(text, flush=True)
            params, state = train(tx, optimizer == "IVON", plan, data, seed)
            small = bmrpruner.compact(mlp, params, data.test_images) if when == SMALL else None
            by = {"dense": "", DURING: BY[optimizer], SMALL: "BMR"}[when]
            networks = [Network(optimizer, when, by, sparsity, params, small)]
            if when == "dense":
                dense[optimizer] = networks[0]
                networks += prune_after(networks[0], state, data, settings.sparsities)
            rows += [evaluate(each, dense[optimizer], data, seed) for each in networks]
            progress.advance(bar)
    write_report(settings.out, data.name, rows)


def make_optimizers(plan: Plan, sparsities: tuple[float, ...]) -> dict[Any, Any]:
    """AdamW and IVON, and IVON wrapped so that weights, or whole units, go during training."""
    steps = plan.steps
    adamw = optax.adamw(optax.cosine_decay_schedule(1e-3, steps))
    ivon = bmrpruner.ivon(
        optax.cosine_decay_schedule(0.3, steps),
        ess=plan.coldness * plan.examples,  # see docs/temperature.md
        b2=1 - 6 / steps,  # the Hessian is an average over the last sixth of training
    )
    every = steps // 120 or 1
    schedule = bmrpruner.PolynomialSchedule(every, steps // 4, steps * 3 // 5 // every * every)
    shapes = jax.eval_shape(lambda key: init_mlp(key, plan.layers), jax.random.key(0))
    images = jax.ShapeDtypeStruct((1, plan.layers[0]), jnp.float32)
    units = Group(bmrpruner.dependency_groups(mlp, shapes, images), cost="parameters")
    optimizers = {("AdamW", "dense", 0.0): adamw, ("IVON", "dense", 0.0): ivon}
    for sparsity in sparsities:
        magnitude = bmrpruner.MagnitudePruning(
            sparsity=sparsity, scope="global", scheduler=schedule
        )
        bmr = bmrpruner.BMRPruning(sparsity=sparsity, scope="global", scheduler=schedule)
        whole = bmrpruner.BMRPruning(sparsity=sparsity, sparsity_type=units, scheduler=schedule)
        optimizers |= {
            ("AdamW", DURING, sparsity): magnitude.wrap_optax(adamw, mask_updates=True),
            ("IVON", DURING, sparsity): bmr.wrap_optax(ivon, mask_updates=True),
            ("IVON", SMALL, sparsity): whole.wrap_optax(ivon, mask_updates=True),
        }
    return optimizers


def prune_after(
    dense: Network, state: Any, data: Dataset, sparsities: tuple[float, ...]
) -> Iterator[Network]:
    """A trained network, pruned in one shot by each method, with no fine-tuning."""
    name, when = dense.optimizer, "after training"
    for share in sparsities:
        magnitude = bmrpruner.MagnitudePruning(sparsity=share, scope="global")
        yield Network(name, when, "magnitude", share, magnitude.instant_sparsify(dense.params)[0])
        if name == "IVON":
            posterior = bmrpruner.posteriors.from_opt_state(state, dense.params)
            bmr = bmrpruner.BMRPruning(sparsity=share, scope="global")
            pruned, _ = bmr.instant_sparsify(dense.params, posterior=posterior)
            yield Network(name, when, "BMR", share, pruned)
        batches = [jnp.asarray(data.train_images[:10_000])]
        pruned, _ = bmrpruner.prune_sequentially(mlp, dense.params, batches, sparsity=share)
        yield Network(name, when, "OBS", share, pruned)


def train(tx: Any, noisy: bool, plan: Plan, data: Dataset, seed: int) -> tuple[Any, Any]:
    """Train from scratch; with a pruner in `tx`, the network gets sparse on the way."""
    key = jax.random.key(seed)
    params = init_mlp(key, plan.layers)
    carry = params, tx.init(params)
    arrays = jnp.asarray(data.train_images), jnp.asarray(data.train_labels)
    for epoch in range(plan.epochs):
        batches = random_batches(jax.random.fold_in(key, epoch), plan.examples, plan.batch_size)
        carry = train_epoch(tx, noisy, carry, batches, *arrays)
    return carry


@functools.partial(jax.jit, static_argnums=(0, 1), donate_argnums=2)
def train_epoch(tx: Any, noisy: bool, carry: Any, batches: Any, images: Any, labels: Any) -> Any:
    """One pass through the data, all inside one compiled scan."""

    def step(carry: Any, batch: Any) -> Any:
        (params, state), (rows, key) = carry, batch
        args = images[rows], labels[rows]
        if noisy:  # IVON's gradients are taken at weights drawn from its posterior
            _, grads, state = bmrpruner.noisy_value_and_grad(loss_fn, state, params, key, *args)
        else:
            grads = jax.grad(loss_fn)(params, *args)
        updates, state = tx.update(grads, state, params)
        return (optax.apply_updates(params, updates), state), None

    return jax.lax.scan(step, carry, batches)[0]


def loss_fn(params: Any, images: jax.Array, labels: jax.Array, key: Any = None) -> jax.Array:
    """Cross-entropy, averaged over the batch."""
    logits = mlp(params, images)
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


if __name__ == "__main__":
    run(main, checked, Settings)
