"""Every algorithm, packed and plain, with every sparsity type, on trees of several makes."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import bmrpruner
from bmrpruner import optimizers
from bmrpruner._tree import is_array, map_leaves
from bmrpruner.sparsity_types import Block, Channel, NByM, Unstructured
from tests.conftest import TREES, WRAPPING
from tests.contract import oracle

pytestmark = pytest.mark.slow

SPARSITY = 0.6
TYPES = [Unstructured(), NByM(2, 4), Block((3, 4)), Channel(0)]
STE = ("magnitude_ste", "random_ste", "bmr_ste")
COUNTS_ITSELF = ("adaptive_bmr",)


def is_defined(name, sparsity_type):
    if "global" in name:
        return sparsity_type == Unstructured()
    if name == "iterative_nm":
        return isinstance(sparsity_type, NByM)
    return not (name in COUNTS_ITSELF and isinstance(sparsity_type, NByM))


CASES = [
    pytest.param(name, sparsity_type, id=f"{name}-{type(sparsity_type).__name__}")
    for name in WRAPPING
    for sparsity_type in TYPES
    if name != "no_prune" and is_defined(name, sparsity_type)
]


def make(name, sparsity_type, packed):
    phases = {"init_dense_steps_end": 1, "final_sparse_steps_start": 3}
    return bmrpruner.create_updater_from_config(
        algorithm=name,
        dist_type="uniform",
        sparsity=SPARSITY,
        sparsity_type=sparsity_type,
        use_packed_masks=packed,
        update_freq=1,
        update_start_step=0,
        update_end_step=4,
        **(phases if name == "acdc" else {}),
    )


def fake(params, seed):
    """Random arrays in place of the arrays of a tree."""
    generator = np.random.default_rng(seed)
    return map_leaves(
        lambda x: jnp.asarray(generator.uniform(0.5, 2, x.shape), x.dtype) if is_array(x) else None,
        params,
    )


def inner_state(params):
    """A posterior and second moments, as optimizers keep them."""
    free = map_leaves(lambda x: x if is_array(x) else None, params)
    ivon = optimizers.scale_by_ivon(ess=50).init(free)._replace(hess=fake(params, 1))
    adam = optax.scale_by_adam().init(free)._replace(nu=fake(params, 2))
    return ivon, adam


def refresh_twice(pruner, params):
    """Half-way and at the end of the schedule, with the weights pruned in between."""
    state = pruner.init_state(params)._replace(inner_state=inner_state(params))
    for count in (1, 3):
        state = state._replace(count=jnp.int32(count))
        state = pruner.update_state(state, params, fake(params, 3))
        params = pruner.post_gradient_update(params, state)
    return params, state


def kept_groups(mask, sparsity_type):
    """How many groups the mask keeps, all of them whole, and how many there are."""
    match sparsity_type:
        case Unstructured():
            return int(mask.sum()), mask.size
        case NByM(n=n, m=m):
            assert np.all(mask.reshape(-1, m).sum(1) == n)
            return mask.size // m, mask.size // m
        case Block(block_shape=shape):
            groups = [mask[index] for index in oracle.blocks(mask.shape, *shape)]
        case Channel():
            groups = list(mask)
    assert all(group.min() == group.max() for group in groups)
    return sum(int(group.max()) for group in groups), len(groups)


def check_counts(name, sparsity_type, masks):
    found = [kept_groups(mask, sparsity_type) for mask in masks]
    if isinstance(sparsity_type, NByM):
        return
    if "global" in name or name in COUNTS_ITSELF:
        found = [tuple(map(sum, zip(*found, strict=True)))]
    for kept, groups in found:
        if name in COUNTS_ITSELF:
            assert kept >= groups * (1 - SPARSITY), "the sparsity is a cap"
        else:
            assert kept == oracle.keep_count(groups, SPARSITY)


@pytest.mark.parametrize("make_tree", [TREES[t] for t in ("dict", "tuple", "equinox")])
@pytest.mark.parametrize(("name", "sparsity_type"), CASES)
def test_packed_and_plain(name, sparsity_type, make_tree):
    params = make_tree()
    plain, packed = (make(name, sparsity_type, packed) for packed in (False, True))
    pruned, state = refresh_twice(plain, params)
    twin, packed_state = refresh_twice(packed, params)
    pairs = zip(jax.tree.leaves(pruned), jax.tree.leaves(twin), strict=True)
    assert all(np.array_equal(x, y) for x, y in pairs if is_array(x))
    assert jax.tree.structure(pruned) == jax.tree.structure(params)

    if name in STE:
        assert jax.tree.leaves(state.masks) == []
        forward = plain.pre_forward_update(params, state)
        weights = [x for x in jax.tree.leaves(forward) if is_array(x) and x.ndim > 1]
        check_counts(name, sparsity_type, [np.asarray(x) != 0 for x in weights])
        return
    masks = [np.asarray(mask) for mask in jax.tree.leaves(state.masks)]
    for mask, bits in zip(masks, jax.tree.leaves(packed_state.masks), strict=True):
        np.testing.assert_array_equal(bits, np.packbits(mask))
    check_counts(name, sparsity_type, masks)
    weights = [x for x in jax.tree.leaves(pruned) if is_array(x)]
    matrices = [np.asarray(x) for x in weights if x.ndim > 1]
    for x, mask in zip(matrices, masks, strict=True):
        np.testing.assert_array_equal(x != 0, mask == 1)
    assert all(jnp.all(x != 0) for x in weights if x.ndim < 2), "biases are exempt"


@pytest.mark.parametrize(
    ("name", "sparsity_type"),
    [
        ("global_magnitude", Block((2, 2))),
        ("adaptive_bmr", NByM(2, 4)),
        ("iterative_nm", Channel()),
    ],
)
def test_what_makes_no_sense_is_refused(name, sparsity_type):
    params = TREES["dict"]()
    with pytest.raises((ValueError, AttributeError), match=r"NByM|sparsity_type"):
        refresh_twice(make(name, sparsity_type, False), params)
