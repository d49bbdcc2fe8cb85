"""The short examples in their quick form: what they print is true of the arrays they end with."""

import re
import runpy
import sys

import jax
import numpy as np
import pytest

import bmrpruner
from tests.examples.running import EXAMPLES

pytestmark = pytest.mark.slow

# By line: its name, the share of zeros, and an accuracy that it exceeds.
PRINTED = {
    "flax_nnx": [("dense", 0.0, 0.95), ("pruned", 0.9, 0.9)],
    "equinox_mlp": [("dense", 0.0, 0.95), ("pruned", 0.9, 0.9)],
    "two_four": [("dense", 0.0, 0.95), ("2:4", 0.5, 0.95)],
    "rigl": [("dense", 0.0, 0.95), ("fixed", 0.98, 0.2), ("RigL", 0.98, 0.5)],
    "own_score": [("no_prune", 0.0, 0.95), ("magnitude", 0.85, 0.5), ("lamp", 0.85, 0.85)],
    "third_party_posterior": [("dense", 0.0, 0.88), ("pruned", 0.483, 0.88)],
}


def last_kernels(end):
    """The pruned matrices of the last network, from what the script leaves behind."""
    if "network" in end:
        return end["network"].coefs_
    leaves = jax.tree.leaves(end["model"] if "model" in end else end["params"])
    kernels = [np.asarray(leaf) for leaf in leaves if getattr(leaf, "ndim", 0) > 1]
    return kernels[:1] if "what" in end else kernels


def check_fours(end):
    (kernel,) = last_kernels(end)
    assert set(np.count_nonzero(kernel.reshape(-1, 4), axis=1)) == {2}


def check_score(end):
    w = np.random.default_rng(0).normal(size=(4, 5)).astype(np.float32)
    expected = [[v**2 / (w[w**2 >= v**2] ** 2).sum() for v in row] for row in w]
    scores = end["LAMP"](sparsity=0.5).calculate_scores({"w": w})["w"]
    np.testing.assert_allclose(scores, expected, rtol=1e-5)


def check_evidence(end):
    mean, precision = end["mean"]["kernel"], end["std"]["kernel"] ** -2.0
    prior = end["prior_precision"]["kernel"]
    delta_f = (np.log(precision / prior) - precision * mean**2) / 2
    decided = np.abs(delta_f) > 1e-4  # not where a pixel is always empty, and ΔF is rounding
    assert decided.mean() > 0.9
    np.testing.assert_array_equal(end["masks"]["kernel"][decided], delta_f[decided] < 0)


CHECKS = {
    "two_four": check_fours,
    "own_score": check_score,
    "third_party_posterior": check_evidence,
}


@pytest.mark.parametrize("name", PRINTED)
def test_what_is_printed(name, monkeypatch, capsys):
    path = EXAMPLES / f"{name}.py"
    assert len(path.read_text("utf-8").splitlines()) <= 40
    monkeypatch.syspath_prepend(EXAMPLES)
    monkeypatch.setattr(sys, "argv", [path.name, "--quick"])
    monkeypatch.setitem(bmrpruner.ALGORITHM_REGISTRY, "lamp", None)  # gone when the test ends
    end = runpy.run_path(str(path))
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(PRINTED[name])
    for line, (label, share, lowest) in zip(lines, PRINTED[name], strict=True):
        assert line.startswith(f"{label}: ")
        zero, accuracy = map(float, re.findall(r"(\d+\.\d+)%? *(?:of|$)", line))
        assert zero == pytest.approx(100 * share, abs=0.5)
        assert lowest < accuracy <= 1
    kernels = last_kernels(end)
    zeros = sum(np.sum(kernel == 0) for kernel in kernels) / sum(map(np.size, kernels))
    assert f" {zeros:.1%} of" in lines[-1]
    CHECKS.get(name, lambda end: None)(end)
