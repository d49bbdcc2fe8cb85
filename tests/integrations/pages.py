"""What the page of a framework has trained, and the framework's own loss at given parameters."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp


@dataclasses.dataclass
class Page:
    """`names` are those that the page's program leaves behind."""

    params: Callable[[dict], Any]
    loss: Callable[[dict, Any], Any]
    weight_ndim: int = 2


def squared_error(names, predicted):
    return jnp.mean((predicted - names["y"]) ** 2)


def own_params(names):
    return names["params"]


def own_loss(names, params):
    return names["loss_fn"](params)


def nnx_state(names):
    from flax import nnx

    return nnx.state(names["model"], nnx.Param)


def nnx_loss(names, params):
    from flax import nnx

    return names["loss_fn"](nnx.merge(nnx.graphdef(names["model"]), params))


def numpyro_loss(names, params):
    guide = names["svi"].guide
    return names["Trace_ELBO"]().loss(
        jax.random.key(0), params, names["model"], guide, names["x"], names["y"]
    )


def keras_loss(names, weights):
    predicted, _ = names["model"].stateless_call(weights, names["others"], names["x"])
    return squared_error(names, predicted)


def penzai_loss(names, params):
    pz = names["pz"]
    slots, _ = pz.unbind_params(names["model"])
    return names["loss_fn"](pz.bind_variables(slots, params, unfreeze_as_copy=True), None, None)[0]


PAGES = {
    "flax_linen": Page(lambda names: names["state"].params, own_loss),
    "flax_nnx": Page(nnx_state, nnx_loss),
    "equinox": Page(lambda names: names["model"], own_loss),
    "haiku": Page(own_params, own_loss),
    "numpyro": Page(lambda names: names["result"].params, numpyro_loss),
    "keras": Page(
        lambda names: [variable.value for variable in names["model"].trainable_variables],
        keras_loss,
    ),
    "penzai": Page(
        lambda names: names["pz"].unbind_params(names["model"], freeze=True)[1], penzai_loss
    ),
    "flowjax": Page(
        lambda names: names["flow"],
        lambda names, flow: -jnp.mean(flow.log_prob(names["data"])),
        weight_ndim=3,  # layers, outputs, inputs
    ),
    "optimistix": Page(
        own_params, lambda names, params: names["loss_fn"](params, (names["x"], names["y"]))
    ),
    "orbax": Page(own_params, own_loss),
    "grain": Page(
        own_params, lambda names, params: names["loss_fn"](params, {k: names[k] for k in "xy"})
    ),
    "scenic_t5x": Page(own_params, own_loss),
}
