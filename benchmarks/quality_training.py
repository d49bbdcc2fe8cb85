"""The training runs of the quality benchmark."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from networks import Network

import bmrpruner
from bmrpruner.study.idx import Dataset

# Effective sample size by optimizer, in training examples.
ESS = {"ivon_1n": 1.0, "ivon_3n": 3.0, "ivon_10n": 10.0}
# Weight decay and label smoothing by optimizer: Optax's default, and what adamw_search.py finds:
# the decay of the best NLL, and the smoothing of the best accuracy (0.1 is as good, its NLL worse).
ADAMW = {"adamw": (1e-4, 0.0), "adamw_decay": (0.3, 0.0), "adamw_smooth": (1e-4, 0.05)}
SGD = "sgd"  # with a momentum of 0.9 and a weight decay of 5e-4
DENSE = (*ADAMW, SGD, *ESS)


class Training(NamedTuple):
    """One training run: a file."""

    network: str
    optimizer: str  # one of DENSE
    algorithm: str  # 'no_prune', pruned afterwards; else pruned during training
    sparsity: float | None  # None where the evidence decides
    seed: int

    @property
    def file(self) -> str:
        """Its name."""
        return "-".join(str(part) for part in self) + ".json"


def make_optimizer(training: Training, examples: int, epochs: int, **options: Any) -> Any:
    """AdamW, SGD, or IVON by its recipe, wrapped by the pruner, which keeps pruned weights at zero.

    The options are the pruner's own.
    """
    steps = count_steps(examples, epochs)
    if training.optimizer in ESS:
        ess = ESS[training.optimizer] * examples
        prior = 60 / ess
        if training.algorithm != "no_prune":
            # The prior that decides which weights go is too narrow for those that stay.
            fall = int(0.3 * steps)
            prior = optax.exponential_decay(prior, fall, 0.1, fall, end_value=0.1 * prior)
        rate = optax.cosine_decay_schedule(0.3, steps)
        inner = bmrpruner.ivon(rate, ess, b2=1 - 6 / steps, weight_decay=prior)
    elif training.optimizer == SGD:
        sgd = optax.sgd(optax.cosine_decay_schedule(0.1, steps), momentum=0.9)
        inner = optax.chain(optax.add_decayed_weights(5e-4), sgd)
    else:
        decay, _ = ADAMW[training.optimizer]
        inner = optax.adamw(optax.cosine_decay_schedule(1e-3, steps), weight_decay=decay)
    pruner = make_pruner(training.algorithm, training.sparsity, steps, **options)
    return pruner.wrap_optax(inner, mask_updates=True)


def count_steps(examples: int, epochs: int) -> int:
    """The steps of all epochs; a ValueError if there is none."""
    if examples < 100:
        raise ValueError(f"training images: expected 100 at least, got {examples}.")
    if epochs < 1:
        raise ValueError(f"epochs: expected at least 1, got {epochs}.")
    return epochs * (examples // 100)


def make_pruner(
    algorithm: str, sparsity: float | None, steps: int = 0, **options: Any
) -> bmrpruner.BaseUpdater:
    """A pruner by its registry name; with the cubic schedule if there are steps.

    A name that begins with `global_` is that of an algorithm that ranks the whole network, by its
    scores as they are. Other options are the updater's own.
    """
    if steps:
        every = max(1, steps // 120)
        options["update_freq"] = every
        options["update_start_step"] = steps // 4
        options["update_end_step"] = steps * 3 // 5 // every * every
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
        _, smoothing = ADAMW.get(optimizer, (0.0, 0.0))
        targets = optax.smooth_labels(jax.nn.one_hot(labels[rows], 10), smoothing)
        return optax.softmax_cross_entropy(logits, targets).mean()

    def step(carry: Any, batch: Any) -> Any:
        params, state = carry
        rows, step_key = batch
        if optimizer in ESS:
            _, grads, state = bmrpruner.noisy_value_and_grad(loss_fn, state, params, step_key, rows)
        else:
            grads = jax.grad(loss_fn)(params, rows)
        updates, state = tx.update(grads, state, params)
        return (optax.apply_updates(params, updates), state), None

    order_key, noise_key = jax.random.split(key)
    steps = len(images) // 100
    order = jax.random.permutation(order_key, len(images))[: steps * 100].reshape(steps, 100)
    return jax.lax.scan(step, carry, (order, jax.random.split(noise_key, steps)))[0]
