import dataclasses
import hashlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.outputs.run_json import Recipe

MODEL = "f00d" * 16
RECIPE = Recipe("f00d" * 8, 512, "graph", "float32", 1)
CHANGES = {
    "model": "ba5e" * 8,
    "long_side": None,
    "engine": "xla",
    "precision": "bfloat16",
    "batch_size": 8,
    "pixels": RECIPE.pixels + 1,
    "tile": 1024,
}

recipes = st.builds(
    Recipe,
    model=st.text(),
    long_side=st.none() | st.integers(1),
    engine=st.sampled_from(["graph", "xla"]),
    precision=st.text(),
    batch_size=st.integers(1),
    pixels=st.integers(1),
    tile=st.none() | st.integers(1),
)


@given(recipes)
def test_a_recipe_comes_back_from_json_with_its_id(recipe):
    found = Recipe.from_json(json.loads(json.dumps(recipe.to_json())))
    assert found == recipe
    assert found.id == recipe.id


@given(recipes, recipes)
def test_two_recipes_share_an_id_only_if_they_are_equal(first, second):
    assert (first.id == second.id) == (first == second)
    assert (first.difference(second) == "") == (first == second)


def test_every_field_of_a_recipe_is_changed_below():
    assert [field.name for field in dataclasses.fields(Recipe)] == list(CHANGES)


@pytest.mark.parametrize("name", CHANGES)
def test_each_field_changes_the_id(name):
    changed = dataclasses.replace(RECIPE, **{name: CHANGES[name]})
    assert changed.id != RECIPE.id
    assert len(changed.id) == 32


@pytest.mark.parametrize(
    ("recipe", "frozen"),
    [
        (Recipe("m", 64, "graph", "float32", 1, 1), "67b3236e6f87872cbad44b6557ac03ef"),
        (Recipe("m", 64, "graph", "float32", 1, 1, 1024), "556c2d7ea8938f9968a4c183fd721bee"),
        (Recipe(MODEL, 512, "graph", "bfloat16", 1, 6), "ca65d4b67fa3707952151097ddff159f"),
        (Recipe(MODEL, None, "xla", "float32", 8, 6), "463069fbba4586654d7f5bb3db7c257d"),
        (Recipe(MODEL, None, "graph", "float32", 1, 6, 1024), "3a38e43f4e7907c26d3a20ed3af89250"),
        (Recipe(MODEL, 512, "xla-head", "float32", 1, 5), "a5c1e97db4e70ea1b8e5c47e38dbb50c"),
    ],
)
def test_an_id_stays_the_same_from_version_to_version(recipe, frozen):
    """Otherwise whole archives would be redone."""
    assert recipe.id == frozen


def test_a_field_at_its_default_is_left_out_of_the_id_unless_its_default_may_change():
    @dataclasses.dataclass(frozen=True)
    class Newer(Recipe):
        smoothing: int | None = None
        blur: int = 0

    values = dataclasses.asdict(RECIPE)
    assert Newer(**values).id == RECIPE.id
    assert Newer(**values | {"tile": 1024}).id == dataclasses.replace(RECIPE, tile=1024).id
    assert len({Newer(**values, **more).id for more in ({}, {"blur": 1}, {"smoothing": 0})}) == 3
    text = json.dumps({k: v for k, v in values.items() if k != "tile"}, sort_keys=True)
    assert RECIPE.id == hashlib.sha256(text.encode()).hexdigest()[:32]  # PIXELS is in it


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"model": "ba5e" * 8}, "model f00df00df00d, not ba5eba5eba5e"),
        ({"long_side": 64}, "long side 512, not 64"),
        ({"long_side": None}, "long side 512, not native"),
        ({"engine": "xla"}, "engine graph, not xla"),
        ({"tile": 1024}, "tile none, not 1024"),
        ({"tile": 64, "long_side": None}, "tile none, not 64"),
        ({"precision": "bfloat16"}, "precision float32, not bfloat16"),
        ({"batch_size": 8}, "batch size 1, not 8"),
        ({"engine": "xla", "batch_size": 8}, "engine graph, not xla"),
    ],
)
def test_what_differs_first_is_told(change, said):
    assert RECIPE.difference(dataclasses.replace(RECIPE, **change)) == said


def test_a_recipe_of_a_version_without_tiles_is_one_of_none():
    value = RECIPE.to_json()
    del value["tile"]
    assert Recipe.from_json(value) == RECIPE


def test_a_version_that_makes_other_pixels_is_told():
    other = dataclasses.replace(RECIPE, pixels=RECIPE.pixels + 1)
    assert "mask version" in RECIPE.difference(other)


@pytest.mark.parametrize(
    "value",
    [None, 1, [], "recipe", {}, {"model": "m"}, RECIPE.to_json() | {"new": 1}]
    + [RECIPE.to_json() | {name: []} for name in RECIPE.to_json()]
    + [RECIPE.to_json() | {"long_side": "64"}, RECIPE.to_json() | {"batch_size": -1}]
    + [RECIPE.to_json() | {"engine": None}, RECIPE.to_json() | {"pixels": 1.5}],
)
def test_another_value_is_no_recipe(value):
    with pytest.raises(ValueError, match="no recipe"):
        Recipe.from_json(value)
