"""Products: planned, written, added to existing masks without the network, deleted with them."""

import errno
import io
from dataclasses import dataclass, replace

import numpy as np
import pytest
from PIL import Image

from model_build.common.errors import JobError
from model_build.data.labels import VOC
from pipeline.images.decode import MAX_PIXELS, DecodeOptions
from pipeline.images.sizes import enlarge
from pipeline.outputs import products
from pipeline.outputs.folder import OutputFolder
from pipeline.outputs.products import MASKS, OVERLAYS, Product
from pipeline.records import ImageRef, Reject, Row, Stamp, Task, hash_of
from pipeline.segmentation import dry_run, plan
from pipeline.segmentation.additions import add_products
from pipeline.segmentation.up_to_date import missing_products
from pipeline.segmentation.windows import WriteOptions, encode, read_windows, write_all
from pipeline.storage import Files
from tests.pipeline.segmentation.reliability import StubSegmenter, contents, pictures, rows

FILES = Files()
DECODE = DecodeOptions(16, MAX_PIXELS)


def sizes(pixels, class_map, size):
    shown, true = pixels.shape[:2], enlarge(class_map, size).shape
    return f"{shown} of {true}".encode()


SIZES = Product("sizes", ".txt", ("pixels", "class_map", "size"), sizes)
SUMS = Product("sums", ".txt", ("class_map", "size"), lambda **m: b"%d" % enlarge(**m).sum())


# A new product, from the plan to its end


@pytest.fixture
def job(monkeypatch, stub_job, tmp_path):
    """Runs a job that writes :data:`SIZES` and :data:`SUMS`, or shows what it would do."""
    monkeypatch.setattr(products, "PRODUCTS", (*products.PRODUCTS, SIZES, SUMS))
    monkeypatch.setattr(plan, "chosen", lambda options: (SIZES, SUMS))
    pictures(tmp_path / "in", 3)

    def shown(**options):
        lines = []
        request = plan.Request([f"{tmp_path}/in"], f"{tmp_path}/out", **options)
        dry_run.dry_run(plan.plan(request), lines.append)
        return lines

    def run(**options):
        return stub_job(tmp_path / "in", tmp_path / "out", **options)

    run.shown = shown
    return run


def without_network(monkeypatch):
    def fail(*arguments):
        raise AssertionError("the network was run")

    monkeypatch.setattr(StubSegmenter, "__call__", fail)


def test_a_new_product_is_planned_written_added_counted_and_deleted(
    job, stub_model, tmp_path, monkeypatch
):
    out, model = str(tmp_path / "out"), stub_model()
    assert job.shown(model=model)[-1].startswith("3 images: 3 to do, 0 to check, 0 up to date; ")
    first = job()
    made = contents(out)
    assert made["sizes/1/1.txt"] == b"(24, 25) of (24, 25)"
    assert (first.kept, first.added) == (0, {})

    without_network(monkeypatch)
    FILES.delete(f"{out}/sizes/1/1.txt")
    FILES.delete(f"{out}/sums/2/2.txt")
    lines = [line.rpartition("/out/")[2] for line in job.shown(model=model)]
    assert lines[1].endswith("/1/1.png -> masks/1/1.png: up to date, sizes to add")
    assert "3 up to date, 1 sizes to add, 1 sums to add; " in lines[-1]
    again = job()
    assert (again.kept, again.added) == (3, {"sizes": 1, "sums": 1})
    after = contents(out)
    for name in ("sizes/1/1.txt", "sums/2/2.txt", "masks/1/1.png"):
        assert after[name] == made[name]

    (tmp_path / "in/1/1.png").write_text("no photo any more")
    assert job().rejected == 1
    assert not {"masks/1/1.png", "sizes/1/1.txt", "sums/1/1.txt"} & contents(out).keys()
    assert job().added == {}


def test_overlays_are_added_byte_for_byte_without_the_network(stub_job, tmp_path, monkeypatch):
    pictures(tmp_path / "in", 4, side=200)  # more than the network sees
    stub_job(tmp_path / "in", tmp_path / "whole", overlays=True)
    stub_job(tmp_path / "in", tmp_path / "out")
    before, lines = contents(str(tmp_path / "out")), rows(str(tmp_path / "out"))
    without_network(monkeypatch)
    summary = stub_job(tmp_path / "in", tmp_path / "out", overlays=True)
    assert (summary.kept, summary.added) == (4, {"overlays": 4})
    whole, after = (contents(str(tmp_path / name)) for name in ("whole", "out"))
    assert {name for name in after if name.startswith("overlays/")} == {
        f"overlays/{index}/{index}.jpg" for index in range(4)
    }
    for name, data in after.items():
        if name.startswith("overlays/"):
            assert data == whole[name]
        elif name.startswith("masks/"):
            assert data == before[name]
    assert rows(str(tmp_path / "out")) == lines


@pytest.mark.slow
def test_an_edited_mask_gets_its_own_overlay(stub_job, tmp_path, monkeypatch):
    pictures(tmp_path / "in", 2)
    out = str(tmp_path / "out")
    stub_job(tmp_path / "in", out, overlays=True)
    made = contents(out)
    with Image.open(io.BytesIO(made["masks/0/0.png"])) as mask:
        edit = Image.fromarray(0 * np.array(mask) + 8)
    edit.putpalette(VOC.palette)
    edit.convert("RGB").save(tmp_path / "out/masks/0/0.png")
    edited = contents(out)["masks/0/0.png"]
    without_network(monkeypatch)
    # A run without overlays leaves none that shows the mask before the edit.
    summary = stub_job(tmp_path / "in", out)
    assert (summary.kept, summary.edited, summary.added) == (2, 1, {})
    assert "overlays/0/0.jpg" not in contents(out)
    summary = stub_job(tmp_path / "in", out, overlays=True)
    assert (summary.kept, summary.edited, summary.added) == (2, 1, {"overlays": 1})
    after = contents(out)
    assert after["overlays/0/0.jpg"] != made["overlays/0/0.jpg"]
    assert after["overlays/1/1.jpg"] == made["overlays/1/1.jpg"]
    assert after["masks/0/0.png"] == edited
    assert stub_job(tmp_path / "in", out, overlays=True).added == {}


# What is added to a few masks


@pytest.fixture(params=["disk", "store"])
def out(request, tmp_path, memory):
    where = str(tmp_path / "out") if request.param == "disk" else "memory://bucket/out"
    FILES.make_folder(where)
    return OutputFolder(where, FILES, (OVERLAYS,), run="r1")


@pytest.fixture
def done(out):
    """A task whose photo is segmented by its colours, with its mask in OUT and its row."""

    def make(name="a", products=()):
        rng = np.random.default_rng(len(name))
        photo = io.BytesIO()
        pixels = rng.integers(0, 256, (20, 30, 3), np.uint8)
        Image.fromarray(pixels).save(photo, "PNG")
        path = f"{out.path.removesuffix('out')}in/{name}.png"
        file = FILES.write(path, photo.getvalue())
        image = ImageRef(path, f"{name}.png", Stamp(file.size, file.version))
        made = replace(out, products=products)
        (window,) = read_windows([Task(image, f"{name}.png")], DECODE, FILES)
        class_map = window.photos[0].pixels[..., 0] // 32
        one = encode(*window.tasks, *window.photos, class_map, WriteOptions(VOC, "r", made))
        (row,) = write_all([one], made)
        return window.tasks[0]._replace(mask=row.written, row=row)

    return make


def add(tasks, out):
    return [outcome for _, outcome in add_products(tasks, DECODE, WriteOptions(VOC, "r", out))]


def test_a_product_added_later_is_the_one_made_with_the_mask(out, done):
    task = done(products=(OVERLAYS,))
    whole = FILES.read(f"{out.path}/overlays/a.jpg")
    FILES.delete(f"{out.path}/overlays/a.jpg")
    assert add([task], out) == [task.row]
    assert FILES.read(f"{out.path}/overlays/a.jpg") == whole
    with Image.open(io.BytesIO(whole)) as overlay:
        assert overlay.size == (16, 11)  # as the network saw it, though the mask is 30×20


def test_only_missing_products_are_made(out, done):
    out = replace(out, products=(OVERLAYS, SUMS))
    task = done()._replace(products=frozenset({"overlays"}))
    assert missing_products(task, out) == [SUMS]
    assert add([task], out) == [task.row]
    assert sorted(contents(out.path)) == ["masks/a.png", "sums/a.txt"]


def test_a_photo_is_read_only_where_a_product_needs_it(out, done):
    task = done()
    FILES.delete(task.image.path)
    assert add([task], replace(out, products=(SUMS,))) == [task.row]
    (reject,) = add([task], out)
    assert (reject.stage, reject.row) == ("read", task.row)


def left_alone(task, out, reject):
    """Whether a task is rejected, and its mask and the next run's knowledge of it are kept."""
    data = FILES.read(f"{out.path}/masks/{task.mask_name}")
    return isinstance(reject, Reject) and reject.row == task.row and hash_of(data)


def test_a_photo_that_cannot_be_decoded_leaves_the_mask_alone(out, done):
    good, bad = done("good"), done("bad")
    FILES.write(bad.image.path, b"no photo")
    found = add([good, bad], out)
    rejects = {one.image: one for one in found if isinstance(one, Reject)}
    assert [one.mask for one in found if isinstance(one, Row)] == ["masks/good.png"]
    reject = rejects[bad.image.path]
    assert reject.stage == "decode"
    assert left_alone(bad, out, reject) == bad.row.mask_hash


def test_a_mask_that_is_not_as_its_row_says_gets_no_products(out, done):
    task = done()
    out.write("masks/a.png", b"changed behind its stamp")
    (reject,) = add([task], out)
    assert (reject.stage, reject.error) == ("write", "ChangedFile")
    assert reject.detail == (
        f"{out.path}/masks/a.png: is not as its row says (--verify checks it), so its overlays "
        "cannot be made"
    )
    assert left_alone(task, out, reject) == hash_of(b"changed behind its stamp")
    assert "overlays/a.jpg" not in contents(out.path)


def test_a_mask_edited_with_the_labels_of_another_model_gets_no_products(out, done):
    task = done()
    task = task._replace(row=task.row._replace(pixels={"sky": 600}, recipe=None))
    (reject,) = add([task], out)
    assert (reject.stage, reject.error, reject.row) == ("write", "ForeignMask", task.row)
    assert reject.detail == (
        f"{out.path}/masks/a.png: was edited with the labels of another model, such as sky, so its "
        "overlays cannot be made"
    )


def test_a_product_that_does_not_fit_into_memory_leaves_the_mask_alone(out, done):
    def run_out(**needs):
        raise MemoryError("cannot allocate")

    task = done()
    (reject,) = add([task], replace(out, products=(replace(OVERLAYS, encode=run_out),)))
    assert (reject.stage, reject.error) == ("write", "MemoryError")
    assert left_alone(task, out, reject) == task.row.mask_hash


def test_a_product_whose_name_cannot_be_written_leaves_the_mask_alone(out, done):
    @dataclass(frozen=True)
    class Refusing(Files):
        def write(self, path, data, **options):
            raise OSError(errno.ENAMETOOLONG, "File name too long", path)

    task = done()
    (reject,) = add([task], replace(out, files=Refusing()))
    assert (reject.stage, reject.error) == ("write", "OSError")
    assert left_alone(task, out, reject) == task.row.mask_hash


def test_a_mask_that_cannot_be_read_now_ends_the_job(out, done):
    task = done()
    FILES.delete(f"{out.path}/{MASKS.file('a.png')}")
    with pytest.raises(JobError, match="; restore it"):
        add([task], out)


def test_a_photo_that_is_not_the_masks_own_gets_no_products(out, done):
    task = done()
    task = task._replace(row=task.row._replace(hash="of another photo"))
    (reject,) = add([task], out)
    assert (reject.stage, reject.error) == ("write", "ChangedFile")
    assert "belongs to an earlier version of the image" in reject.detail
    assert left_alone(task, out, reject) == task.row.mask_hash


def test_a_photo_that_a_format_cannot_hold_leaves_the_mask_alone(out, done):
    def refuse(**needs):
        raise OSError("broken data stream when writing image file")

    task = done()
    (reject,) = add([task], replace(out, products=(replace(OVERLAYS, encode=refuse),)))
    assert (reject.stage, reject.error) == ("write", "OSError")
    assert left_alone(task, out, reject) == task.row.mask_hash
