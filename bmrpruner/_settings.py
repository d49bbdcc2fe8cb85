"""What an updater's settings are by default, and checks of them against each other."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax

from bmrpruner import mask_calculator, sparsity_distributions
from bmrpruner._checks import accepted, check_sparsity, concrete, did_you_mean
from bmrpruner.sparsity_types import Group, NByM, Unstructured, as_sparsity_type

SCOPES = ("global", "layer")
# Fields that are bound to the arguments of the same names of the distribution.
BOUND = ("sparsity", "filter_fn", "custom_sparsity_map")
DENSE = functools.partial(sparsity_distributions.uniform, sparsity=0.0)
"""The distribution of an updater that is given none."""


def settle(updater: Any) -> None:
    """Give an updater the settings that follow from others where it was given none; check all.

    Raises:
      ValueError, TypeError: As `check_settings`.
    """
    updater.sparsity_type = as_sparsity_type(updater.sparsity_type)
    if updater.scope is None:
        updater.scope = default_scope(updater, updater.sparsity_type)
    if updater.topk_fn is None and not isinstance(updater.sparsity_type, Group):
        updater.topk_fn = mask_calculator.get_topk_fn(updater.sparsity_type)
    if updater.rng_seed is None:
        updater.rng_seed = jax.random.PRNGKey(8)
    if updater.takes_settings:
        check_settings(updater)
        # A pattern that stands alone says how much; a distribution may still say where.
        is_alone = updater.sparsity is None and updater.sparsity_distribution_fn is DENSE
        if is_alone and isinstance(updater.sparsity_type, NByM):
            updater.sparsity = pattern_sparsity(updater.sparsity_type)


def default_scope(algorithm: Any, sparsity_type: Any) -> str:
    """The scope of an algorithm (a class or an updater) that is given none."""
    is_joint = isinstance(sparsity_type, Group)
    return getattr(algorithm, "fixed_scope", None) or ("global" if is_joint else "layer")


def check_settings(updater: Any) -> None:
    """Raise unless the updater's fields give one answer to how much is pruned, and of what.

    Raises:
      ValueError: If two fields contradict each other, or one has an impossible value.
      TypeError: If a field is of a type that it cannot have.
    """
    check_group_fields(updater)
    _check_scope(updater)
    _check_threshold(updater)
    check_sparsity_fields(updater)
    if isinstance(updater.sparsity_type, NByM):
        _check_pattern(updater)
    for name in BOUND if updater.scope == "layer" else ():
        if getattr(updater, name) is not None:
            _check_taken(name, updater.sparsity_distribution_fn)


def check_sparsity_fields(updater: Any) -> None:
    """Raise unless `sparsity`, `filter_fn` and the map are possible, as the distribution has them.

    The distribution may have been assigned after the updater was made.
    """
    if updater.sparsity is not None:
        check_sparsity("sparsity", updater.sparsity)
    if updater.filter_fn is not None and not callable(updater.filter_fn):
        raise TypeError(f"filter_fn: expected a function, got {updater.filter_fn!r}.")
    custom = updater.custom_sparsity_map
    if custom is not None and not isinstance(custom, Mapping):
        raise TypeError(f"custom_sparsity_map: expected a mapping, got {custom!r}.")
    if updater.scope == "layer":
        for name in BOUND:
            if getattr(updater, name) is not None:
                _check_bound(name, getattr(updater, name), updater.sparsity_distribution_fn)


def bound_keywords(distribution: Any) -> dict[str, Any]:
    """The keywords that a `functools.partial` has bound; none for other callables."""
    return getattr(distribution, "keywords", {})


def asked_sparsity(updater: Any) -> Any:
    """The sparsity that an updater or its distribution was given; 0 where neither has one."""
    if updater.sparsity is not None:
        return updater.sparsity
    return bound_keywords(updater.sparsity_distribution_fn).get("sparsity", 0.0)


def pattern_sparsity(pattern: Any) -> float:
    """The share of weights that an N:M pattern prunes."""
    return 1 - pattern.n / pattern.m


def _check_scope(updater: Any) -> None:
    if updater.scope not in SCOPES:
        raise ValueError(
            f"scope: expected one of {', '.join(SCOPES)}, got {updater.scope!r}."
            + did_you_mean(updater.scope, SCOPES)
        )
    if updater.fixed_scope not in (None, updater.scope):
        raise ValueError(
            f"scope: expected {updater.fixed_scope!r}, as {type(updater).__name__} ranks by it, "
            f"got {updater.scope!r}."
        )
    if updater.scope == "global" and updater.fixed_scope is None:
        check_groups_are_layerwise(updater)
    if updater.scope == "global" and _asks(updater.sparsity_distribution_fn):
        raise ValueError(
            "sparsity_distribution_fn: expected none with scope='global', which takes sparsity, "
            f"filter_fn and custom_sparsity_map; got {updater.sparsity_distribution_fn}."
        )


def _asks(distribution: Callable[..., Any] | None) -> bool:
    """Whether a distribution says more than the default does, which prunes nothing."""
    keywords = bound_keywords(distribution)
    return distribution is not None and keywords != {"sparsity": 0.0}


def _check_threshold(updater: Any) -> None:
    threshold = updater.threshold
    if threshold is None:
        return
    if isinstance(threshold, bool | str):
        raise TypeError(f"threshold: expected a number, got {threshold!r}.")
    if concrete(threshold) and not math.isfinite(float(threshold)):
        raise ValueError(f"threshold: expected a finite number, got {threshold}.")
    if isinstance(updater.sparsity_type, NByM):
        raise ValueError(
            f"threshold: expected none with {updater.sparsity_type}, which keeps N of every M; "
            f"got {threshold}."
        )
    if updater.decides_sparsity:
        raise ValueError(
            f"threshold: expected none, as {type(updater).__name__} prunes by its log_odds; "
            f"got {threshold}."
        )
    bound = bound_keywords(updater.sparsity_distribution_fn).get("sparsity")
    for sparsity in (updater.sparsity, bound):
        if sparsity is not None and not (concrete(sparsity) and sparsity == 0):
            raise ValueError(
                "sparsity, threshold: expected exactly one of them, got 2: "
                f"{sparsity} and {threshold}."
            )


def _check_taken(name: str, distribution: Any) -> None:
    if distribution is None:
        raise ValueError(
            f"{name}: expected none without a sparsity_distribution_fn to take it, got one."
        )
    if not accepted(distribution, {name: None}):
        raise ValueError(f"{name}: expected none, as {distribution} takes none, got one.")


def _check_bound(name: str, value: Any, distribution: Any) -> None:
    bound = bound_keywords(distribution).get(name)
    is_free = bound is None or (name == "sparsity" and concrete(bound) and bound == 0)
    if not is_free and bound is not value and not (name != "filter_fn" and bound == value):
        raise ValueError(
            f"{name}: expected {bound!r}, which is bound in sparsity_distribution_fn, or none, "
            f"got {value!r}."
        )


def _check_pattern(updater: Any) -> None:
    pattern, sparsity = updater.sparsity_type, updater.sparsity
    if updater.decides_sparsity:
        raise ValueError(
            f"sparsity_type: expected weights or groups that go as a whole, as "
            f"{type(updater).__name__} decides how many, got {pattern}."
        )
    is_refused_later = updater.fixed_scope == "global"
    if is_refused_later or sparsity is None or not concrete(sparsity) or sparsity == 0:
        return
    if not math.isclose(sparsity, pattern_sparsity(pattern), abs_tol=1e-6):
        raise ValueError(
            f"sparsity, sparsity_type: expected no sparsity or {pattern_sparsity(pattern):g} with "
            f"{pattern.n}:{pattern.m}, got {sparsity}."
        )


def check_group_fields(updater: Any) -> None:
    """Raise a ValueError for a setting that would have no effect on dependency groups."""
    kind, name = updater.sparsity_type, type(updater).__name__
    if not isinstance(kind, Group):
        return
    if not updater.ranks_units:
        raise ValueError(
            f"sparsity_type: expected what lies in one leaf, as {name} works leaf by leaf, got "
            f"{kind}."
        )
    if updater.scope != "global":
        raise ValueError(
            f"scope: expected 'global' with {kind}, as units have parts in several leaves, got "
            f"{updater.scope!r}."
        )
    if updater.threshold is not None and kind.cost != "units":
        raise ValueError(
            "cost, threshold: expected 'units' with a threshold, which takes no share of the cost, "
            f"got {kind} and {updater.threshold}."
        )
    own = {field.name: field.default for field in dataclasses.fields(updater)}
    for field in ("filter_fn", "custom_sparsity_map", "topk_fn"):
        given = getattr(updater, field)
        if given and given is not own[field]:
            raise ValueError(
                f"{field}: expected none with {kind}, whose groups name what may go (leave one out "
                f"to keep it whole), got {given!r}."
            )


def check_groups_are_layerwise(updater: Any) -> None:
    """Raise if groups are to be ranked over the whole network by an updater that cannot.

    Raises:
      UnrankableError: A ValueError, and an AttributeError as JaxPruner's.
    """
    is_ranked = isinstance(updater.sparsity_type, Unstructured | Group)
    if updater.threshold is None and not is_ranked:
        raise UnrankableError(
            f"scope, sparsity_type: expected 'layer' for groups, as {type(updater).__name__} "
            f"ranks only single weights globally, got 'global' with {updater.sparsity_type}."
        )


class UnrankableError(ValueError, AttributeError):
    """Groups that cannot be ranked over the whole network."""
