"""Whether an existing mask is up to date: every branch."""

import errno
import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model_build.common.errors import JobError
from model_build.data.labels import VOC
from pipeline.images.masks import Origin, encode_mask, histogram
from pipeline.outputs.journal import read_rows
from pipeline.records import Reject, Stamp, hash_of
from pipeline.segmentation.up_to_date import (
    State,
    count_edits,
    is_same,
    outdated_products,
    row_of_mask,
    state_of,
)
from pipeline.storage.faults import Unavailable
from tests.pipeline.segmentation.earlier_masks import (
    BEFORE,
    DISCARD,
    EDITS,
    KEPT,
    KNOWN,
    MASK,
    NEW_MASK,
    NEW_SOURCE,
    OPTIONS,
    OTHER_PHOTO,
    OTHER_RECIPE,
    OURS,
    PHOTO,
    RECIPE,
    ROWLESS,
    SOURCE,
    TOUCHED,
    VERIFY,
    checked,
    class_map,
    edited,
    foreign,
    mask_bytes,
    row_of,
    saved,
    task_of,
    written,
)

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
