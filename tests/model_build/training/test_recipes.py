import dataclasses

import keras
import numpy as np
import pytest

from model_build.common.errors import UserError
from model_build.network.fcn import BACKBONE, LOGITS, SCORES, fcn
from model_build.training import recipes
from model_build.training.objective import compile_model
from model_build.training.recipes import RECIPES

PLAIN = dataclasses.replace(
    RECIPES["d2l"], learning_rate=0.1, weight_decay=0.0, freeze_batch_norm=True, epochs=10
)


@pytest.fixture
def network(tiny_backbone):
    """A function that builds the tiny network, the same each time, compiled by a recipe."""

    def build(recipe, steps=10):
        keras.utils.set_random_seed(0)
        model, _ = fcn(3, "tiny", learn_upsampling=True)
        compile_model(model, recipe, steps)
        return model

    return build


@pytest.fixture(scope="module")
def batches():
    """Four batches of four images and labels without void."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (4, 4, 32, 32, 3), np.uint8)
    return [*zip(images, rng.integers(0, 3, (4, 4, 32, 32), np.uint8), strict=True)]


def test_the_d2l_recipe_is_that_of_the_book(network):
    recipe = RECIPES["d2l"]
    assert (recipe.epochs, recipe.batch_size) == (5, 32)
    assert (recipe.scales, recipe.flip, recipe.class_balance) == ((1.0, 1.0), False, 0)
    compiled = network(recipe)
    optimizer = compiled.optimizer
    assert type(optimizer) is keras.optimizers.SGD
    assert (optimizer.momentum, optimizer.nesterov) == (0, False)
    assert optimizer._learning_rate.numpy() == pytest.approx(1e-3)
    assert optimizer.weight_decay == pytest.approx(1e-3)
    assert compiled.get_layer(BACKBONE).get_layer("bn0").trainable


def test_the_default_recipe_freezes_the_statistics_of_batch_norm(network):
    features = network(RECIPES["default"]).get_layer(BACKBONE)
    assert features.get_layer("conv0").trainable
    assert not features.get_layer("bn0").trainable


@pytest.mark.parametrize("name", ["tiny", "mobilenet_v2"])
def test_backbone_and_upsampling_take_smaller_steps(monkeypatch, use_tiny_backbone, quick, name):
    if name == "tiny":
        use_tiny_backbone(monkeypatch)
    recipe = dataclasses.replace(quick, schedule="constant", weight_decay=0.0, backbone_rate=0.25)
    model, _ = fcn(3, name, learn_upsampling=True)
    compile_model(model, recipe, 3)
    variables = model.trainable_variables
    before = [variable.numpy() for variable in variables]
    model.optimizer.apply([keras.ops.ones_like(v) for v in variables], variables)
    scoring = {variable.path for variable in model.get_layer(SCORES).trainable_variables}
    assert len(scoring) == 2
    for variable, old in zip(variables, before, strict=True):
        expected = 1e-2 if variable.path in scoring else 0.25e-2
        np.testing.assert_allclose(old - variable, expected, rtol=2e-2, err_msg=variable.path)


def test_slow_layers_survive_saving_the_optimizer(network, quick):
    optimizer = network(quick).optimizer
    again = recipes.AdamW.from_config(optimizer.get_config())
    assert again.slow_rate == 0.1
    assert tuple(again.slow) == tuple(optimizer.slow)
    assert {"conv0", "conv1", LOGITS} <= set(again.slow)
    assert SCORES not in again.slow


def test_sgd_has_no_separate_rate_for_the_backbone():
    with pytest.raises(UserError, match="--backbone-rate"):
        recipes.optimizer(dataclasses.replace(PLAIN, backbone_rate=0.1), 10, ())


def rates(recipe, steps=100):
    rate = recipes.learning_rate(recipe, steps)
    return [float(rate(step)) for step in range(steps + 1)]


def test_the_cosine_schedule_warms_up_and_ends_at_zero(quick):
    values = rates(quick)
    assert values[0] == pytest.approx(1e-4, rel=1e-3)
    assert values[5] == pytest.approx(1e-2, rel=1e-3)
    assert values[52] == pytest.approx(0.5e-2, rel=0.05)
    assert values[100] == pytest.approx(0, abs=1e-6)
    assert np.all(np.diff(values[:6]) > 0)
    assert np.all(np.diff(values[5:]) < 0)


def test_the_poly_schedule_warms_up_and_ends_at_zero(quick):
    values = rates(dataclasses.replace(quick, schedule="poly"))
    assert values[0] == pytest.approx(1e-4, rel=1e-3)
    assert values[5] == pytest.approx(1e-2, rel=1e-3)
    assert values[50] == pytest.approx(1e-2 * (50 / 95) ** 0.9, rel=1e-3)
    assert values[100] == 0
    assert np.all(np.diff(values[:6]) > 0)
    assert np.all(np.diff(values[5:]) < 0)


@pytest.mark.parametrize("schedule", ["cosine", "poly"])
@pytest.mark.parametrize("steps", [1, 2, 19])
def test_schedules_of_few_steps_are_finite(quick, schedule, steps):
    values = rates(dataclasses.replace(quick, schedule=schedule), steps)
    assert np.isfinite(values).all()
    assert max(values) <= 1.0001e-2


def test_a_schedule_stays_at_its_end(quick):
    rate = recipes.learning_rate(dataclasses.replace(quick, schedule="poly"), 10)
    assert float(rate(11)) == float(rate(1000)) == 0


def test_a_schedule_survives_saving():
    schedule = recipes.WarmupThenPoly(0.1, 3, 20)
    saved = keras.saving.serialize_keras_object(schedule)
    again = keras.saving.deserialize_keras_object(saved)
    assert isinstance(again, recipes.WarmupThenPoly)
    assert [float(again(step)) for step in range(21)] == [
        float(schedule(step)) for step in range(21)
    ]


def in_halves(batches):
    return [(images[i : i + 2], ids[i : i + 2]) for images, ids in batches for i in (0, 2)]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "tolerance"),
    [
        ({}, {"rtol": 0, "atol": 1e-6}),
        ({"weight_decay": 0.1}, {"rtol": 0, "atol": 1e-6}),
        ({"optimizer": "adamw", "backbone_rate": 0.1, "learning_rate": 1e-3}, {"atol": 1e-4}),
    ],
    ids=["sgd", "sgd with decay", "adamw"],
)
def test_two_halves_accumulated_are_one_whole_batch(
    network, batches, assert_close, changes, tolerance
):
    recipe = dataclasses.replace(PLAIN, **changes)
    start, whole = network(recipe), network(recipe)
    halves = network(dataclasses.replace(recipe, accumulate=2))
    for images, ids in batches:
        whole.train_on_batch(images, ids)
    for images, ids in in_halves(batches):
        halves.train_on_batch(images, ids)
    assert_close(whole, halves, **tolerance)
    with pytest.raises(AssertionError):
        assert_close(start, halves, rtol=0, atol=1e-3)


def test_slow_layers_stay_slow_in_accumulation(network, batches):
    recipe = dataclasses.replace(PLAIN, optimizer="adamw", backbone_rate=0.0, accumulate=2)
    start, trained = network(recipe), network(recipe)
    for images, ids in batches[:2]:
        trained.train_on_batch(images, ids)
    for layer, moves in ((BACKBONE, False), (LOGITS, False), (SCORES, True)):
        for before, after in zip(
            start.get_layer(layer).get_weights(),
            trained.get_layer(layer).get_weights(),
            strict=True,
        ):
            assert np.array_equal(before, after) != moves


def test_weights_change_in_every_other_step_of_two_accumulated(network, batches, assert_close):
    model = network(dataclasses.replace(PLAIN, accumulate=2))
    start = network(PLAIN)
    model.train_on_batch(*batches[0])
    assert_close(start, model, rtol=0, atol=0)
    model.train_on_batch(*batches[1])
    with pytest.raises(AssertionError):
        assert_close(start, model, rtol=0, atol=1e-6)


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("schedule", ["cosine", "poly"])
def test_schedules_count_batches_accumulated_or_not(network, batches, schedule, accumulate):
    model = network(
        dataclasses.replace(PLAIN, schedule=schedule, accumulate=accumulate, epochs=1), steps=4
    )
    seen = []
    for images, ids in batches:
        seen.append(float(model.optimizer.learning_rate))
        model.train_on_batch(images, ids)
    expected = rates(dataclasses.replace(PLAIN, schedule=schedule), 4)
    assert seen == pytest.approx(expected[:4])
    assert float(model.optimizer.learning_rate) == pytest.approx(0, abs=1e-8)
