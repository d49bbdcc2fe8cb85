"""Metrics of pruned networks, at the mean and averaged over the posterior."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bmrpruner import metrics
from bmrpruner._tree import PyTree
from bmrpruner.posteriors.predict import average_draws
from bmrpruner.pruning.pruned import Pruned
from bmrpruner.study.tasks import Model, Task

_BATCH = 2048


class Evaluator:
    """Evaluates pruned networks of one shape by one compiled function.

    Attributes:
      width: How many networks are evaluated at once, side by side.

    Example:
      >>> from bmrpruner.pruning import Rule, prune
      >>> task = Task(np.eye(2), np.array([0, 1]), np.ones((2, 2)))
      >>> evaluate = Evaluator(lambda params, x: x @ params['w'], task)
      >>> pruned = prune({'w': jnp.eye(2)}, Rule('magnitude', sparsity=0.5))
      >>> evaluate([pruned])[0]['mean']['accuracy']
      1.0
    """

    def __init__(
        self, model: Model, task: Task, samples: int = 20, seed: int = 0, width: int | None = None
    ) -> None:
        if samples < 0:
            raise ValueError(f"samples: expected a number >= 0, got {samples}.")
        if width is not None and width < 1:
            raise ValueError(f"parallel: expected a number >= 1 of networks, got {width}.")
        self.width = width or (1 if jax.default_backend() == "cpu" else 8)
        self._keys = jax.random.split(jax.random.key(seed), samples)
        self._model = model
        self._task = Task(*map(jnp.asarray, task))
        side_by_side = jax.vmap(self._predict, in_axes=(None, 0))
        self._run = jax.jit(self._predict if self.width == 1 else side_by_side)

    def __call__(self, networks: Sequence[Pruned]) -> list[dict[str, Any]]:
        """Metrics of each network: `mean`, and `averaged` (None without a posterior)."""
        results: list[dict[str, Any]] = []
        for start in range(0, len(networks), self.width):
            group = list(networks[start : start + self.width])
            results += self._group(group)
        return results

    def probe(self, params: PyTree) -> np.ndarray:
        """Logits of 64 random inputs, which depend on weights that test inputs may not reach."""
        shape = (64, *self._task.inputs.shape[1:])
        return np.asarray(self._model(params, jax.random.normal(jax.random.key(0), shape)))

    def _group(self, group: list[Pruned]) -> list[dict[str, Any]]:
        # Padded to one width: one compiled function, and numbers that do not depend on the group.
        padded = group + [group[-1]] * (self.width - len(group))
        trees = [(network.params, network.posterior) for network in padded]
        inputs, labels = jnp.concatenate([self._task.inputs, self._task.ood]), self._task.labels
        if self.width == 1:
            probs = self._run(inputs, trees[0])
            return [jax.tree.map(lambda p: _as_json(_measure(p, labels)), probs)]
        probs = self._run(inputs, jax.tree.map(lambda *x: jnp.stack(x), *trees))
        measured = jax.tree.map(lambda p: jax.device_get(_measure_all(p, labels)), probs)
        return [_as_json(jax.tree.map(lambda x, i=i: x[i], measured)) for i in range(len(group))]

    def _predict(self, inputs: jax.Array, network: Any) -> dict[str, Any]:
        """Class probabilities at the mean, and averaged over draws if there is a posterior."""
        params, posterior = network
        at_mean = self._probs(params, inputs)
        if posterior is None or not len(self._keys):
            return {"mean": at_mean, "averaged": None}
        averaged = average_draws(self._probs, posterior, inputs, self._keys)
        return {"mean": at_mean, "averaged": averaged}

    def _probs(self, params: PyTree, inputs: jax.Array) -> jax.Array:
        """Softmax of the logits, a batch at a time to bound the memory."""
        n = len(inputs)
        if n <= _BATCH:
            return jax.nn.softmax(self._model(params, inputs))
        padding = [(0, -n % _BATCH)] + [(0, 0)] * (inputs.ndim - 1)
        batches = jnp.pad(inputs, padding).reshape(-1, _BATCH, *inputs.shape[1:])
        probs = jax.lax.map(lambda x: jax.nn.softmax(self._model(params, x)), batches)
        return probs.reshape(-1, probs.shape[-1])[:n]


def _metrics(both: jax.Array, labels: jax.Array) -> dict[str, Any]:
    """Metrics of the probabilities of test inputs, and of outsiders behind them."""
    probs, outside = both[: len(labels)], both[len(labels) :]
    nats = -jnp.log(jnp.maximum(_of_label(probs, labels), jnp.finfo(probs.dtype).tiny))
    hits = (probs.argmax(1) == labels).astype(probs.dtype)
    ood_auroc = metrics.auroc(_entropy(probs), _entropy(outside))
    return {
        "accuracy": metrics.accuracy(probs, labels),
        "accuracy_se": _standard_error(hits),
        "nll": metrics.nll(probs, labels),
        "nll_se": _standard_error(nats),
        "brier": metrics.brier(probs, labels),
        "ece": metrics.ece(probs, labels),
        "ece_se": metrics.ece_standard_error(probs, labels),
        "ood_auroc": ood_auroc,
        "ood_auroc_se": metrics.auroc_standard_error(ood_auroc, len(probs), len(outside)),
        "reliability": metrics.reliability_diagram(probs, labels, bins=10)._asdict(),
    }


# Compiled once for all evaluators: sorting takes longer to compile than most networks.
_measure = jax.jit(_metrics)
_measure_all = jax.jit(jax.vmap(_metrics, in_axes=(0, None)))


def _of_label(probs: jax.Array, labels: jax.Array) -> jax.Array:
    return jnp.take_along_axis(probs, labels[:, None], axis=1)[:, 0]


def _entropy(probs: jax.Array) -> jax.Array:
    return metrics.predictive_entropy(probs[None])


def _standard_error(values: jax.Array) -> jax.Array:
    """Of the mean over the test examples."""
    return jnp.std(values) / np.sqrt(values.size)


def _as_json(measured: Any) -> Any:
    return jax.tree.map(lambda x: np.asarray(x).tolist(), measured)
