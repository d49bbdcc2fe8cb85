"""Lottery tickets: is a pruned network, set back to its first weights, easier to train?

    python examples/lottery_tickets.py                  # scikit-learn's two moons, 2-30-2
    python examples/lottery_tickets.py --data mnist/    # MNIST-format IDX files, 784-300-100-10

Shows accuracy, calibration and the steps to a target accuracy against the share of weights left,
for tickets and their controls. Look in tickets.png whether the winning ticket stays above its
random re-initialisation, which has the same masks, and whether it learns faster.

Frankle and Carbin 2019, https://arxiv.org/abs/1803.03635: train, prune a fifth of each layer's
weights (a tenth of the output layer's), set the others back, and so on. The controls start from
other random weights, prune in one shot, or go on from the trained weights. Rewinding goes back to
an early step instead (Frankle et al. 2020, https://arxiv.org/abs/1912.05671). The last two methods
ask whether the weights that the evidence keeps make better tickets than the largest ones.
"""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from command_line import check_positive, run
from lottery_data import Data, Split, load
from lottery_report import check_pruned, evaluate, report

import bmrpruner
from bmrpruner.study.models import init_mlp, mlp


@dataclasses.dataclass
class Settings:
    """Find lottery tickets, and compare them with their controls."""

    data: Path | None = None
    """Directory with MNIST-format IDX files; without it, scikit-learn's two moons."""
    ood: Path | None = None
    """Directory with IDX files of something else, such as Fashion-MNIST."""
    out: Path = Path("results/lottery_tickets")
    """Directory for results.json and the figure."""
    rounds: tuple[int, ...] = (4, 7, 12)
    """After how many rounds of pruning to compare: 12 leave 7 % of the weights."""
    seeds: int = 2
    """How many random seeds to run."""
    steps: int | None = None
    """Training steps; by default 2,400 for images, 1,200 for moons."""
    rewind: int = 100
    """The step to which rewound tickets go back."""
    target: float | None = None
    """Validation accuracy to reach; by default .965 for images, .95 for moons."""
    quick: bool = False
    """A short form for a first check: one seed, one round, few steps."""


class Plan(NamedTuple):
    """Sizes of the task."""

    layers: tuple[int, ...]
    steps: int
    batch: int
    every: int  # steps between two looks at the validation set
    rate: float  # Adam's
    rewind: int
    ess: int


class Method(NamedTuple):
    """How to find masks, and where to train from under them."""

    name: str
    start: str  # 'first', 'other', 'early' (the weights at an early step) or 'trained'
    iterative: bool = True
    evidence: bool = False  # prune by IVON's ΔF instead of by magnitude


TICKET = Method("winning ticket", "first")
METHODS = (
    TICKET,
    Method("rewound to an early step", "early"),
    Method("iterative, fine-tuned", "trained"),
    Method("random re-initialisation", "other"),
    Method("one shot, reset", "first", iterative=False),
    Method("one shot, fine-tuned", "trained", iterative=False),
    Method("IVON + BMR ticket", "first", evidence=True),
    Method("IVON + BMR, one shot, reset", "first", iterative=False, evidence=True),
)


class Trained(NamedTuple):
    """The result of training."""

    best: Any  # the weights at the lowest validation loss: early stopping
    last: Any
    opt_state: Any
    valid_loss: Any  # (looks,)
    valid_accuracy: Any  # (looks,)


class Study:
    """One seed: networks by method and round, each trained once."""

    def __init__(self, plan: Plan, data: Data, seed: int) -> None:
        self.plan, self.data, self.key = plan, data, jax.random.key(seed)
        self.first = init_mlp(self.key, plan.layers)
        self.other = init_mlp(jax.random.fold_in(self.key, 1), plan.layers)
        self.ones = prune(self.first, None, 0)
        self.early = self.train(self.first, self.ones, stop=plan.rewind).last
        self.ticket = functools.cache(self.ticket)

    def train(self, start: Any, masks: Any, **options: Any) -> Trained:
        """Train under masks; the same batches whatever the weights."""
        return train(self.plan, start, masks, self.key, self.data.train, self.data.valid, **options)

    def ticket(self, method: Method, rounds: int) -> tuple[Any, Trained]:
        """Masks after some rounds of pruning, and the network that was trained under them."""
        if rounds == 0:
            return self.ones, self.train(self.first, self.ones, ivon=method.evidence)
        if method.start == "other":
            masks = self.ticket(TICKET, rounds)[0]
            return masks, self.train(self.other, masks)
        before = rounds - 1 if method.iterative else 0
        finder = dense(method) if before == 0 else method
        found = self.ticket(finder, before)[1]
        masks = prune(found.last, found.opt_state if method.evidence else None, rounds)
        starts = {"first": self.first, "early": self.early, "trained": found.last}
        first_step = self.plan.rewind if method.start == "early" else 0
        start = starts[method.start]
        return masks, self.train(start, masks, first_step=first_step, ivon=method.evidence)

    def row(self, method: Method, rounds: int, target: float) -> dict[str, Any]:
        """What a ticket is worth, trained by Adam whatever has found it."""
        masks, network = self.ticket(method, rounds)
        if method.evidence:
            network = self.train(self.first, masks)
        first_step = self.plan.rewind if method.start == "early" and rounds else 0
        looks = first_step + self.plan.every * (1 + np.arange(len(network.valid_loss)))
        reached = np.flatnonzero(np.asarray(network.valid_accuracy) >= target)
        dense_params = self.ticket(dense(TICKET), 0)[1].best
        check_pruned(network.best, masks, dense_params, self.data)
        return {
            "method": method.name,
            "rounds": rounds,
            "early_stop": int(looks[np.argmin(network.valid_loss)]),
            "steps_to_target": int(looks[reached[0]]) if len(reached) else None,
            "valid_accuracy": np.asarray(network.valid_accuracy).tolist(),
            "looks": looks.tolist(),
            **evaluate(network.best, self.data),
        }


def dense(method: Method) -> Method:
    """The method under which the dense network is kept, one for each way to train it."""
    return Method("dense", "first", evidence=method.evidence)


@functools.partial(jax.jit, static_argnums=0, static_argnames=("stop", "first_step", "ivon"))
def train(
    plan: Plan,
    start: Any,
    masks: Any,
    key: Any,
    data: Split,
    valid: Split,
    stop: int | None = None,
    first_step: int = 0,
    ivon: bool = False,
) -> Trained:
    """Train from a step to another, under masks that never change."""
    stop = plan.steps if stop is None else stop
    tx = bmrpruner.FixedMasks(masks).wrap_optax(make_optimizer(plan, ivon))

    def step(carry: Any, i: Any) -> Any:
        params, opt_state = carry
        batch_key, noise_key = jax.random.split(jax.random.fold_in(key, i))
        rows = jax.random.randint(batch_key, (plan.batch,), 0, len(data.y))
        batch = Split(data.x[rows], data.y[rows])
        if ivon:
            _, grads, opt_state = bmrpruner.noisy_value_and_grad(
                loss_fn, opt_state, params, noise_key, batch
            )
        else:
            grads = jax.grad(loss_fn)(params, batch)
        updates, opt_state = tx.update(grads, opt_state, params)
        return (optax.apply_updates(params, updates), opt_state), None

    def look(carry: Any, steps: Any) -> Any:
        *state, best, lowest = carry
        (params, opt_state), _ = jax.lax.scan(step, tuple(state), steps)
        logits = mlp(params, valid.x)
        loss = cross_entropy(logits, valid.y)
        accuracy = jnp.mean(jnp.argmax(logits, -1) == valid.y)
        best = jax.tree.map(functools.partial(jnp.where, loss < lowest), params, best)
        return (params, opt_state, best, jnp.minimum(loss, lowest)), (loss, accuracy)

    params = bmrpruner.apply_masks(start, masks)
    steps = jnp.arange(first_step, stop).reshape(-1, plan.every)
    carry = (params, tx.init(params), params, jnp.inf)
    (last, opt_state, best, _), (losses, accuracies) = jax.lax.scan(look, carry, steps)
    return Trained(best, last, opt_state, losses, accuracies)


def make_optimizer(plan: Plan, ivon: bool) -> optax.GradientTransformation:
    """The study's Adam, or IVON at a third of the temperature that Bayes' rule has."""
    if not ivon:
        return optax.adam(plan.rate)
    rate = optax.cosine_decay_schedule(0.3, plan.steps)
    ess = 3 * plan.ess
    return bmrpruner.ivon(
        rate, ess, hess_init=1800 / ess, b2=1 - 6 / plan.steps, weight_decay=60 / ess
    )


def prune(params: Any, opt_state: Any, rounds: int) -> Any:
    """Masks that leave .8 of each layer per round, .9 of the output layer; by ΔF with a state."""
    algorithm = bmrpruner.MagnitudePruning if opt_state is None else bmrpruner.BMRPruning
    output = (max(params), "kernel")
    pruner = algorithm(sparsity=1 - 0.8**rounds, custom_sparsity_map={output: 1 - 0.9**rounds})
    posterior = opt_state and bmrpruner.posteriors.from_opt_state(opt_state, params)
    return pruner.instant_sparsify(params, posterior=posterior)[1]


def cross_entropy(logits: Any, labels: Any) -> jax.Array:
    """The mean over examples."""
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


def loss_fn(params: Any, batch: Split, key: Any = None) -> jax.Array:
    """Cross-entropy of a batch; IVON's gradients hand in a key as well."""
    return cross_entropy(mlp(params, batch.x), batch.y)


def main(settings: Settings) -> None:
    """Train, prune, compare, report."""
    rows = []
    for seed in range(settings.seeds):
        data = load(settings.data, settings.ood, seed)
        plan = make_plan(settings, data)
        target = settings.target or (0.95 if settings.data is None else 0.965)
        study = Study(plan, data, seed)
        jobs = [(dense(TICKET), 0)] + [(m, r) for m in METHODS for r in settings.rounds]
        for method, rounds in jobs:
            rows.append({"seed": seed, **study.row(method, rounds, target)})
            left, accuracy = rows[-1]["left"], rows[-1]["accuracy"]
            print(f"seed {seed}, {method.name}, {left:.1%} left: {accuracy:.2%}", flush=True)
    report(settings.out, data.name, target, rows)


def make_plan(settings: Settings, data: Data) -> Plan:
    """Sizes of the network and of the steps, for images or moons."""
    examples, features = data.train.x.shape
    if settings.data is None:
        steps = settings.steps or 1200
        return Plan((features, 30, 2), steps, 50, 50, 0.01, settings.rewind, examples)
    steps = settings.steps or 2400
    classes = int(data.train.y.max()) + 1
    return Plan((features, 300, 100, classes), steps, 60, 100, 1.2e-3, settings.rewind, examples)


def checked(settings: Settings) -> Settings:
    """The settings, or a ValueError that names the one that is impossible."""
    check_positive("rounds", *settings.rounds)
    check_positive("seeds", settings.seeds)
    check_positive("steps", settings.steps)
    if settings.target is not None and not 0 < settings.target <= 1:
        raise ValueError(f"--target: expected a number in (0, 1], got {settings.target}.")
    if settings.quick:
        settings = dataclasses.replace(
            settings, seeds=1, rounds=settings.rounds[:1], steps=settings.steps or 200
        )
    every = 50 if settings.data is None else 100
    for name, value in (("rewind", settings.rewind), ("steps", settings.steps)):
        if value is not None and (value < every or value % every):
            raise ValueError(f"--{name}: expected a multiple of {every}, got {value}.")
    if settings.steps is not None and settings.rewind >= settings.steps:
        raise ValueError(f"--rewind: expected fewer than the {settings.steps} steps, got others.")
    return settings


if __name__ == "__main__":
    run(main, checked, Settings)
