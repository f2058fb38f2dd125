"""Mask options that are not given are resolved by fixed rules."""

from dataclasses import replace

import pytest

from model_build.common.errors import UserError
from pipeline.images.decode import MAX_PIXELS, DecodeOptions
from pipeline.network import models, precision
from pipeline.network.handler import EngineOptions
from pipeline.outputs.run_json import Recipe
from pipeline.segmentation.mask_options import MaskOptions, network_side, resolve, tile_side
from pipeline.storage import Files


@pytest.fixture
def model(tiny_model):
    """The tiny model's ``model.json``: trained at 96 pixels, stride 32."""
    return models.describe(tiny_model, Files())


def not_called():
    raise AssertionError("asked for an accelerator")


@pytest.mark.parametrize(
    ("asked", "accelerator", "found"),
    [
        ((None, None), False, ("graph", 1)),
        (("auto", None), False, ("graph", 1)),
        ((None, None), True, ("xla", 8)),
        (("auto", None), True, ("xla", 8)),
        (("graph", None), False, ("graph", 1)),
        (("graph", None), True, ("graph", 8)),
        (("xla", None), False, ("xla", 1)),
        ((None, 5), False, ("graph", 5)),
        ((None, 5), True, ("xla", 5)),
    ],
)
def test_options_not_given_follow_from_the_machine(model, asked, accelerator, found):
    engine, batch_size = asked
    options = MaskOptions(model="m", engine=engine, precision="float32", batch_size=batch_size)
    resolved = resolve(options, model, lambda: accelerator, local=True)
    assert resolved.engine == EngineOptions("m", *found, long_side=96)
    assert (resolved.recipe.engine, resolved.recipe.batch_size) == found


def test_reading_running_and_recipe_agree(model):
    options = MaskOptions(
        model="m", long_side=640, tile=True, engine="xla", batch_size=3, max_pixels=99
    )
    decode, engine, recipe = resolve(options, model, not_called, local=True)
    assert decode == DecodeOptions(640, 99)
    assert engine == EngineOptions("m", "xla", 3, "float32", 256, 640)
    assert recipe == Recipe(model.fingerprint, 640, "xla", "float32", 3, tile=256)


def test_nothing_given_is_the_default_model_at_its_own_side(model):
    decode, engine, recipe = resolve(MaskOptions(), model, lambda: False, local=False)
    assert decode == DecodeOptions(96, MAX_PIXELS)
    assert engine.model == MaskOptions().model_or_default
    assert recipe == Recipe(model.fingerprint, 96, "graph", "float32", 1)


@pytest.mark.parametrize("asked", [None, "auto"])
@pytest.mark.parametrize("has_it", [False, True])
def test_bfloat16_is_chosen_only_where_this_machine_runs_the_network(
    model, monkeypatch, has_it, asked
):
    monkeypatch.setattr(precision, "supports_bfloat16", lambda: has_it)

    def found(local):
        options = MaskOptions(engine="graph", batch_size=1, precision=asked)
        return resolve(options, model, not_called, local=local).engine.precision

    assert found(local=True) == ("bfloat16" if has_it else "float32")
    assert found(local=False) == "float32"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"engine": "fast"}, "--engine fast: must be one of auto, xla, graph"),
        ({"precision": "int8"}, "--precision int8: must be one of auto, float32, bfloat16"),
        ({"batch_size": 0}, "batch_size=0: must be a whole number of 1 or more"),
        ({"max_pixels": "9"}, "max_pixels='9': must be a whole number of 1 or more"),
    ],
)
def test_an_option_of_another_form_is_refused(model, options, message):
    with pytest.raises(UserError, match=message):
        resolve(MaskOptions(**options), model, lambda: False, local=False)


@pytest.mark.parametrize(("option", "side"), [(None, 96), ("native", None), (64, 64), ("64", 64)])
def test_the_side_that_the_network_sees(model, option, side):
    assert network_side(option, model, tile=False) == side
    assert network_side(option, model, tile=True) == (side if option else None)


@pytest.mark.parametrize(
    ("long_side", "stride", "side"), [(500, 32, 1024), (96, 32, 256), (512, 8, 1024), (1, 8, 64)]
)
def test_tiles_are_about_twice_as_large_as_what_the_model_was_trained_at(
    model, long_side, stride, side
):
    model = replace(model, long_side=long_side, stride=stride)
    assert tile_side(model) == side
