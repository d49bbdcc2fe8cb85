"""The benchmark of IVON's recipe: its networks, a line of its table, and what it refuses."""

import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import recipe


@pytest.mark.parametrize("name", recipe.NETWORKS)
def test_logits_depend_on_every_pixel(name):
    network = recipe.NETWORKS[name]
    params = network.init(jax.random.key(0))
    images = jax.random.uniform(jax.random.key(1), (3, 64))
    weights = jnp.arange(10.0)
    slopes = jax.jit(jax.grad(lambda x: jnp.sum(network.apply(params, x) @ weights)))(images)
    assert network.apply(params, images).shape == (3, 10)
    assert bool(jnp.all(slopes != 0))


@pytest.mark.slow
def test_a_line_of_the_table(capsys, monkeypatch):
    monkeypatch.setattr(recipe, "ESS", (10,))
    recipe.main(recipe.Settings(("mlp",), batch_sizes=(64,), seeds=(0,), epochs=10))
    name, batch, *cells = capsys.readouterr().out.splitlines()[0].split()
    assert (name, batch) == ("mlp", "64")
    accuracies = [float(cell) for cell in cells[::4]]
    assert len(accuracies) == 2
    assert min(accuracies) > 80


def test_a_network_that_is_not_known():
    with pytest.raises(ValueError, match="got 'resnet'"):
        recipe.main(recipe.Settings(("resnet",)))
