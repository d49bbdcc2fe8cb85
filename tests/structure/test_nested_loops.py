"""Loops in loops: what is known in each iteration of one is not mixed up with the other."""

import exactness
import jax
import jax.numpy as jnp
import pytest
from plain_models import normal


@pytest.mark.parametrize("length", [5, 4, 2])
def test_a_scan_in_a_loop_whose_first_round_starts_from_parameters(length):
    """Only before the first round are the rows known; later all iterations share one account."""
    params = {"rows": normal(length, 4), "w": normal(4, 6).at[:, 1].set(0), "b": normal(6)}
    params |= {"u": normal(6, 4, seed=1), "out": normal(4, 2)}

    def fn(p, x):
        def step(c, row):
            return c, row * x.mean() + jnp.tanh(row @ p["w"] + p["b"]) @ p["u"]

        def refine(_, rows):
            return jax.lax.scan(step, 0.0, rows)[1]

        return jax.lax.fori_loop(0, 3, refine, p["rows"]) @ p["out"]

    small = exactness.compacted(fn, params, (normal(3),))
    assert small.params["w"].shape == (4, 5)


@pytest.mark.parametrize("reverse", [False, True])
def test_layers_of_which_only_the_first_sees_known_positions(reverse):
    """The scan over time differs between iterations in one of the layers only."""
    steps, size = 5, 6
    dead = jnp.array([1, 3])
    first, last = (1, 0) if reverse else (0, 1)
    params = {"w": normal(2, size, size).at[first, :, dead].set(0)}
    params["u"] = normal(2, size, size, seed=1).at[first, :, dead].set(0).at[last, dead].set(0)
    params |= {"pos": normal(2, steps, size, seed=2)}
    params["o"] = normal(2, size, size, seed=3).at[last, dead].set(0)

    def fn(p, x):
        def layer(x, q):
            def step(h, z):
                h = jnp.tanh(z + h @ q["u"])
                return h, h @ q["o"]

            z = jnp.swapaxes(x @ q["w"] + q["pos"], 0, 1)
            out = jax.lax.scan(step, jnp.zeros((x.shape[0], size)), z)[1]
            return x + jnp.swapaxes(out, 0, 1), None

        return jax.lax.scan(layer, x, p, reverse=reverse)[0] @ jnp.ones((size, 2))

    small = exactness.compacted(fn, params, (normal(2, steps, size),))
    assert small.params["u"].shape == (2, 4, 4)
