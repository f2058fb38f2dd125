"""Does a mask that stands still hold? Every branch, and a model of all of them together."""

import errno
import io
import os
from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import ExifTags, Image, PngImagePlugin

from model_build.data.labels import VOC
from model_build.errors import JobError
from pipeline.images.masks import Origin, encode_mask, histogram
from pipeline.jobs.standing import (
    KeepOptions,
    State,
    check,
    is_same,
    keep_masks,
    matching,
    state,
)
from pipeline.jobs.tasks import plan_group
from pipeline.outputs.folder import OutputFolder, mask_file
from pipeline.records import ImageRef, MaskRef, Reject, Row, Stamp, Task, hash_of
from pipeline.storage import Files
from pipeline.storage.faults import Unavailable

FILES = Files()
RECIPE, OTHER_RECIPE = "r" * 32, "o" * 32
OPTIONS = KeepOptions(RECIPE, VOC)
OVERWRITE = replace(OPTIONS, overwrite=True)
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


def task_of(*, source=SOURCE, mask=MASK, row=None, overlaid=False):
    return Task(ImageRef("/in/a.jpg", "a.jpg", source), "a.png", mask, row, overlaid)


# What rows and listings tell


@pytest.mark.parametrize(
    ("task", "expected"),
    [
        (task_of(mask=None), State.TO_DO),
        (task_of(mask=None, row=row_of()), State.TO_DO),
        (task_of(source=None), State.TO_DO),
        (task_of(source=None, row=row_of()), State.TO_DO),
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
    assert state(task, OPTIONS, overlays=False) is expected


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
def test_overwriting_does_again_what_lacks_the_recipe_and_nothing_else(row, expected):
    assert state(task_of(row=row), OVERWRITE, overlays=False) is expected


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        (row_of(), State.CHECK),
        (row_of(recipe=None), State.CHECK),
        (row_of(recipe=OTHER_RECIPE), State.TO_DO),
    ],
)
def test_verifying_checks_whatever_would_be_done(row, expected):
    assert state(task_of(row=row), VERIFY, overlays=False) is expected


def test_a_mask_without_its_overlay_is_to_do_where_overlays_are_wanted():
    ours = task_of(row=row_of())
    assert state(ours, OPTIONS, overlays=True) is State.TO_DO
    assert state(ours._replace(overlaid=True), OPTIONS, overlays=True) is State.DONE
    assert state(ours, VERIFY, overlays=True) is State.TO_DO
    # One edited by hand has no overlay of ours to be made again: the edit would be lost.
    by_hand = task_of(row=row_of(recipe=None))
    assert state(by_hand, OPTIONS, overlays=True) is State.DONE


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
    assert matching([*others, ours], "/in/a.jpg", MASK, SOURCE) == ours
    assert matching(others, "/in/a.jpg", MASK, SOURCE) is None
    assert matching([], "/in/a.jpg", MASK, SOURCE) is None
    assert matching([ours], "/in/a.jpg", None, SOURCE) is None


@pytest.mark.parametrize("rows", [[0, 1], [1, 0]])
def test_of_several_rows_the_one_that_knows_the_source_is_taken(rows):
    known = [row_of(), row_of(source=Stamp(20, "source 0"))]
    assert matching([known[i] for i in rows], "/in/a.jpg", MASK, SOURCE) == known[0]


def test_rows_of_a_source_that_is_not_known_now_still_tell_of_the_mask():
    assert matching([row_of()], "/in/a.jpg", MASK, None) == row_of()


# What the files tell

NEW_SOURCE, NEW_MASK = Stamp(20, "source 2"), Stamp(99, "mask 2")


def class_map(class_id, size=(4, 6)):
    return np.full(size, class_id, np.uint8)


def mask_bytes(class_id=15, **changes):
    """A mask whose text tells that it is of ``a.jpg``, but for what changes."""
    pixels = histogram(class_map(class_id), VOC)
    origin = Origin("a.jpg", hash_of(PHOTO), RECIPE, pixels)._replace(**changes)
    return encode_mask(class_map(class_id), VOC, origin)


def without_text(class_id=15, size=(4, 6)):
    return encode_mask(class_map(class_id, size), VOC)


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


OVERLAYS = replace(NOWHERE, overlays=True)
ROWLESS = task_of(source=NEW_SOURCE, mask=NEW_MASK)
TOUCHED = task_of(source=NEW_SOURCE, row=row_of())
OURS = hash_of(mask_bytes())
KEPT = row_of(source=NEW_SOURCE, written=NEW_MASK, mask_hash=OURS)


def test_a_mask_without_a_row_proves_itself_by_its_text():
    assert checked(ROWLESS, mask_bytes(), PHOTO) == KEPT


def test_a_source_that_was_only_touched_has_its_row_renewed():
    assert checked(TOUCHED, image=PHOTO) == row_of(source=NEW_SOURCE)


def test_a_source_of_other_bytes_is_done_again():
    assert checked(TOUCHED, image=OTHER_PHOTO) == TOUCHED
    assert checked(ROWLESS, mask_bytes(), OTHER_PHOTO) == ROWLESS
    by_hand = task_of(source=NEW_SOURCE, row=row_of(recipe=None))
    assert checked(by_hand, image=OTHER_PHOTO) == by_hand


@pytest.mark.parametrize("task", [TOUCHED, ROWLESS], ids=["with a row", "without"])
def test_a_source_that_cannot_be_read_is_tried_again_with_the_images_that_are_to_do(task):
    assert checked(task, mask_bytes(), FileNotFoundError("gone")) == task


@pytest.mark.parametrize(
    "change",
    [{"image": "b.jpg"}, {"image": "x/a.jpg"}, {"recipe": OTHER_RECIPE}],
    ids=["another image", "an image elsewhere", "another recipe"],
)
@pytest.mark.parametrize("options", [OPTIONS, OVERWRITE, VERIFY])
def test_a_mask_whose_text_tells_of_something_else_is_done_again(change, options):
    assert checked(ROWLESS, mask_bytes(**change), PHOTO, options) == ROWLESS


@pytest.mark.parametrize(
    ("mask", "known"),
    [
        (without_text(), ""),
        (edited(mask_bytes(8), class_map(15)), hash_of(PHOTO)),
    ],
    ids=["no text", "other pixels than its text says"],
)
def test_a_mask_edited_by_hand_is_kept_until_it_is_overwritten(mask, known):
    kept = checked(ROWLESS, mask, PHOTO)
    assert kept == KEPT._replace(recipe=None, mask_hash=hash_of(mask))
    assert checked(ROWLESS, mask, PHOTO, replace(OPTIONS, verify=True)) == kept
    assert checked(ROWLESS, mask, PHOTO, OVERWRITE) == ROWLESS
    # Where its text tells which source it is of, another one has its mask made.
    other = checked(ROWLESS, mask, OTHER_PHOTO)
    assert other == (ROWLESS if known else kept._replace(hash=hash_of(OTHER_PHOTO)))


def test_an_edited_mask_is_kept_without_its_overlay_and_one_of_ours_is_not():
    assert checked(ROWLESS, without_text(), PHOTO, out=OVERLAYS).recipe is None
    assert checked(ROWLESS, mask_bytes(), PHOTO, out=OVERLAYS) == ROWLESS
    overlaid = ROWLESS._replace(overlaid=True)
    assert checked(overlaid, mask_bytes(), PHOTO, out=OVERLAYS) == KEPT


def test_an_edited_mask_has_the_pixels_that_it_has_now():
    ids = np.array([[8] * 6] + [[15] * 6] * 3, np.uint8)
    row = checked(ROWLESS, edited(mask_bytes(), ids), PHOTO)
    assert (row.width, row.height, row.pixels) == (6, 4, {"cat": 6, "person": 18})


def test_pixels_that_were_moved_by_hand_are_an_edit_though_their_counts_are_equal():
    ids = np.array([[0] * 6] * 2 + [[15] * 6] * 2, np.uint8)
    origin = Origin("a.jpg", hash_of(PHOTO), RECIPE, histogram(ids, VOC))
    mask = encode_mask(ids, VOC, origin)
    assert checked(ROWLESS, mask, PHOTO).recipe == RECIPE
    assert checked(ROWLESS, edited(mask, ids[::-1].copy()), PHOTO).recipe is None


def test_an_edited_mask_without_a_text_is_of_the_source_that_earlier_rows_name():
    known = ROWLESS._replace(hashes=frozenset([hash_of(PHOTO), "ab12"]))
    assert checked(known, without_text(), PHOTO).hash == hash_of(PHOTO)
    assert checked(known, without_text(), OTHER_PHOTO) == known


@pytest.mark.parametrize("turned", [False, True])
def test_an_edited_mask_of_another_size_than_its_image_is_left_alone(turned):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6  # a quarter turn
    buffer = io.BytesIO()
    Image.new("RGB", (6, 4)).save(buffer, "JPEG", **({"exif": exif} if turned else {}))
    fitting, other = ((6, 4), (4, 6)) if turned else ((4, 6), (6, 4))
    row = checked(ROWLESS, without_text(8, fitting), buffer.getvalue())
    assert (row.height, row.width) == fitting
    reject = checked(ROWLESS, without_text(8, other), buffer.getvalue())
    assert reject.error == "ForeignMask"
    assert f"is {other[1]}×{other[0]}, but its image is {fitting[1]}×{fitting[0]}" in (
        reject.detail
    )


def test_the_image_of_an_edited_mask_that_cannot_be_decoded_is_tried_with_those_that_are_to_do():
    assert checked(ROWLESS, without_text(), b"no photo") == ROWLESS


@pytest.mark.parametrize("keep", [0, 5, 8, 40, -20, -1])
@pytest.mark.parametrize("options", [OPTIONS, OVERWRITE, VERIFY])
def test_a_damaged_mask_is_done_again(keep, options):
    whole = mask_bytes()
    assert checked(ROWLESS, whole[:keep], PHOTO, options) == ROWLESS


def foreign(mode="RGB"):
    buffer = io.BytesIO()
    Image.new(mode, (6, 4)).save(buffer, "PNG")
    return buffer.getvalue()


TURNED = VOC.colors[-6:][::-1]
FEW = replace(OPTIONS, labels=replace(VOC, names=VOC.names[:3], colors=VOC.colors[:3]))


@pytest.mark.parametrize(
    ("data", "options"),
    [
        (foreign(), OPTIONS),
        (foreign("L"), OPTIONS),
        (foreign("1"), VERIFY),
        (mask_bytes(15), FEW),
        (b"notes on a.jpg", OPTIONS),
        (encode_mask(class_map(15), replace(VOC, colors=VOC.colors[:-6] + TURNED)), OPTIONS),
    ],
    ids=[
        *("of colours", "of grey levels", "of two levels", "of labels that this model has not"),
        *("no PNG", "of other colours"),
    ],
)
def test_a_whole_png_that_is_no_mask_is_left_alone_as_a_reject(data, options):
    reject = checked(ROWLESS, data, PHOTO, options)
    assert isinstance(reject, Reject)
    assert (reject.image, reject.stage, reject.error) == ("/in/a.jpg", "write", "ForeignMask")
    assert reject.detail.startswith("/nowhere/masks/a.png: ")
    assert "not overwritten: move it away, or add --overwrite" in reject.detail
    assert checked(ROWLESS, data, PHOTO, replace(options, overwrite=True)) == ROWLESS


def test_verifying_compares_a_masks_pixels_with_its_row():
    ours = task_of(row=row_of(mask_hash=OURS))
    assert checked(ours, mask_bytes(), options=VERIFY) == ours.row
    assert checked(ours, mask_bytes(7), options=VERIFY) == ours
    assert checked(ours, mask_bytes()[:50], options=VERIFY) == ours
    assert checked(ours, FileNotFoundError("gone"), options=VERIFY) == ours


def test_verifying_finds_pixels_that_have_moved():
    ids = np.array([[0] * 6] * 2 + [[15] * 6] * 2, np.uint8)
    mask, turned = encode_mask(ids, VOC), encode_mask(ids[::-1].copy(), VOC)
    task = task_of(row=row_of(pixels={"background": 12, "person": 12}, mask_hash=hash_of(mask)))
    assert checked(task, mask, options=VERIFY) == task.row
    assert checked(task, turned, options=VERIFY) == task


def test_verifying_keeps_an_edited_mask_that_is_as_it_was_noted():
    noted = row_of(recipe=None, pixels={"cat": 24}, mask_hash=hash_of(without_text(8)))
    by_hand = task_of(row=noted)
    assert checked(by_hand, without_text(8), options=VERIFY) == noted
    assert checked(by_hand, without_text(9), options=VERIFY) == by_hand


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
@pytest.mark.parametrize("options", [OPTIONS, OVERWRITE, VERIFY])
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
        written = out.write(mask_file(f"{name}.png"), data)
        stamp = Stamp(source.size, source.version)
        row = Row(
            path,
            mask_file(f"{name}.png"),
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
    written = out.write("masks/bad.png", encode_mask(class_map(7), VOC))
    bad = task._replace(mask=written, row=task.row._replace(written=written))
    assert list(keep_masks([bad, good], OPTIONS, out)) == [bad.row, row]
    assert list(keep_masks([bad, good], VERIFY, out)) == [bad, row]


def test_what_is_in_doubt_comes_in_the_order_of_the_tasks(out, standing):
    cut, _ = standing("cut", mask=mask_bytes()[:60], rowless=True)
    strange, _ = standing("strange", mask=foreign(), rowless=True)
    by_hand, _ = standing("edited", mask=without_text(8), rowless=True)
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
EVENTS = (
    *("photo 0", "photo 1", "touch photo", "touch mask", "lose rows", "remove mask"),
    *("cut mask", "foreign mask", "edit mask", "edit mask but not its text", "rot"),
    *("run", "overwrite", "verify", "run with the other recipe"),
)


def made(photo, recipe):
    """The mask that a run makes of a photo, and its class."""
    class_id = 1 + PHOTOS.index(photo) + 2 * (recipe == RECIPE)
    pixels = histogram(class_map(class_id), VOC)
    origin = Origin("a.jpg", hash_of(photo), recipe, pixels)
    return encode_mask(class_map(class_id), VOC, origin), pixels


class World:
    """A photo and its mask in a store that gives each writing a version of its own."""

    def __init__(self):
        self.out = OutputFolder("memory://world/out", FILES)
        self.clock = 0
        self.rows = []
        self.rotten = False  # bytes have changed, and the store's version has not
        self.mask = self.written = None
        self.set_photo(PHOTOS[0])
        self.run(OPTIONS)

    def stamp(self, data):
        self.clock += 1
        return Stamp(len(data), str(self.clock))

    def set_photo(self, data):
        self.photo, self.source = data, self.stamp(data)
        FILES.write("memory://world/in/a.jpg", data)

    def set_mask(self, data):
        FILES.write("memory://world/out/masks/a.png", data)
        self.mask, self.written, self.rotten = data, self.stamp(data), False

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
        elif event == "edit mask":
            self.set_mask(without_text(20))
        elif event == "edit mask but not its text":
            self.set_mask(edited(made(self.photo, RECIPE)[0], class_map(20)))
        elif event == "foreign mask":
            self.set_mask(foreign())
        elif event == "touch mask" and has_mask:
            self.set_mask(self.mask)
        elif event == "cut mask" and has_mask:
            self.set_mask(self.mask[: len(self.mask) // 2])
        elif event == "rot" and has_mask:
            self.mask, self.rotten = without_text(19), True
            FILES.write("memory://world/out/masks/a.png", self.mask)
        elif event == "remove mask":
            FILES.delete("memory://world/out/masks/a.png")
            self.mask = self.written = None

    def look(self, options):
        """The task, and what it comes to."""
        image = ImageRef("memory://world/in/a.jpg", "a.jpg", self.source)
        found = {
            "images": [image],
            "masks": [] if self.written is None else [MaskRef("a.png", self.written)],
            "rows": self.rows,
            "overlays": [],
        }
        (task,) = plan_group(found, self.out)
        (found,) = keep_masks([task], options, self.out)
        return task, found

    def run(self, options):
        """What a run does about it."""
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
        self.rows = [found, *self.rows] if isinstance(found, Row) else self.rows


RUNS = {
    "run": OPTIONS,
    "overwrite": OVERWRITE,
    "verify": VERIFY,
    "run with the other recipe": replace(OVERWRITE, recipe=OTHER_RECIPE),
}


@given(
    st.lists(st.sampled_from(EVENTS), max_size=8),
    st.sampled_from([OPTIONS, OVERWRITE, VERIFY]),
)
def test_a_mask_that_holds_is_never_redone_and_no_other_is_kept_silently(events, options):
    world = World()
    for event in events:
        world.happen(event)
    expected = made(world.photo, options.recipe)[0]
    task, found = world.look(options)
    blind = world.rotten and not options.verify  # what no stamp tells is found by --verify alone
    if isinstance(found, Task):
        assert found == task
        assert world.mask != expected
    elif isinstance(found, Reject):
        assert world.mask == foreign()
        assert not options.overwrite
    elif not blind:
        assert world.mask is not None
        if found.recipe is None:  # counted and told as edited
            assert not options.overwrite
            assert world.mask != expected
            assert (found.source, found.written) == (world.source, world.written)
        else:
            assert found.recipe == options.recipe
            assert world.mask == expected
            assert (found.source, found.written) == (world.source, world.written)
            assert found.hash == hash_of(world.photo)


@given(
    st.lists(st.sampled_from(EVENTS), max_size=8),
    st.sampled_from([OPTIONS, OVERWRITE]),
)
def test_what_a_run_has_decided_the_next_one_finds_without_reading(events, options):
    world = World()
    for event in events:
        world.happen(event)
    world.run(options)
    task, first = world.look(options)
    if isinstance(first, Reject):
        return
    assert state(task, options, overlays=False) is State.DONE
    assert first == task.row
