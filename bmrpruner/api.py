"""Make an updater from a configuration."""

from __future__ import annotations

import functools
import inspect
import warnings
from collections.abc import Mapping
from typing import Any

import optax

import bmrpruner.algorithms  # noqa: F401  (its classes register themselves)
from bmrpruner import sparsity_distributions, sparsity_schedules, sparsity_types
from bmrpruner._checks import check_sparsity, concrete, did_you_mean
from bmrpruner._settings import default_scope, pattern_sparsity
from bmrpruner.registry import ALGORITHM_REGISTRY, all_algorithm_names, register_algorithm
from bmrpruner.sparsity_types import NByM

__all__ = [
    "ALGORITHMS",
    "ALGORITHM_REGISTRY",
    "all_algorithm_names",
    "create_updater_from_config",
    "register_algorithm",
]

ALGORITHMS = tuple(ALGORITHM_REGISTRY)
"""The names of the built-in algorithms, fixed when the library is imported.

Example:
  >>> 'magnitude' in ALGORITHMS, 'squared' in ALGORITHMS
  (True, False)
"""

_DISTRIBUTIONS = {"uniform": sparsity_distributions.uniform, "erk": sparsity_distributions.erk}
_SCHEDULE_KEYS = ("update_freq", "update_start_step", "update_end_step", "drop_fraction")
_CONFIG_KEYS = (
    "algorithm",
    "dist_type",
    "sparsity",
    "sparsity_type",
    "scope",
    "filter_fn",
    "custom_sparsity_map",
    *_SCHEDULE_KEYS,
)


def create_updater_from_config(sparsity_config: Any = None, **settings: Any) -> Any:
    """The updater that a configuration describes.

    Args:
      sparsity_config: `ml_collections.ConfigDict`, any mapping, or an object with attributes. It
        is not modified.
      **settings: The same settings as keywords; they override the configuration.

    Settings:
      algorithm: A registered name.
      dist_type: `'uniform'` or `'erk'`; needed, as in JaxPruner, unless the configuration itself
        says `scope='global'`. It has no effect on a ranking over the whole network.
      sparsity: Fraction to prune, in [0, 1]. It may be left out where a threshold, an N:M pattern
        or the evidence decides.
      sparsity_type: A type, or a string such as `'2:4'`, `'block_4,4'`, `'channel_-1'`; a `Group`
        as a keyword.
      scope: `'layer'` or `'global'`; by default the algorithm's own, which is `'layer'` but for
        `adaptive_bmr`, those whose names begin with `global_`, and a `Group`.
      filter_fn, custom_sparsity_map: See `BaseUpdater`.
      update_freq, update_start_step, update_end_step: The schedule: never without a start, one
        shot if the start is the end, and the cubic schedule otherwise. A `scheduler` given wins.
      drop_fraction: For the sparse trainers, the share of connections to drop at first.
      any other: Goes to the class, such as `skip_gradients`, `use_packed_masks`, `rng_seed`,
        `mask_updates`.

    Returns:
      An updater.

    Raises:
      ValueError: If a setting is missing or has an impossible value, or two contradict each other.
      TypeError: For a setting that the algorithm does not know.

    Example:
      >>> updater = create_updater_from_config(
      ...     algorithm='magnitude', dist_type='erk', sparsity=0.9,
      ...     update_freq=10, update_start_step=100, update_end_step=1000)
      >>> updater.scheduler
      PolynomialSchedule(update_freq=10, update_start_step=100, update_end_step=1000, power=3)
    """
    config = {**_as_dict(sparsity_config), **settings}
    name = _required(config, "algorithm")
    algorithm = _algorithm(name)
    if not getattr(algorithm, "takes_settings", True):
        return algorithm()
    if config.get("scope") != "global":  # on which it has no effect
        _required(config, "dist_type")
    dist_type: Any = config.get("dist_type")
    if dist_type is not None and dist_type not in _DISTRIBUTIONS:
        raise ValueError(
            f"dist_type: expected one of {tuple(_DISTRIBUTIONS)}, got {dist_type!r}."
            + did_you_mean(dist_type, _DISTRIBUTIONS)
        )
    fields: dict[str, Any] = {
        key: value for key, value in config.items() if key not in _CONFIG_KEYS
    }
    if config.get("sparsity_type") not in (None, ""):
        fields["sparsity_type"] = sparsity_types.as_sparsity_type(config["sparsity_type"])
    fields |= _sparsity_fields(name, algorithm, config, fields.get("sparsity_type"))
    if "drop_fraction_fn" not in fields and _takes_drop_fraction(algorithm, config):
        fields["drop_fraction_fn"] = _drop_fraction_fn(algorithm, config)
    if "scheduler" not in fields:
        fields["scheduler"] = _schedule(config)
    _check_fields(name, algorithm, fields)
    return algorithm(**fields)


def _as_dict(config: Any) -> dict[str, Any]:
    import ml_collections  # slow to import

    if config is None:
        return {}
    if isinstance(config, ml_collections.ConfigDict):
        return {key: config.get(key) for key in config}
    if isinstance(config, Mapping):
        return dict(config)
    if isinstance(config, str | bytes | int | float):
        raise TypeError(f"sparsity_config: expected a mapping, got a {type(config).__name__}.")
    attributes = {name: getattr(config, name) for name in dir(config) if name[0] != "_"}
    return {
        name: value
        for name, value in attributes.items()
        if name in _CONFIG_KEYS or not inspect.ismethod(value)
    }


def _required(config: dict[str, Any], key: str) -> Any:
    if config.get(key) is None:
        raise ValueError(f"{key}: expected it in the configuration, got only {sorted(config)}.")
    return config[key]


def _algorithm(name: str) -> Any:
    if name not in ALGORITHM_REGISTRY:
        raise ValueError(
            f"algorithm: expected one of all_algorithm_names(), got {name!r}, not supported."
            + did_you_mean(name, ALGORITHM_REGISTRY)
        )
    return ALGORITHM_REGISTRY[name]


def _sparsity_fields(
    name: str, algorithm: Any, config: dict[str, Any], sparsity_type: Any
) -> dict[str, Any]:
    """How much, and of what: fields where all leaves are ranked together, else a distribution."""
    options = {key: config[key] for key in ("filter_fn", "custom_sparsity_map") if config.get(key)}
    if "custom_sparsity_map" in options:
        options["custom_sparsity_map"] = dict(options["custom_sparsity_map"])
    scope = config.get("scope") or default_scope(algorithm, sparsity_type)
    stated = {"scope": scope} if config.get("scope") else {}
    if _needs_sparsity(algorithm, config, sparsity_type):
        options["sparsity"] = _required(config, "sparsity")
    elif config.get("sparsity") is not None:
        options["sparsity"] = config["sparsity"]
    if "sparsity" in options:
        check_sparsity("sparsity", options["sparsity"])
    if scope == "global":
        if config.get("dist_type") not in (None, "uniform"):
            warnings.warn(
                f"dist_type: {config['dist_type']!r} has no effect, as {name!r} with "
                "scope='global' ranks all leaves together.",
                stacklevel=3,
            )
        return options | stated
    if isinstance(sparsity_type, NByM) and "sparsity" not in options:
        options["sparsity"] = pattern_sparsity(sparsity_type)
    distribution = functools.partial(
        _DISTRIBUTIONS[config["dist_type"]], **({"sparsity": 0.0} | options)
    )
    return {"sparsity_distribution_fn": distribution} | stated


def _needs_sparsity(algorithm: Any, config: dict[str, Any], sparsity_type: Any) -> bool:
    """Whether nothing else says how much is pruned."""
    decides = getattr(algorithm, "decides_sparsity", False)
    return not (decides or config.get("threshold") is not None or isinstance(sparsity_type, NByM))


def _takes_drop_fraction(algorithm: Any, config: dict[str, Any]) -> bool:
    """Unless the configuration gives one, classes that users register keep their own default."""
    has_default = "default_drop_fraction" in getattr(algorithm, "__dict__", {})
    is_asked = has_default or config.get("drop_fraction") is not None
    return is_asked and "drop_fraction_fn" in getattr(algorithm, "__dataclass_fields__", {})


def _drop_fraction_fn(algorithm: Any, config: dict[str, Any]) -> Any:
    end = _required(config, "update_end_step")
    fraction = config.get("drop_fraction")
    start = algorithm.default_drop_fraction if fraction is None else fraction
    return optax.cosine_decay_schedule(start, end)


def _schedule(config: dict[str, Any]) -> Any:
    start, end = config.get("update_start_step"), config.get("update_end_step")
    if start is None:
        return sparsity_schedules.NoUpdateSchedule()
    end = _required(config, "update_end_step")
    if concrete(start) and concrete(end) and start == end:
        return sparsity_schedules.OneShotSchedule(end)
    schedule = sparsity_schedules.PolynomialSchedule(_required(config, "update_freq"), start, end)
    return sparsity_schedules.check_schedule(schedule)


def _check_fields(name: str, algorithm: Any, fields: dict[str, Any]) -> None:
    parameters = inspect.signature(algorithm).parameters
    if any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values()):
        return
    known = set(parameters)
    for key in sorted(fields.keys() - known):
        raise TypeError(
            f"{key}: expected a setting of the algorithm {name!r}, got another."
            + did_you_mean(key, known | set(_CONFIG_KEYS))
        )
