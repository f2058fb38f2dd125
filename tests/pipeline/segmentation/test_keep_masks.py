"""Masks of earlier runs are checked on disks and in stores, and only what is in doubt is read."""

import errno
import os
from dataclasses import dataclass, replace

import pytest

from model_build.common.errors import JobError
from model_build.data.labels import VOC
from pipeline.images.masks import Origin, encode_mask, histogram
from pipeline.outputs.folder import OutputFolder
from pipeline.outputs.products import MASKS
from pipeline.records import ImageRef, Row, Stamp, Task, hash_of
from pipeline.segmentation.up_to_date import (
    keep_masks,
)
from pipeline.storage import Files
from tests.pipeline.segmentation.earlier_masks import (
    FILES,
    MASK,
    OPTIONS,
    RECIPE,
    SOURCE,
    VERIFY,
    class_map,
    foreign,
    mask_bytes,
    photo,
    saved,
)


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
    """Returns the outcomes of tasks, and the names of the files read for them."""
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
