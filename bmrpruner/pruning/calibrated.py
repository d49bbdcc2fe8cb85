"""Prune one network by many rules, some of which read the moments of its layers' inputs."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax

from bmrpruner._checks import check_labels, check_positive
from bmrpruner._tree import PyTree
from bmrpruner.posteriors import DiagonalGaussian, LayerwiseGaussian
from bmrpruner.posteriors.calibration import from_calibration, peeked, repeatable
from bmrpruner.pruning.pruned import Pruned, as_arrays, prune
from bmrpruner.pruning.rules import Rule, make_updater
from bmrpruner.pruning.tolerance import largest_sparsity


class Calibration(NamedTuple):
    """A model and its inputs, for the algorithms that prune once and refit: obs and its kin.

    Attributes:
      model: `(params, inputs) -> logits`.
      batches: Inputs without labels, for the moments of each layer's inputs.
      held_out: Pairs of other inputs and their labels, to measure the loss on.
      max_loss_rise: Prune as much as keeps the rise of the loss on `held_out` within this, nats per
        example, in place of a rule's sparsity; None for the rule's.

    Example:
      >>> import jax.numpy as jnp
      >>> from bmrpruner.study.models import mlp
      >>> Calibration(mlp, [jnp.ones((100, 2))]).max_loss_rise is None
      True
    """

    model: Callable[..., Any]
    batches: Iterable[Any]
    held_out: Iterable[Any] = ()
    max_loss_rise: float | None = None


class Pruner:
    """Prunes one network by one rule after the other; what rules share is computed once.

    Attributes:
      params: The dense parameters.
      posterior: A posterior of single weights; None without one.
      calibration: For the rules that read moments; None without it.

    Raises:
      ValueError: If the model does not take these parameters and inputs, or a tolerance is not
        positive.

    Example:
      >>> import jax.numpy as jnp
      >>> pruner = Pruner({'w': jnp.array([[1.0, -3.0]])})
      >>> pruner(Rule('magnitude', sparsity=0.5)).params['w'].tolist()
      [[0.0, -3.0]]
    """

    def __init__(
        self,
        params: PyTree,
        posterior: DiagonalGaussian | None = None,
        calibration: Calibration | None = None,
    ) -> None:
        self.params, self.posterior = params, posterior
        self.calibration = calibration and _checked(calibration, params)
        self._scores: dict[Rule, PyTree] = {}

    def __call__(self, rule: Rule) -> Pruned:
        """Prune by a rule, as `prune` does."""
        if not rule.is_one_shot:
            return prune(self.params, rule, self.posterior)
        return prune(self.params, rule, self.posterior, self.moments, self._scores_of(rule))

    def resolved(self, rule: Rule) -> Rule:
        """The rule with its temperature, and the sparsity that a tolerance allows, as numbers."""
        if rule.is_one_shot and self.calibration and self.calibration.max_loss_rise is not None:
            return dataclasses.replace(rule, sparsity=self._largest_sparsity(rule))
        return rule.resolved(self.posterior)

    @functools.cached_property
    def moments(self) -> LayerwiseGaussian:
        """The posterior of each layer, from a pass over the calibration inputs.

        Raises:
          ValueError: If there are no calibration inputs.
        """
        if self.calibration is None:
            raise ValueError(
                "calibration: expected a model and inputs for algorithms that refit what stays, "
                "got none."
            )
        model, batches, *_ = self.calibration
        return from_calibration(model, as_arrays(self.params), batches)

    def _scores_of(self, rule: Rule) -> PyTree:
        """The scores, which are the same at every sparsity."""
        same = dataclasses.replace(rule, sparsity=0.0, threshold=None, sparsity_type="unstructured")
        if same not in self._scores:
            updater = make_updater(self.params, same, self.moments)
            scores = updater.calculate_scores(as_arrays(self.params), posterior=self.moments)
            self._scores[same] = scores
        return self._scores[same]

    def _largest_sparsity(self, rule: Rule) -> float:
        assert self.calibration is not None
        assert self.calibration.max_loss_rise is not None
        updater: Any = make_updater(self.params, rule, self.moments)
        return largest_sparsity(
            self.calibration.model,
            as_arrays(self.params),
            self.moments,
            self.calibration.held_out,
            self.calibration.max_loss_rise,
            "softmax",
            updater,
            self._scores_of(rule),
        )


def count_classes(model: Callable[..., Any], params: PyTree, inputs: Any) -> int:
    """The number of classes of a model, which is traced and not run.

    Args:
      model: From parameters and inputs to logits.
      params: Any pytree of arrays.
      inputs: An array, or its shape and dtype.

    Raises:
      ValueError: If the model does not take them, or gives something else than logits.
    """
    try:
        logits = jax.eval_shape(model, params, inputs)
    except Exception as error:  # whatever the model does with shapes it does not know
        first_line = str(error).strip().partition("\n")[0]
        raise ValueError(
            f"model: expected one that takes inputs of shape {inputs.shape}, got {first_line}"
        ) from error
    shape = getattr(logits, "shape", None)
    if shape is None or len(shape) != 2 or shape[0] != len(inputs):
        raise ValueError(f"model: expected logits of shape ({len(inputs)}, classes), got {shape}.")
    return int(shape[1])


def _checked(calibration: Calibration, params: PyTree) -> Calibration:
    """The calibration with batches that can be gone through again, or a ValueError."""
    batches, held_out = repeatable(calibration.batches), repeatable(calibration.held_out)
    first, _ = peeked("batches", batches)
    classes = count_classes(calibration.model, params, first)
    if calibration.max_loss_rise is not None:
        check_positive("max_loss_rise", calibration.max_loss_rise)
        for _, labels in held_out:
            check_labels("held_out", labels, classes)
    return calibration._replace(batches=batches, held_out=held_out)
