"""Make the network in a file smaller by the units that are zero, and report what that gained."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bmrpruner import files
from bmrpruner._tree import join, keyed_leaves, map_leaves
from bmrpruner.files import Checkpoint
from bmrpruner.files.atomic import refuse_existing
from bmrpruner.files.formats import check_writable, optional
from bmrpruner.pruning.checkpoints import file_size
from bmrpruner.structure import Compacted, Report, compact, kept_info, save_function
from bmrpruner.structure.cutting import cut
from bmrpruner.structure.exporting import check_exportable
from bmrpruner.study.charts import draw_shapes
from bmrpruner.study.pictures import save_figure
from bmrpruner.study.tasks import Model, check_takes, load_inputs, load_model


def compact_file(
    path: Path | str,
    out: Path | str,
    model: str,
    shape: Sequence[int] | None = None,
    data: Path | str | None = None,
    batch: int = 128,
    repeats: int = 30,
    force: bool = False,
    picture: Path | str | None = None,
    export: Path | str | None = None,
) -> dict[str, Any]:
    """Remove the units of a pruned network that can go exactly, and write the smaller one.

    The smaller file has the names of the larger, its posterior and masks included, and in its
    `info` the indices that were kept, which `structure.load_compacted` reads, and this report.

    Args:
      path: The pruned network: zeros, with masks or without.
      out: The smaller one, `.npz` or `.safetensors`.
      model: `module:function`, from parameters (nested dicts) and inputs to outputs.
      shape: Of one input; normal numbers of this shape are run. Either this or `data`.
      data: Test data as `load_task` reads them, whose first inputs are run.
      batch: How many inputs there are in the call that is counted and timed.
      repeats: How often each network is timed, in turns.
      force: Replace `out`, `picture` and `export`; never `path` itself.
      picture: A PNG file to draw the shapes into, before and after.
      export: A `.jaxexport` file to write the smaller function into, which runs without the
        model's code: see `structure.save_function`.

    Returns:
      What JSON can hold. `leaves`: name, shape `before` and `after`. `parameters`, `flops` (of one
      call), `file_bytes` and `milliseconds` (of one call, median): before and after. `error`: the
      largest difference of outputs over the largest output. `fits`: whether the model's own code
      computes the same from the smaller file. `stayed`: by leaf and axis, why units did. `notes`.
      `export`, if one was asked for: its `file`, and the `batch` that it takes, or `any`.

    Raises:
      FileNotFoundError, FileExistsError: As `bmrpruner.files` does.
      ValueError: If an argument is impossible, the model does not take these parameters and inputs,
        or the file is of a compaction after which it no longer computed the same.

    Example:
      >>> import tempfile
      >>> folder = Path(tempfile.mkdtemp())
      >>> zero = np.array([[1.0, 0.0], [2.0, 0.0]], np.float32)
      >>> net = {'a': {'kernel': zero}, 'b': {'kernel': np.ones((2, 3), np.float32)}}
      >>> files.save(folder / 'net.npz', net)
      >>> names = folder / 'net.npz', folder / 'small.npz'
      >>> done = compact_file(*names, 'bmrpruner.study.models:mlp', shape=(2,), repeats=1)
      >>> done['leaves'][0], done['parameters']
      ({'name': 'a/kernel', 'before': [2, 2], 'after': [2, 1]}, [10, 5])
    """
    path, out = Path(path), Path(out)
    for name, count in (("batch", batch), ("repeats", repeats)):
        if count < 1:
            raise ValueError(f"{name}: expected 1 at least, got {count}.")
    if out.exists() and path.exists() and out.samefile(path):
        raise FileExistsError(f"{out}: expected another file than the network, got that one.")
    check_writable(out, force)
    if picture is not None:
        optional("matplotlib", "plot")
        refuse_existing(Path(picture), force)
    if export is not None:
        check_exportable(Path(export), force)
    fn = load_model(model)
    checkpoint = files.load(path)
    _check_complete(checkpoint, model)
    inputs = jnp.asarray(_inputs(shape, data, batch))
    params = map_leaves(jnp.asarray, checkpoint.params)
    check_takes(fn, params, inputs)
    small = compact(fn, params, inputs)
    large_run, small_run = jax.jit(fn), jax.jit(small.fn)
    expected = large_run(params, inputs)
    done = {
        "model": model,
        "inputs": list(inputs.shape),
        **_counts(small.report),
        "milliseconds": milliseconds(
            [lambda: large_run(params, inputs), lambda: small_run(small.params, inputs)], repeats
        ),
        "error": _error(small_run(small.params, inputs), expected),
        "fits": _fits(fn, small, inputs, expected),
    }
    files.save(out, compact_checkpoint(checkpoint, small, {"compaction": done}), force)
    if picture is not None:
        save_figure(Path(picture), draw_shapes(done["leaves"]))
    exported = {} if export is None else {"export": _export(Path(export), small, inputs, force)}
    return {"out": str(out), **done, "file_bytes": [file_size(path), file_size(out)], **exported}


def compact_checkpoint(
    checkpoint: Checkpoint, small: Compacted, info: Mapping[str, Any]
) -> Checkpoint:
    """Cut all tensors of a network as its parameters were cut: spreads, draws and masks too.

    Args:
      checkpoint: The network that was compacted.
      small: What became of its parameters.
      info: What to write into the file beside the indices that were kept.

    Returns:
      The smaller network. What moved into a bias is added to its mean and its draws. The indices
      are those of the network that was compacted first, if this one had been compacted before.

    Example:
      >>> fn = lambda p, x: jnp.sin(x @ p['w1']) @ p['w2']
      >>> checkpoint = Checkpoint({'w1/mean': np.array([[1., 0.]], 'f'), 'w2': np.ones((2, 1), 'f'),
      ...                          'w1/std': np.array([[.1, 0.]], 'f')})
      >>> small = compact(fn, checkpoint.params, jnp.ones((5, 1)))
      >>> compact_checkpoint(checkpoint, small, {}).tensors['w1/std']
      array([[0.1]], dtype=float32)
    """
    before = dict(keyed_leaves(checkpoint.params))
    tensors, masks = dict(checkpoint.tensors), dict(checkpoint.masks)
    for key, leaf in keyed_leaves(small.params):
        name, kept = join(key), small.kept[key]
        shift = np.asarray(leaf, np.float64) - np.asarray(cut(before[key], kept), np.float64)
        for role, tensor_name in checkpoint.leaves[name].items():
            tensor = checkpoint.tensors[tensor_name]
            axes = [np.arange(n) for n in tensor.shape[: tensor.ndim - len(kept)]]
            own = np.asarray(cut(tensor, (*axes, *kept)))
            if role in ("", "mean", "draws") and shift.any():
                own = (own + shift).astype(tensor.dtype)
            tensors[tensor_name] = own
        if name in masks:
            masks[name] = (cut(masks[name], kept) | (shift != 0)).astype(np.uint8)
    rest = {key: value for key, value in checkpoint.info.items() if key != "sparsity"}
    indices = kept_info(small)
    indices["kept"] = _of_the_first(indices["kept"], checkpoint.info.get("kept", {}))
    return Checkpoint(tensors, masks, {**rest, **indices, **info}, checkpoint.metadata)


def _check_complete(checkpoint: Checkpoint, model: str) -> None:
    """Raise an error if the model is known to compute something else from this file."""
    before = checkpoint.info.get("compaction")
    if isinstance(before, Mapping) and before.get("model") == model and before.get("fits") is False:
        raise ValueError(
            "file: expected a network that the model's own code runs, got a compacted one from "
            "which it computes something else (info: compaction.fits is false); compact the "
            "network that this one was made of."
        )


def _of_the_first(
    kept: dict[str, list[list[int]]], before: Mapping[str, list[list[int]]]
) -> dict[str, list[list[int]]]:
    """Kept indices of a network that had been compacted before, as indices of the first one."""
    return {
        name: [
            np.asarray(old, np.int64)[own].tolist()
            for old, own in zip(before[name], axes, strict=True)
        ]
        if name in before
        else axes
        for name, axes in kept.items()
    }


def milliseconds(runs: Sequence[Callable[[], Any]], repeats: int) -> list[float]:
    """The median time that each function takes, called in turns after three that do not count.

    Example:
      >>> len(milliseconds([lambda: 1, lambda: 2], repeats=3))
      2
    """
    times: list[list[float]] = [[] for _ in runs]
    for _ in range(repeats + 3):
        for run, own in zip(runs, times, strict=True):
            start = time.perf_counter()
            jax.block_until_ready(run())
            own.append(1e3 * (time.perf_counter() - start))
    return [float(np.median(own[3:])) for own in times]


def _export(path: Path, small: Compacted, inputs: Any, force: bool) -> dict[str, Any]:
    """Write the function, for any batch if the inputs go by themselves."""
    try:
        save_function(path, small, inputs, any_batch=True, force=force)
        return {"file": str(path), "batch": "any"}
    except ValueError:
        save_function(path, small, inputs, force=force)
        return {"file": str(path), "batch": len(inputs)}


def _inputs(shape: Sequence[int] | None, data: Path | str | None, batch: int) -> np.ndarray:
    if (shape is None) == (data is None):
        raise ValueError(
            f"input_shape, data: expected exactly one of them, got {2 * (shape is not None)}."
        )
    if data is not None:
        inputs = load_inputs(data)
        return inputs[np.arange(batch) % len(inputs)]
    if shape is None or any(n < 1 for n in shape):
        raise ValueError(f"input_shape: expected numbers >= 1, got {shape}.")
    return np.random.default_rng(0).standard_normal((batch, *shape), np.float32)


def _counts(report: Report) -> dict[str, Any]:
    """The report in what JSON can hold."""
    entries = [(entry.group.members[0][:2], entry) for entry in report.groups]
    return {
        "leaves": [
            {"name": join(key), "before": list(before), "after": list(after)}
            for key, (before, after) in report.shapes.items()
        ],
        "parameters": list(report.parameters),
        "flops": list(report.flops),
        "stayed": [
            {"leaf": join(key), "axis": axis, "removed": entry.removed, "why": entry.stayed}
            for (key, axis), entry in entries
        ],
        "notes": list(report.notes),
    }


def _fits(fn: Model, small: Compacted, inputs: Any, expected: Any) -> bool:
    try:
        return _error(jax.jit(fn)(small.params, inputs), expected) < 1e-4
    except Exception:  # whatever the model does with shapes it was not written for
        return False


def _error(found: Any, expected: Any) -> float:
    """The largest difference over the largest number; infinite for arrays of other shapes."""
    worst = 0.0
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        if a.shape != b.shape:
            return math.inf
        gap, scale = (float(jnp.abs(x.astype(jnp.float32)).max(initial=0)) for x in (a - b, b))
        worst = max(worst, gap / max(scale, 1e-30))
    return worst
