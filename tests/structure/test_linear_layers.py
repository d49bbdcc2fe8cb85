"""What goes in and out of linear layers: together they give the gradients of the weights."""

import attention_models
import flax_models
import image_models
import jax
import jax.numpy as jnp
import numpy as np
import other_models
import plain_models
import pytest
from plain_models import normal

from bmrpruner._tree import is_array, is_none, leaf_keys
from bmrpruner.structure import linear_layers

# Embeddings that are multiplied with, and also looked up, which is no layer.
LOOKED_UP = [("emb", "tokens"), ("params", "Embed_0", "embedding")]

# How many sites there are (uses of layers in all), and what is left out.
MODELS = {
    plain_models.mlp: (3, {}),
    plain_models.residual: (6, {}),
    plain_models.tied: (2, {}),
    plain_models.stacked: (6, {}),
    plain_models.experts: (1, {"v": "batched weights"}),
    plain_models.custom: (3, {}),
    image_models.same_padding: (3, {}),
    image_models.nchw_batch_norm: (3, {}),
    image_models.resnet: (7, {}),
    image_models.depthwise: (3, {"depth/w": "grouped convolution"}),
    image_models.u_net: (5, {}),
    attention_models.by_hand: (13, {}),
    attention_models.stacked_blocks: (13, {}),
    attention_models.lstm_fused: (9, {}),
    flax_models.linen_cnn: (3, {}),
    flax_models.linen_transformer: (13, {}),
    flax_models.nnx_attention: (5, {}),
    other_models.haiku_transformer: (7, {}),
    other_models.equinox_transformer: (7, {}),
}


@pytest.mark.parametrize("make", MODELS, ids=lambda make: make.__name__)
def test_inputs_times_output_gradients_are_the_gradients_of_the_leaves(make):
    fn, params, args = make()
    layers = linear_layers(fn, params, *args)
    uses, left_out = MODELS[make]
    assert sum(layer.uses for layer in layers) == uses
    assert {"/".join(key): why for key, why in layers.left_out.items()} == left_out

    floats, rest = jax.tree.flatten(params, is_leaf=is_none)
    where = [i for i, x in enumerate(floats) if is_array(x) and x.dtype == jnp.float32]

    def loss(own, probes):
        full = list(floats)
        for i, x in zip(where, own, strict=True):
            full[i] = x
        out, inputs = layers.capture(rest.unflatten(full), *args, probes=probes)
        return jnp.sum(jnp.sin(out)), inputs

    own = [floats[i] for i in where]
    probes = layers.probes(params, *args)
    run = jax.jit(
        jax.grad(loss, (0, 1), has_aux=True), compiler_options={"xla_backend_optimization_level": 0}
    )
    (grads, outputs), inputs = run(own, probes)
    wanted = {k: g for k, g in zip([leaf_keys(params)[i] for i in where], grads, strict=True)}
    totals = {layer.key: np.zeros(wanted[layer.key].size) for layer in layers}
    for layer, xs, ys in zip(layers, inputs, outputs, strict=True):
        for x, y in zip(xs, ys, strict=True):
            np.add.at(totals[layer.key], layer.positions, np.asarray(y).T @ np.asarray(x))
    assert totals
    for key, total in totals.items():
        if key not in LOOKED_UP:
            expected = np.asarray(wanted[key]).ravel()
            np.testing.assert_allclose(total, expected, atol=2e-6 * max(np.abs(expected).max(), 1))


def test_layers_within_branches_are_left_out_by_name():
    fn, params, args = plain_models.branches()
    layers = linear_layers(fn, params, *args)
    assert [layer.key for layer in layers] == [("in", "w"), ("out", "w")]
    assert layers.left_out == {("a", "w"): "within cond", ("b", "w"): "within cond"}


def test_the_matrix_of_a_layer_multiplies_its_inputs():
    fn, params, (x,) = image_models.same_padding()
    layers = linear_layers(fn, params, x)
    out, inputs = layers.capture(params, x)
    last = layers[2]
    np.testing.assert_allclose(
        out, inputs[2][0] @ last.matrix(params["out"]["w"]).T + params["out"]["b"], rtol=1e-5
    )
    assert (last.key, last.inputs, last.outputs) == (("out", "w"), (0,), (1,))
    assert (layers[0].inputs, layers[0].outputs) == ((0, 1, 2), (3,))


def test_capture_takes_other_batches_and_reduces_what_it_collects():
    fn, params, _ = plain_models.mlp()
    layers = linear_layers(fn, jax.eval_shape(lambda p: p, params), normal(4, 5))
    x = normal(7, 5, seed=3)
    _, moments = layers.capture(params, x, collect=lambda i, rows: rows.T @ rows)
    _, inputs = layers.capture(params, x)
    assert [m[0].shape for m in moments] == [(5, 5), (8, 8), (6, 6)]
    for m, rows in zip(moments, inputs, strict=True):
        np.testing.assert_allclose(m[0], rows[0].T @ rows[0], rtol=1e-5, atol=1e-6)


def test_vmapped_and_remat_layers_are_found():
    params = {"w": normal(5, 6), "v": normal(2, 3, 6)}

    def fn(p, x):
        h = jax.vmap(jax.checkpoint(lambda x: jnp.tanh(p["w"].T @ x)))(x)
        return jnp.einsum("bi,hdi->bhd", h, p["v"])

    layers = linear_layers(fn, params, normal(4, 5))
    assert [(x.key, x.inputs, x.outputs) for x in layers] == [
        (("w",), (0,), (1,)),
        (("v",), (2,), (0, 1)),
    ]
    out, inputs = layers.capture(params, normal(4, 5))
    np.testing.assert_allclose(
        out.reshape(4, 6), inputs[1][0] @ layers[1].matrix(params["v"]).T, rtol=1e-5
    )
