"""Summaries of sparsity, and the extensions: ACDC, Adam-Fisher, iterative N:M, activations."""

import copy
import dataclasses
import inspect

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax.core import FrozenDict

import bmrpruner
from bmrpruner import summarize_intersection, summarize_sparsity
from bmrpruner.projects.activation_sparsity.scenic import activation_sparsity
from bmrpruner.projects.extensions import acdc, adam_fisher, iterative_nm
from bmrpruner.sparsity_types import Block, Channel, NByM, Unstructured
from tests.contract import oracle

TREE = {
    "a": {"kernel": jnp.array([[0.0, 1.0], [0.0, jnp.nan]]), "bias": jnp.zeros(3)},
    "b": None,
}
TOTALS = {"_total_sparsity": 5 / 7, "_nparams_nnz": 2.0, "_nparams": 7.0}


def numbers(report):
    assert all(x is None or (x.dtype == jnp.float32 and x.shape == ()) for x in report.values())
    return {name: x if x is None else pytest.approx(float(x)) for name, x in report.items()}


def test_summarize_sparsity():
    parameters = inspect.signature(summarize_sparsity).parameters
    assert list(parameters) == ["param_tree", "only_total_sparsity"]
    expected = {**TOTALS, "a/kernel": 0.5, "a/bias": 1.0, "b": None}
    assert numbers(summarize_sparsity(TREE)) == expected
    assert numbers(summarize_sparsity(TREE, only_total_sparsity=True)) == TOTALS
    jitted = jax.jit(summarize_sparsity, static_argnums=1)
    assert numbers(jitted(TREE, False)) == expected


def test_summaries_of_any_tree():
    one = jnp.array([0, 1], jnp.uint8)
    assert set(summarize_sparsity([one, (None, one)])) == {*TOTALS, "0", "1/0", "1/1"}
    assert float(summarize_sparsity(one)["_total_sparsity"]) == 0.5
    assert float(summarize_sparsity(one, True)["_nparams"]) == 2
    module = eqx.nn.MLP(2, 2, 4, 1, key=jax.random.key(0))
    report = summarize_sparsity(module)
    assert {"layers/0/weight", "layers/1/bias"} <= report.keys()
    assert float(report["_nparams"]) == 4 * 3 + 2 * 5
    for empty in ({}, {"a": None}, {"f": jax.nn.relu}):
        assert float(summarize_sparsity(empty)["_total_sparsity"]) == 0


def test_summaries_of_many_weights_do_not_overflow():
    tree = [jax.ShapeDtypeStruct((80, 2**28), jnp.bfloat16), jax.random.key(0)]
    report = jax.eval_shape(summarize_sparsity, tree)
    assert {name: leaf.dtype for name, leaf in report.items()} == {
        name: jnp.float32 for name in (*TOTALS, "0")
    }


def test_summarize_intersection():
    parameters = inspect.signature(summarize_intersection).parameters
    assert list(parameters) == ["mask_tree1", "mask_tree2", "only_total_intersection"]
    one = {"a": jnp.array([1, 1, 1, 0], jnp.uint8), "b": [jnp.array([0, 1], jnp.uint8)], "c": None}
    two = {"a": jnp.array([0, 1, 1, 1], jnp.uint8), "b": [jnp.array([1, 0], jnp.uint8)], "c": None}
    expected = {"_total_intersection": 2 / 4, "a": 2 / 3, "b/0": 0.0, "c": None}
    assert numbers(summarize_intersection(one, two)) == expected
    total = summarize_intersection(one, two, only_total_intersection=True)
    assert numbers(total) == {"_total_intersection": 0.5}
    packed = [jax.tree.map(jnp.packbits, tree) for tree in (one, two)]
    assert numbers(summarize_intersection(*packed)) == expected
    booleans = [jax.tree.map(lambda mask: mask == 1, tree) for tree in (one, two)]
    assert numbers(jax.jit(summarize_intersection)(*booleans)) == expected


def test_intersection_with_masks_on_one_side_and_with_nothing():
    mask = jnp.ones(2, jnp.uint8)
    left = summarize_intersection({"a": mask, "b": None}, {"a": mask, "b": mask})
    assert numbers(left) == {"_total_intersection": 1.0, "a": 1.0, "b": 0.0}
    right = summarize_intersection({"a": mask, "b": mask}, {"a": mask, "b": None})
    assert numbers(right) == {"_total_intersection": 0.5, "a": 1.0, "b": 0.0}
    empty = {"a": jnp.zeros(2, jnp.uint8)}
    assert numbers(summarize_intersection(empty, empty))["a"] == 0.0


def test_intersection_goes_by_key_paths_whatever_holds_them():
    masks = {"layer": {"kernel": jnp.ones(2, jnp.uint8), "bias": None}}
    found = numbers(summarize_intersection(masks, FrozenDict(masks)))
    assert found == {"_total_intersection": 1.0, "layer/kernel": 1.0, "layer/bias": None}
    with pytest.raises(ValueError, match="the same leaves, got 'other' in one"):
        summarize_intersection(masks, {**masks, "other": None})


@pytest.mark.parametrize(
    ("module", "name", "cls"),
    [
        (acdc, "acdc", acdc.ACDC),
        (adam_fisher, "adam-fisher", adam_fisher.AdamBasedFisherPruning),
        (iterative_nm, "iterative_nm", iterative_nm.IterativeNMPruning),
    ],
)
def test_extensions_register_themselves(module, name, cls, monkeypatch):
    assert bmrpruner.ALGORITHM_REGISTRY[name] is cls
    monkeypatch.delitem(bmrpruner.ALGORITHM_REGISTRY, name)
    module.add_to_jaxpruner()
    assert bmrpruner.ALGORITHM_REGISTRY[name] is cls


def test_fields_of_acdc():
    fields = {f.name: f.default for f in dataclasses.fields(acdc.ACDC)}
    own = ["init_dense_steps_end", "final_sparse_steps_start"]
    own += ["cycle_sparse_steps", "cycle_dense_steps"]
    assert [fields[name] for name in own] == [0, 0, 0, 0]
    assert fields["reset_optimizer"] is False
    assert issubclass(acdc.ACDC, bmrpruner.MagnitudePruning)


PARAMS = {"w": jnp.arange(1.0, 17.0).reshape(4, 4), "b": jnp.ones(4)}


@pytest.mark.parametrize("packed", [False, True])
def test_acdc_alternates_and_ends_sparse(packed):
    updater = acdc.ACDC(
        sparsity=0.5,
        init_dense_steps_end=2,
        final_sparse_steps_start=9,
        cycle_sparse_steps=2,
        cycle_dense_steps=1,
        use_packed_masks=packed,
    )
    tx = updater.wrap_optax(optax.sgd(0.0))
    step = jax.jit(tx.update)
    state, params, ones = tx.init(PARAMS), PARAMS, []
    for _ in range(12):
        _, state = step(params, state, params)
        params = updater.post_gradient_update(params, state)
        mask = np.asarray(state.masks["w"])
        ones.append(int((np.unpackbits(mask) if packed else mask).sum()))
    assert ones == [16, 16, 8, 8, 16, 8, 8, 16, 8, 8, 8, 8]
    assert state.masks["b"] is None


def test_acdc_asks_its_fields_and_no_other_schedule():
    updater = acdc.ACDC(sparsity=0.5, cycle_sparse_steps=1, cycle_dense_steps=1)
    updater.init_dense_steps_end, updater.final_sparse_steps_start = 1, 6
    updater.scheduler = bmrpruner.NoUpdateSchedule()
    for same in (updater, copy.deepcopy(updater), dataclasses.replace(updater, sparsity=0.5)):
        found = [bool(same.scheduler.is_sparse(step)) for step in range(8)]
        assert found == [False, True, False, True, False, True, True, True]


@pytest.mark.parametrize("reset", [False, True])
def test_acdc_resets_the_optimizer(reset):
    updater = acdc.ACDC(sparsity=0.5, reset_optimizer=reset)
    tx = updater.wrap_optax(optax.trace(0.9))
    state = tx.init(PARAMS)._replace(inner_state=optax.TraceState(PARAMS))
    after = updater.update_state(state, PARAMS, PARAMS)
    expected = jnp.zeros_like(PARAMS["w"]) if reset else PARAMS["w"]
    np.testing.assert_array_equal(after.inner_state.trace["w"], expected)


def test_adam_fisher_scores_and_helpers():
    updater = adam_fisher.AdamBasedFisherPruning(sparsity=0.5)
    assert updater.reset_adam is False
    tx = updater.wrap_optax(optax.adamw(0.1))
    state = tx.init(PARAMS)
    nu = jax.tree.map(lambda x: 1 / x**3, PARAMS)
    adam = adam_fisher.find_adamstate(state)
    state = adam_fisher.replace_adamstate(state, adam._replace(nu=nu))
    scores = updater.calculate_scores(PARAMS, sparse_state=state)
    np.testing.assert_allclose(scores["w"], 1 / PARAMS["w"], rtol=1e-6)
    masks = updater.update_state(state, PARAMS, None).masks
    np.testing.assert_array_equal(masks["w"], oracle.topk(1 / PARAMS["w"], 0.5))
    pruned, _ = updater.instant_sparsify(PARAMS, opt_state=state)
    np.testing.assert_array_equal(pruned["w"] != 0, masks["w"] == 1)
    assert adam_fisher.find_adamstate(optax.sgd(0.1).init(PARAMS)) is None
    for opt_state in (None, optax.sgd(0.1).init(PARAMS)):
        with pytest.raises(ValueError, match="second moment"):
            updater.instant_sparsify(PARAMS, opt_state=opt_state)
        with pytest.raises(ValueError, match="second moment"):
            adam_fisher.replace_adamstate(opt_state, adam)


def test_adam_fisher_resets_adam():
    updater = adam_fisher.AdamBasedFisherPruning(
        sparsity=0.5, reset_adam=True, scheduler=bmrpruner.OneShotSchedule(1)
    )
    tx = updater.wrap_optax(optax.inject_hyperparams(optax.adam)(0.1))
    state = tx.init(PARAMS)
    for expected in (1, 1, 2):  # restarted before the second step
        _, state = tx.update(PARAMS, state, PARAMS)
        assert int(adam_fisher.find_adamstate(state).count) == expected


@pytest.mark.parametrize(
    ("fraction", "kept"), [(0.0, 4), (0.2, 4), (0.4, 3), (0.6, 3), (0.9, 2), (1.0, 2)]
)
def test_iterative_nm_counts(fraction, kept):
    updater = iterative_nm.IterativeNMPruning(sparsity_type=NByM(2, 4, 0))
    state = updater.init_state(PARAMS)
    assert state.target_sparsities == {"w": 0.5, "b": None}
    scores = -PARAMS["w"]
    mask = updater.create_masks({"w": scores, "b": None}, {"w": 0.5 * fraction, "b": None})["w"]
    expected = oracle.n_by_m(scores, kept, 4, 0)
    np.testing.assert_array_equal(mask, expected)


def test_iterative_nm_approaches_its_pattern_in_training():
    updater = bmrpruner.create_updater_from_config(
        algorithm="iterative_nm",
        dist_type="uniform",
        sparsity=0.9,
        sparsity_type="nm_1,4",
        update_freq=1,
        update_start_step=0,
        update_end_step=8,
    )
    tx = updater.wrap_optax(optax.sgd(0.0), mask_updates=True)
    step = jax.jit(tx.update)
    state, kept = tx.init(PARAMS), []
    for _ in range(9):
        _, state = step(PARAMS, state, PARAMS)
        per_group = np.asarray(state.masks["w"]).sum(1)
        assert len(set(per_group)) == 1
        kept.append(int(per_group[0]))
    assert kept[0] == 3
    assert kept == sorted(kept, reverse=True)
    assert kept[-2:] == [1, 1]
    np.testing.assert_array_equal(state.masks["w"], oracle.n_by_m(PARAMS["w"], 1, 4))
    with pytest.raises(ValueError, match="sparsity_type"):
        iterative_nm.IterativeNMPruning(sparsity_type=Unstructured())


class Net(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(8, name="second")(nn.relu(nn.Dense(8, name="first")(x)))


def outputs(*contexts):
    x = jax.random.normal(jax.random.key(1), (3, 4))
    params = Net().init(jax.random.key(0), x)
    hidden = nn.relu(x @ params["params"]["first"]["kernel"] + params["params"]["first"]["bias"])
    for context in contexts:
        context.__enter__()
    try:
        out = Net().apply(params, x)
    finally:
        for context in reversed(contexts):
            context.__exit__(None, None, None)
    return hidden, params["params"]["second"], out


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("nm_2,4", lambda h: oracle.n_by_m(h, 2, 4)),
        ("unstructured_0.75", lambda h: oracle.topk(h, 0.75)),
        ("block_1,4_0.5", lambda h: oracle.block(h, 0.5, 1, 4)),
        ("channel_-1_0.5", lambda h: oracle.channel(h, 0.5)),
    ],
)
def test_activation_context_of_a_string(given, expected):
    relu = nn.relu
    hidden, layer, out = outputs(activation_sparsity.get_activation_context(given))
    masked = hidden * expected(np.asarray(hidden))
    np.testing.assert_allclose(out, masked @ layer["kernel"] + layer["bias"], atol=1e-6)
    assert nn.relu is relu


def test_activation_contexts():
    hidden, layer, plain = outputs(activation_sparsity.get_activation_context(""))
    np.testing.assert_allclose(plain, hidden @ layer["kernel"] + layer["bias"], atol=1e-6)
    sparse = activation_sparsity.add_activation_sparsity(Channel(-1), 0.5, allowlist=("gelu",))
    np.testing.assert_array_equal(outputs(sparse)[2], plain)
    halved = activation_sparsity.add_activation_sparsity_layers(lambda y: y / 2)
    np.testing.assert_allclose(
        outputs(halved)[2], (hidden @ layer["kernel"] / 2 + layer["bias"]) / 2, atol=1e-6
    )
    with pytest.raises(ValueError, match="sparsity: expected a number"):
        activation_sparsity.get_activation_context("block_2,2")
    with pytest.raises(ValueError, match="sparsity: expected a number"):
        outputs(activation_sparsity.add_activation_sparsity(Block((2, 2))))
    with pytest.raises(ValueError, match="Sparsity type"):
        activation_sparsity.get_activation_context("sparse")
