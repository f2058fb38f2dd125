import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model_build.data.files import IMAGE_EXTENSIONS, image_extension
from pipeline.inputs.names import (
    assign_mask_names,
    group_key,
    mask_key,
)
from pipeline.storage import escape_folders

stems = st.text(st.sampled_from("ab"), min_size=1, max_size=1)
extensions = st.sampled_from([".jpg", ".png", ".JPG", ".tif"])
image_names = st.builds(
    lambda s, e: s + "".join(e), stems, st.lists(extensions, min_size=1, max_size=3)
)
many_image_names = st.sets(image_names, max_size=8)
any_name = st.builds(
    lambda s, e: s + "".join(e),
    st.sampled_from(["a", "x/a", "x.jpg/a", ".a", "a.raw", "a.png/a", "a.png_/a", "x/a.png/b/a"]),
    st.lists(st.sampled_from([".jpg", ".png", ".raw", ".", ""]), max_size=3),
)
any_names = st.sets(any_name, max_size=8)


@given(st.one_of(many_image_names, any_names))
def test_every_name_gets_a_unique_mask(found):
    masks = assign_mask_names(sorted(found))
    assert set(masks) == found
    assert len(set(masks.values())) == len(found)
    for name, mask in masks.items():
        stem = escape_folders(name, ".png")
        assert mask in (f"{os.path.splitext(stem)[0]}.png", f"{stem}.png")


@given(many_image_names)
def test_names_that_do_not_clash_are_short_and_those_that_do_keep_all(found):
    masks = assign_mask_names(found)
    short = {name: f"{os.path.splitext(name)[0]}.png" for name in found}
    for name, mask in masks.items():
        if mask == short[name]:
            assert list(masks.values()).count(mask) == 1
            assert sum(other == mask for other in short.values()) == 1
        else:
            rivals = {short[other] for other in found - {name}} | {
                f"{other}.png" for other in found - {name}
            }
            assert short[name] in rivals


@given(st.lists(image_names, unique=True, max_size=8), st.randoms())
def test_masks_do_not_depend_on_the_order(found, random):
    shuffled = list(found)
    random.shuffle(shuffled)
    assert assign_mask_names(found) == assign_mask_names(shuffled)


@pytest.mark.parametrize(
    ("found", "masks"),
    [
        (["a.jpg"], ["a.png"]),
        (["x/a.jpg", "y/a.png"], ["x/a.png", "y/a.png"]),
        (["a.jpg", "a.png"], ["a.jpg.png", "a.png.png"]),
        (["a.jpg", "a.JPG"], ["a.jpg.png", "a.JPG.png"]),
        (["a.jpg", "a.png", "a.jpg.png"], ["a.jpg.png", "a.png.png", "a.jpg.png.png"]),
        (["a.b.jpg"], ["a.b.png"]),
        (["a"], ["a.png"]),
    ],
)
def test_names_of_masks(found, masks):
    assert list(assign_mask_names(found).values()) == masks


def by_group(found):
    groups = {}
    for name in found:
        groups.setdefault(group_key(name), []).append(name)
    masks = {}
    for group in groups.values():
        masks |= assign_mask_names(group)
    return masks


@given(many_image_names)
def test_names_whose_masks_may_clash_share_a_key(found):
    assert by_group(found) == assign_mask_names(found)


@given(any_names)
def test_masks_are_unique_over_all_groups_even_with_unknown_extensions(found):
    assert len(set(by_group(found).values())) == len(found)


def test_a_camera_raw_does_not_take_the_mask_of_its_export():
    masks = by_group(["a.raw", "a.jpg", "a.raw.jpg"])
    assert len(set(masks.values())) == 3


@pytest.mark.parametrize(
    ("found", "masks"),
    [
        (["a.jpg", "a.png/b.jpg"], ["a.png", "a.png_/b.png"]),
        (["a.png/b.jpg"], ["a.png_/b.png"]),
        (["a.jpg", "a.png", "a.jpg.png/b.jpg"], ["a.jpg.png", "a.png.png", "a.jpg.png_/b.png"]),
        (["a.png/b.jpg", "a.png_/b.jpg"], ["a.png_/b.png", "a.png__/b.png"]),
        (["x/a.png/b.png/c"], ["x/a.png_/b.png_/c.png"]),
        (["a.PNG/b.jpg", "b.pngs/c.jpg"], ["a.PNG/b.png", "b.pngs/c.png"]),
        ([".png/a.jpg"], [".png_/a.png"]),
    ],
)
def test_a_folder_named_like_a_mask_is_renamed(found, masks):
    assert list(by_group(found).values()) == masks


@given(any_names)
def test_no_mask_has_the_name_of_another_ones_folder(found):
    masks = set(by_group(found).values())
    folders = {mask[:at] for mask in masks for at, char in enumerate(mask) if char == "/"}
    assert not masks & folders


@given(any_names)
def test_the_mask_of_an_image_has_its_key(found):
    for name, mask in by_group(found).items():
        assert mask_key(mask) == group_key(name)


def test_keys_are_fine_grained():
    assert group_key("x/2024.01.02.jpg") == "x/2024.01.02"
    assert group_key("a.jpg") != group_key("b.jpg")


@pytest.mark.parametrize("extension", sorted(IMAGE_EXTENSIONS))
def test_an_extension_keeps_its_case(extension):
    for case in (extension, extension.upper(), extension.title()):
        assert image_extension(f"x/a{case}") == case


@pytest.mark.parametrize("name", ["a", "a.", ".jpg", "x.jpg/a", "a.jpg.bak", "jpg", "a.eps"])
def test_other_names_have_no_image_extension(name):
    assert image_extension(name) == ""
