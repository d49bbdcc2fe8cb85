"""Every model, pruned in several ways: the compacted function computes the same, and is smaller."""

import attention_models
import exactness
import flax_models
import image_models
import other_models
import plain_models
import pytest

from bmrpruner.structure import dependency_groups

FILES = (plain_models, image_models, attention_models, flax_models, other_models)
MODELS = [make for file in FILES for make in file.MODELS]


def test_there_are_at_least_25_models():
    assert len(MODELS) >= 25


@pytest.mark.parametrize("make", MODELS, ids=lambda make: make.__name__)
def test_a_compacted_model_computes_the_same(make):
    fn, params, args = make()
    groups = dependency_groups(fn, params, *args)
    assert exactness.free(groups)

    small = exactness.compacted(fn, exactness.half_dead(params, groups), args)
    for entry in small.report.groups:
        if entry.group.frozen is None and entry.group.size > 1:
            assert entry.removed == entry.group.size // 2

    exactness.compacted(fn, exactness.dead_inputs(params, groups), args)
    exactness.compacted(fn, exactness.sprinkled(params), args)

    small = exactness.compacted(fn, params, args)
    assert small.report.parameters[0] == small.report.parameters[1]


@pytest.mark.parametrize("make", [plain_models.normed, image_models.group_norm])
def test_constant_channels_of_a_normalised_axis_go_where_nothing_reads_them(make):
    """Each adds (its constant - mean)² to the variance, which changes with the arguments."""
    fn, params, args = make()
    reader = "mid" if "mid" in params else "out"
    dead = [1, 2, 6]
    places = [(("in", "w"), params["in"]["w"].ndim - 1, dead), ((reader, "w"), 0, dead)]
    if make is image_models.group_norm:  # all but one channel of the first group, and its like
        places = [(key, axis, [1, 2, 3, 5, 6, 7]) for key, axis, _ in places]
    pruned = exactness.zeroed(params, places)
    small = exactness.compacted(fn, pruned, args)
    left = 8 - len(places[0][2])
    assert small.params["in"]["b"].shape == (left,)
    assert any("divided by its old length" in note for note in small.report.notes)
