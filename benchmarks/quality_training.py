"""The training runs of the quality benchmark."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from networks import NETWORKS, Network

import bmrpruner
from bmrpruner.study.idx import Dataset

COLD = 0.25  # the temperature of 'cold_bmr', and of the second averaged prediction


class Training(NamedTuple):
    """One training run: a file."""

    network: str
    optimizer: str  # 'AdamW' or 'IVON'
    algorithm: str  # 'no_prune', pruned afterwards; else pruned during training
    sparsity: float | None  # None where the evidence decides
    seed: int

    @property
    def file(self) -> str:
        """Its name."""
        return "-".join(str(part) for part in self) + ".json"


def make_optimizer(training: Training, examples: int, epochs: int) -> Any:
    """AdamW or IVON, wrapped by the pruner, which keeps pruned weights at zero."""
    warmup = NETWORKS[training.network].warmup
    steps = count_steps(examples, epochs, warmup)
    rate = optax.warmup_cosine_decay_schedule(0.0, 0.3, warmup, steps)
    if training.optimizer == "AdamW":
        inner = optax.adamw(optax.cosine_decay_schedule(1e-3, steps))
    elif training.algorithm == "no_prune":
        inner = bmrpruner.ivon(rate, ess=examples)
    else:
        # The prior that decides which weights go is too narrow for those that stay.
        prior = optax.exponential_decay(
            60 / examples, 0.3 * steps, 0.1, int(0.3 * steps), end_value=6 / examples
        )
        inner = bmrpruner.ivon(rate, ess=examples, weight_decay=prior)
    pruner = make_pruner(training.algorithm, training.sparsity, steps)
    return pruner.wrap_optax(inner, mask_updates=True)


def count_steps(examples: int, epochs: int, warmup: int) -> int:
    """The steps of all epochs; a ValueError unless there are more than those of the warm-up."""
    per_epoch = examples // 100
    if not per_epoch:
        raise ValueError(f"training images: expected 100 at least, got {examples}.")
    needed = warmup // per_epoch + 1
    if epochs < needed:
        raise ValueError(
            f"epochs: expected at least {needed} of {per_epoch} steps each, as the learning rate "
            f"has a warm-up of {warmup} steps, got {epochs}."
        )
    return epochs * per_epoch


def make_pruner(algorithm: str, sparsity: float | None, steps: int = 0) -> bmrpruner.BaseUpdater:
    """A pruner by its registry name, or 'cold_bmr'; with the cubic schedule if there are steps.

    A name that begins with `global_` is that of an algorithm that ranks the whole network, by its
    scores as they are.
    """
    options: dict[str, Any] = {}
    if steps:
        every = max(1, steps // 120)
        options["update_freq"] = every
        options["update_start_step"] = steps // 4
        options["update_end_step"] = steps * 3 // 4 // every * every
    if algorithm == "cold_bmr":
        algorithm, options["temperature"] = "global_bmr", COLD
    if algorithm.startswith("global_"):
        algorithm, options["scope"] = algorithm.removeprefix("global_"), "global"
    return bmrpruner.create_updater_from_config(
        algorithm=algorithm, dist_type="uniform", sparsity=sparsity, **options
    )


def train(
    training: Training, tx: Any, network: Network, data: Dataset, epochs: int, progress: Any
) -> tuple[Any, Any]:
    """The parameters and the optimizer state after all epochs."""
    key = jax.random.key(training.seed)
    params = network.init(key)
    state = tx.init(params)
    images, labels = jnp.asarray(data.train_images), jnp.asarray(data.train_labels)
    bar = progress.add_task(" ".join(str(part) for part in training), total=epochs)
    for epoch in range(epochs):
        params, state = jax.block_until_ready(
            train_epoch(
                tx,
                network.apply,
                training.optimizer,
                (params, state),
                jax.random.fold_in(key, epoch),
                images,
                labels,
            )
        )
        progress.advance(bar)
    progress.remove_task(bar)
    return params, state


@functools.partial(jax.jit, static_argnums=(0, 1, 2), donate_argnums=3)
def train_epoch(
    tx: Any,
    apply: Callable[..., jax.Array],
    optimizer: str,
    carry: Any,
    key: jax.Array,
    images: jax.Array,
    labels: jax.Array,
) -> Any:
    """One pass through the data in batches of 100, in random order."""

    def loss_fn(params: Any, rows: jax.Array, key: Any = None) -> jax.Array:
        logits = apply(params, images[rows])
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels[rows]).mean()

    def step(carry: Any, batch: Any) -> Any:
        params, state = carry
        rows, step_key = batch
        if optimizer == "IVON":
            _, grads, state = bmrpruner.noisy_value_and_grad(loss_fn, state, params, step_key, rows)
        else:
            grads = jax.grad(loss_fn)(params, rows)
        updates, state = tx.update(grads, state, params)
        return (optax.apply_updates(params, updates), state), None

    order_key, noise_key = jax.random.split(key)
    steps = len(images) // 100
    order = jax.random.permutation(order_key, len(images))[: steps * 100].reshape(steps, 100)
    return jax.lax.scan(step, carry, (order, jax.random.split(noise_key, steps)))[0]
