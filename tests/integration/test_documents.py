"""The code in the documents runs, and prints what it says."""

import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bmrpruner

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]


def blocks(name):
    return re.findall(r"```python\n(.*?)```", (ROOT / name).read_text(), re.DOTALL)


def names_after(block, document="README.md"):
    names = {}
    exec(blocks(document)[block], names)
    return names


def test_the_snippets_are_short():
    assert len(blocks("README.md")) == 4
    for block in blocks("README.md"):
        assert len([line for line in block.splitlines() if line.strip()]) <= 15


def test_a_jaxpruner_script():
    params = names_after(0)["params"]
    assert int(jnp.count_nonzero(params["kernel"])) == 52


def test_training_with_ivon_and_bmr():
    names = names_after(1)
    sparsity = bmrpruner.metrics.sparsity(names["params"])
    assert sparsity == pytest.approx(0.9, abs=0.005)
    std = jnp.concatenate([names["posterior"].std[k].ravel() for k in "ab"])
    mean = jnp.concatenate([names["params"][k].ravel() for k in "ab"])
    assert bool(jnp.all((std == 0) == (mean == 0)))
    assert float(names["loss_fn"](names["params"], None)) < 0.1


def test_any_network_and_some_inputs():
    names = names_after(2)
    for pruned in (names["pruned"], names["cut"]):
        assert bmrpruner.metrics.sparsity(pruned) == pytest.approx(0.5, abs=0.005)
    assert float(names["error"](names["pruned"])) < 0.02
    assert float(names["error"](names["cut"])) > 0.2


def test_a_smaller_network():
    names = names_after(3)
    assert names["small"].params["w1"].shape == (16, 16)
    x = jax.random.normal(jax.random.key(5), (8, 16))
    whole, small = names["model"](names["pruned"], x), names["small"](x)
    np.testing.assert_allclose(small, whole, rtol=2e-5, atol=1e-5)
    assert float(jnp.abs(whole - names["model"](names["params"], x)).max()) > 0.1


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
