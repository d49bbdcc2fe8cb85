"""Rules that say which weights go, and the pruners that carry them out."""

from __future__ import annotations

import dataclasses
import fnmatch
from collections.abc import Mapping
from typing import Any

from bmrpruner import api
from bmrpruner._checks import check_seed, did_you_mean
from bmrpruner._tree import Key, PyTree, is_prunable, join, keyed_leaves
from bmrpruner.base_updater import BaseUpdater
from bmrpruner.posteriors import DiagonalGaussian, LayerwiseGaussian
from bmrpruner.sparsity_types import NByM, parse_sparsity_type


@dataclasses.dataclass(frozen=True)
class Rule:
    """A rule that says which weights to prune.

    The fields mean what they mean in an updater, and have the same defaults. Exactly one of
    `sparsity` and `threshold` is given; an N:M pattern needs none, and adaptive BMR takes a
    sparsity only as an upper bound.

    Attributes:
      algorithm: A registered name, such as `'bmr'`, `'snr'`, `'magnitude'`.
      sparsity: Fraction of the eligible weights to prune.
      threshold: Prune what scores at or below it; for `'bmr'`, where ΔF is at or above it.
      scope: Rank each leaf by itself (`'layer'`) or over the whole network (`'global'`); None is
        the algorithm's own.
      sparsity_type: `'unstructured'`, `'2:4'`, `'4x4'`, `'channel_-1'`, ...
      include: Patterns of leaf names such as `'dense_*/kernel'`; empty for all leaves of two axes
        or more.
      exclude: Patterns of leaf names that stay whole.
      seed: For algorithms that draw noise.
      temperature: For `'bmr'` and its kin: see `BMRPruning`. None is the posterior's own, which
        `resolved` fills in; 1 for algorithms that have none.

    Raises:
      ValueError: If the algorithm cannot prune without training, or a field does not fit it.

    Example:
      >>> Rule('snr', sparsity=0.9).label
      'snr, 90 %'
      >>> Rule('bmr', threshold=0.0, scope='global', temperature=0.1).label
      'global bmr at T = 0.1, ΔF ≥ 0'
    """

    algorithm: str = "bmr"
    sparsity: float | None = None
    threshold: float | None = None
    scope: str | None = None
    sparsity_type: str = "unstructured"
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    seed: int = 0
    temperature: float | None = None

    def __post_init__(self) -> None:
        known = algorithm_names()
        if self.algorithm not in known:
            raise ValueError(
                f"algorithm: expected one of {', '.join(known)}, which prune without training, "
                f"got {self.algorithm!r}." + did_you_mean(self.algorithm, known)
            )
        check_seed("seed", self.seed)
        is_pattern = isinstance(parse_sparsity_type(self.sparsity_type), NByM)
        if not (self._class.decides_sparsity or is_pattern) and self._asks_nothing:
            raise ValueError("sparsity, threshold: expected exactly one of them, got 0.")
        if is_pattern and not self._asks_nothing:
            raise ValueError(
                f"sparsity, threshold: expected neither with {self.sparsity_type}, got "
                f"{self.sparsity} and {self.threshold}."
            )
        if self.temperature is None and not self._takes_temperature:
            object.__setattr__(self, "temperature", 1.0)
        self.make_updater()

    @property
    def label(self) -> str:
        """The rule in a few words."""
        at = "" if self.temperature in (None, 1) else f" at T = {self.temperature:.2g}"
        name = ("global " if self.scope == "global" else "") + self.algorithm + at
        if self.sparsity is not None:
            return f"{name}, {100 * self.sparsity:g} %"
        if self.threshold is not None:
            sign = "ΔF ≥" if self._takes_temperature else "score ≤"
            return f"{name}, {sign} {self.threshold:g}"
        return name if self._class.decides_sparsity else f"{name}, {self.sparsity_type}"

    @property
    def is_one_shot(self) -> bool:
        """Whether it reads the moments of each layer's inputs and refits what stays, as obs does.

        Example:
          >>> Rule('obs', sparsity=0.9).is_one_shot, Rule('snr', sparsity=0.9).is_one_shot
          (True, False)
        """
        return self._class.is_one_shot

    def resolved(self, posterior: DiagonalGaussian | None) -> Rule:
        """The rule with the temperature that it has for a posterior, as a number.

        Args:
          posterior: The one to be pruned; None leaves the rule as it is.

        Returns:
          A rule that prunes this posterior as `self` does.

        Example:
          >>> import jax.numpy as jnp
          >>> posterior = DiagonalGaussian(jnp.array([0.6, 0.0]), jnp.array([1.0, 1.0]))
          >>> Rule('bmr', sparsity=0.5).resolved(posterior).label
          'bmr at T = 0.06, 50 %'
        """
        if self.temperature is not None or posterior is None:
            return self
        return dataclasses.replace(self, temperature=float(posterior.evidence_temperature()))

    def make_updater(self, filter_fn: Any = None) -> BaseUpdater:
        """The updater that carries out the rule on the leaves that a filter accepts.

        Args:
          filter_fn: `(key, leaf) -> bool`; None for leaves of two axes or more.

        Raises:
          ValueError: If a field has an impossible value, or two contradict each other.

        Example:
          >>> Rule('magnitude', sparsity=0.5).make_updater().sparsity
          0.5
        """
        settings: dict[str, Any] = {"sparsity": self.sparsity, "scope": self.scope}
        given = {name: value for name, value in settings.items() if value is not None}
        if self._takes_temperature:
            given["temperature"] = self.temperature
        elif self.temperature != 1:
            raise ValueError(
                f"temperature: expected 1, as {self.algorithm} has none (bmr has), "
                f"got {self.temperature}."
            )
        return self._class(
            threshold=self.threshold,
            sparsity_type=self.sparsity_type,
            rng_seed=self.seed,
            filter_fn=filter_fn,
            **given,
        )

    @property
    def _class(self) -> Any:
        return api.ALGORITHM_REGISTRY[self.algorithm]

    @property
    def _asks_nothing(self) -> bool:
        return self.sparsity is None and self.threshold is None

    @property
    def _takes_temperature(self) -> bool:
        return "temperature" in {field.name for field in dataclasses.fields(self._class)}


def algorithm_names() -> tuple[str, ...]:
    """The registered algorithms that need neither gradients nor an optimizer.

    Example:
      >>> 'snr' in algorithm_names(), 'rigl' in algorithm_names()
      (True, False)
    """
    classes = api.ALGORITHM_REGISTRY.items()
    return tuple(
        name for name, algorithm in classes if not getattr(algorithm, "needs_training", True)
    )


def rule_of(fields: Mapping[str, Any]) -> Rule:
    """The rule with these fields, which JSON may have given back with lists for tuples.

    Example:
      >>> rule_of({'algorithm': 'snr', 'sparsity': 0.5, 'include': ['head/*']}).include
      ('head/*',)
    """
    patterns = {key: tuple(fields[key]) for key in ("include", "exclude") if key in fields}
    return Rule(**{**fields, **patterns})


def make_updater(
    params: PyTree, rule: Rule, posterior: DiagonalGaussian | LayerwiseGaussian | None = None
) -> BaseUpdater:
    """The pruner of this library that carries out a rule on a network.

    Args:
      params: The network, whose leaves the rule's patterns name.
      rule: Which weights go.
      posterior: For the algorithms that read one; leaves without a posterior stay whole.

    Returns:
      The updater, with a filter of the leaves that the rule may prune.

    Raises:
      ValueError: If a pattern names no leaf.

    Example:
      >>> import jax.numpy as jnp
      >>> updater = make_updater({'w': jnp.ones((2, 2))}, Rule('magnitude', sparsity=0.5))
      >>> updater.sparsity
      0.5
    """
    known = None
    if isinstance(posterior, LayerwiseGaussian):
        known = {join(key) for key in posterior.covered}
    elif posterior is not None and api.ALGORITHM_REGISTRY[rule.algorithm].reads_posterior:
        leaves = keyed_leaves(posterior.precision)
        known = {join(key) for key, leaf in leaves if leaf is not None}
    names = [join(key) for key, leaf in keyed_leaves(params) if is_prunable(leaf)]
    for option in ("include", "exclude"):
        for pattern in getattr(rule, option):
            if not fnmatch.filter(names, pattern):
                raise ValueError(
                    f"{option}: expected a pattern of {', '.join(names)}, got {pattern!r}, which "
                    "matches none of them."
                )

    def accepts(key: Key, leaf: Any) -> bool:
        name = join(key)
        if known is not None and name not in known:
            return False
        if any(fnmatch.fnmatchcase(name, pattern) for pattern in rule.exclude):
            return False
        if rule.include:
            return any(fnmatch.fnmatchcase(name, pattern) for pattern in rule.include)
        return leaf.ndim > 1

    return rule.make_updater(accepts)
