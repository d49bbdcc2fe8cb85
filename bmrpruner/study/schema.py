"""Check that the content of a results.json has the structure that a sweep writes."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from bmrpruner.pruning.rules import Rule

_WORDS: dict[type, str] = {
    dict: "an object",
    list: "a list",
    str: "text",
    bool: "true or false",
    int: "an integer",
    float: "a number",
}
_RESULTS = {"settings": dict, "points": list, "version": str, "complete": bool}
_POINT = {
    "rule": dict,
    "algorithm": str,
    "label": str,
    "sparsity": float,
    "leaf_sparsity": dict,
    "nonzeros": int,
    "seconds": float,
    "mean": dict,
}
_RULE = {
    "algorithm": str,
    "sparsity": float,
    "threshold": float,
    "scope": str,
    "sparsity_type": str,
    "include": list,
    "exclude": list,
    "seed": int,
    "temperature": float,
}
_SCORES = {"accuracy": float, "nll": float, "ece": float, "ood_auroc": float, "reliability": dict}
_RELIABILITY = {"confidence": list, "accuracy": list, "counts": list}


def check_results(content: Any) -> None:
    """Check the structure of results, every point included.

    Args:
      content: What a results.json holds.

    Raises:
      ValueError: If an entry is missing or of another type; the message names it.

    Example:
      >>> check_results({'settings': {}, 'points': 3, 'version': '0.1.0', 'complete': True})
      Traceback (most recent call last):
      ValueError: points: expected a list, got 3.
    """
    _check_type("results", content, dict)
    _check_entries("", content, _RESULTS)
    _check_known("results", content, _RESULTS)
    for i, point in enumerate(content["points"]):
        _check_point(f"points[{i}]", point)


def _check_point(field: str, point: Any) -> None:
    _check_type(field, point, dict)
    _check_entries(f"{field}.", point, _POINT)
    _check_rule(f"{field}.rule", point["rule"])
    for leaf, sparsity in point["leaf_sparsity"].items():
        _check_type(f"{field}.leaf_sparsity[{leaf!r}]", sparsity, float)
    _check_scores(f"{field}.mean", point["mean"])
    if "averaged" not in point:
        raise ValueError(f"{field}.averaged: expected an object or null, got nothing.")
    if point["averaged"] is not None:
        _check_scores(f"{field}.averaged", point["averaged"])


def _check_rule(field: str, rule: Mapping[str, Any]) -> None:
    _check_known(field, rule, [entry.name for entry in dataclasses.fields(Rule)])
    for key, value in rule.items():
        if key in _RULE and value is not None:
            _check_type(f"{field}.{key}", value, _RULE[key])
    for key in ("include", "exclude"):
        _check_items(f"{field}.{key}", rule.get(key, []), str)


def _check_scores(field: str, scores: Any) -> None:
    _check_type(field, scores, dict)
    _check_entries(f"{field}.", scores, _SCORES)
    for key in scores.keys() - {"reliability"}:
        _check_type(f"{field}.{key}", scores[key], float)
    bins = scores["reliability"]
    _check_entries(f"{field}.reliability.", bins, _RELIABILITY)
    for key in _RELIABILITY:
        _check_items(f"{field}.reliability.{key}", bins[key], float)
    lengths = [len(bins[key]) for key in _RELIABILITY]
    if len(set(lengths)) != 1:
        raise ValueError(f"{field}.reliability: expected lists of one length, got {lengths}.")


def _check_entries(prefix: str, content: Mapping[str, Any], kinds: Mapping[str, type]) -> None:
    for key, kind in kinds.items():
        if key not in content:
            raise ValueError(f"{prefix}{key}: expected {_WORDS[kind]}, got nothing.")
        _check_type(f"{prefix}{key}", content[key], kind)


def _check_items(field: str, items: Any, kind: type) -> None:
    _check_type(field, items, list)
    for i, item in enumerate(items):
        _check_type(f"{field}[{i}]", item, kind)


def _check_known(field: str, content: Mapping[str, Any], known: Any) -> None:
    unknown = [key for key in content if key not in known]
    if unknown:
        raise ValueError(f"{field}: expected {', '.join(known)}, got {', '.join(unknown)}.")


def _check_type(field: str, value: Any, kind: type) -> None:
    """Raise unless JSON's value is of that type; integers of 64 bits are numbers as well."""
    fits = type(value) is kind or (kind is float and type(value) is int)
    if not fits or (type(value) is int and abs(value) >= 2**63):
        raise ValueError(f"{field}: expected {_WORDS[kind]}, got {value!s:.40}.")
