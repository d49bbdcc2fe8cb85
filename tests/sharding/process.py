"""One of two processes that train together and compare with one device; see test_sharding.py.

python -m tests.sharding.process ADDRESS PROCESS
"""

import sys

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType

from tests.sharding import steps


def main(address, process):
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

    for name in steps.NAMES[1:]:
        tx = steps.wrapped(name)
        found = steps.start_and_train(tx, put)
        expected = steps.start_and_train(tx, lambda tree: jax.tree.map(jnp.asarray, tree))
        found = multihost_utils.process_allgather(found, tiled=True)
        jax.tree.map(np.testing.assert_array_equal, found, expected)


if __name__ == "__main__":
    main(*sys.argv[1:])
