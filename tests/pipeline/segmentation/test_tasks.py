import errno
import io
import itertools
import json
import os
from dataclasses import dataclass

import apache_beam as beam
import numpy as np
import pytest
from apache_beam.testing.util import assert_that, equal_to
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from model_build.common.errors import JobError
from model_build.data.labels import VOC
from pipeline.images.masks import encode_mask
from pipeline.inputs.names import assign_mask_names, group_key, mask_key
from pipeline.outputs.folder import OutputFolder
from pipeline.outputs.journal import journals, read_rows
from pipeline.outputs.products import MASKS, OVERLAYS, PRODUCTS
from pipeline.records import ImageRef, ProductFile, Reject, Row, Stamp, Task, hash_of
from pipeline.runners.progress import COUNTS
from pipeline.segmentation.tasks import (
    KeepMasks,
    PlanTasks,
    identify,
    keyed_image,
    keyed_products,
    keyed_rows,
    plan_group,
)
from pipeline.segmentation.up_to_date import KeepOptions
from pipeline.storage import Files

FILES = Files()
SOURCE, MASK = Stamp(5, "source"), Stamp(9, "mask")


def image(name, stamp=SOURCE):
    return ImageRef(f"/in/{name}", name, stamp)


def mask(name, stamp=MASK):
    return ProductFile("masks", name, stamp)


def row(name, mask_name, written=MASK, **changes):
    one = Row(
        f"/in/{name}", f"masks/{mask_name}", 2, 1, {"cat": 2}, SOURCE, "ab12", written, recipe="r"
    )
    return one._replace(**changes)


def overlay(mask_name):
    return ProductFile("overlays", mask_name, Stamp())


def plan(images, products=(), rows=(), *, out="/out"):
    found = {"images": images, "products": products, "rows": rows}
    return list(plan_group(found, OutputFolder(out, FILES)))


# A group of names whose masks may clash


def test_an_image_without_a_mask_has_none_in_its_task():
    assert plan([image("a.jpg")]) == [Task(image("a.jpg"), "a.png")]


def test_an_image_is_joined_with_its_mask_its_row_and_its_overlay():
    found = [overlay("a.png"), mask("a.png")], [row("a.jpg", "a.png")]
    assert plan([image("a.jpg")], *found) == [
        Task(image("a.jpg"), "a.png", MASK, row("a.jpg", "a.png"), frozenset({"overlays"}))
    ]


def test_an_overlay_without_its_mask_is_in_the_task():
    task = Task(image("a.jpg"), "a.png", products=frozenset({"overlays"}))
    assert plan([image("a.jpg")], [overlay("a.png")]) == [task]


def test_a_mask_without_a_row_is_joined_as_well():
    assert plan([image("a.jpg")], [mask("a.png")]) == [Task(image("a.jpg"), "a.png", MASK)]


@pytest.mark.parametrize(
    "other",
    [
        row("a.jpg", "a.png", Stamp(9, "an earlier mask")),
        row("a.jpg", "a.png", Stamp(8, "mask")),
        row("a.png", "a.png"),
        row("a.jpg", "b.png"),
    ],
    ids=["an earlier mask", "a mask of another size", "another image", "another mask"],
)
def test_a_row_of_something_else_is_not_taken(other):
    (task,) = plan([image("a.jpg")], [mask("a.png")], [other])
    assert task._replace(earlier=()) == Task(image("a.jpg"), "a.png", MASK)


def test_rows_that_do_not_tell_of_a_mask_as_it_stands_tell_of_what_was_there():
    rows = [
        row("a.jpg", "a.png", Stamp(9, "an earlier mask"), hash="b"),
        row("moved/a.jpg", "a.png", hash="a"),
        row("b.jpg", "b.png", hash="c"),
    ]
    (task,) = plan([image("a.jpg")], [mask("a.png")], rows)
    assert (task.row, task.earlier) == (None, tuple(rows[:2]))
    (sure,) = plan([image("a.jpg")], [mask("a.png")], [*rows, row("a.jpg", "a.png")])
    assert (sure.row, sure.earlier) == (row("a.jpg", "a.png"), ())
    (fresh,) = plan([image("a.jpg")], [], rows)
    assert fresh.earlier == ()


def test_of_several_rows_the_one_that_tells_of_the_mask_as_it_stands_is_taken():
    rows = [row("a.jpg", "a.png", Stamp(9, version)) for version in ("v1", "mask", "v3")]
    (task,) = plan([image("a.jpg")], [mask("a.png")], rows)
    assert task.row == rows[1]


def test_a_row_without_its_mask_is_not_taken():
    assert plan([image("a.jpg")], [], [row("a.jpg", "a.png")]) == [Task(image("a.jpg"), "a.png")]


@pytest.mark.parametrize(
    ("since", "written", "ours"),
    [(5.0, 4.9, False), (5.0, 5.0, True), (5.0, 6.0, True), (5.0, None, False), (None, 6.0, False)],
)
def test_a_mask_that_was_written_since_the_run_began_is_its_own(since, written, ours):
    products = [mask("a.png")._replace(written=written)]
    found = {"images": [image("a.jpg")], "products": products, "rows": []}
    (task,) = plan_group(found, OutputFolder("/out", FILES), since)
    assert task.made_by_this_run is ours


def test_an_image_listed_twice_is_one_task():
    assert len(plan([image("a.jpg"), image("a.jpg", None)])) == 1


def test_of_two_images_of_one_name_the_second_is_a_reject_in_whichever_order_they_come():
    first, second = ImageRef("/memory/b/a.jpg", "x"), ImageRef("memory://b/a.jpg", "x")
    reject = Reject(
        second.path,
        "list",
        "BadName",
        "/memory/b/a.jpg would get the same mask name; rename one of them",
    )
    for images in itertools.permutations([first, second, second]):
        assert plan(images) == [reject, Task(first, "x.png")]


def test_clashing_images_have_masks_of_their_own():
    planned = plan([image("a.jpg"), image("a.png")], [mask("a.png"), mask("a.png.png")])
    assert planned == [
        Task(image("a.jpg"), "a.jpg.png"),
        Task(image("a.png"), "a.png.png", MASK),
        mask("a.png"),
    ]


def test_masks_that_are_no_images_are_told_apart():
    found = [mask("a.png"), mask("a.jpg.png")]
    assert plan([], [*found, overlay("a.png")], [row("a.jpg", "a.png")]) == found


def test_an_image_whose_mask_the_output_cannot_hold_is_a_reject_of_its_own():
    control, fine = plan([image("a\n.jpg")], out="memory://b/out"), plan([image("a\n.jpg")])
    assert control == [
        Reject(
            "/in/a\n.jpg",
            "list",
            "BadName",
            "its name contains a control character, which stores do not allow; rename it",
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
            assert mask_key(mask_name) == key


@given(st.sets(any_name, min_size=1, max_size=8))
def test_a_second_run_finds_every_mask_and_row_of_the_first(names):
    groups = {}
    for name in names:
        group = groups.setdefault(group_key(name), {"images": [], "products": [], "rows": []})
        group["images"].append(image(name))
    first = [task for group in groups.values() for task in plan(**group)]
    for task in first:
        group = groups[mask_key(task.mask_name)]
        group["products"].append(mask(task.mask_name))
        group["rows"].append(row(task.image.name, task.mask_name))
    second = [task for group in groups.values() for task in plan(**group)]
    assert second == [
        task._replace(mask=MASK, row=row(task.image.name, task.mask_name)) for task in first
    ]


# What stands in the output folder


@pytest.fixture(params=["disk", "store"])
def out(request, tmp_path, memory):
    where = f"{tmp_path}/out" if request.param == "disk" else "memory://bucket/out"
    FILES.make_folder(where)
    return OutputFolder(where, FILES, run="r1")


def test_masks_are_keyed_by_their_images(out):
    written = {
        name: out.write(f"masks/{name}", b"x" * size)
        for size, name in enumerate(("x/a.png", "b.raw.png"))
    }
    for other in ("masks/c.jpg", "other/d.png", "masks2/e.png", "masks.png"):
        out.write(other, b"")
    assert sorted((key, mask[:3]) for key, mask in keyed_products(out.existing(MASKS))) == [
        ("b.raw", ("masks", "b.raw.png", written["b.raw.png"])),
        ("x/a", ("masks", "x/a.png", written["x/a.png"])),
    ]


def test_overlays_are_keyed_as_their_masks_are(out):
    for name in ("x/a.jpg", "b.jpg.jpg", "notes.txt"):
        out.write(f"overlays/{name}", b"")
    keyed = keyed_products(out.existing(OVERLAYS))
    assert {(key, file.mask_name) for key, file in keyed} == {
        ("x/a", "x/a.png"),
        ("b", "b.jpg.png"),
    }


def test_keyed_rows_are_the_lines_of_a_file_that_tell_of_masks(out):
    rows = [row("x/a.jpg", "x/a.png"), row("b.raw.jpg", "b.raw.png")]
    reject = Reject("/in/c.jpg", "read", "OSError", "why")
    kept = reject._replace(row=row("c.jpg", "c.png"))
    lines = [json.dumps(one.to_json()) for one in (rows[0], reject, rows[1], kept)]
    out.write("journal/1.jsonl", "\n".join([*lines, '{"row": 3}', '{"cut sho']).encode())
    keyed = [("x/a", rows[0]), ("b.raw", rows[1]), ("c", kept.row)]
    assert list(keyed_rows("journal/1.jsonl", out)) == keyed


def test_a_file_of_rows_that_has_gone_meanwhile_has_none(out):
    assert list(keyed_rows("histograms-r0-00000-of-00001.jsonl", out)) == []


def test_an_output_that_is_not_there_holds_nothing(tmp_path, memory):
    for nowhere in (tmp_path / "nowhere", "memory://bucket/nowhere"):
        assert not list(keyed_products(OutputFolder(str(nowhere), FILES).existing(*PRODUCTS)))


@dataclass(frozen=True)
class Failing(Files):
    """A disk that fails for now."""

    def list(self, folder):
        raise OSError(errno.EIO, os.strerror(errno.EIO), folder)

    def read(self, path, limit=-1):
        raise OSError(errno.EIO, os.strerror(errno.EIO), path)


@pytest.mark.parametrize(
    "keyed",
    [
        lambda out: keyed_products(out.existing(MASKS)),
        lambda out: keyed_products(out.existing(OVERLAYS)),
        lambda out: keyed_rows("r", out),
    ],
)
def test_what_cannot_be_looked_at_just_now_ends_the_job_and_is_not_taken_for_missing(keyed):
    with pytest.raises(JobError, match=r"^/out/\S+: Input/output error; check the disk or store"):
        list(keyed(OutputFolder("/out", Failing())))


# The plan as a graph


def _task(out, name, mask_name, row=None, products=()):
    stamps = {mask.mask_name: mask.stamp for mask in out.existing(MASKS)}
    if row is not None:
        row = row._replace(written=stamps[mask_name])
    return Task(image(name), mask_name, stamps.get(mask_name), row, frozenset(products))


EXPECTED = {
    "tasks": lambda out: [
        _task(out, "a.jpg", "a.png", row("a.jpg", "a.png"), ["overlays"]),
        _task(out, "b.jpg", "b.png"),
        _task(out, "new.jpg", "new.png"),
    ],
    "outside": lambda out: [mask for mask in out.existing(MASKS) if mask.mask_name == "gone.png"],
    "rejected": lambda out: [
        Reject(
            *("/in/long.jpg", "list", "BadName"),
            "its mask's name would have over 255 bytes; shorten its name",
        )
    ],
}


@pytest.mark.slow
def test_images_are_joined_with_what_stands(tmp_path):
    out = OutputFolder(f"{tmp_path}/out", FILES, (OVERLAYS,))
    for name in ("a", "b", "gone"):
        written = out.write(f"masks/{name}.png", name.encode())
        out.write(f"overlays/{name}.jpg", b"")
        line = json.dumps(row(f"{name}.jpg", f"{name}.png", written).to_json())
        out.write(f"{name}.jsonl", line.encode())
    FILES.delete(f"{out.path}/overlays/b.jpg")
    images = [image(f"{name}.jpg") for name in ("a", "b", "new")]
    images.append(ImageRef("/in/long.jpg", "l" * 300, SOURCE))
    # Of the rows those are known that the files given hold: not that of b.
    rows = ["a.jsonl", "gone.jsonl", "missing.jsonl"]
    with beam.Pipeline(runner="FnApiRunner") as pipeline:
        planned = pipeline | "Images" >> beam.Create(images) | "Plan" >> PlanTasks(out, rows)
        for kind, expected in EXPECTED.items():
            assert_that(getattr(planned, kind), equal_to(expected(out)), label=kind)


def test_where_nothing_is_to_be_kept_nothing_is_looked_at():
    out = OutputFolder("/out", Failing(), (OVERLAYS,))
    with beam.Pipeline(runner="FnApiRunner") as pipeline:
        planned = pipeline | beam.Create([image("a.jpg")]) | PlanTasks(out)
        assert_that(planned.tasks, equal_to([Task(image("a.jpg"), "a.png")]), label="tasks")
        assert_that(planned.outside, equal_to([]), label="outside")


# Images of lists, which nobody has asked the disk or store about yet


def test_stamps_of_images_that_a_list_has_named_are_asked_for(tmp_path, memory):
    here, there = f"{tmp_path}/a.jpg", "memory://bucket/b.jpg"
    stamps = []
    for path, data in ((here, b"12345"), (there, b"123")):
        file = FILES.write(path, data)
        stamps.append(Stamp(file.size, file.version))
    assert [stamp.size for stamp in stamps] == [5, 3]
    assert stamps[0].version
    listed = [Task(ImageRef(path, path, None), path, MASK) for path in (here, there, "/nowhere")]
    known = Task(image("known.jpg"), "known.png")
    found = identify([*listed, known], FILES)
    assert [task.image.stamp for task in found] == [*stamps, None, SOURCE]
    assert [task._replace(image=None) for task in found] == [
        task._replace(image=None) for task in (*listed, known)
    ]


def test_images_whose_stamps_are_known_are_not_asked_for_again():
    @dataclass(frozen=True)
    class Refusing(Files):
        def stat(self, path):
            raise AssertionError(path)

    tasks = [Task(image("a.jpg"), "a.png"), Task(image("b.jpg"), "b.png")]
    assert identify(tasks, Refusing()) == tasks
    assert identify([], FILES) == []


# What stands, looked at as Beam does


def keep(tasks, out, options=None):
    """Returns the outputs of :class:`KeepMasks` for one bundle: tasks, rows, rejects."""
    step = KeepMasks(options or KeepOptions("r", VOC), out)
    step.start_bundle()
    yielded = list(step.process(tasks))
    step.finish_bundle()
    tagged = [one for one in yielded if isinstance(one, beam.pvalue.TaggedOutput)]
    lists = [one for one in yielded if isinstance(one, list)]
    return lists, *([one.value for one in tagged if one.tag == tag] for tag in ("rows", "rejected"))


def journalled(out):
    return [one for name in journals(out) for one in read_rows(FILES.read(f"{out.path}/{name}"))]


def test_what_holds_what_is_to_do_and_what_is_somebody_elses(out):
    COUNTS.reset()
    edited = out.write("masks/edited.png", encode_mask(np.zeros((1, 2), np.uint8), VOC))
    photo = io.BytesIO()
    Image.new("RGB", (2, 1)).save(photo, "JPEG")
    FILES.write(f"{out.path}/edited.jpg", photo.getvalue())
    done = Task(image("done.jpg"), "done.png", MASK, row("done.jpg", "done.png"))
    to_do = Task(image("new.jpg"), "new.png")
    by_hand = Task(ImageRef(f"{out.path}/edited.jpg", "edited.jpg", SOURCE), "edited.png", edited)
    before = row("edited.jpg", "edited.png", hash=hash_of(photo.getvalue()))
    by_hand = by_hand._replace(earlier=(before,))
    ((kept_to_do,), rows, rejects) = keep([done, to_do, by_hand], out)
    assert kept_to_do == [to_do]
    assert [one.mask for one in rows] == ["masks/done.png", "masks/edited.png"]
    assert rejects == []
    assert (COUNTS.kept, COUNTS.masks, COUNTS.rejects) == (2, 0, 0)
    # Only what earlier runs have not noted goes into the journal.
    assert journalled(out) == [rows[1]]
    assert rows[1].recipe is None


def test_a_mask_that_a_lost_worker_of_this_run_has_made_is_not_kept_from_an_earlier_one(out):
    COUNTS.reset()
    done = Task(image("a.jpg"), "a.png", MASK, row("a.jpg", "a.png"), made_by_this_run=True)
    step = KeepMasks(KeepOptions("r", VOC), out)
    step.start_bundle()
    (yielded,) = step.process([done])
    assert (yielded.tag, yielded.value) == ("made_by_this_run", done.row)
    assert (COUNTS.kept, COUNTS.masks) == (0, 1)


def test_a_reject_of_what_stands_is_counted(out):
    COUNTS.reset()
    foreign = io.BytesIO()
    Image.new("RGB", (2, 1)).save(foreign, "PNG")
    stamp = out.write("masks/a.png", foreign.getvalue())
    lists, rows, (reject,) = keep([Task(image("a.jpg"), "a.png", stamp)], out)
    assert (lists, rows) == ([], [])
    assert (reject.image, reject.stage, reject.error) == ("/in/a.jpg", "write", "ForeignMask")
    assert (COUNTS.kept, COUNTS.rejects) == (0, 1)
    assert out.files.read(f"{out.path}/masks/a.png") == foreign.getvalue()


def test_a_window_of_which_everything_holds_is_no_window(out):
    done = Task(image("done.jpg"), "done.png", MASK, row("done.jpg", "done.png"))
    assert keep([done], out) == ([], [done.row], [])
    assert journalled(out) == []
