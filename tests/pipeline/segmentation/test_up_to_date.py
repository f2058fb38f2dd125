"""Does a mask that stands still hold? Every branch, and a model of all of them together."""

import errno
import io
import itertools
import json
import os
from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin

from model_build.common.errors import JobError
from model_build.data.labels import VOC
from pipeline.images.masks import Origin, encode_mask, find_traces, histogram
from pipeline.outputs.folder import OutputFolder
from pipeline.outputs.journal import read_rows
from pipeline.outputs.products import MASKS
from pipeline.records import ImageRef, ProductFile, Reject, Row, Stamp, Task, hash_of
from pipeline.segmentation.tasks import plan_group
from pipeline.segmentation.up_to_date import (
    KeepOptions,
    State,
    check,
    count_edits,
    is_same,
    keep_masks,
    outdated_products,
    row_of_mask,
    state_of,
)
from pipeline.storage import Files
from pipeline.storage.faults import Unavailable

FILES = Files()
RECIPE, OTHER_RECIPE = "r" * 32, "o" * 32
OPTIONS = KeepOptions(RECIPE, VOC)
DISCARD = replace(OPTIONS, discard_edits=True)
VERIFY = replace(OPTIONS, verify=True)


def photo(color, size=(6, 4)):
    """A photo of one colour."""
    buffer = io.BytesIO()
    Image.new("RGB", size, color).save(buffer, "PNG")
    return buffer.getvalue()


PHOTO, OTHER_PHOTO = photo("red"), photo("blue")
SOURCE, MASK = Stamp(20, "source 1"), Stamp(99, "mask 1")
NOWHERE = OutputFolder("/nowhere", FILES)


def row_of(**changes):
    """The row of the mask of ``a.jpg``, as a run with :data:`RECIPE` has left it."""
    fields = {
        "image": "/in/a.jpg",
        "mask": "masks/a.png",
        "width": 6,
        "height": 4,
        "pixels": {"person": 24},
        "source": SOURCE,
        "hash": hash_of(PHOTO),
        "written": MASK,
        "recipe": RECIPE,
    }
    return Row(**fields | changes)


def task_of(*, source=SOURCE, mask=MASK, row=None, products=frozenset(), earlier=()):
    return Task(ImageRef("/in/a.jpg", "a.jpg", source), "a.png", mask, row, products, earlier)


# What rows and listings tell


@pytest.mark.parametrize(
    ("task", "expected"),
    [
        (task_of(mask=None), State.TO_DO),
        (task_of(mask=None, row=row_of()), State.TO_DO),
        (task_of(source=None), State.CHECK),
        (task_of(source=None, row=row_of()), State.TO_DO),
        (task_of(source=None, row=row_of(recipe=None)), State.CHECK),
        (task_of(), State.CHECK),
        (task_of(row=row_of()), State.DONE),
        (task_of(row=row_of(source=Stamp(20, "source 0"))), State.CHECK),
        (task_of(row=row_of(source=Stamp(21, "source 1"))), State.CHECK),
        (task_of(row=row_of(recipe=OTHER_RECIPE)), State.TO_DO),
        (task_of(row=row_of(recipe=None)), State.DONE),
        (task_of(row=row_of(recipe=None, source=Stamp(20, "source 0"))), State.CHECK),
    ],
    ids=[
        "no mask",
        "no mask, but a row",
        "nobody knows the source",
        "nobody knows the source, which has a row",
        "nobody knows the source, whose mask was edited by hand",
        "a mask without a row",
        "everything fits",
        "the source has another version",
        "the source has another size",
        "of another recipe",
        "edited by hand",
        "edited by hand, and the source has another version",
    ],
)
def test_what_a_task_comes_to_before_anything_is_read(task, expected):
    assert state_of(task, OPTIONS) is expected


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        (row_of(), State.DONE),
        (row_of(recipe=OTHER_RECIPE), State.TO_DO),
        (row_of(recipe=None), State.TO_DO),
        (None, State.CHECK),
    ],
    ids=["of this recipe", "of another", "edited by hand", "without a row"],
)
def test_discarding_edits_does_again_what_was_edited(row, expected):
    assert state_of(task_of(row=row), DISCARD) is expected


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        (row_of(), State.CHECK),
        (row_of(recipe=None), State.CHECK),
        (row_of(recipe=OTHER_RECIPE), State.TO_DO),
    ],
)
def test_verifying_checks_whatever_would_be_done(row, expected):
    assert state_of(task_of(row=row), VERIFY) is expected


def test_a_mask_is_up_to_date_without_its_overlay():
    assert state_of(task_of(row=row_of()), OPTIONS) is State.DONE
    assert state_of(task_of(row=row_of(recipe=None)), OPTIONS) is State.DONE


@pytest.mark.parametrize(
    ("now", "then", "same"),
    [
        (Stamp(1, "v"), Stamp(1, "v"), True),
        (Stamp(1, "w"), Stamp(1, "v"), False),
        (Stamp(2, "v"), Stamp(1, "v"), False),
        (Stamp(1, "v"), Stamp(1, None), False),
        (Stamp(1, None), Stamp(1, "v"), True),
        (Stamp(1, None), Stamp(1, None), True),
        (Stamp(2, None), Stamp(1, None), False),
        (Stamp(None, None), Stamp(1, None), True),
        (Stamp(2, None), Stamp(None, None), True),
    ],
)
def test_whether_a_source_is_what_it_was(now, then, same):
    assert is_same(now, then) is same


stamps = st.builds(Stamp, st.sampled_from([None, 1, 2]), st.sampled_from([None, "v", "w"]))


@given(stamps, stamps)
def test_a_source_of_another_known_size_or_of_a_new_version_is_never_the_same(now, then):
    if None not in (now.size, then.size) and now.size != then.size:
        assert not is_same(now, then)
    if now.version is not None and now.version != then.version:
        assert not is_same(now, then)
    assert is_same(now, now)


def test_the_row_of_a_mask_is_the_one_that_fits_it_as_it_stands():
    ours = row_of()
    others = [row_of(written=Stamp(99, "mask 0")), row_of(image="/in/a.png")]
    assert row_of_mask([*others, ours], "/in/a.jpg", MASK, SOURCE) == ours
    assert row_of_mask(others, "/in/a.jpg", MASK, SOURCE) is None
    assert row_of_mask([], "/in/a.jpg", MASK, SOURCE) is None
    assert row_of_mask([ours], "/in/a.jpg", None, SOURCE) is None


@pytest.mark.parametrize("rows", [[0, 1], [1, 0]])
def test_of_several_rows_the_one_that_knows_the_source_is_taken(rows):
    known = [row_of(), row_of(source=Stamp(20, "source 0"))]
    assert row_of_mask([known[i] for i in rows], "/in/a.jpg", MASK, SOURCE) == known[0]


def test_rows_of_a_source_that_is_not_known_now_still_tell_of_the_mask():
    assert row_of_mask([row_of()], "/in/a.jpg", MASK, None) == row_of()


# What the files tell

NEW_SOURCE, NEW_MASK = Stamp(20, "source 2"), Stamp(99, "mask 2")


def class_map(class_id, size=(4, 6)):
    return np.full(size, class_id, np.uint8)


def mask_bytes(class_id=15, **changes):
    """A mask whose text tells that it is of ``a.jpg``, but for what changes."""
    pixels = histogram(class_map(class_id), VOC)
    origin = Origin("a.jpg", hash_of(PHOTO), RECIPE, pixels)._replace(**changes)
    return encode_mask(class_map(class_id), VOC, origin)


def saved(class_map, mode="P", kind="PNG", labels=VOC):
    """A mask as an editor saves it, without any text: palette, RGB or grey ids."""
    image = Image.fromarray(class_map)
    if mode in ("P", "RGB", "RGBA"):
        image.putpalette(labels.palette)
        image = image.convert(mode)
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return buffer.getvalue()


def edited(mask, class_map):
    """Another class map in the place of a mask's, by an editor that keeps its text."""
    with Image.open(io.BytesIO(mask)) as image:
        text = PngImagePlugin.PngInfo()
        for key, value in image.text.items():
            text.add_text(key, value)
        other = Image.fromarray(class_map)
        other.putpalette(image.getpalette())
    buffer = io.BytesIO()
    other.save(buffer, "PNG", pnginfo=text)
    return buffer.getvalue()


def checked(task, mask=None, image=None, options=OPTIONS, out=NOWHERE):
    return check(task, mask, image, options, out)


BEFORE = row_of(written=Stamp(99, "mask 1"))  # of what a run has written in a mask's place
ROWLESS = task_of(source=NEW_SOURCE, mask=NEW_MASK)
KNOWN = ROWLESS._replace(earlier=(BEFORE,))
TOUCHED = task_of(source=NEW_SOURCE, row=row_of())
OURS = hash_of(mask_bytes())
KEPT = row_of(source=NEW_SOURCE, written=NEW_MASK, mask_hash=OURS)


def test_a_mask_without_a_row_proves_itself_by_its_text():
    assert checked(ROWLESS, mask_bytes(), PHOTO) == KEPT
    assert checked(KNOWN, mask_bytes(), PHOTO) == KEPT


def test_a_source_that_was_only_touched_has_its_row_renewed():
    assert checked(TOUCHED, image=PHOTO) == row_of(source=NEW_SOURCE)


def test_a_source_of_other_bytes_is_done_again():
    assert checked(TOUCHED, image=OTHER_PHOTO) == TOUCHED
    assert checked(ROWLESS, mask_bytes(), OTHER_PHOTO) == ROWLESS


@pytest.mark.parametrize("task", [TOUCHED, ROWLESS], ids=["with a row", "without"])
def test_a_source_that_cannot_be_read_is_tried_again_with_the_images_that_are_to_do(task):
    assert checked(task, mask_bytes(), FileNotFoundError("gone")) == task


@pytest.mark.parametrize(
    "change",
    [{"image": "b.jpg"}, {"image": "x/a.jpg"}, {"recipe": OTHER_RECIPE}],
    ids=["another image", "an image elsewhere", "another recipe"],
)
@pytest.mark.parametrize("options", [OPTIONS, DISCARD, VERIFY])
def test_a_mask_whose_text_tells_of_something_else_is_done_again(change, options):
    assert checked(ROWLESS, mask_bytes(**change), PHOTO, options) == ROWLESS


FEW = replace(OPTIONS, labels=replace(VOC, names=VOC.names[:3], colors=VOC.colors[:3]))
TURNED = replace(VOC, colors=VOC.colors[:-6] + VOC.colors[-6:][::-1])


@pytest.mark.parametrize("labels", [FEW.labels, TURNED], ids=["fewer", "other colours"])
def test_a_mask_that_a_run_made_with_other_labels_is_done_again(labels):
    ids = class_map(2 if labels is FEW.labels else 15)
    origin = Origin("a.jpg", hash_of(PHOTO), OTHER_RECIPE, histogram(ids, labels))
    for options in (OPTIONS, FEW):
        assert checked(ROWLESS, encode_mask(ids, labels, origin), PHOTO, options) == ROWLESS


EDITS = {
    "palette": saved(class_map(8)),
    "RGB": saved(class_map(8), "RGB"),
    "RGBA": saved(class_map(8), "RGBA"),
    "grey ids": saved(class_map(8), "L"),
    "another format": saved(class_map(8), "L", "TIFF"),
    "with the text": edited(mask_bytes(), class_map(8)),
}


@pytest.mark.parametrize("mask", EDITS.values(), ids=EDITS.keys())
@pytest.mark.parametrize("recipe", [RECIPE, OTHER_RECIPE, None], ids=["this", "another", "edited"])
def test_a_mask_edited_by_hand_is_kept_until_edits_are_discarded(mask, recipe):
    task = KNOWN._replace(earlier=(BEFORE._replace(recipe=recipe),))
    kept = checked(task, mask, PHOTO)
    assert kept == KEPT._replace(recipe=None, mask_hash=hash_of(mask), pixels={"cat": 24})
    assert checked(task, mask, PHOTO, VERIFY) == kept
    assert count_edits([task], DISCARD, written(mask)) == 1
    discarded = checked(task, mask, PHOTO, DISCARD)
    assert discarded._replace(row=None) == task
    assert discarded.row.recipe is None


def written(mask):
    """An output folder whose mask ``a.png`` is this."""
    FILES.write("memory://edits/masks/a.png", mask)
    return OutputFolder("memory://edits", FILES)


def test_an_edit_whose_rows_are_lost_is_known_by_its_text():
    mask = EDITS["with the text"]
    kept = checked(ROWLESS, mask, PHOTO)
    assert kept == KEPT._replace(recipe=None, mask_hash=hash_of(mask), pixels={"cat": 24})
    assert checked(ROWLESS, mask, PHOTO, DISCARD)._replace(row=None) == ROWLESS
    small = edited(mask_bytes(), class_map(8, (4, 5)))
    assert checked(ROWLESS, small, PHOTO).error == "ForeignMask"


@pytest.mark.parametrize("mask", EDITS.values(), ids=EDITS.keys())
def test_an_edited_mask_whose_image_has_changed_is_a_reject_that_the_next_run_repeats(mask):
    reject = checked(KNOWN, mask, OTHER_PHOTO)
    assert (reject.image, reject.stage, reject.error) == ("/in/a.jpg", "write", "EditedMask")
    assert reject.detail == (
        "/nowhere/masks/a.png: was edited by hand, but its image has changed since; put the image "
        "back, or add --discard-edits to make the mask again"
    )
    (row,) = read_rows(json.dumps(reject.to_json()).encode())
    assert (row.written, row.hash, row.recipe) == (NEW_MASK, hash_of(PHOTO), None)
    next_time = ROWLESS._replace(row=row)
    assert state_of(next_time, OPTIONS) is State.CHECK
    assert checked(next_time, image=OTHER_PHOTO) == reject
    assert checked(next_time, image=PHOTO) == row._replace(source=NEW_SOURCE)
    assert state_of(next_time, DISCARD) is State.TO_DO
    assert checked(KNOWN, mask, OTHER_PHOTO, DISCARD)._replace(row=None) == KNOWN


def test_an_edited_mask_whose_image_cannot_be_read_is_a_reject_that_keeps_its_row():
    noted = task_of(source=None, row=row_of(recipe=None))
    reject = checked(noted, image=FileNotFoundError("gone"))
    assert (reject.stage, reject.error, reject.row) == ("read", "FileNotFoundError", noted.row)
    reject = checked(KNOWN, EDITS["RGB"], FileNotFoundError("gone"))
    assert (reject.stage, reject.row.recipe) == ("read", None)
    assert (reject.row.written, reject.row.hash) == (NEW_MASK, hash_of(PHOTO))
    with pytest.raises(JobError):
        checked(noted, image=Unavailable("/in/a.jpg: the store does not answer"))


def test_products_from_before_an_edit_are_outdated_until_a_row_records_it():
    overlaid = KNOWN._replace(products=frozenset({"overlays"}))
    row = checked(overlaid, EDITS["RGB"], PHOTO)
    assert outdated_products(overlaid, row) == {"overlays"}
    assert outdated_products(overlaid._replace(earlier=()), row) == {"overlays"}
    for noted in ({"row": row}, {"earlier": (BEFORE, row)}):
        assert outdated_products(overlaid._replace(**noted), row) == frozenset()


def test_products_of_a_mask_that_a_run_made_are_not_outdated():
    overlaid = KNOWN._replace(products=frozenset({"overlays"}))
    assert outdated_products(overlaid, checked(overlaid, mask_bytes(), PHOTO)) == frozenset()
    assert outdated_products(overlaid, None) == frozenset()


def test_products_of_an_edited_mask_whose_image_has_changed_are_outdated():
    overlaid = KNOWN._replace(products=frozenset({"overlays"}))
    reject = checked(overlaid, EDITS["RGB"], OTHER_PHOTO)
    assert outdated_products(overlaid, reject.row) == {"overlays"}


@st.composite
def painted(draw):
    """A class map of any size and labels, void among them."""
    size = draw(st.integers(1, 9)), draw(st.integers(1, 9))
    ids = st.sampled_from([0, 1, 8, 15, 20, 255])
    pixels = draw(st.lists(ids, min_size=size[0] * size[1], max_size=size[0] * size[1]))
    return np.array(pixels, np.uint8).reshape(size)


@given(painted(), st.sampled_from(["P", "RGB", "RGBA", "L"]))
def test_an_edited_mask_has_the_pixels_that_it_has_now_however_it_was_saved(ids, mode):
    before = BEFORE._replace(height=ids.shape[0], width=ids.shape[1])
    row = checked(ROWLESS._replace(earlier=(before,)), saved(ids, mode), PHOTO)
    assert (row.height, row.width, row.recipe) == (*ids.shape, None)
    counts = {name: int((ids == index).sum()) for index, name in enumerate(VOC.names)}
    assert row.pixels == {name: count for name, count in counts.items() if count}


def test_pixels_that_were_moved_by_hand_are_an_edit_though_their_counts_are_equal():
    ids = np.array([[0] * 6] * 2 + [[15] * 6] * 2, np.uint8)
    origin = Origin("a.jpg", hash_of(PHOTO), RECIPE, histogram(ids, VOC))
    mask = encode_mask(ids, VOC, origin)
    assert checked(ROWLESS, mask, PHOTO).recipe == RECIPE
    assert checked(ROWLESS, edited(mask, ids[::-1].copy()), PHOTO).recipe is None


def test_an_edited_mask_without_a_text_is_of_an_image_that_rows_of_its_size_name():
    rows = (BEFORE, BEFORE._replace(hash="ab12"), BEFORE._replace(hash="cd34", width=7))
    known = ROWLESS._replace(earlier=rows)
    assert checked(known, EDITS["RGB"], PHOTO).hash == hash_of(PHOTO)
    assert checked(known, EDITS["RGB"], OTHER_PHOTO).error == "EditedMask"
    of_other = (*rows, BEFORE._replace(hash=hash_of(OTHER_PHOTO), width=7))
    known = ROWLESS._replace(earlier=of_other)
    assert checked(known, EDITS["RGB"], OTHER_PHOTO).error == "EditedMask"


@pytest.mark.parametrize("keep", [0, 5, 8, 40, -20, -1])
@pytest.mark.parametrize("options", [OPTIONS, DISCARD, VERIFY])
def test_a_damaged_mask_is_done_again(keep, options):
    whole = mask_bytes()
    assert checked(ROWLESS, whole[:keep], PHOTO, options) == ROWLESS


def foreign(mode="RGB"):
    """The pixels of nobody's labels."""
    buffer = io.BytesIO()
    Image.new(mode, (6, 4), 77 if mode == "L" else (1, 2, 3)).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("data", "options", "why"),
    [
        (foreign(), OPTIONS, "has 24 pixels of a colour that is no label's"),
        (foreign("L"), OPTIONS, "has class id 77, but the 21 labels have the ids 0 to 20"),
        (saved(class_map(15)), FEW, "was edited with the labels of another model, such as person"),
        (saved(class_map(15), "L", "JPEG"), OPTIONS, "is actually JPEG, but a mask must be"),
        (saved(class_map(15))[:-30], OPTIONS, "cannot be read as a mask"),
        (b"notes on a.jpg", OPTIONS, "cannot be read as a mask: not an image in a known format"),
        (saved(class_map(15, (6, 4))), OPTIONS, "is 4×6, but must be 6×4"),
    ],
)
def test_the_work_of_a_person_that_is_no_mask_is_left_alone_by_any_option(data, options, why):
    for task in (KNOWN, ROWLESS):
        for more in ({}, {"discard_edits": True}, {"verify": True}):
            reject = checked(task, data, PHOTO, replace(options, **more))
            assert isinstance(reject, Reject)
            assert (reject.image, reject.stage) == ("/in/a.jpg", "write")
            assert reject.error == "ForeignMask"
            reason = why if task is KNOWN else "was not made by fcn-beam"
            assert reject.detail.startswith(f"/nowhere/masks/a.png: {reason}")
            remedy = "not overwritten: move it away, or choose another --output"
            assert reject.detail.endswith(remedy)
            # What was there before is known to the next run, once the file has been mended.
            assert reject.row == (BEFORE if task is KNOWN else None)
            discard = replace(options, discard_edits=True)
            assert count_edits([task], discard, written(data)) == 0


@pytest.mark.parametrize("mask", EDITS.values(), ids=EDITS.keys())
def test_a_mask_where_no_run_has_made_one_is_left_alone_by_any_option(mask):
    if mask is EDITS["with the text"]:
        return
    for options in (OPTIONS, DISCARD, VERIFY):
        reject = checked(ROWLESS, mask, PHOTO, options)
        assert reject.detail.startswith("/nowhere/masks/a.png: was not made by fcn-beam; not over")
        assert (reject.error, reject.row) == ("ForeignMask", None)


def test_verifying_compares_a_masks_bytes_with_its_row():
    ours = task_of(row=row_of(mask_hash=OURS))
    assert checked(ours, mask_bytes(), options=VERIFY) == ours.row
    assert checked(ours, mask_bytes(7, image="b.jpg"), options=VERIFY) == ours
    assert checked(ours, mask_bytes()[:50], options=VERIFY) == ours
    assert checked(ours, FileNotFoundError("gone"), options=VERIFY) == ours


def test_verifying_finds_a_bit_that_was_turned_over():
    mask = bytearray(mask_bytes())
    mask[-20] ^= 1
    ours = task_of(row=row_of(mask_hash=OURS))
    assert checked(ours, bytes(mask), options=VERIFY) == ours


def test_verifying_finds_an_edit_that_no_stamp_tells():
    ours = task_of(row=row_of(mask_hash=OURS))
    row = checked(ours, EDITS["RGB"], options=VERIFY)
    assert row == row_of(recipe=None, pixels={"cat": 24}, mask_hash=hash_of(EDITS["RGB"]))


def test_verifying_keeps_an_edited_mask_and_counts_it_anew():
    noted = row_of(recipe=None, pixels={"cat": 24}, mask_hash=hash_of(saved(class_map(8))))
    by_hand = task_of(row=noted)
    assert checked(by_hand, saved(class_map(8)), options=VERIFY) == noted
    again = checked(by_hand, saved(class_map(9)), options=VERIFY)
    assert (again.recipe, again.pixels, again.hash) == (None, {"chair": 24}, hash_of(PHOTO))
    cut = checked(by_hand, saved(class_map(8))[:-30], options=VERIFY)
    assert (cut.error, cut.row) == ("ForeignMask", noted)


def test_a_mask_that_is_gone_by_now_is_done_again():
    assert checked(ROWLESS, FileNotFoundError("gone"), PHOTO) == ROWLESS


@pytest.mark.parametrize(
    "error",
    [
        PermissionError(errno.EACCES, "Permission denied", "/nowhere/masks/a.png"),
        OSError(errno.EIO, "Input/output error", "/nowhere/masks/a.png"),
        Unavailable("/nowhere/masks/a.png: the store does not answer"),
    ],
)
@pytest.mark.parametrize("options", [OPTIONS, DISCARD, VERIFY])
def test_a_mask_that_cannot_be_read_just_now_is_not_thereby_undone(error, options):
    with pytest.raises(JobError, match=r"^/nowhere/masks/a\.png: .*; \w+"):
        checked(ROWLESS, error, PHOTO, options)


# On disks and in stores


@pytest.fixture(params=["disk", "store"])
def out(request, tmp_path, memory):
    path = f"{tmp_path}/o[u]t*" if request.param == "disk" else "memory://bucket/o[u]t*"
    return OutputFolder(path, FILES)


@pytest.fixture
def standing(out, tmp_path):
    """A task whose photo and mask stand, with the row of a run that has made it."""
    where = out.path.replace("o[u]t*", "in")

    def make(name, class_id=15, mask=None, rowless=False):
        path = f"{where}/{name}.jpg"
        photo_bytes = photo("red") + name.encode()
        source = FILES.write(path, photo_bytes)
        pixels = histogram(class_map(class_id), VOC)
        origin = Origin(f"{name}.jpg", hash_of(photo_bytes), RECIPE, pixels)
        data = encode_mask(class_map(class_id), VOC, origin) if mask is None else mask
        written = out.write(MASKS.file(f"{name}.png"), data)
        stamp = Stamp(source.size, source.version)
        row = Row(
            path,
            MASKS.file(f"{name}.png"),
            *(6, 4),
            pixels,
            source=stamp,
            hash=hash_of(photo_bytes),
            written=written,
            mask_hash=hash_of(data),
            recipe=RECIPE,
        )
        image = ImageRef(path, f"{name}.jpg", stamp)
        return Task(image, f"{name}.png", written, None if rowless else row), row

    return make


@dataclass(frozen=True)
class Noting(Files):
    """Notes what is read."""

    noted: list = None

    def read(self, path, limit=-1):
        self.noted.append(path.rpartition("/")[2])
        return super().read(path, limit)


def read_by(tasks, out, options=OPTIONS):
    """What tasks come to, and the names of the files that were read for it."""
    noted = []
    found = list(keep_masks(tasks, options, replace(out, files=Noting(noted=noted))))
    return found, sorted(noted)


def test_what_rows_prove_is_kept_without_reading_anything(out, standing):
    tasks, rows = zip(*(standing(name) for name in ("a", "x/b", "[c]*")), strict=True)
    assert read_by(tasks, out) == (list(rows), [])


def test_only_what_is_in_doubt_is_read(out, standing):
    rowless, its_row = standing("rowless", rowless=True)
    sure, sure_row = standing("sure")
    touched, touched_row = standing("touched")
    touched = touched._replace(
        image=touched.image._replace(stamp=Stamp(touched.image.stamp.size, "later")),
    )
    missing = Task(ImageRef("/in/missing.jpg", "missing.jpg", SOURCE), "missing.png")
    found, read = read_by([rowless, sure, missing, touched], out)
    renewed = touched_row._replace(source=touched.image.stamp)
    assert found == [its_row, sure_row, missing, renewed]
    assert read == ["rowless.jpg", "rowless.png", "touched.jpg"]


def test_verifying_reads_masks_and_no_photo_that_is_as_it_was(out, standing):
    tasks, rows = zip(*(standing(name) for name in "ab"), strict=True)
    assert read_by(tasks, out, VERIFY) == (list(rows), ["a.png", "b.png"])


def test_verifying_finds_damage_that_no_stamp_tells(out, standing):
    good, row = standing("good")
    task, _ = standing("bad", class_id=15)
    written = out.write("masks/bad.png", mask_bytes(7))  # of another image
    bad = task._replace(mask=written, row=task.row._replace(written=written))
    assert list(keep_masks([bad, good], OPTIONS, out)) == [bad.row, row]
    assert list(keep_masks([bad, good], VERIFY, out)) == [bad, row]


def test_what_is_in_doubt_comes_in_the_order_of_the_tasks(out, standing):
    cut, _ = standing("cut", mask=mask_bytes()[:60], rowless=True)
    strange, _ = standing("strange", mask=foreign(), rowless=True)
    by_hand, its_row = standing("edited", mask=saved(class_map(8), "L"), rowless=True)
    by_hand = by_hand._replace(earlier=(its_row._replace(written=MASK),))
    ours, row = standing("ours", rowless=True)
    gone, _ = standing("gone", rowless=True)
    out.delete("masks/gone.png")
    found = list(keep_masks([cut, ours, strange, gone, by_hand], OPTIONS, out))
    assert found[0] == cut
    assert found[1] == row
    assert (found[2].image, found[2].error) == (strange.image.path, "ForeignMask")
    assert found[3] == gone
    assert (found[4].image, found[4].recipe, found[4].pixels) == (
        by_hand.image.path,
        None,
        {"cat": 24},
    )


def test_a_mask_of_no_permission_ends_the_job(tmp_path, standing, out):
    task, _ = standing("a", rowless=True)

    @dataclass(frozen=True)
    class Refusing(Files):
        def read(self, path, limit=-1):
            if path.endswith(".png"):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
            return super().read(path, limit)

    with pytest.raises(JobError, match=r"a\.png: Permission denied; check the permissions"):
        list(keep_masks([task], OPTIONS, replace(out, files=Refusing())))


# All of it together: whatever happens to a photo, its mask and its rows between runs

PHOTOS = (photo("red"), photo("blue"))
RUNS = {
    "run": OPTIONS,
    "discard edits": DISCARD,
    "verify": VERIFY,
    "run with the other recipe": replace(OPTIONS, recipe=OTHER_RECIPE),
}
BY_HAND = {
    "edit as palette": EDITS["palette"],
    "edit as RGB": EDITS["RGB"],
    "edit as grey": EDITS["grey ids"],
    "edit but not its text": EDITS["with the text"],
    "foreign mask": foreign(),
    "notes": b"notes on a.jpg",
}
EVENTS = (
    *("photo 0", "photo 1", "touch photo", "touch mask", "lose rows", "remove mask"),
    *("cut mask", "rot", "kill the next run at its end"),
    *BY_HAND,
    *RUNS,
)


def made(photo, recipe):
    """The mask that a run makes of a photo, and its pixels."""
    class_id = 1 + PHOTOS.index(photo) + 2 * (recipe == RECIPE)
    pixels = histogram(class_map(class_id), VOC)
    origin = Origin("a.jpg", hash_of(photo), recipe, pixels)
    return encode_mask(class_map(class_id), VOC, origin), pixels


class World:
    """A photo and its mask in a store that gives each writing a version of its own."""

    def __init__(self):
        self.out = OutputFolder("memory://world/out", FILES)
        self.clock = itertools.count()
        self.rows = []
        self.killed = False
        self.rotten = False  # bytes have changed, and the store's version has not
        self.by_hand = False  # a person's work is in the mask's place
        self.mask = self.written = None
        self.set_photo(PHOTOS[0])
        self.run(OPTIONS)

    def stamp(self, data):
        return Stamp(len(data), str(next(self.clock)))

    def set_photo(self, data):
        self.photo, self.source = data, self.stamp(data)
        FILES.write("memory://world/in/a.jpg", data)

    def set_mask(self, data, by_hand=False):
        FILES.write("memory://world/out/masks/a.png", data)
        self.mask, self.written, self.rotten = data, self.stamp(data), False
        self.by_hand = by_hand

    def happen(self, event):
        has_mask = self.mask is not None
        if event.startswith("photo"):
            self.set_photo(PHOTOS[int(event[-1])])
        elif event == "touch photo":
            self.set_photo(self.photo)
        elif event == "lose rows":
            self.rows = []
        elif event in RUNS:
            self.run(RUNS[event])
        elif event in BY_HAND:
            self.set_mask(BY_HAND[event], by_hand=True)
        elif event == "kill the next run at its end":
            self.killed = True
        elif event == "touch mask" and has_mask:
            self.set_mask(self.mask, self.by_hand)
        elif event == "cut mask" and has_mask:
            cut = self.mask[: 9 * len(self.mask) // 10]
            self.set_mask(cut, self.is_by_hand(cut))
        elif event == "rot" and self.mask:
            at = len(self.mask) // 2
            changed = (self.mask[at] + 1) % 256  # another time does not bring it back
            self.mask = self.mask[:at] + bytes([changed]) + self.mask[at + 1 :]
            self.by_hand, self.rotten = self.is_by_hand(self.mask), True
            FILES.write("memory://world/out/masks/a.png", self.mask)
        elif event == "remove mask":
            FILES.delete("memory://world/out/masks/a.png")
            self.mask = self.written = None
            self.by_hand = self.rotten = False

    def is_by_hand(self, damaged):
        """Whether a damaged file is the work of a person still, of which anything is left."""
        return self.by_hand and not find_traces(damaged).ruined

    def look(self, options):
        """The task, and what it comes to."""
        image = ImageRef("memory://world/in/a.jpg", "a.jpg", self.source)
        found = {
            "images": [image],
            "products": [ProductFile("masks", "a.png", self.written)] if self.written else [],
            "rows": self.rows,
        }
        (task,) = plan_group(found, self.out)
        (found,) = keep_masks([task], options, self.out)
        return task, found

    def run(self, options):
        """What a run does about it; rows of a finished one take the place of earlier ones."""
        task, found = self.look(options)
        if isinstance(found, Task):
            data, pixels = made(self.photo, options.recipe)
            self.set_mask(data)
            found = Row(
                *(task.image.path, "masks/a.png", 6, 4, pixels),
                source=self.source,
                hash=hash_of(self.photo),
                written=self.written,
                mask_hash=hash_of(data),
                recipe=options.recipe,
            )
        row = found if isinstance(found, Row) else found.row
        earlier = self.rows if self.killed else []
        self.rows = [*([row] if row else []), *earlier]
        self.killed = False


def after(events):
    world = World()
    for event in events:
        world.happen(event)
    return world


events = st.lists(st.sampled_from(EVENTS), max_size=8)


@given(events, st.sampled_from([*RUNS.values()]))
def test_a_mask_that_holds_is_never_redone_and_no_other_is_kept_silently(events, options):
    world = after(events)
    expected = made(world.photo, options.recipe)[0]
    task, found = world.look(options)
    blind = world.rotten and not options.verify  # what no stamp tells is found by --verify alone
    if world.by_hand:
        if isinstance(found, Task):
            assert options.discard_edits
            assert count_edits([task], options, world.out) == 1
        elif isinstance(found, Reject):
            assert found.error in ("ForeignMask", "EditedMask")
        elif not blind:
            assert (found.recipe, found.hash) == (None, hash_of(world.photo))
            assert found.pixels == {"cat": 24}
            assert (found.source, found.written) == (world.source, world.written)
    elif isinstance(found, Task):
        assert found._replace(row=None) == task._replace(row=None)
        assert world.mask != expected
    elif not blind:
        assert isinstance(found, Row)
        assert world.mask == expected
        assert (found.source, found.written) == (world.source, world.written)
        assert (found.recipe, found.hash) == (options.recipe, hash_of(world.photo))


@given(events, st.sampled_from([*RUNS]), st.sampled_from([*BY_HAND]))
def test_only_discarding_edits_replaces_the_work_of_a_person(events, run, by_hand):
    world = after(events)
    world.happen(by_hand)
    data = world.mask
    edits = count_edits([world.look(OPTIONS)[0]], DISCARD, world.out)
    world.happen(run)
    assert (world.mask == data) == (run != "discard edits" or edits == 0)
    if by_hand in ("foreign mask", "notes"):
        assert edits == 0


@given(events, st.booleans())
def test_an_edit_is_known_for_one_for_as_long_as_its_row_is_not_lost(events, finished):
    world = after([*events, "remove mask", "run", "edit as RGB"])
    for event in ("photo 0", "run", "photo 1", *["verify"] * finished, "touch mask", "run"):
        world.happen(event)
    assert world.mask == EDITS["RGB"]
    assert count_edits([world.look(DISCARD)[0]], DISCARD, world.out) == 1
    world.happen("discard edits")
    assert world.mask == made(world.photo, RECIPE)[0]


@given(events, st.sampled_from([OPTIONS, DISCARD]))
def test_what_a_run_has_decided_the_next_one_finds_without_reading(events, options):
    world = after(events)
    world.run(options)
    task, first = world.look(options)
    if isinstance(first, Reject):
        return
    assert state_of(task, options) is State.DONE
    assert first == task.row
