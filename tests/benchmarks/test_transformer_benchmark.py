"""The transformer benchmark in its quick form, and the model itself."""

import json
import math
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import character_model as model
import transformer

pytestmark = pytest.mark.slow
SIZES = model.Sizes(2, 8, 2, 6, 2)


def test_the_quick_form(tmp_path, monkeypatch):
    (tmp_path / "text.txt").write_text("the quick brown fox jumps over the lazy dog. " * 60)
    settings = transformer.Settings(
        tmp_path / "text.txt", tmp_path / "out", sparsities=(), seeds=(1,), quick=True
    )
    transformer.main(settings)
    found = json.loads((tmp_path / "out" / "runs" / "1.json").read_text())["rows"]
    bits = {(row["method"], row["share"]): row["bits"] for row in found}
    assert len(bits) == 1 + 5
    assert bits["dense", 0.0] < math.log2(29)  # characters
    assert bits["obs_sequential", "2:4"] < bits["magnitude", "2:4"]
    assert all(abs(row["counted_sparsity"] - 0.5) < 0.01 for row in found[1:])
    assert f"{bits['obs', '2:4']:.3f}" in (tmp_path / "out" / "table.md").read_text()
    monkeypatch.setattr(transformer, "run", None)  # what is there is not run again
    transformer.main(settings)
    settings.sparsities = (0.6,)
    with pytest.raises(ValueError, match="choose another --out"):
        transformer.main(settings)


def test_a_text_that_is_too_short(tmp_path):
    (tmp_path / "text.txt").write_text("short")
    with pytest.raises(ValueError, match="expected a longer text"):
        transformer.main(transformer.Settings(tmp_path / "text.txt", tmp_path / "out"))


def test_the_parts_of_a_text():
    text = model.read_text("ab" * 100)
    assert [len(part) for part in text[1:]] == [180, 10, 10]
    assert text.characters == "ab"


def test_the_size_of_the_model():
    params = model.init(jax.random.key(0), model.Sizes(), 65)
    assert 780_000 < sum(leaf.size for leaf in jax.tree.leaves(params)) < 850_000


def test_no_character_sees_those_after_it():
    params = model.init(jax.random.key(0), SIZES, 5)
    codes = np.array([[0, 1, 2, 3, 4, 0]])
    other = codes.copy()
    other[0, 4] = 1
    before, after = (model.apply(params, jnp.asarray(c), 2) for c in (codes, other))
    np.testing.assert_allclose(before[:4], after[:4], rtol=1e-5)
    assert np.all(np.any(np.asarray(before[4:] != after[4:]), axis=1))


def test_bits_of_a_model_that_knows_nothing():
    params = model.init(jax.random.key(0), SIZES, 4)
    params["head"] = jax.tree.map(jnp.zeros_like, params["head"])
    bits = model.bits_per_character(params, np.array([0, 1, 2, 3] * 10), SIZES)
    assert bits == pytest.approx(2.0, rel=1e-5)
