"""Scores from an updater, given what its hook takes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bmrpruner._checks import accepted, did_you_mean
from bmrpruner._tree import PyTree, is_prunable, map_leaves


def scores_of(
    updater: Any, params: PyTree, state: Any, grads: PyTree, keywords: Mapping[str, Any]
) -> PyTree:
    """The scores of an updater; in a ranking of the whole network without those of integer leaves.

    Args:
      updater: Whose `calculate_scores` is called.
      params: The parameters.
      state: The `SparseState`, or None.
      grads: Gradients, or None.
      keywords: What else there is; the hook gets those that it names.
    """
    scores = updater.calculate_scores(
        params, sparse_state=state, grads=grads, **accepted(updater.calculate_scores, keywords)
    )
    if updater.scope != "global":
        return scores
    return map_leaves(lambda p, score: score if is_prunable(p) else None, params, scores)


def check_keywords(updater: Any, keywords: Mapping[str, Any]) -> None:
    """Raise a TypeError for a keyword of `instant_sparsify` that no score knows.

    `posterior`, like `grads`, is offered to all algorithms and read by some.
    """
    taken = accepted(updater.calculate_scores, keywords)
    for name in keywords.keys() - taken.keys() - {"posterior"}:
        raise TypeError(
            f"{name}: expected keywords that the scores of {type(updater).__name__} take, got one "
            "that they do not." + did_you_mean(name, ["grads", "posterior"])
        )
