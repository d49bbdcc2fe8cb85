"""What must work where bmrpruner is installed without extras: train, prune by evidence, compact."""

import importlib.metadata
import subprocess
import sys
from pathlib import Path

import jax.numpy as jnp
import optax

import bmrpruner
from bmrpruner import metrics, posteriors


def fn(params, x):
    """A network of four hidden units."""
    return jnp.sin(x @ params["a"]) @ params["b"]


params = {"a": jnp.arange(1.0, 13).reshape(3, 4), "b": jnp.ones((4, 2))}
schedule = bmrpruner.OneShotSchedule(target_step=0)
pruner = bmrpruner.MagnitudePruning(sparsity=0.5, scheduler=schedule)
tx = pruner.wrap_optax(optax.adam(0.1), mask_updates=True)
state = tx.init(params)
updates, state = tx.update(params, state, params)
assert metrics.sparsity(optax.apply_updates(params, updates)) == 0.5

posterior = posteriors.from_mean_field(params, scale={"a": params["a"], "b": params["b"]})
pruned, masks = bmrpruner.BMRPruning(sparsity=0.5).instant_sparsify(params, posterior=posterior)
assert metrics.sparsity(pruned) == 0.5

units = {"a": params["a"].at[:, 1:].set(0), "b": params["b"]}
small = bmrpruner.compact(fn, units, jnp.ones((5, 3)))
assert small.params["a"].shape == (3, 1)
assert jnp.allclose(small(jnp.ones((2, 3))), fn(units, jnp.ones((2, 3))), atol=1e-6)

package = Path(bmrpruner.__file__).parent
assert package.parent.name == "site-packages", package
assert (package / "py.typed").is_file()
assert importlib.metadata.metadata("bmrpruner")["License-Expression"] == "Apache-2.0"
command = [Path(sys.executable).with_name("bmrpruner"), "--help"]
asked = subprocess.run(command, capture_output=True, text=True, check=False)
assert (asked.returncode, "bmrpruner[cli]" in asked.stderr) == (2, True), asked
