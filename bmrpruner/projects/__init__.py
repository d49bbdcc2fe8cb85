"""JaxPruner's import paths of algorithms from papers."""

from bmrpruner.projects import extensions

__all__ = ["extensions"]
