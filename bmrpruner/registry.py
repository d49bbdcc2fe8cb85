"""The algorithms by name, and the decorator that registers one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

__all__ = ["ALGORITHM_REGISTRY", "all_algorithm_names", "register_algorithm"]

ALGORITHM_REGISTRY: dict[str, Any] = {}
"""The classes by name; `register_algorithm` adds to it.

Example:
  >>> import bmrpruner
  >>> ALGORITHM_REGISTRY['magnitude'] is bmrpruner.MagnitudePruning
  True
"""


def register_algorithm(algorithm_name: str, algorithm: Any = None) -> Any:
    """Add a class under a name, or replace the one that has it; with the name alone, a decorator.

    Args:
      algorithm_name: What configurations call it.
      algorithm: A subclass of `BaseUpdater`. If left out, the class below the decorator.

    Returns:
      The class, or the decorator.

    Raises:
      TypeError: If the name is not a string.

    Example:
      >>> from bmrpruner import BaseUpdater
      >>> @register_algorithm('keep_all')
      ... class KeepAll(BaseUpdater):
      ...     def calculate_scores(self, params, sparse_state=None, grads=None):
      ...         return params
      >>> ALGORITHM_REGISTRY.pop('keep_all').__name__
      'KeepAll'
    """
    if not isinstance(algorithm_name, str):
        raise TypeError(f"algorithm_name: expected a string, got {algorithm_name!r}.")

    def register(cls: Any) -> Any:
        ALGORITHM_REGISTRY[algorithm_name] = cls
        return cls

    decorator: Callable[[Any], Any] = register
    return decorator if algorithm is None else register(algorithm)


def all_algorithm_names() -> tuple[str, ...]:
    """The names that `create_updater_from_config` knows now.

    Returns:
      The names, in the order of their registration.

    Example:
      >>> 'bmr' in all_algorithm_names()
      True
    """
    return tuple(ALGORITHM_REGISTRY)
