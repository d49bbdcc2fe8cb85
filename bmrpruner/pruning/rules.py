"""Which weights go, in words, and the pruner of this library that takes them."""

from __future__ import annotations

import dataclasses
import fnmatch
import functools
import math
from typing import Any

from bmrpruner import api, sparsity_distributions
from bmrpruner._checks import check_positive, check_sparsity, did_you_mean
from bmrpruner._tree import Key, PyTree, is_array, join, keyed_leaves
from bmrpruner.algorithms.adam_fisher import AdamBasedFisherPruning
from bmrpruner.algorithms.bmr_pruners import BMRPruning, PosteriorPruning
from bmrpruner.algorithms.global_pruners import GlobalPruningMixin
from bmrpruner.algorithms.pruners import SaliencyPruning
from bmrpruner.algorithms.sparse_trainers import StaticRandomSparse
from bmrpruner.base_updater import BaseUpdater, NoPruning
from bmrpruner.posteriors import DiagonalGaussian
from bmrpruner.sparsity_types import NByM, Unstructured, parse_sparsity_type

SCOPES = ("global", "layer")
_IN_TRAINING = (NoPruning, SaliencyPruning, StaticRandomSparse, AdamBasedFisherPruning)


@dataclasses.dataclass(frozen=True)
class Rule:
    """Which weights go.

    Exactly one of `sparsity` and `threshold` is given, or neither for an N:M pattern, which needs
    none.

    Attributes:
      algorithm: A registered name, such as `'bmr'`, `'snr'`, `'magnitude'`.
      sparsity: Fraction of the eligible weights to prune.
      threshold: Prune what scores at or below it; for `'bmr'`, where ΔF is at or above it.
      scope: Rank over the whole network (`'global'`) or each leaf by itself (`'layer'`); None is
        global for single weights and by layer for groups.
      sparsity_type: `'unstructured'`, `'2:4'`, `'4x4'`, `'channel_-1'`, ...
      include: Patterns of leaf names such as `'dense_*/kernel'`; empty for all leaves of two axes
        or more.
      exclude: Patterns of leaf names that stay whole.
      seed: For algorithms that draw noise.
      temperature: For `'bmr'` and its kin: see `BMRPruning`.

    Examples:
      >>> Rule('snr', sparsity=0.9).label
      'snr, 90 %'
      >>> Rule('bmr', threshold=0.0, temperature=0.1).label
      'bmr at T = 0.1, ΔF ≥ 0'
    """

    algorithm: str = "bmr"
    sparsity: float | None = None
    threshold: float | None = None
    scope: str | None = None
    sparsity_type: str = "unstructured"
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    seed: int = 0
    temperature: float = 1.0

    def __post_init__(self) -> None:
        known = algorithm_names()
        if self.algorithm not in known:
            raise ValueError(
                f"algorithm: {self.algorithm!r} is not one of {', '.join(known)}, which prune "
                "without training." + did_you_mean(self.algorithm, known)
            )
        kind = parse_sparsity_type(self.sparsity_type)
        given = [value for value in (self.sparsity, self.threshold) if value is not None]
        if len(given) != (0 if isinstance(kind, NByM) else 1):
            needed = "neither" if isinstance(kind, NByM) else "exactly one"
            raise ValueError(
                f"sparsity, threshold: {self.sparsity_type} pruning takes {needed} of them, "
                f"got {len(given)}."
            )
        if self.sparsity is not None:
            check_sparsity("sparsity", self.sparsity)
        if self.threshold is not None and not math.isfinite(self.threshold):
            raise ValueError(f"threshold: expected a finite number, got {self.threshold}.")
        check_positive("temperature", self.temperature)
        if self.temperature != 1 and not self._takes_temperature:
            raise ValueError(f"temperature: {self.algorithm} has none; ΔF does, as in bmr.")
        if self.scope not in (None, *SCOPES):
            raise ValueError(f"scope: expected one of {', '.join(SCOPES)}, got {self.scope!r}.")
        if self.scope == "global" and not isinstance(kind, Unstructured):
            raise ValueError(
                f"scope: single weights are ranked globally, {self.sparsity_type} by layer."
            )

    @property
    def _takes_temperature(self) -> bool:
        return issubclass(api.ALGORITHM_REGISTRY[self.algorithm], BMRPruning)

    @property
    def label(self) -> str:
        """The rule in a few words."""
        at = "" if self.temperature == 1 else f" at T = {self.temperature:g}"
        name = self.algorithm + at
        if self.sparsity is not None:
            return f"{name}, {100 * self.sparsity:g} %"
        if self.threshold is None:
            return f"{name}, {self.sparsity_type}"
        sign = "ΔF ≥" if self.algorithm.endswith("bmr") else "score ≤"
        return f"{name}, {sign} {self.threshold:g}"


def algorithm_names() -> tuple[str, ...]:
    """The registered algorithms that need neither gradients nor an optimizer.

    Examples:
      >>> 'snr' in algorithm_names(), 'rigl' in algorithm_names()
      (True, False)
    """
    classes = api.ALGORITHM_REGISTRY.items()
    return tuple(name for name, algorithm in classes if not issubclass(algorithm, _IN_TRAINING))


def make_updater(
    params: PyTree, rule: Rule, posterior: DiagonalGaussian | None = None
) -> BaseUpdater:
    """The pruner of this library that carries out a rule.

    Raises:
      ValueError: If the algorithm needs a posterior and there is none, or a pattern names no leaf.

    Examples:
      >>> import jax.numpy as jnp
      >>> type(make_updater({'w': jnp.ones((2, 2))}, Rule('random', sparsity=0.5))).__name__
      'GlobalRandomPruning'
    """
    algorithm = api.ALGORITHM_REGISTRY[rule.algorithm]
    reads_posterior = issubclass(algorithm, PosteriorPruning)
    if reads_posterior and posterior is None:
        raise ValueError(
            f"{rule.algorithm} reads a posterior, and there is none: no '.../mean' with '.../std', "
            "'.../rho', '.../precision' or '.../draws'. Use magnitude."
        )
    kind = parse_sparsity_type(rule.sparsity_type)
    accepts = _leaf_filter(params, rule, posterior if reads_posterior else None)
    settings: dict[str, Any] = {
        "threshold": rule.threshold,
        "sparsity_type": kind,
        "rng_seed": rule.seed,
    }
    if rule._takes_temperature:
        settings["temperature"] = rule.temperature
    sparsity = _sparsity(rule, kind)
    scope = rule.scope or ("global" if isinstance(kind, Unstructured) else "layer")
    if scope == "layer" and not issubclass(algorithm, GlobalPruningMixin):
        uniform = functools.partial(
            sparsity_distributions.uniform, sparsity=sparsity, filter_fn=accepts
        )
        return algorithm(sparsity_distribution_fn=uniform, **settings)
    return _global_form(algorithm)(
        sparsity=sparsity, filter_fn=accepts, use_normalization=False, **settings
    )


def _sparsity(rule: Rule, kind: Any) -> float:
    if isinstance(kind, NByM):
        return 1 - kind.n / kind.m
    return rule.sparsity or 0.0


def _global_form(algorithm: type[BaseUpdater]) -> Any:
    """The algorithm that ranks all leaves together."""
    if issubclass(algorithm, GlobalPruningMixin):
        return algorithm
    mixed = type(f"Global{algorithm.__name__}", (GlobalPruningMixin, algorithm), {})
    return dataclasses.dataclass(eq=False)(mixed)


def _leaf_filter(params: PyTree, rule: Rule, posterior: DiagonalGaussian | None) -> Any:
    """`(key, leaf) -> bool` by name, and by what has a posterior if that matters."""
    names = [join(key) for key, leaf in keyed_leaves(params) if is_array(leaf)]
    for option in ("include", "exclude"):
        for pattern in getattr(rule, option):
            if not fnmatch.filter(names, pattern):
                raise ValueError(f"{option}: {pattern!r} matches none of {', '.join(names)}.")
    known = set(names)
    if posterior is not None:
        known = {join(k) for k, leaf in keyed_leaves(posterior.precision) if leaf is not None}

    def accepts(key: Key, leaf: Any) -> bool:
        name = join(key)
        if name not in known or any(fnmatch.fnmatchcase(name, p) for p in rule.exclude):
            return False
        if rule.include:
            return any(fnmatch.fnmatchcase(name, p) for p in rule.include)
        return leaf.ndim > 1

    return accepts
