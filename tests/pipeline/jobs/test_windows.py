"""Windows: read together, and written together."""

import io
import threading
from dataclasses import dataclass, field

import apache_beam as beam
import numpy as np
import pytest
from apache_beam.testing.util import assert_that
from PIL import Image

from model_build.data.labels import VOC
from pipeline.images.decode import DecodeOptions
from pipeline.images.masks import decode_mask
from pipeline.jobs import windows
from pipeline.jobs.windows import Windowed, read_windows, write_window
from pipeline.outputs.folder import OutputFolder
from pipeline.records import ImageRef, Photo, Reject, Row, Task, Window
from pipeline.storage import Files

OPTIONS = DecodeOptions(long_side=None, max_pixels=10_000)
AT_ONCE = 4


@dataclass(frozen=True)
class Together(Files):
    """Reads and writes that only end once several are under way."""

    barrier: threading.Barrier = field(
        default_factory=lambda: threading.Barrier(AT_ONCE, timeout=10)
    )

    def read(self, path, limit=-1):
        self.barrier.wait()
        return super().read(path, limit)

    def write(self, path, data, **options):
        self.barrier.wait()
        super().write(path, data, **options)


@pytest.fixture
def task(tmp_path):
    """A task whose image is made: of so many pixels, or of the bytes given."""

    def make(name, content=(20, 10)):
        path = tmp_path / "in" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, bytes):
            path.write_bytes(content)
        elif content is not None:
            Image.new("RGB", content, "red").save(path)
        return Task(ImageRef(str(path), path.name), f"{name}.png")

    return make


def read(tasks, files=None, options=OPTIONS):
    return list(read_windows(tasks, options, files or Files()))


# Reading


def test_a_window_holds_its_tasks_in_order_with_rejects_in_place(task):
    tasks = [task("a"), task("b", b"no image"), task("c", (7, 9)), task("d", None), task("e")]
    (window,) = read(tasks)
    assert window.tasks == tuple(tasks)
    assert window.class_maps == ()
    sizes = [(p.width, p.height) if isinstance(p, Photo) else p.stage for p in window.photos]
    assert sizes == [(20, 10), "decode", (7, 9), "read", (20, 10)]
    assert window.photos[0].pixels.shape == (10, 20, 3)
    assert window.photos[1].image == tasks[1].image.path
    assert window.photos[1].error == "UnidentifiedImageError"
    assert window.photos[3].error == "FileNotFoundError"


def test_too_many_pixels_and_too_large_a_file_are_rejects(task, monkeypatch):
    large, long, fine = task("large", (200, 100)), task("long", b"x" * 1000), task("fine")
    monkeypatch.setattr(windows, "MAX_FILE_BYTES", 999)
    ((many, huge, photo),) = (window.photos for window in read([large, long, fine]))
    assert (many.stage, many.error) == ("decode", "TooManyPixels")
    assert (huge.stage, huge.detail) == ("read", "the file is larger than 999 bytes")
    assert isinstance(photo, Photo)


@pytest.mark.parametrize(
    ("limit", "sizes"),
    [
        (10**9, [5]),
        (2000, [2, 2, 1]),  # a photo of 20×10 takes 3 × 200 bytes, and its class map 200
        (1600, [2, 2, 1]),
        (1599, [1, 1, 1, 1, 1]),
        (1, [1, 1, 1, 1, 1]),  # a photo that is larger than any window gets one of its own
    ],
)
def test_a_window_is_split_by_the_bytes_it_holds(task, monkeypatch, limit, sizes):
    tasks = [task(letter) for letter in "abcde"]
    monkeypatch.setattr(windows, "BYTES", limit)
    found = read(tasks)
    assert [len(window.tasks) for window in found] == sizes
    assert [one for window in found for one in window.tasks] == tasks
    assert all(isinstance(photo, Photo) for window in found for photo in window.photos)
    assert all(len(window.tasks) == len(window.photos) for window in found)


def test_a_window_is_split_by_the_pixels_that_are_decoded_and_not_by_those_in_the_file(
    task, monkeypatch
):
    tasks = [task("large", (80, 40)), task("small"), task("other", (80, 40))]
    monkeypatch.setattr(windows, "BYTES", 4 * 3 * 20 * 10)
    assert [len(window.tasks) for window in read(tasks)] == [1, 1, 1]
    monkeypatch.setattr(windows, "BYTES", 10**9)
    assert [len(window.tasks) for window in read(tasks)] == [3]


def test_what_cannot_be_read_splits_no_window(task, monkeypatch):
    tasks = [task("a"), task("b", b"no image"), task("c", None), task("d")]
    monkeypatch.setattr(windows, "BYTES", 1600)
    assert [len(window.tasks) for window in read(tasks)] == [4]


def test_no_task_is_no_window():
    assert read([]) == []


def test_the_files_of_a_window_are_read_at_once(task):
    tasks = [task(letter) for letter in "abcdefgh"]
    (window,) = read(tasks, Together())
    # Each read waits for three others; one by one they would all end as rejects.
    assert [type(photo) for photo in window.photos] == [Photo] * 8


def test_tasks_are_windowed_by_their_number(monkeypatch):
    monkeypatch.setattr(windows, "PHOTOS", 4)
    tasks = [Task(ImageRef(f"/{index}.jpg", f"{index}.jpg"), f"{index}.png") for index in range(10)]

    def check(lists):
        assert sorted(map(len, lists)) == [2, 4, 4]
        assert [one for found in lists for one in found] == tasks

    with beam.Pipeline(runner="FnApiRunner") as pipeline:
        assert_that(pipeline | beam.Create(tasks, reshuffle=False) | Windowed(), check)


# Writing


def window_of(tasks, size=(20, 10)):
    """A window whose photos the network has been run on; their classes are 0, 1, 2, …"""
    width, height = size
    pixels = np.full((height, width, 3), 99, np.uint8)
    return Window(
        tuple(tasks),
        tuple(Photo(pixels, height, width) for _ in tasks),
        tuple(np.full((height, width), index, np.uint8) for index, _ in enumerate(tasks)),
    )


@pytest.fixture(params=["disk", "store"])
def out(request, tmp_path, memory):
    where = str(tmp_path / "out") if request.param == "disk" else "memory://bucket/out"
    return OutputFolder(where, Files())


def test_a_row_for_each_mask_in_order(task, out):
    tasks = [task(letter) for letter in "abc"]
    rows = write_window(window_of(tasks), VOC, out)
    assert rows == [
        Row(one.image.path, f"masks/{one.mask_name}", 20, 10, {VOC.names[index]: 200})
        for index, one in enumerate(tasks)
    ]
    for index, one in enumerate(tasks):
        data = out.files.read(f"{out.path}/masks/{one.mask_name}")
        assert (decode_mask(data, VOC, one.image.name) == index).all()


def test_a_mask_is_enlarged_to_the_size_of_its_source(task, out):
    window = window_of([task("a")], (2, 2))
    small = np.array([[1, 2], [3, 4]], np.uint8)
    window = window._replace(photos=(Photo(window.photos[0].pixels, 4, 8),), class_maps=(small,))
    (row,) = write_window(window, VOC, out)
    assert (row.width, row.height) == (8, 4)
    assert row.pixels == {VOC.names[index]: 8 for index in (1, 2, 3, 4)}
    with Image.open(io.BytesIO(out.files.read(f"{out.path}/masks/a.png"))) as mask:
        np.testing.assert_array_equal(np.array(mask), small.repeat(2, axis=0).repeat(4, axis=1))


@pytest.mark.parametrize("overlays", [False, True])
def test_the_masks_of_a_window_are_written_at_once(task, tmp_path, overlays):
    out = OutputFolder(str(tmp_path / "out"), Together(), overlays)
    rows = write_window(window_of([task(letter) for letter in "abcdefgh"]), VOC, out)
    assert [type(row) for row in rows] == [Row] * 8
    assert len(list((tmp_path / "out/masks").iterdir())) == 8


def test_a_write_that_fails_is_one_reject_and_leaves_no_mask(task, tmp_path):
    out = OutputFolder(str(tmp_path / "out"), Files(), overlays=True)
    (tmp_path / "out/masks/b.png").mkdir(parents=True)  # a folder where the mask goes
    tasks = [task(letter) for letter in "abc"]
    first, reject, last = write_window(window_of(tasks), VOC, out)
    assert (first.mask, last.mask) == ("masks/a.png", "masks/c.png")
    assert isinstance(reject, Reject)
    assert (reject.image, reject.stage) == (tasks[1].image.path, "write")
    assert reject.error == "IsADirectoryError"
    assert sorted(path.name for path in (tmp_path / "out/overlays").iterdir()) == ["a.jpg", "c.jpg"]
    assert not list((tmp_path / "out/.unfinished").iterdir())


def test_no_stale_mask_stands_beside_a_reject(task, out):
    tasks = [task(name) for name in ("a", "[ab]", "*", "b")]
    out = OutputFolder(out.path, out.files, overlays=True)
    assert len(write_window(window_of(tasks), VOC, out)) == 4
    before = {file.path: out.files.read(file.path) for file in out.files.list(out.path)}
    assert len(before) == 8
    again = [one._replace(mask_mtime=1.0) for one in tasks]
    for index, stage in ((2, "decode"), (1, "infer")):
        reject = Reject(tasks[index].image.path, stage, "ValueError", "why")
        window = window_of(again)
        failed = tuple(
            reject if at == index else found for at, found in enumerate(window.class_maps)
        )
        outcomes = write_window(window._replace(class_maps=failed), VOC, out)
        assert outcomes[index] == reject
        assert [type(one) for at, one in enumerate(outcomes) if at != index] == [Row] * 3
        for file in ("masks/{}.png", "overlays/{}.jpg"):
            name = tasks[index].mask_name.removesuffix(".png")
            assert not out.files.exists(f"{out.path}/{file.format(name)}")
        assert len(list(out.files.list(out.path))) == 6
        write_window(window_of(again), VOC, out)
        assert {file.path: out.files.read(file.path) for file in out.files.list(out.path)} == before


def test_an_overlay_that_is_not_made_again_goes(task, out):
    tasks = [task("a")]
    write_window(window_of(tasks), VOC, OutputFolder(out.path, out.files, overlays=True))
    assert out.files.exists(f"{out.path}/overlays/a.jpg")
    write_window(window_of([tasks[0]._replace(mask_mtime=1.0)]), VOC, out)
    assert not out.files.exists(f"{out.path}/overlays/a.jpg")
    assert out.files.exists(f"{out.path}/masks/a.png")


def test_a_stale_mask_that_cannot_be_deleted_ends_the_job(task, tmp_path):
    @dataclass(frozen=True)
    class Keeping(Files):
        def delete(self, path):
            raise PermissionError(f"{path}: no permission")

    out = OutputFolder(str(tmp_path / "out"), Keeping())
    one = task("a")
    reject = Reject(one.image.path, "decode", "ValueError", "why")
    with pytest.raises(PermissionError, match=r"masks/a\.png: no permission"):
        write_window(Window((one,), (reject,), (reject,)), VOC, out)
