"""How good a pruned network is: at its mean, and averaged over its posterior."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bmrpruner import metrics
from bmrpruner._tree import PyTree
from bmrpruner.posthoc.pruning import Pruned
from bmrpruner.posthoc.tasks import Model, Task

_BATCH = 2048


class Evaluator:
    """Evaluates pruned networks of one shape by one compiled function.

    Attributes:
      width: How many networks are evaluated at once, side by side.

    Examples:
      >>> from bmrpruner.posthoc import Rule, prune
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
        self.width = width or (1 if jax.default_backend() == "cpu" else 8)
        self._keys = jax.random.split(jax.random.key(seed), samples)
        self._model = model
        self._task = Task(*map(jnp.asarray, task))
        side_by_side = jax.vmap(self._evaluate, in_axes=(None, 0))
        self._run = jax.jit(self._evaluate if self.width == 1 else side_by_side)

    def __call__(self, networks: Sequence[Pruned]) -> list[dict[str, Any]]:
        """Metrics of each network: `mean`, and `averaged` (None without a posterior)."""
        results: list[dict[str, Any]] = []
        for start in range(0, len(networks), self.width):
            group = list(networks[start : start + self.width])
            results += self._group(group)
        return results

    def probe(self, params: PyTree) -> np.ndarray:
        """Logits of random inputs, which reach weights that all test inputs may leave alone."""
        shape = (64, *self._task.inputs.shape[1:])
        return np.asarray(self._model(params, jax.random.normal(jax.random.key(0), shape)))

    def _group(self, group: list[Pruned]) -> list[dict[str, Any]]:
        # Always the same width: the same compiled function, and the same numbers in every company.
        padded = group + [group[-1]] * (self.width - len(group))
        trees = [(network.params, network.posterior) for network in padded]
        if self.width == 1:
            return [_as_json(jax.device_get(self._run(self._task, trees[0])))]
        stacked = jax.tree.map(lambda *x: jnp.stack(x), *trees)
        measured = jax.device_get(self._run(self._task, stacked))
        return [_as_json(jax.tree.map(lambda x, i=i: x[i], measured)) for i in range(len(group))]

    def _evaluate(self, task: Task, network: Any) -> dict[str, Any]:
        params, posterior = network
        result = {"mean": _metrics(task, lambda x: self._probs(params, x)), "averaged": None}
        if posterior is not None and len(self._keys):

            def averaged(x: Any) -> jax.Array:
                def draw(total: jax.Array, key: jax.Array) -> tuple[jax.Array, None]:
                    return total + self._probs(posterior.sample(key), x), None

                zeros = jnp.zeros_like(self._probs(params, x))
                return jax.lax.scan(draw, zeros, self._keys)[0] / len(self._keys)

            result["averaged"] = _metrics(task, averaged)
        return result

    def _probs(self, params: PyTree, inputs: jax.Array) -> jax.Array:
        """Softmax of the logits, a batch at a time to bound the memory."""
        n = len(inputs)
        if n <= _BATCH:
            return jax.nn.softmax(self._model(params, inputs))
        padding = [(0, -n % _BATCH)] + [(0, 0)] * (inputs.ndim - 1)
        batches = jnp.pad(inputs, padding).reshape(-1, _BATCH, *inputs.shape[1:])
        probs = jax.lax.map(lambda x: jax.nn.softmax(self._model(params, x)), batches)
        return probs.reshape(-1, probs.shape[-1])[:n]


def _metrics(task: Task, predict: Callable[[Any], jax.Array]) -> dict[str, Any]:
    n = len(task.labels)
    both = predict(jnp.concatenate([task.inputs, task.ood]))
    probs, outside = both[:n], both[n:]
    nats = -jnp.log(jnp.maximum(_of_label(probs, task.labels), jnp.finfo(probs.dtype).tiny))
    hits = (probs.argmax(1) == task.labels).astype(probs.dtype)
    return {
        "accuracy": metrics.accuracy(probs, task.labels),
        "accuracy_se": _standard_error(hits),
        "nll": metrics.nll(probs, task.labels),
        "nll_se": _standard_error(nats),
        "brier": metrics.brier(probs, task.labels),
        "ece": metrics.ece(probs, task.labels),
        "ood_auroc": metrics.auroc(_entropy(probs), _entropy(outside)),
        "reliability": metrics.reliability_diagram(probs, task.labels, bins=10)._asdict(),
    }


def _of_label(probs: jax.Array, labels: jax.Array) -> jax.Array:
    return jnp.take_along_axis(probs, labels[:, None], axis=1)[:, 0]


def _entropy(probs: jax.Array) -> jax.Array:
    return metrics.predictive_entropy(probs[None])


def _standard_error(values: jax.Array) -> jax.Array:
    """Of the mean over the test examples."""
    return jnp.std(values) / np.sqrt(values.size)


def _as_json(metrics_tree: Any) -> Any:
    return jax.tree.map(lambda x: x.tolist(), metrics_tree)
