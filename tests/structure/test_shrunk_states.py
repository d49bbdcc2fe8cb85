"""What goes with parameters gets smaller with them: training goes on as it would have."""

import exactness
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from plain_models import mlp, normal

import bmrpruner
from bmrpruner.structure import (
    dependency_groups,
    load_compacted,
    load_function,
    save_compacted,
    save_function,
)


@pytest.fixture(scope="module")
def model():
    """A network of which half of all units are dead, and its compacted form."""
    fn, params, args = mlp()
    params = exactness.half_dead(params, dependency_groups(fn, params, *args))
    return fn, params, args, bmrpruner.compact(fn, params, *args)


def cut(small, tree):
    """`tree`, which is like the parameters, cut with np.ix_."""
    leaves = [
        np.asarray(x)[np.ix_(*kept)]
        for x, kept in zip(jax.tree.leaves(tree), small.kept.values(), strict=True)
    ]
    return jax.tree.unflatten(jax.tree.structure(tree), leaves)


def assert_close(a, b):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=2e-5, atol=1e-7), a, b)


def steps(fn, x, tx, params, state, n):
    y = normal(4, 3, seed=4)
    grad = jax.jit(jax.grad(lambda p: jnp.mean((fn(p, x) - y) ** 2)))
    for _ in range(n):
        updates, state = tx.update(grad(params), state, params)
        params = optax.apply_updates(params, updates)
    return params, state


def test_adam_goes_on_where_it_was(model):
    """Dead units get no gradient, so the kept parts of large and small training are the same."""
    fn, params, (x,), small = model
    tx = optax.chain(optax.clip(1.0), optax.adam(0.01))
    alive = jax.tree.map(lambda x: (x != 0).astype(x.dtype), params)

    def masked(p, x):
        return fn(jax.tree.map(jnp.multiply, p, alive), x)

    large, state = steps(masked, x, tx, params, tx.init(params), 3)
    now = bmrpruner.compact(fn, large, x)
    assert now.report.parameters == small.report.parameters
    mine, mine_state = steps(now.fn, x, tx, now.params, now.shrink(state), 3)
    theirs, their_state = steps(masked, x, tx, large, state, 3)
    assert_close(mine, cut(now, theirs))
    assert_close(mine_state[1][0].nu, cut(now, their_state[1][0].nu))
    assert int(mine_state[1][0].count) == 6


@pytest.mark.parametrize("packed", [False, True])
def test_ivon_under_a_pruner_goes_on(model, packed):
    _, params, (x,), small = model
    tx = bmrpruner.MagnitudePruning(sparsity=0.0, use_packed_masks=packed).wrap_optax(
        bmrpruner.ivon(0.1, ess=100)
    )
    state = small.shrink(tx.init(params))
    fresh = tx.init(small.params)
    shapes = [[x.shape for x in jax.tree.leaves(s)] for s in (state, fresh)]
    assert shapes[0] == shapes[1]
    jax.tree.map(np.testing.assert_array_equal, state.masks, fresh.masks)
    y = normal(4, 3, seed=4)

    @jax.jit
    def step(p, state):
        def loss(p, key):
            return jnp.mean((small.fn(p, x) - y) ** 2)

        _, grads, state = bmrpruner.noisy_value_and_grad(loss, state, p, jax.random.key(0))
        updates, state = tx.update(grads, state, p)
        return optax.apply_updates(p, updates), state

    p, _ = step(small.params, state)
    assert not np.array_equal(p[0]["w"], small.params[0]["w"])


def test_a_posterior_shrinks_and_its_mean_takes_the_constants():
    fn, params, args = mlp()
    mean = exactness.dead_inputs(params, dependency_groups(fn, params, *args))
    precision = jax.tree.map(lambda x: 1 + x**2, params)
    small = bmrpruner.compact(fn, mean, *args)
    posterior = small.shrink(bmrpruner.DiagonalGaussian(mean, precision, 2.0))
    assert isinstance(posterior, bmrpruner.DiagonalGaussian)
    assert posterior.prior_precision == 2.0
    jax.tree.map(np.testing.assert_array_equal, posterior.mean, small.params)
    jax.tree.map(np.testing.assert_array_equal, posterior.precision, cut(small, precision))
    sample = posterior.sample(jax.random.key(0))
    assert small.fn(sample, *args).shape == (4, 3)


@pytest.mark.parametrize("second", [{"w": normal(5, 8, seed=2)}, normal(5, 8, seed=2)])
def test_parameters_that_are_named_like_the_fields_of_a_state(second):
    """`mu/w` of the state is that of `w` in `mu`, not that of the parameter `mu/w`."""
    params = {"w": normal(5, 8), "mu": second, "o": normal(8, 3), "o2": normal(8, 3, seed=5)}
    params["w"] = params["w"].at[:, [0, 1]].set(0)
    params["mu"] = jax.tree.map(lambda x: x.at[:, [4, 5, 6]].set(0), second)

    def fn(p, x):
        (mu,) = jax.tree.leaves(p["mu"])
        return jnp.sin(x @ p["w"]) @ p["o"] + jnp.sin(x @ mu) @ p["o2"]

    small = bmrpruner.compact(fn, params, normal(4, 5))
    numbers = jax.tree.map(lambda x: jnp.arange(x.size, dtype=x.dtype).reshape(x.shape), params)
    state = optax.chain(optax.clip(1.0), optax.adam(0.1)).init(params)
    adam = state[1][0]._replace(mu=numbers, nu=jax.tree.map(jnp.square, numbers))
    got = small.shrink((state[0], (adam, *state[1][1:])))[1][0]
    jax.tree.map(np.testing.assert_array_equal, got.mu, cut(small, numbers))
    jax.tree.map(np.testing.assert_array_equal, got.nu, jax.tree.map(jnp.square, got.mu))
    assert [x.shape for x in jax.tree.leaves(got.mu)] == [(5, 5), (6, 3), (5, 3), (5, 6)]


def test_the_state_of_some_leaves_is_cut_by_their_names(model):
    _, params, _, small = model
    alone = [{"w": True, "b": False}] * 3
    state = optax.masked(optax.trace(0.9), alone).init(params)
    shapes = [x.shape for x in jax.tree.leaves(small.shrink(state))]
    assert shapes == [layer["w"].shape for layer in small.params]


def test_a_state_of_another_shape_is_named(model):
    _, params, _, small = model
    state = {"rows": jax.tree.map(lambda x: jnp.zeros(x.shape[0] + 1), params)}
    with pytest.raises(ValueError, match=r"tree: expected shape \(8,\) at 'rows/0/b'.*got \(9,\)"):
        small.shrink(state)


@pytest.mark.parametrize("name", ["small.npz", "small.safetensors"])
def test_parameters_and_kept_indices_come_back_from_files(model, name, tmp_path):
    _, params, args, small = model
    save_compacted(tmp_path / name, small)
    saved = load_compacted(tmp_path / name)
    assert saved.kept.keys() == small.kept.keys()
    for key, axes in small.kept.items():
        for a, b in zip(saved.kept[key], axes, strict=True):
            np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(saved.params["1"]["w"], small.params[1]["w"])
    again = bmrpruner.files.load(tmp_path / name).into(small.params)
    np.testing.assert_array_equal(small.fn(again, *args), small(*args))
    with pytest.raises(FileExistsError, match="expected a new name"):
        save_compacted(tmp_path / name, small)
    bmrpruner.files.save(tmp_path / f"dense-{name}", params)
    with pytest.raises(ValueError, match="expected a compacted model"):
        load_compacted(tmp_path / f"dense-{name}")


def test_orbax_holds_the_same(model, tmp_path):
    ocp = pytest.importorskip("orbax.checkpoint")
    small = model[3]
    tree = {"params": small.params, "kept": small.kept_tree()}
    ocp.PyTreeCheckpointer().save(tmp_path / "small", tree)
    saved = load_compacted(tmp_path / "small")
    np.testing.assert_array_equal(saved.params["0"]["w"], small.params[0]["w"])
    np.testing.assert_array_equal(saved.kept["0", "w"][1], small.kept["0", "w"][1])


def test_an_exported_file_runs_without_the_model(model, tmp_path):
    pytest.importorskip("flatbuffers")
    _, _, args, small = model
    path = tmp_path / "small.jaxexport"
    save_function(path, small, *args)
    names = {f"{i}/{k}": small.params[i][k] for i in range(3) for k in "bw"}
    np.testing.assert_allclose(load_function(path)(names, *args), small(*args), rtol=1e-6)
    with pytest.raises(FileExistsError, match="expected a new name"):
        save_function(path, small, *args)
    with pytest.raises(ValueError, match=r"expected a name that ends in \.jaxexport"):
        save_function(tmp_path / "small.npz", small, *args)
