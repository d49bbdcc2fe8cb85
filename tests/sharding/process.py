"""One of two processes that train together; started by test_sharding.py.

python -m tests.sharding.process ADDRESS PROCESS OUT
"""

import sys

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType

from tests.sharding import steps


def main(address, process, out):
    jax.distributed.initialize(address, num_processes=2, process_id=int(process))
    assert jax.process_count() == 2
    assert jax.local_device_count() == 4
    mesh = jax.make_mesh((4, 2), ("fsdp", "tensor"), axis_types=(AxisType.Auto,) * 2)
    layout = steps.shardings(mesh, "tensor parallel")

    def put(tree):
        return {
            key: jax.make_array_from_callback(x.shape, layout[key], lambda index, x=x: x[index])
            for key, x in tree.items()
        }

    leaves = {}
    for name in steps.NAMES[1:]:
        params, state = steps.start_and_train(steps.wrapped(name), put)
        for i, x in enumerate(jax.tree.leaves((params, state))):
            leaves[f"{name}, {i}"] = multihost_utils.process_allgather(x, tiled=True)
    np.savez(out, **leaves)


if __name__ == "__main__":
    main(*sys.argv[1:])
