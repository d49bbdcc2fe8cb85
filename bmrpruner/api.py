"""From a configuration to an updater."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Mapping
from typing import Any

import ml_collections
import optax

from bmrpruner import (
    algorithms,
    base_updater,
    sparsity_distributions,
    sparsity_schedules,
    sparsity_types,
)
from bmrpruner._checks import check_sparsity, concrete, did_you_mean
from bmrpruner.registry import ALGORITHM_REGISTRY, all_algorithm_names, register_algorithm

__all__ = [
    "ALGORITHMS",
    "ALGORITHM_REGISTRY",
    "all_algorithm_names",
    "create_updater_from_config",
    "register_algorithm",
]

ALGORITHMS = tuple(ALGORITHM_REGISTRY)

_DISTRIBUTIONS = {"uniform": sparsity_distributions.uniform, "erk": sparsity_distributions.erk}
_SCHEDULE_KEYS = ("update_freq", "update_start_step", "update_end_step", "drop_fraction")
_CONFIG_KEYS = (
    "algorithm",
    "dist_type",
    "sparsity",
    "sparsity_type",
    "filter_fn",
    "custom_sparsity_map",
    *_SCHEDULE_KEYS,
)


def create_updater_from_config(sparsity_config: Any = None, **settings: Any) -> Any:
    """The updater that a configuration describes.

    Args:
      sparsity_config: `ml_collections.ConfigDict`, any mapping, or an object with attributes. It
        is not modified.
      **settings: The same settings as keywords; they win over the configuration.

    Settings:
      algorithm: A registered name.
      dist_type: `'uniform'` or `'erk'`.
      sparsity: Fraction to prune, in [0, 1].
      sparsity_type: A type, or a string such as `'2:4'`, `'block_4,4'`, `'channel_-1'`.
      filter_fn, custom_sparsity_map: See `sparsity_distributions`.
      update_freq, update_start_step, update_end_step: The schedule: never without a start, one
        shot if the start is the end, and the cubic schedule otherwise. A `scheduler` given wins.
      drop_fraction: For the sparse trainers, the share of connections to drop at first.
      Everything else goes to the class, such as `skip_gradients`, `use_packed_masks`, `rng_seed`,
      `mask_updates`.

    Returns:
      An updater.

    Raises:
      ValueError: If a setting is missing or has an impossible value.
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
    if name == "no_prune":
        return base_updater.NoPruning()
    dist_type = _required(config, "dist_type")
    if dist_type not in _DISTRIBUTIONS:
        raise ValueError(
            f"dist_type: expected one of {tuple(_DISTRIBUTIONS)}, got {dist_type!r}."
            + did_you_mean(dist_type, _DISTRIBUTIONS)
        )
    algorithm = _algorithm(name)
    fields: dict[str, Any] = {
        key: value for key, value in config.items() if key not in _CONFIG_KEYS
    }
    fields |= _sparsity_fields(name, algorithm, config, _DISTRIBUTIONS[dist_type])
    if config.get("sparsity_type") not in (None, ""):
        fields["sparsity_type"] = _sparsity_type(config["sparsity_type"])
    if "drop_fraction_fn" not in fields and _takes_drop_fraction(name, algorithm, config):
        fields["drop_fraction_fn"] = _drop_fraction_fn(config)
    if "scheduler" not in fields:
        fields["scheduler"] = _schedule(config)
    _check_fields(name, algorithm, fields)
    return algorithm(**fields)


def _as_dict(config: Any) -> dict[str, Any]:
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
        raise ValueError(f"{key}: required, but missing from the configuration {sorted(config)}.")
    return config[key]


def _algorithm(name: str) -> type[base_updater.BaseUpdater]:
    if name not in ALGORITHM_REGISTRY:
        raise ValueError(
            f"algorithm: {name!r} is not supported; all_algorithm_names() lists those that are."
            + did_you_mean(name, ALGORITHM_REGISTRY)
        )
    return ALGORITHM_REGISTRY[name]


def _sparsity_fields(
    name: str, algorithm: Any, config: dict[str, Any], distribution: Any
) -> dict[str, Any]:
    """Global algorithms take sparsity, filter and map themselves; the rest a distribution."""
    options = {key: config[key] for key in ("filter_fn", "custom_sparsity_map") if config.get(key)}
    if "custom_sparsity_map" in options:
        options["custom_sparsity_map"] = dict(options["custom_sparsity_map"])
    if config.get("sparsity") is None and _is_a(algorithm, algorithms.AdaptiveBMR):
        config = config | {"sparsity": algorithm.sparsity}
    if config.get("sparsity") is None and config.get("threshold") is not None:
        config = config | {"sparsity": 0.0}
    sparsity = _required(config, "sparsity")
    check_sparsity("sparsity", sparsity)
    if name.startswith("global_") or _is_a(algorithm, algorithms.GlobalPruningMixin):
        return options | {"sparsity": sparsity}
    bound = functools.partial(distribution, sparsity=sparsity, **options)
    # A class with a sparsity of its own must hear of another one.
    own = {} if getattr(algorithm, "sparsity", None) is None else {"sparsity": sparsity}
    return {"sparsity_distribution_fn": bound} | own


def _sparsity_type(value: Any) -> Any:
    if isinstance(value, str):
        return sparsity_types.parse_sparsity_type(value)
    if not sparsity_types.is_sparsity_type(value):
        raise ValueError(f"Sparsity type {value!r} is neither a string nor one of the types.")
    return sparsity_types.check_sparsity_type(value)


def _takes_drop_fraction(name: str, algorithm: Any, config: dict[str, Any]) -> bool:
    """Unless the configuration gives one, classes that users register keep their own default."""
    is_asked = name in ("rigl", "set") or config.get("drop_fraction") is not None
    return is_asked and "drop_fraction_fn" in getattr(algorithm, "__dataclass_fields__", {})


def _drop_fraction_fn(config: dict[str, Any]) -> Any:
    end = _required(config, "update_end_step")
    fraction = config.get("drop_fraction")
    return optax.cosine_decay_schedule(0.1 if fraction is None else fraction, end)


def _schedule(config: dict[str, Any]) -> Any:
    start, end = config.get("update_start_step"), config.get("update_end_step")
    if start is None:
        return sparsity_schedules.NoUpdateSchedule()
    end = _required(config, "update_end_step")
    if concrete(start) and concrete(end) and start == end:
        return sparsity_schedules.OneShotSchedule(end)
    schedule = sparsity_schedules.PolynomialSchedule(_required(config, "update_freq"), start, end)
    return sparsity_schedules.check_schedule(schedule)


def _is_a(algorithm: Any, base: type) -> bool:
    return isinstance(algorithm, type) and issubclass(algorithm, base)


def _check_fields(name: str, algorithm: Any, fields: dict[str, Any]) -> None:
    parameters = inspect.signature(algorithm).parameters
    if any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values()):
        return
    known = set(parameters)
    for key in sorted(fields.keys() - known):
        raise TypeError(
            f"{key}: not a setting of the algorithm {name!r}."
            + did_you_mean(key, known | set(_CONFIG_KEYS))
        )
