"""What cannot be meant with groups is refused, in words that name it."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

import bmrpruner
from bmrpruner import _groups, mask_calculator, sparsity_types
from bmrpruner.algorithms import IterativeNMPruning
from bmrpruner.sparsity_types import Group
from bmrpruner.structure import Group as Family
from tests.structured.families import each

PARAMS = {"w": jnp.ones((3, 4)), "b": jnp.ones(4), "steps": jnp.ones(4, jnp.int32)}
MEMBERS = ((("w",), 1, each(4)), (("b",), 0, each(4)))
HIDDEN = Family(4, MEMBERS)
KIND = Group([HIDDEN])


def changed(**fields):
    return dataclasses.replace(HIDDEN, **fields)


def moved(indices, axis=1, key=("w",)):
    return changed(members=((key, axis, indices),))


BAD = {
    "no sequence": (HIDDEN, "units", TypeError, r"^groups: .*sequence.*got a Group"),
    "none": ([], "units", ValueError, r"^groups: .*no groups"),
    "no group": ([HIDDEN, 4], "units", TypeError, r"^groups\[1\]: .*got a int"),
    "all frozen": (
        [changed(frozen="sort"), changed(frozen="output")],
        "units",
        ValueError,
        r"^groups: .*not frozen.*'output', 'sort'",
    ),
    "no units": ([changed(size=0)], "units", ValueError, r"^groups\[0\].size: "),
    "no members": ([changed(members=())], "units", ValueError, r"^groups\[0\].members: "),
    "a list": ([moved([[0], [1], [2], [3]])], "units", TypeError, r"integer.*'w', got list"),
    "floats": ([moved(each(4) * 1.0)], "units", TypeError, r"integer.*got float64"),
    "flat": ([moved(np.arange(4))], "units", ValueError, r"\(4, k\), got \(4,\)"),
    "too few": ([moved(each(3))], "units", ValueError, r"\(4, k\), got \(3, 1\)"),
    "empty": ([moved(np.zeros((4, 0), int))], "units", ValueError, r"got \(4, 0\)"),
    "from the end": ([moved(each(4) - 1)], "units", ValueError, r"counted from 0.*-1"),
    "an axis from the end": ([moved(each(4), -1)], "units", ValueError, r"counted from 0.*axis -1"),
    "overlapping": (
        [moved(each(4) // 2)],
        "units",
        ValueError,
        r"axis 1 of leaf 'w'.*got 0 2 times",
    ),
    "unknown cost": ([HIDDEN], "flops", ValueError, r"^cost: .*mapping.*FLOPs.*'flops'"),
    "cost of a type": ([HIDDEN], 3, TypeError, r"^cost: .*got 3"),
    "cost of a name": ([HIDDEN], {"w": 1}, TypeError, r"^cost: .*key paths.*'w'"),
    "cost of a half pair": ([HIDDEN], {frozenset({("w",)}): 1}, TypeError, r"^cost: .*frozenset"),
    "cost of an axis from the end": (
        [HIDDEN],
        {frozenset({(("w",), -1)}): 1},
        TypeError,
        r"^cost: .*frozensets of pairs",
    ),
    "negative cost": ([HIDDEN], {("w",): -1}, ValueError, r"^cost\[\('w',\)\]: .*-1"),
    "cost of nothing": ([HIDDEN], {("w",): 0}, ValueError, r"^cost: .*costs something"),
}


@pytest.mark.parametrize(("groups", "cost", "error", "text"), BAD.values(), ids=BAD)
def test_on_construction(groups, cost, error, text):
    with pytest.raises(error, match=text):
        Group(groups, cost)


@pytest.mark.parametrize("multiple", [0, -8, 2.0, True, "8"])
def test_multiples_that_are_none(multiple):
    error = ValueError if type(multiple) is int else TypeError
    with pytest.raises(error, match=rf"^multiple: expected an integer >= 1, got {multiple!r}"):
        Group([HIDDEN], multiple=multiple)


FOREIGN = {
    "a leaf": (moved(each(4), key=("v",)), r"groups\[0\].members: .*'v', which is not there.*'w'"),
    "an axis": (
        moved(each(4), 2),
        r"groups\[0\].members: .*axis of leaf 'w', of shape \(3, 4\).*2",
    ),
    "an index": (moved(each(4), 0), r"groups\[0\].members: .*below 3.*axis 0 of leaf 'w', got 3"),
    "integers": (moved(each(4), 0, ("steps",)), r"groups: .*floating-point.*'steps', of int32"),
}


@pytest.mark.parametrize("at_once", [True, False])
@pytest.mark.parametrize(("group", "text"), FOREIGN.values(), ids=FOREIGN)
def test_groups_of_other_parameters(group, text, at_once):
    pruner = bmrpruner.MagnitudePruning(sparsity=0.5, sparsity_type=Group([group]))
    with pytest.raises(ValueError, match=text):
        pruner.instant_sparsify(PARAMS) if at_once else pruner.init_state(PARAMS)


@pytest.mark.parametrize(
    ("where", "text"),
    [
        (("v",), "'v', which is not there"),
        (frozenset({(("v",), 0)}), "'v', which is not there"),
        (frozenset({(("w",), 2)}), r"axis of leaf 'w', of shape \(3, 4\), got 2"),
    ],
)
def test_costs_of_other_parameters(where, text):
    kind = Group([HIDDEN], {("w",): 1, where: 1})
    with pytest.raises(ValueError, match=rf"^cost: .*{text}"):
        bmrpruner.MagnitudePruning(sparsity=0.5, sparsity_type=kind).init_state(PARAMS)


SETTINGS = {
    "by layer": (bmrpruner.MagnitudePruning, {"scope": "layer"}, r"^scope: "),
    "a filter": (bmrpruner.BMRPruning, {"filter_fn": lambda key, leaf: True}, r"^filter_fn: "),
    "a map": (
        bmrpruner.AdaptiveBMR,
        {"custom_sparsity_map": {("w",): None}},
        r"^custom_sparsity_map: ",
    ),
    "N:M": (
        bmrpruner.MagnitudePruning,
        {"topk_fn": mask_calculator.get_topk_fn("2:4")},
        r"^topk_fn: ",
    ),
    "a distribution": (
        bmrpruner.MagnitudePruning,
        {"sparsity_distribution_fn": lambda params: params},
        r"^sparsity_distribution_fn: ",
    ),
    "two answers": (
        bmrpruner.BMRPruning,
        {"sparsity": 0.5, "threshold": 0.0},
        r"^sparsity, threshold: ",
    ),
    "evidence and a threshold": (bmrpruner.AdaptiveBMR, {"threshold": 0.0}, r"^threshold: "),
    "a budget without a share": (
        bmrpruner.BMRPruning,
        {"threshold": 0.0, "sparsity_type": Group([HIDDEN], "parameters")},
        r"^cost, threshold: ",
    ),
    "rewired leaf by leaf": (bmrpruner.RigL, {}, r"^sparsity_type: .*RigL"),
    "N:M by steps": (IterativeNMPruning, {}, r"^sparsity_type: expected an NByM"),
}


@pytest.mark.parametrize(("cls", "fields", "text"), SETTINGS.values(), ids=SETTINGS)
def test_settings_that_contradict_groups(cls, fields, text):
    with pytest.raises(ValueError, match=text):
        cls(**({"sparsity_type": KIND} | fields))


def test_a_filter_that_is_assigned_later():
    pruner = bmrpruner.MagnitudePruning(sparsity=0.5, sparsity_type=KIND)
    pruner.filter_fn = sparsity_types.is_sparsity_type
    with pytest.raises(ValueError, match=r"^filter_fn: "):
        pruner.init_state(PARAMS)


def test_a_leaf_without_a_score():
    """Its gradient is missing, so the unit cannot be ranked."""
    pruner = bmrpruner.SaliencyPruning(sparsity=0.5, sparsity_type=KIND)
    with pytest.raises(ValueError, match=r"groups\[0\].members: .*scores.*'b'.*gradient"):
        pruner.instant_sparsify(PARAMS, grads=PARAMS | {"b": None})


@pytest.mark.parametrize("other", ["unstructured", "units"])
def test_the_state_of_another_pruner(other):
    import optax

    kind = Group([moved(each(4))]) if other == "units" else other
    stranger = bmrpruner.MagnitudePruning(sparsity=0.5, scope="global", sparsity_type=kind)
    state = stranger.wrap_optax(optax.sgd(0.1)).init(PARAMS)
    tx = bmrpruner.MagnitudePruning(sparsity=0.5, sparsity_type=KIND).wrap_optax(optax.sgd(0.1))
    with pytest.raises(ValueError, match=r"state.masks: .*leaf 'b'"):
        tx.update(PARAMS, state, PARAMS)


@pytest.mark.parametrize(
    "use",
    [
        lambda: mask_calculator.get_topk_fn(KIND),
        lambda: _groups.pool(jnp.ones((3, 4)), KIND),
        lambda: sparsity_types.format_sparsity_type(KIND),
    ],
)
def test_what_knows_a_single_array_only(use):
    with pytest.raises(ValueError, match=r"Group\(1 groups, 4 units, cost='units', multiple=1\)"):
        use()
