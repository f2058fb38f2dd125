import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model_build.data.labels import VOC
from pipeline.images.masks import encode_mask
from pipeline.inputs.names import assign_mask_names, group_key
from pipeline.jobs.progress import COUNTS
from pipeline.jobs.tasks import keep_masks, keyed_image, keyed_masks, keyed_overlays, plan_group
from pipeline.outputs.folder import OutputFolder
from pipeline.records import ImageRef, MaskRef, Reject, Row, Task
from pipeline.storage import Files


def image(name, mtime=100.0):
    return ImageRef(f"/in/{name}", name, mtime)


def mask(name, mtime=200.0):
    return MaskRef(name, mtime)


def plan(images, masks=(), have_overlays=(), *, out="/out", overlays=False, since=0.0):
    found = {"images": images, "masks": masks, "overlays": have_overlays}
    return list(plan_group(found, OutputFolder(out, Files(), overlays), since))


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


def test_an_image_whose_mask_the_output_cannot_hold_is_a_reject_of_its_own():
    control, fine = plan([image("a\n.jpg")], out="memory://b/out"), plan([image("a\n.jpg")])
    assert control == [
        Reject(
            "/in/a\n.jpg",
            "list",
            "NameError",
            "its name holds a control character, which a store cannot; rename it",
        )
    ]
    assert fine == [Task(image("a\n.jpg"), "a\n.png")]


def test_keying_an_image_counts_it():
    COUNTS.reset()
    assert keyed_image(image("x/a.jpg")) == ("x/a", image("x/a.jpg"))
    assert COUNTS.listed == 1


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
            assert keyed_image(image(name))[0] == key
            assert group_key(mask_name) == key


@given(st.sets(any_name, min_size=1, max_size=8))
def test_a_second_run_finds_every_mask_of_the_first(names):
    groups = {}
    for name in names:
        groups.setdefault(group_key(name), {"images": [], "masks": []})
        groups[group_key(name)]["images"].append(image(name))
    first = [task for group in groups.values() for task in plan(**group)]
    for task in first:
        groups[group_key(task.mask_name)]["masks"].append(mask(task.mask_name))
    second = [task for group in groups.values() for task in plan(**group)]
    assert len(second) == len(names)
    assert all(task.done for task in second)


def output(path):
    return OutputFolder(str(path), Files())


def test_keyed_masks_are_what_stands_in_the_output(tmp_path, touch):
    touch(tmp_path, "masks/x/a.png", "masks/b.raw.png", "masks/c.jpg", "other/d.png", mtime=7)
    found = sorted(keyed_masks(output(tmp_path)))
    assert found == [("b.raw", MaskRef("b.raw.png", 7.0)), ("x/a", MaskRef("x/a.png", 7.0))]


def test_keyed_overlays_are_told_by_their_masks(tmp_path, touch):
    touch(tmp_path, "overlays/x/a.jpg", "overlays/b.jpg.jpg", "overlays/notes.txt")
    assert set(keyed_overlays(output(tmp_path))) == {("x/a", "x/a.png"), ("b", "b.jpg.png")}


def test_an_output_that_is_not_there_holds_nothing(tmp_path, memory):
    for nowhere in (tmp_path / "nowhere", "memory://bucket/nowhere"):
        assert not list(keyed_masks(output(nowhere)))
        assert not list(keyed_overlays(output(nowhere)))


def test_masks_of_a_remote_output(memory):
    for name in ("out/masks/x/a.png", "out/masks2/b.png", "out/masks.png"):
        Files().write(f"memory://b/{name}", b"")
    written = Files().stat("memory://b/out/masks/x/a.png").mtime
    assert written > 0
    assert list(keyed_masks(output("memory://b/out"))) == [("x/a", MaskRef("x/a.png", written))]


# Looking at what stands


@pytest.fixture(params=["disk", "store"])
def out(request, tmp_path, memory):
    return output(tmp_path / "out" if request.param == "disk" else "memory://bucket/out")


def class_map(class_id, size=(4, 6)):
    import numpy as np

    return np.full(size, class_id, np.uint8)


def finished(out, name, class_id, **changes):
    """A task whose mask stands."""
    out.write(f"masks/{name}.png", encode_mask(class_map(class_id), VOC, f"{name}.jpg"))
    fields = {"image": image(f"{name}.jpg"), "mask_mtime": 200.0, "done": True} | changes
    return Task(mask_name=f"{name}.png", **fields)


def test_masks_that_stand_are_counted_again_and_come_in_order(out):
    tasks = [
        finished(out, "a", 0),
        Task(image("b.jpg"), "b.png"),
        finished(out, "x/c", 15),
        Task(image("d.jpg"), "d.png", 200.0),
    ]
    assert list(keep_masks(tasks, VOC, out)) == [
        Row("/in/a.jpg", "masks/a.png", 6, 4, {"background": 24}),
        tasks[1],
        Row("/in/x/c.jpg", "masks/x/c.png", 6, 4, {"person": 24}),
        tasks[3],
    ]


def test_masks_that_are_damaged_gone_or_of_another_image_are_to_do(out):
    cut, gone, other, kept = (finished(out, name, 3) for name in ("cut", "gone", "other", "kept"))
    whole = out.files.read(f"{out.path}/masks/cut.png")
    out.write("masks/cut.png", whole[: len(whole) // 2])
    out.delete("masks/gone.png")
    out.write("masks/other.png", encode_mask(class_map(3), VOC, "quite/another.jpg"))
    *redone, row = keep_masks([cut, gone, other, kept], VOC, out)
    assert redone == [task._replace(done=False) for task in (cut, gone, other)]
    assert row.mask == "masks/kept.png"


def test_a_source_of_unknown_time_is_asked_when_its_mask_is_looked_at(out, tmp_path):
    tasks = []
    for name, written in (("old", 100), ("new", 300)):
        source = tmp_path / f"{name}.jpg"
        source.write_bytes(b"")
        os.utime(source, (written, written))
        of_list = ImageRef(str(source), f"{name}.jpg", None)
        tasks.append(finished(out, name, 1, image=of_list))
    kept, redone = keep_masks(tasks, VOC, out)
    assert isinstance(kept, Row)
    assert redone == tasks[1]._replace(done=False)
