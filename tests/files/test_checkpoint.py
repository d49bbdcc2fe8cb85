"""Networks read from files: trees, posteriors, masks, metadata."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bmrpruner import DiagonalGaussian, files
from tests.files.posterior_files import SUFFIXES, assert_same_bits, mean_field


def random_masks(checkpoint, sparsity, seed=1):
    rng = np.random.default_rng(seed)
    return {leaf: rng.random(m.shape) >= sparsity for leaf, m in means(checkpoint).items()}


def means(checkpoint):
    return {leaf: checkpoint.tensors[roles["mean"]] for leaf, roles in checkpoint.leaves.items()}


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_trees_of_every_make_come_back(tmp_path, suffix, tree):
    path = tmp_path / f"net{suffix}"
    files.save(path, tree)
    zeros = jax.tree.map(lambda x: jnp.zeros_like(x) if isinstance(x, jax.Array) else x, tree)
    back = files.load(path).into(zeros)
    assert jax.tree.structure(back) == jax.tree.structure(tree)
    for ours, theirs in zip(jax.tree.leaves(back), jax.tree.leaves(tree), strict=True):
        if isinstance(theirs, jax.Array):
            np.testing.assert_array_equal(ours, theirs)


def test_a_tree_that_does_not_fit_is_told_apart(tmp_path):
    checkpoint = files.Checkpoint({"layer/kernel": np.ones((2, 3))})
    with pytest.raises(ValueError, match=r"layer/kernel.*\(3, 2\).*\(2, 3\)"):
        checkpoint.into({"layer": {"kernel": jnp.ones((3, 2))}})
    with pytest.raises(ValueError, match="layer/kernels: expected a leaf of the file"):
        checkpoint.into({"layer": {"kernels": jnp.ones((2, 3))}})


def test_a_posterior_comes_back(tmp_path):
    posterior = DiagonalGaussian(
        {"a": jnp.ones((2, 2)), "steps": jnp.array(7)}, {"a": jnp.full((2, 2), 4.0), "steps": None}
    )
    files.save(tmp_path / "posterior.npz", posterior)
    back = files.load(tmp_path / "posterior.npz").posterior
    assert back.std["a"].tolist() == [[0.5, 0.5], [0.5, 0.5]]
    assert back.std["steps"] is None
    assert back.mean["steps"] == 7


@pytest.mark.parametrize(
    ("spread", "value", "std"),
    [("std", 0.5, 0.5), ("rho", 0.0, np.log(2)), ("precision", 4.0, 0.5)],
)
def test_a_pruned_weight_has_no_variance(tmp_path, spread, value, std):
    checkpoint = files.Checkpoint(mean_field(spread, value))
    mask = {"dense_1/kernel": np.arange(320).reshape(32, 10) % 2}
    files.save(tmp_path / "pruned.npz", checkpoint.prune(mask, {}))
    loaded = files.load(tmp_path / "pruned.npz")
    back = loaded.posterior.std["dense_1"]["kernel"]
    np.testing.assert_allclose(back, std * mask["dense_1/kernel"], rtol=1e-6)
    draw = loaded.posterior.sample(jax.random.key(0))["dense_1"]["kernel"]
    np.testing.assert_array_equal(draw != 0, mask["dense_1/kernel"])
    # Also for whoever reads the tensors and knows nothing of masks.
    raw = loaded.tensors[f"dense_1/kernel/{spread}"][:, 0].astype(float)
    to_std = {"std": np.abs, "rho": lambda rho: np.logaddexp(0, rho), "precision": np.reciprocal}
    assert np.all(to_std[spread](raw) == 0)


def test_draws_form_a_posterior(tmp_path):
    draws = np.random.default_rng(0).normal(2.0, 0.5, (4, 500, 3)).astype(np.float32)
    files.write_tensors(tmp_path / "chains.npz", {"w/draws": draws})
    files.write_tensors(
        tmp_path / "ensemble.npz", {"w/mean": draws.mean((0, 1)), "w/draws": draws[0]}
    )
    for name in ("chains", "ensemble"):
        posterior = files.load(tmp_path / f"{name}.npz").posterior
        np.testing.assert_allclose(posterior.mean["w"], 2.0, atol=0.06)
        np.testing.assert_allclose(posterior.std["w"], 0.5, atol=0.05)
    pruned = files.load(tmp_path / "chains.npz").prune({"w": np.array([1, 0, 1])}, {})
    assert not pruned.tensors["w/draws"][..., 1].any()
    files.save(tmp_path / "pruned.npz", pruned, packed=True)
    assert_same_bits(files.load(tmp_path / "pruned.npz").tensors, pruned.tensors)


def test_statistics_of_normalisation_are_no_posterior():
    checkpoint = files.Checkpoint({"bn/mean": np.zeros(3), "bn/var": np.ones(3)})
    assert checkpoint.posterior is None
    assert checkpoint.params["bn"]["mean"].shape == (3,)


def test_metadata_that_is_not_ours(tmp_path):
    np.savez(tmp_path / "y.npz", w=np.ones(2), __metadata__=np.array("author: Bayes"))
    with pytest.raises(ValueError, match=r"y\.npz: metadata: expected JSON, got 'author: Bayes'"):
        files.load(tmp_path / "y.npz")
    for info in ('{"packed": 3}', '"pruned"', '{"packed": {"tensors": {}}}', '{"settings": 3}'):
        files.write_tensors(tmp_path / "x.npz", {"w": np.ones(2)}, {"bmrpruner": info}, force=True)
        with pytest.raises(ValueError, match=r"x\.npz: metadata: expected"):
            files.load(tmp_path / "x.npz")


def test_the_posterior_at_hand(data_dir, tmp_path):
    checkpoint = files.load(data_dir / "posteriors" / "mnist_mlp_meanfield.npz")
    assert checkpoint.params["dense_0"]["kernel"].shape == (784, 256)
    pruned = checkpoint.prune(random_masks(checkpoint, 0.9), {})
    dense_bytes = sum(tensor.nbytes for tensor in checkpoint.tensors.values())
    for suffix, packed in [(".safetensors", False), (".safetensors", True), (".npz", True)]:
        path = tmp_path / f"pruned{suffix}"
        files.save(path, pruned, force=True, packed=packed)
        assert_same_bits(files.load(path).tensors, pruned.tensors)
        if packed:
            assert path.stat().st_size < 0.1 * dense_bytes


@pytest.mark.parametrize("prior", ["-1", "0", "Infinity", "NaN", '"1"', "true", "[1]"])
def test_a_prior_in_the_metadata_that_is_none(tmp_path, prior):
    info = {"bmrpruner": f'{{"prior_precision": {prior}}}'}
    files.write_tensors(tmp_path / "x.npz", {"w": np.ones(2)}, info)
    with pytest.raises(ValueError, match=r"x\.npz: prior_precision: expected a positive finite"):
        files.load(tmp_path / "x.npz")


def test_draws_of_an_empty_leaf_have_no_rhat(tmp_path):
    rng = np.random.default_rng(0)
    tensors = {"empty/draws": np.zeros((2, 10, 0)), "w/draws": rng.normal(size=(2, 10, 3))}
    files.write_tensors(tmp_path / "x.npz", tensors)
    assert list(files.load(tmp_path / "x.npz").rhat) == ["w"]
