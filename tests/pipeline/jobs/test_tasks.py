import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.listing import ImageRef, assign_mask_names, group_key
from pipeline.progress import COUNTS
from pipeline.tasks import (
    Task,
    key_image,
    keyed_masks,
    keyed_overlays,
    overlay_name,
    plan_tasks,
)


def image(name, mtime=100.0):
    return ImageRef(f"/in/{name}", name, mtime)


def mask(name, mtime=200.0):
    return ImageRef(f"/out/masks/{name}", name, mtime)


def plan(images, masks=(), have_overlays=(), **options):
    found = {"images": images, "masks": masks, "overlays": have_overlays}
    return list(plan_tasks(found, **options))


def done(*args, **options):
    (task,) = plan(*args, **options)
    return task.done


def test_an_image_without_a_mask_is_to_do():
    assert plan([image("a.jpg")]) == [Task(image("a.jpg"), "a.png", None, False)]


def test_an_image_with_its_mask_is_done():
    assert plan([image("a.jpg")], [mask("a.png")]) == [Task(image("a.jpg"), "a.png", 200.0, True)]


def test_the_mask_of_another_image_does_not_count():
    assert not done([image("a.jpg")], [mask("a.jpg.png"), mask("b.png")])


@pytest.mark.parametrize(
    ("image_time", "mask_time", "since", "expected"),
    [
        (100.0, 200.0, 0.0, True),
        (200.0, 200.0, 200.0, True),
        (200.1, 200.0, 0.0, False),
        (100.0, 200.0, 200.1, False),
        (100.0, 200.0, float("inf"), False),
        (None, 200.0, 0.0, True),
        (None, 200.0, 300.0, False),
        (100.0, None, 0.0, False),
    ],
    ids=[
        "newer than the source",
        "equal times",
        "older than the source",
        "older than the options",
        "overwrite",
        "time of the source unknown",
        "unknown, and older than the options",
        "time of the mask unknown",
    ],
)
def test_whether_a_mask_still_holds(image_time, mask_time, since, expected):
    masks = [mask("a.png", mask_time)]
    assert done([image("a.jpg", image_time)], masks, since=since) is expected


def test_an_image_without_its_overlay_is_to_do_where_overlays_are_wanted():
    images, masks = [image("a.jpg")], [mask("a.png")]
    assert done(images, masks)
    assert not done(images, masks, overlays=True)
    assert not done(images, masks, ["b.png"], overlays=True)
    assert done(images, masks, ["a.png"], overlays=True)


def test_an_image_listed_twice_is_one_task():
    assert len(plan([image("a.jpg"), image("a.jpg", None)])) == 1


def test_clashing_images_have_masks_of_their_own():
    tasks = plan([image("a.jpg"), image("a.png")], [mask("a.png"), mask("a.png.png")])
    assert [(task.image.name, task.mask_name, task.done) for task in tasks] == [
        ("a.jpg", "a.jpg.png", False),
        ("a.png", "a.png.png", True),
    ]


def test_masks_without_images_are_left_alone():
    assert plan([], [mask("a.png")], ["a.png"]) == []


def test_keying_an_image_counts_it():
    COUNTS.reset()
    assert key_image(image("x/a.jpg")) == ("x/a", image("x/a.jpg"))
    assert COUNTS.listed == 1


@pytest.mark.parametrize(
    ("mask_name", "overlay"),
    [("a.png", "a.jpg"), ("x/a.jpg.png", "x/a.jpg.jpg"), ("a.png.png", "a.png.jpg")],
)
def test_overlay_names(mask_name, overlay):
    assert overlay_name(mask_name) == overlay


any_name = st.builds(
    lambda stem, extensions: stem + "".join(extensions),
    st.sampled_from(["a", "x/a", "x.jpg/a", ".a", "..a", "a.raw", "a b"]),
    st.lists(st.sampled_from([".jpg", ".PNG", ".png", ".raw", ".", ""]), max_size=3),
)


@given(st.sets(any_name, min_size=1, max_size=8))
def test_a_mask_is_found_under_the_key_of_its_image(names):
    groups = {}
    for name in names:
        groups.setdefault(group_key(name), set()).add(name)
    for key, group in groups.items():
        for name, mask_name in assign_mask_names(group).items():
            assert key_image(image(name))[0] == key
            assert group_key(mask_name) == key


@given(st.sets(any_name, min_size=1, max_size=8))
def test_a_second_run_finds_every_mask_of_the_first(names):
    groups = {}
    for name in names:
        groups.setdefault(group_key(name), {"images": [], "masks": [], "overlays": []})
        groups[group_key(name)]["images"].append(image(name))
    first = [task for group in groups.values() for task in plan_tasks(group)]
    for task in first:
        groups[group_key(task.mask_name)]["masks"].append(mask(task.mask_name))
    second = [task for group in groups.values() for task in plan_tasks(group)]
    assert len(second) == len(names)
    assert all(task.done for task in second)


def test_keyed_masks_are_what_stands_in_the_output(tmp_path, touch):
    touch(tmp_path, "masks/x/a.png", "masks/b.raw.png", "masks/c.jpg", "other/d.png", mtime=7)
    found = sorted(keyed_masks(str(tmp_path)))
    folder = f"{tmp_path}/masks"
    assert ("x/a", ImageRef(f"{folder}/x/a.png", "x/a.png", 7.0)) in found
    assert {key for key, _ in found} >= {"x/a", "b.raw"}
    assert {mask.name for _, mask in found} == {"x/a.png", "b.raw.png"}


def test_keyed_overlays_are_told_by_their_masks(tmp_path, touch):
    touch(tmp_path, "overlays/x/a.jpg", "overlays/b.jpg.jpg", "overlays/notes.txt")
    found = set(keyed_overlays(str(tmp_path)))
    assert found >= {("x/a", "x/a.png"), ("b", "b.jpg.png")}
    assert {name for _, name in found} == {"x/a.png", "b.jpg.png"}


def test_an_output_that_is_not_there_holds_nothing(tmp_path):
    assert not list(keyed_masks(os.fspath(tmp_path / "nowhere")))
    assert not list(keyed_overlays(os.fspath(tmp_path / "nowhere")))


def test_masks_of_a_remote_output(mem):
    mem.files.update(dict.fromkeys(["mem://b/out/masks/x/a.png", "mem://b/out/masks2/b.png"], b""))
    mem.times["mem://b/out/masks/x/a.png"] = 9.0
    assert set(keyed_masks("mem://b/out")) == {
        ("x/a", ImageRef("mem://b/out/masks/x/a.png", "x/a.png", 9.0))
    }
