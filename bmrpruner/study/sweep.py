"""Prune one network by many rules and evaluate each; resume a run that was interrupted."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.metadata
import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bmrpruner._checks import check_positive, check_seed
from bmrpruner.files import Checkpoint
from bmrpruner.metrics import nonzeros
from bmrpruner.pruning.calibrated import Calibration, Pruner
from bmrpruner.pruning.pruned import Pruned
from bmrpruner.pruning.rules import Rule
from bmrpruner.registry import ALGORITHM_REGISTRY
from bmrpruner.sparsity_types import NByM, Unstructured, parse_sparsity_type
from bmrpruner.study import results
from bmrpruner.study.evaluation import Evaluator
from bmrpruner.study.tasks import Task, check_model, load_model

Point = dict[str, Any]


def default_algorithms(
    sparsity_type: str = "unstructured", is_calibrated: bool = False
) -> tuple[str, ...]:
    """The algorithms that a sweep compares by default.

    Args:
      sparsity_type: What goes together. Single weights are ranked over the whole network, groups
        by layer.
      is_calibrated: Whether calibration inputs are at hand, which obs needs.

    Returns:
      Registered names.

    Example:
      >>> default_algorithms('4x4')
      ('snr', 'bmr', 'magnitude')
      >>> default_algorithms(is_calibrated=True)
      ('global_obs', 'global_snr', 'global_bmr', 'global_magnitude')
    """
    prefix = "global_" if isinstance(parse_sparsity_type(sparsity_type), Unstructured) else ""
    names = ("obs", "snr", "bmr", "magnitude")
    return tuple(prefix + name for name in names[not is_calibrated :])


def make_rules(
    algorithms: Sequence[str],
    sparsities: Sequence[float],
    thresholds: Mapping[str, float] | None = None,
    temperature: float | None = None,
    **common: Any,
) -> list[Rule]:
    """Make a rule of every algorithm at every sparsity, and of algorithms at a threshold.

    Args:
      algorithms: Registered names.
      sparsities: Fractions to prune. An N:M pattern has its own, and makes one rule an algorithm.
      thresholds: Threshold by algorithm; `{'bmr': 0}` prunes where the evidence says so.
      temperature: Of the algorithms that have one, `'bmr'` and its kin; the others run without.
        None is the posterior's own.
      **common: Other fields of `Rule`.

    Returns:
      The rules, each once: by algorithm, then by sparsity, then those with a threshold.

    Raises:
      ValueError: If a rule is impossible, or there is none, or none that takes the temperature.

    Example:
      >>> [rule.label for rule in make_rules(['snr'], [0.5, 0.9], {'bmr': 0.0})]
      ['snr, 50 %', 'snr, 90 %', 'bmr, ΔF ≥ 0']
    """
    is_pattern = isinstance(parse_sparsity_type(common.get("sparsity_type", "unstructured")), NByM)
    shares = [None] if is_pattern else sorted(sparsities)
    extra = {a: _temperature(a, temperature) for a in (*algorithms, *(thresholds or {}))}
    by_share = [Rule(a, sparsity=s, **extra[a], **common) for a in algorithms for s in shares]
    by_score = [Rule(a, threshold=t, **extra[a], **common) for a, t in (thresholds or {}).items()]
    if not by_share + by_score:
        raise ValueError("sparsities, thresholds: expected one rule to try at least, got none.")
    if temperature not in (None, 1) and not any(extra.values()):
        raise ValueError(
            f"temperature: expected an algorithm that has one, as bmr has, got {', '.join(extra)}."
        )
    return list(dict.fromkeys(by_share + by_score))


def sweep(
    checkpoint: Checkpoint,
    rules: Sequence[Rule],
    evaluator: Evaluator,
    done: Iterable[Point] = (),
    on_points: Callable[[list[Point]], None] = lambda points: None,
    calibration: Calibration | None = None,
) -> list[Point]:
    """Prune by each rule and evaluate.

    Args:
      checkpoint: The dense network.
      rules: What to try.
      evaluator: Measures the pruned networks.
      done: Points of an earlier run, which are not computed again.
      on_points: Called with all points so far whenever there are new ones.
      calibration: For the algorithms that refit what stays, obs and its kin. The seconds of the
        first of their points include the pass over it, and the search for the order of removal.

    Returns:
      A point for each rule: its fields under `rule`, the counted `sparsity`, `leaf_sparsity` and
      `nonzeros`, `seconds`, and the metrics at the `mean` and `averaged` over the posterior.

    Raises:
      RuntimeError: If weights went and the model's outputs did not change.

    Example:
      >>> task = Task(np.eye(2), np.array([0, 1]), np.ones((2, 2)))
      >>> evaluator = Evaluator(lambda params, x: x @ params['w'], task)
      >>> rules = make_rules(['magnitude'], [0.0, 0.5])
      >>> points = sweep(Checkpoint({'w': np.array([[1.0, 0.1], [0.2, 2.0]])}), rules, evaluator)
      >>> [point['sparsity'] for point in points]
      [0.0, 0.5]
    """
    return _swept(_pruner(checkpoint, rules, calibration), rules, evaluator, done, on_points)


def _swept(
    pruner: Pruner,
    rules: Sequence[Rule],
    evaluator: Evaluator,
    done: Iterable[Point],
    on_points: Callable[[list[Point]], None],
) -> list[Point]:
    rules = [pruner.resolved(rule) for rule in rules]
    points = {json.dumps(point["rule"]): point for point in done}
    keys = {rule: json.dumps(dataclasses.asdict(rule)) for rule in rules}
    left = [rule for rule in rules if keys[rule] not in points]
    if left:
        evaluator(
            [Pruned(pruner.params, pruner.posterior, {})]
        )  # compiles before the first point is timed
    for start in range(0, len(left), evaluator.width):
        group = left[start : start + evaluator.width]
        began = time.perf_counter()
        networks = [pruner(rule) for rule in group]
        measured = evaluator(networks)
        seconds = (time.perf_counter() - began) / len(group)
        for rule, network, metrics in zip(group, networks, measured, strict=True):
            _check_changed(rule, pruner.params, network, evaluator)
            points[keys[rule]] = _point(keys[rule], rule, network, seconds) | metrics
        on_points([points[keys[rule]] for rule in rules if keys[rule] in points])
    return [points[keys[rule]] for rule in rules]


def run_sweep(
    checkpoint: Checkpoint,
    model: str,
    task: Task,
    rules: Sequence[Rule],
    out: Path | str,
    samples: int = 20,
    seed: int = 0,
    width: int | None = None,
    resume: bool = False,
    force: bool = False,
    on_points: Callable[[list[Point]], None] = lambda points: None,
    calibration: Calibration | None = None,
) -> results.Results:
    """Run `sweep` and write to a directory: `results.json` after every point, CSV and pictures.

    Args:
      checkpoint: The dense network.
      model: `module:function`, from parameters and inputs to logits.
      task: Test data.
      rules: What to try.
      out: Directory for the results.
      samples: Draws from the posterior to average over; 0 for the mean alone.
      seed: For the draws.
      width: How many networks to evaluate side by side; by default 1 on a CPU, else 8.
      resume: Go on with the results in `out`: points that are there are not computed again.
      force: Start over in `out`.
      on_points: As in `sweep`.
      calibration: As in `sweep`.

    Returns:
      What `results.json` holds.

    Raises:
      FileExistsError: If `out` holds something, unless `resume` or `force`.
      ValueError: If the results in `out` are from something else, or the inputs do not fit.

    Example:
      >>> import tempfile
      >>> task = Task(np.eye(2), np.array([0, 1]), np.ones((2, 2)))
      >>> network = Checkpoint({'dense/kernel': np.array([[1.0, 0.1], [0.2, 2.0]])})
      >>> rules = make_rules(['magnitude'], [0.5])
      >>> found = run_sweep(network, 'bmrpruner.study.models:mlp', task, rules, tempfile.mkdtemp())
      >>> found.points[0]['label'], found.points[0]['nonzeros']
      ('magnitude, 50 %', 2)
    """
    check_seed("seed", seed)
    out = Path(out)
    settings = {
        "model": model,
        "samples": samples,
        "seed": seed,
        "width": width,
        "data": _fingerprint([task.inputs, task.labels, task.ood]),
        "network": _fingerprint(checkpoint.tensors.values()),
        "prior_precision": checkpoint.info.get("prior_precision", 1.0),
    }
    pruner = _pruner(checkpoint, rules, calibration)
    if pruner.calibration is not None:
        settings["calibration"] = _fingerprint(pruner.calibration.batches)
    function = load_model(model)
    check_model(function, checkpoint.params, task)
    evaluator = Evaluator(function, task, samples, seed, width)
    done = results.start(out, settings, resume, force)
    version = importlib.metadata.version("bmrpruner")

    def keep(points: list[Point]) -> None:
        results.save(out, results.Results(settings, points, version, complete=False))
        on_points(points)

    on_points(done)
    points = _swept(pruner, rules, evaluator, done, keep)
    found = results.Results(settings, points, version, complete=True)
    results.save(out, found)
    results.save_csv(out, found)
    results.save_pictures(out, found, pruner)
    return found


def _pruner(
    checkpoint: Checkpoint, rules: Sequence[Rule], calibration: Calibration | None
) -> Pruner:
    """What prunes the network; with the calibration if a rule needs it, and none in vain."""
    needs = [rule.algorithm for rule in rules if rule.is_one_shot]
    if needs and calibration is None:
        raise ValueError(
            f"calibration: expected a model and inputs for {needs[0]}, which refits what stays, "
            "got none."
        )
    if calibration is not None and calibration.max_loss_rise is not None:
        raise ValueError(
            f"max_loss_rise: expected none in a sweep, got {calibration.max_loss_rise}."
        )
    return Pruner(checkpoint.params, checkpoint.posterior, calibration if needs else None)


def _temperature(algorithm: str, temperature: float | None) -> dict[str, Any]:
    """The field of a rule, for an algorithm that has it."""
    if temperature is not None:
        check_positive("temperature", temperature)
    fields = getattr(ALGORITHM_REGISTRY.get(algorithm), "__dataclass_fields__", {})
    return {"temperature": temperature} if "temperature" in fields else {}


def _point(key: str, rule: Rule, network: Pruned, seconds: float) -> Point:
    return {
        "rule": json.loads(key),
        "algorithm": rule.algorithm,
        "label": rule.label,
        "sparsity": network.sparsity,
        "leaf_sparsity": network.leaf_sparsity,
        "nonzeros": network.nonzeros,
        "seconds": seconds,
    }


def _check_changed(rule: Rule, params: Any, network: Pruned, evaluator: Evaluator) -> None:
    before = int(nonzeros(params).total)
    if network.nonzeros == before:
        return
    if np.array_equal(evaluator.probe(params), evaluator.probe(network.params)):
        raise RuntimeError(
            f"model: expected other outputs without the {before - network.nonzeros} weights that "
            f"{rule.label!r} prunes, got the same; does the model read these parameters?"
        )


def _fingerprint(arrays: Iterable[Any]) -> str:
    digest = hashlib.sha256()
    for array in arrays:
        array = np.asarray(array)
        digest.update(f"{array.dtype}{array.shape}".encode() + array.tobytes())
    return digest.hexdigest()[:16]
