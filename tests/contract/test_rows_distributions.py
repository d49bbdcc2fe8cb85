"""Sparsity distributions: how much of each leaf is pruned."""

import inspect
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.core import FrozenDict
from hypothesis import given, settings
from hypothesis import strategies as st

from bmrpruner import sparsity_distributions
from bmrpruner.sparsity_distributions import erk, get_sparsities_erdos_renyi, uniform
from tests.contract import oracle

PARAMS = {
    "decoder": {"mlp": {"kernel": np.ones((4, 6)), "bias": np.ones(6)}},
    "embed": {"kernel": np.ones((8, 8))},
}
MLP, EMBED = ("decoder", "mlp", "kernel"), ("embed", "kernel")
take_all = lambda key, param: True  # noqa: E731


def tree(mlp, bias, embed):
    return {"decoder": {"mlp": {"kernel": mlp, "bias": bias}}, "embed": {"kernel": embed}}


def test_filters_and_aliases():
    kernel, not_dim_one = (
        sparsity_distributions.KERNEL_FILTER_FN,
        sparsity_distributions.NOT_DIM_ONE_FILTER_FN,
    )
    assert kernel(("a", "kernel"), np.ones(3))
    assert not kernel(("kernel", "a"), np.ones((3, 3)))
    assert not_dim_one(("a",), np.ones((3, 1)))
    assert not not_dim_one(("a",), np.ones(3))
    assert sparsity_distributions.FilterFnType
    assert sparsity_distributions.CustomSparsityMapType


@pytest.mark.parametrize(("fn", "first"), [(uniform, "params"), (erk, "param_tree")])
def test_signatures(fn, first):
    parameters = inspect.signature(fn).parameters
    assert list(parameters) == [first, "sparsity", "filter_fn", "custom_sparsity_map"]
    assert parameters["filter_fn"].default is sparsity_distributions.NOT_DIM_ONE_FILTER_FN
    assert parameters["custom_sparsity_map"].default is None


@pytest.mark.parametrize(("size", "sparsity"), [(10, 0.55), (7, 0.0), (7, 1.0), (9, 0.34)])
def test_get_n_zeros(size, sparsity):
    zeros = sparsity_distributions.get_n_zeros(size, sparsity)
    assert type(zeros) is int
    assert zeros == int(np.floor(sparsity * size))


def test_uniform_filter_and_map():
    assert uniform(PARAMS, 0.8) == tree(0.8, None, 0.8)
    assert uniform(PARAMS, 0.8, filter_fn=lambda key, param: "embed" not in key) == tree(
        0.8, 0.8, None
    )
    custom = {("embed", "kernel"): 0.3, ("decoder", "mlp", "bias"): 0.1}
    assert uniform(PARAMS, 0.8, custom_sparsity_map=custom) == tree(0.8, 0.1, 0.3)


def test_filters_see_tuples_of_strings():
    seen = []
    uniform(PARAMS, 0.5, filter_fn=lambda key, param: seen.append("/".join(key)))
    assert sorted(seen) == ["decoder/mlp/bias", "decoder/mlp/kernel", "embed/kernel"]


def test_uniform_of_bare_arrays_lists_and_frozen_dicts():
    assert uniform(np.ones((2, 2)), 0.5, sparsity_distributions.KERNEL_FILTER_FN) == 0.5
    assert uniform(np.ones(2), 0.5) is None
    assert uniform([np.ones((2, 2)), [np.ones(2)]], 0.5) == [0.5, [None]]
    frozen = uniform(FrozenDict(PARAMS), 0.8)
    assert isinstance(frozen, FrozenDict)
    assert frozen.unfreeze() == tree(0.8, None, 0.8)


class Pair(NamedTuple):
    kernel: object
    extra: object = None


def test_keys_of_other_trees_are_field_names_and_indices():
    params = {"layers": [Pair(np.ones((2, 4))), (np.ones((2, 2)), jax.nn.relu)]}
    seen = {}
    found = uniform(params, 0.5, filter_fn=lambda key, param: seen.update({key: param.shape}))
    assert seen == {("layers", "0", "kernel"): (2, 4), ("layers", "1", "0"): (2, 2)}
    assert found == {"layers": [Pair(None), (None, None)]}
    custom = {("layers", "0", "kernel"): 0.25}
    for fn in (uniform, erk):
        assert fn(params, 0.5, take_all, custom)["layers"][0] == Pair(0.25)


@settings(max_examples=60, deadline=None)
@given(
    st.dictionaries(
        st.sampled_from("abcdef"),
        st.lists(st.integers(1, 12), min_size=2, max_size=4).map(tuple),
        min_size=1,
    ),
    st.floats(0, 1),
)
def test_erk_is_the_loop_of_the_paper(shapes, sparsity):
    found = get_sparsities_erdos_renyi(shapes, sparsity)
    assert found == pytest.approx(oracle.erk(shapes, sparsity), abs=1e-12)


def test_erk_power_and_kernel_options():
    shapes = {"a": (3, 3, 8, 16), "b": (3, 3, 16, 32), "c": (64, 10)}
    found = get_sparsities_erdos_renyi(shapes, 0.7, erk_power_scale=0.5)
    assert found == pytest.approx(oracle.erk(shapes, 0.7, power=0.5))
    flat = get_sparsities_erdos_renyi(shapes, 0.7, include_kernel=False, erk_power_scale=7.0)
    density = {name: 1 - sparsity for name, sparsity in flat.items()}
    ratio = (16 + 32) / (16 * 32) / ((64 + 10) / (64 * 10))
    assert density["b"] / density["c"] == pytest.approx(ratio)


def test_erk_custom_layers_leave_every_sum():
    shapes = {"a": (8, 8), "b": (16, 16), "c": (32, 4)}
    custom = {"b": 0.9, "unknown": 0.1}
    found = get_sparsities_erdos_renyi(shapes, 0.6, custom)
    without = get_sparsities_erdos_renyi({"a": (8, 8), "c": (32, 4)}, 0.6)
    assert found == {**without, "b": 0.9}
    assert get_sparsities_erdos_renyi(shapes, 0.6, dict.fromkeys("abc", 0.2)) == dict.fromkeys(
        "abc", 0.2
    )


def test_erk_of_sparsity_zero_and_one():
    shapes = {"a": (3, 4), "b": (5, 5)}
    assert get_sparsities_erdos_renyi(shapes, 0.0) == {"a": 0.0, "b": 0.0}
    assert get_sparsities_erdos_renyi(shapes, 1.0) == {"a": 1.0, "b": 1.0}
    assert get_sparsities_erdos_renyi({"a": (2, 2)}, 0.1) == {"a": 0.0}  # zero by rounding


def test_erk_errors():
    with pytest.raises(ValueError, match="Variable shape dictionary"):
        get_sparsities_erdos_renyi({}, 0.5)
    for sparsity in (None, -0.1, 1.1):
        with pytest.raises(ValueError, match="Default sparsity"):
            get_sparsities_erdos_renyi({"a": (2, 2)}, sparsity)
    for array in (np.ones((2, 2)), jnp.ones((2, 2))):
        with pytest.raises(ValueError, match="array"):
            erk(array, 0.5)


def test_erk_asks_the_filter_first():
    shapes = {MLP: (4, 6), EMBED: (8, 8)}
    expected = oracle.erk(shapes, 0.6)
    assert erk(PARAMS, 0.6) == tree(
        pytest.approx(expected[MLP]), None, pytest.approx(expected[EMBED])
    )
    custom = {("decoder", "mlp", "bias"): 0.5, EMBED: 0.25}
    expected = oracle.erk(shapes, 0.6, custom)
    found = erk(PARAMS, 0.6, custom_sparsity_map=custom)
    assert found == tree(pytest.approx(expected[MLP]), None, 0.25)
    frozen = erk(FrozenDict(PARAMS), 0.6)
    assert isinstance(frozen, FrozenDict)


def test_erk_reads_shapes_only():
    abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, jnp.float32), PARAMS)
    assert erk(abstract, 0.6) == erk(PARAMS, 0.6)
    found = []
    jax.eval_shape(lambda params: found.append(erk(params, 0.6)), abstract)
    assert found == [erk(PARAMS, 0.6)]


@pytest.mark.parametrize("fn", [uniform, erk])
def test_a_custom_key_without_a_leaf_warns_and_names_the_nearest(fn):
    with pytest.warns(UserWarning, match=r"'decoder', 'mpl', 'kernel'.*decoder/mlp/kernel"):
        found = fn(PARAMS, 0.6, custom_sparsity_map={("decoder", "mpl", "kernel"): 0.5})
    assert found == fn(PARAMS, 0.6)
    with pytest.warns(UserWarning, match=r"'zzz'.*Did you mean '(embed|decoder)/"):
        fn(PARAMS, 0.6, custom_sparsity_map={("zzz",): 0.5})


@pytest.mark.parametrize("fn", [uniform, erk])
def test_a_custom_sparsity_of_none_exempts(fn):
    others = fn(PARAMS, 0.6, lambda key, param: param.ndim > 1 and key != EMBED)
    assert fn(PARAMS, 0.6, custom_sparsity_map={EMBED: None}) == others


def test_erk_of_empty_arrays_divides_by_nothing():
    assert erk({"none": jnp.ones((0, 3)), "some": jnp.ones((4, 4))}, 0.5)["some"] == 0.5
