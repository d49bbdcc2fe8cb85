"""Masks of arrays on a mesh: the same masks, laid out as the scores are."""

import os
import re
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from bmrpruner import selection
from tests.selection import by_sorting as oracle
from tests.selection.by_sorting import assert_masks

SCORES = np.random.default_rng(3).integers(-4, 5, (6, 8)).astype(np.float32)


@pytest.mark.parametrize("axis_type", [AxisType.Auto, AxisType.Explicit])
def test_a_mesh_of_one_device(axis_type):
    mesh = jax.make_mesh((1,), ("data",), axis_types=(axis_type,))
    layout = NamedSharding(mesh, PartitionSpec("data"))
    hosts = [SCORES, SCORES[:2], np.tile(SCORES, (20, 20))]
    arrays = [jax.device_put(x, layout) for x in hosts]
    expected = oracle.jointly(hosts, 1000)
    assert_masks(jax.jit(selection.top_masks_jointly)(arrays, 1000), expected)
    split = PartitionSpec("data")
    block = jax.shard_map(
        lambda arrays, count: selection.top_masks_jointly(arrays, count[0]),
        mesh=mesh,
        in_specs=([split] * 3, split),
        out_specs=[split] * 3,
    )
    assert_masks(jax.jit(block)(arrays, jax.device_put(np.array([1000]), layout)), expected)
    block = jax.shard_map(
        lambda x, count: selection.top_mask(x, count[0]),
        mesh=mesh,
        in_specs=(PartitionSpec(), split),
        out_specs=split,
    )
    mask = jax.jit(block)(SCORES, jax.device_put(np.array([5]), layout))
    assert_masks([mask], oracle.jointly([SCORES], 5))


LAYOUTS = {
    (16, 32): PartitionSpec("fsdp", "tensor"),
    (6, 4, 8): PartitionSpec(None, "tensor", "fsdp"),
    (48,): PartitionSpec(("fsdp", "tensor")),
    (5, 3): PartitionSpec(),
}


def check_on_a_mesh(axis_type):
    """Run in a process of its own, by `test_on_a_mesh`."""
    rng = np.random.default_rng(4)
    hosts = [rng.integers(-9, 9, shape).astype(np.float32) for shape in LAYOUTS]
    mesh = jax.make_mesh((4, 2), ("fsdp", "tensor"), axis_types=(axis_type,) * 2)
    layouts = [NamedSharding(mesh, spec) for spec in LAYOUTS.values()]
    arrays = [jax.device_put(x, layout) for x, layout in zip(hosts, layouts, strict=True)]
    counts = [100, 7, 11, 4]
    cases = (
        (selection.top_masks_jointly, oracle.jointly(hosts, 100)),
        (
            lambda x, count: selection.top_masks(x, [count, *counts[1:]]),
            oracle.each(hosts, counts),
        ),
    )
    for function, expected in cases:
        compiled = jax.jit(function).lower(arrays, jnp.int32(100)).compile()
        program = compiled.as_text()
        assert not re.search(r"all-gather|all-to-all|collective-permute", program)
        reduced = "".join(re.findall(r"= (.*) all-reduce", program))
        assert reduced
        assert set(re.findall(r"\[([\d,]*)\]", reduced)) <= {"", "1"}  # counts
        masks = compiled(arrays, jnp.int32(100))
        assert_masks(masks, expected)
        for mask, layout in zip(masks, layouts, strict=True):
            assert mask.sharding.is_equivalent_to(layout, mask.ndim)

    spec = layouts[0].spec
    block = jax.shard_map(
        lambda x: selection.top_mask(x, 5), mesh=mesh, in_specs=spec, out_specs=spec
    )
    blocks = np.asarray(jax.jit(block)(arrays[0])).reshape(4, 4, 2, 16)
    assert (blocks.sum((1, 3)) == 5).all()
    with jax.set_mesh(mesh):
        rows = jax.device_put(hosts[0], NamedSharding(mesh, PartitionSpec("fsdp")))
        masks = jax.jit(jax.vmap(lambda row: selection.top_mask(row, 5)))(rows)
    assert_masks([masks], [np.stack([oracle.jointly([row], 5)[0] for row in hosts[0]])])


@pytest.mark.slow
@pytest.mark.compiled
def test_on_a_mesh():
    flags = "--xla_force_host_platform_device_count=8"
    env = os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags}
    command = [sys.executable, "-W", "error", "-m", "tests.selection.test_mesh"]
    root = Path(__file__).parents[2]
    subprocess.run(command, env=env, cwd=root, check=True, timeout=300)


if __name__ == "__main__":
    check_on_a_mesh(AxisType.Auto)
    check_on_a_mesh(AxisType.Explicit)
