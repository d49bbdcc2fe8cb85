"""The code in the documents runs, and prints what it says."""

import re
from pathlib import Path

import jax.numpy as jnp
import pytest

import bmrpruner

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]


def blocks(name):
    return re.findall(r"```python\n(.*?)```", (ROOT / name).read_text(), re.DOTALL)


def test_quick_start_with_adamw(capsys):
    exec(blocks("README.md")[0], {})
    assert capsys.readouterr().out == "0.90625\n"


def test_quick_start_with_ivon():
    names = {}
    exec(blocks("README.md")[1], names)
    sparsity = bmrpruner.metrics.sparsity(names["params"])
    assert sparsity == pytest.approx(0.9, abs=0.005)
    std = jnp.concatenate([names["posterior"].std[k].ravel() for k in "ab"])
    mean = jnp.concatenate([names["params"][k].ravel() for k in "ab"])
    assert bool(jnp.all((std == 0) == (mean == 0)))
    assert float(names["loss_fn"](names["params"], None)) < 0.1


def test_quick_start_with_a_posterior_from_elsewhere():
    names = {}
    exec(blocks("README.md")[2], names)
    assert names["pruned"]["w"].tolist() == [[2.0, 0.0], [pytest.approx(0.3), 0.0]]


def test_an_algorithm_in_ten_lines():
    registry = dict(bmrpruner.ALGORITHM_REGISTRY)
    try:
        exec(blocks("CONTRIBUTING.md")[0], {})
        pruner = bmrpruner.create_updater_from_config(
            algorithm="squared", dist_type="uniform", sparsity=0.5
        )
        assert pruner.instant_sparsify(jnp.array([[1.0, -2.0]]))[0].tolist() == [[0.0, -2.0]]
    finally:
        bmrpruner.ALGORITHM_REGISTRY.clear()
        bmrpruner.ALGORITHM_REGISTRY.update(registry)
