"""Windows: read together, and written together."""

import errno
import io
import json
import threading
from dataclasses import dataclass, field, replace

import apache_beam as beam
import numpy as np
import pytest
from apache_beam.pipeline import PipelineVisitor
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.testing.util import assert_that
from PIL import Image

from model_build.common.errors import JobError
from model_build.data.labels import VOC
from pipeline.images.decode import DecodeOptions
from pipeline.images.masks import Origin, find_traces
from pipeline.network.handler import EngineOptions
from pipeline.outputs.folder import OutputFolder
from pipeline.outputs.journal import Journal, journals
from pipeline.outputs.products import MASKS, OVERLAYS, PRODUCTS
from pipeline.records import ImageRef, Photo, Reject, Row, Stamp, Task, Window, hash_of
from pipeline.segmentation import windows
from pipeline.segmentation.windows import Windowed, WriteOptions, read_windows, write_window
from pipeline.storage import Files
from pipeline.storage.faults import BadName, Unauthenticated, Unavailable
from tests.waiting import DEADLINE

RECIPE = "r" * 32
OPTIONS = DecodeOptions(long_side=None, max_pixels=10_000)
AT_ONCE = 4
FILES = Files()


@dataclass(frozen=True)
class Together(Files):
    """Reads and writes that only end once several are under way."""

    barrier: threading.Barrier = field(
        default_factory=lambda: threading.Barrier(AT_ONCE, timeout=DEADLINE)
    )

    def read(self, path, limit=-1):
        self.barrier.wait()
        return super().read(path, limit)

    def write(self, path, data, **options):
        # Once a task, or the last ones to wait might be too few.
        if "/overlays/" not in path:
            self.barrier.wait()
        return super().write(path, data, **options)


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
        stamp = Stamp(3, f"version of {name}")
        return Task(ImageRef(str(path), path.name, stamp), f"{name}.png")

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
    monkeypatch.setattr(windows, "MAX_WINDOW_BYTES", limit)
    found = read(tasks)
    assert [len(window.tasks) for window in found] == sizes
    assert [one for window in found for one in window.tasks] == tasks
    assert all(isinstance(photo, Photo) for window in found for photo in window.photos)
    assert all(len(window.tasks) == len(window.photos) for window in found)


def test_a_window_is_split_by_the_pixels_that_are_decoded_and_not_by_those_in_the_file(
    task, monkeypatch
):
    tasks = [task("large", (80, 40)), task("small"), task("other", (80, 40))]
    monkeypatch.setattr(windows, "MAX_WINDOW_BYTES", 4 * 3 * 20 * 10)
    assert [len(window.tasks) for window in read(tasks)] == [1, 1, 1]
    monkeypatch.setattr(windows, "MAX_WINDOW_BYTES", 10**9)
    assert [len(window.tasks) for window in read(tasks)] == [3]


def test_what_cannot_be_read_splits_no_window(task, monkeypatch):
    tasks = [task("a"), task("b", b"no image"), task("c", None), task("d")]
    monkeypatch.setattr(windows, "MAX_WINDOW_BYTES", 1600)
    assert [len(window.tasks) for window in read(tasks)] == [4]


def test_a_photo_comes_with_the_hash_of_the_bytes_that_were_decoded(task):
    one, broken = task("a"), task("b", b"no image")
    ((photo, _),) = (window.photos for window in read([one, broken]))
    assert photo.hash == hash_of(FILES.read(one.image.path))


READ_FAULTS = [
    (PermissionError(errno.EACCES, "Permission denied", "/a.png"), None),
    (IsADirectoryError(errno.EISDIR, "Is a directory", "/a.png"), None),
    (OSError(errno.EIO, "Input/output error", "/a.png"), None),
    (OSError(errno.EMFILE, "Too many open files", "/a.png"), "raise the limit of open files"),
    (OSError(errno.ESTALE, "Stale file handle", "/a.png"), "mount the disk again"),
    (Unavailable("s3://b/a.png: the store does not answer"), "check the network"),
    (Unauthenticated("s3://b/a.png: the credentials were not accepted"), "renew the credentials"),
]


@pytest.mark.parametrize(
    ("error", "remedy"), READ_FAULTS, ids=[type(e).__name__ + str(e.errno) for e, _ in READ_FAULTS]
)
def test_what_one_file_causes_is_a_reject_and_what_would_hit_all_ends_the_job(task, error, remedy):
    @dataclass(frozen=True)
    class Failing(Files):
        def read(self, path, limit=-1):
            if path.endswith("a.png"):
                raise error
            return super().read(path, limit)

    tasks = [task("a"), task("b")]
    if remedy:
        with pytest.raises(JobError, match=remedy):
            read(tasks, Failing())
        return
    (window,) = read(tasks, Failing())
    assert (window.photos[0].stage, window.photos[0].error) == ("read", type(error).__name__)
    assert isinstance(window.photos[1], Photo)


def test_no_task_is_no_window():
    assert read([]) == []


def test_the_files_of_a_window_are_read_at_once(task):
    tasks = [task(letter) for letter in "abcdefgh"]
    (window,) = read(tasks, Together())
    # Each read waits for three others; one by one they would all end as rejects.
    assert [type(photo) for photo in window.photos] == [Photo] * 8


def test_tasks_are_windowed_by_their_number(monkeypatch):
    monkeypatch.setattr(windows, "PHOTOS_PER_WINDOW", 4)
    tasks = [Task(ImageRef(f"/{index}.jpg", f"{index}.jpg"), f"{index}.png") for index in range(10)]

    def check(lists):
        assert sorted(map(len, lists)) == [2, 4, 4]
        assert [one for found in lists for one in found] == tasks

    with beam.Pipeline(runner="FnApiRunner") as pipeline:
        assert_that(pipeline | beam.Create(tasks, reshuffle=False) | Windowed(), check)


# On the way to the network and back


def test_a_window_tells_its_size_and_may_be_encoded(task):
    (window,) = read([task("a"), task("b", b"no image")])
    window = window._replace(class_maps=(np.ones((10, 20), np.uint8), window.photos[1]))
    coder = beam.coders.registry.get_coder(Window)
    assert coder.estimate_size(window) == 4 * 10 * 20
    found = coder.decode(coder.encode(window))
    assert (found.tasks, found.photos[1]) == (window.tasks, window.photos[1])
    np.testing.assert_array_equal(found.photos[0].pixels, window.photos[0].pixels)


def test_no_step_of_windows_leaves_it_to_beam_how_to_find_out_their_size(out):
    """Which would encode them: of a large image, all that is held of it once more."""
    coders = {}

    class Steps(PipelineVisitor):
        def visit_transform(self, node):
            for found in node.outputs.values():
                coders[node.full_label] = str(beam.coders.registry.get_coder(found.element_type))

    options = WriteOptions(VOC, RECIPE, out)
    pipeline = beam.Pipeline(runner=FnApiRunner())
    steps = windows.SegmentWindows(OPTIONS, EngineOptions("model", "graph", 1), options)
    pipeline | beam.Create([[]]) | "W" >> steps
    pipeline.visit(Steps())
    found = [coder for label, coder in coders.items() if label.startswith(("W/Read", "W/Infer"))]
    assert len(found) >= 3
    assert all("WindowCoder" in coder for coder in found), coders


# Writing


OVERLAID = frozenset({"overlays"})


def window_of(tasks, size=(20, 10)):
    """A window whose photos the network has been run on; their classes are 0, 1, 2, …"""
    width, height = size
    pixels = np.full((height, width, 3), 99, np.uint8)
    return Window(
        tuple(tasks),
        tuple(Photo(pixels, height, width, f"hash of {task.image.name}") for task in tasks),
        tuple(np.full((height, width), index, np.uint8) for index, _ in enumerate(tasks)),
    )


def rejecting(window, index, stage="infer"):
    """The window, one of whose tasks has failed."""
    reject = Reject(window.tasks[index].image.path, stage, "ValueError", "why")
    maps = (reject if at == index else found for at, found in enumerate(window.class_maps))
    return window._replace(class_maps=tuple(maps)), reject


def write(window, out):
    """:func:`write_window`, and the journal flushed as at a bundle's end."""
    journal = Journal(out)
    outcomes = write_window(window, WriteOptions(VOC, RECIPE, out), journal)
    journal.flush()
    return outcomes


def journalled(out):
    """The lines of the journal."""
    lines = b"".join(FILES.read(f"{out.path}/{name}") for name in journals(out)).splitlines()
    return [json.loads(line) for line in lines]


@pytest.fixture(params=["disk", "store"])
def out(request, tmp_path, memory):
    where = str(tmp_path / "out") if request.param == "disk" else "memory://bucket/out"
    FILES.make_folder(where)
    return OutputFolder(where, FILES, run="r1")


def standing(out):
    """Names and bytes of what stands in OUT, less the journal."""
    found = {file.path[len(out.path) + 1 :]: file.path for file in FILES.list(out.path)}
    return {name: FILES.read(path) for name, path in found.items() if "journal/" not in name}


def test_a_row_for_each_mask_in_order(task, out):
    tasks = [task(letter) for letter in "abc"]
    rows = write(window_of(tasks), out)
    stamps = {mask.mask_name: mask.stamp for mask in out.existing(MASKS)}
    assert rows == [
        Row(
            one.image.path,
            f"masks/{one.mask_name}",
            20,
            10,
            {VOC.names[index]: 200},
            source=one.image.stamp,
            hash=f"hash of {one.image.name}",
            written=stamps[one.mask_name],
            mask_hash=hash_of(FILES.read(f"{out.path}/masks/{one.mask_name}")),
            recipe=RECIPE,
        )
        for index, one in enumerate(tasks)
    ]
    assert journalled(out) == [row.to_json() for row in rows]


def test_a_mask_tells_where_it_comes_from(task, out):
    tasks = [task(letter) for letter in "abc"]
    rows = write(window_of(tasks), out)
    for index, (one, row) in enumerate(zip(tasks, rows, strict=True)):
        data = out.files.read(f"{out.path}/masks/{one.mask_name}")
        with Image.open(io.BytesIO(data)) as image:
            assert (np.asarray(image) == index).all()
        origin, _, made, _ = find_traces(data)
        assert origin._replace(idat="") == Origin(one.image.name, row.hash, RECIPE, row.pixels)
        assert made


def test_masks_are_equal_wherever_they_lie(task, tmp_path, memory):
    tasks = [task(letter) for letter in "abc"]
    here, there = (OutputFolder(where, FILES) for where in (f"{tmp_path}/o", "memory://b/o"))
    # What a disk or store says of the photos is in the rows alone.
    elsewhere = [
        one._replace(image=one.image._replace(path=f"gs://{one.image.name}", stamp=None))
        for one in tasks
    ]
    write(window_of(tasks), here)
    write(window_of(elsewhere), there)
    assert standing(here) == standing(there)


def test_an_output_that_nobody_has_claimed_gets_no_journal(task, out):
    write(window_of([task("a")]), OutputFolder(out.path, out.files))
    assert list(journals(out)) == []
    assert list(standing(out)) == ["masks/a.png"]


def test_a_mask_is_enlarged_to_the_size_of_its_source(task, out):
    window = window_of([task("a")], (2, 2))
    small = np.array([[1, 2], [3, 4]], np.uint8)
    window = window._replace(photos=(Photo(window.photos[0].pixels, 4, 8),), class_maps=(small,))
    (row,) = write(window, out)
    assert (row.width, row.height) == (8, 4)
    assert row.pixels == {VOC.names[index]: 8 for index in (1, 2, 3, 4)}
    with Image.open(io.BytesIO(out.files.read(f"{out.path}/masks/a.png"))) as mask:
        np.testing.assert_array_equal(np.array(mask), small.repeat(2, axis=0).repeat(4, axis=1))


@pytest.mark.parametrize("products", [(), (OVERLAYS,)])
def test_the_masks_of_a_window_are_written_at_once(task, tmp_path, products):
    out = OutputFolder(str(tmp_path / "out"), Together(), products)
    rows = write(window_of([task(letter) for letter in "abcdefgh"]), out)
    assert [type(row) for row in rows] == [Row] * 8
    assert len(list((tmp_path / "out/masks").iterdir())) == 8


def test_a_name_that_cannot_be_written_is_one_reject_and_leaves_no_mask(task, tmp_path):
    (tmp_path / "out/masks/b.png").mkdir(parents=True)  # a folder where the mask goes
    out = OutputFolder(str(tmp_path / "out"), FILES, (OVERLAYS,), run="r1")
    tasks = [task(letter) for letter in "abc"]
    first, reject, last = write(window_of(tasks), out)
    assert (first.mask, last.mask) == ("masks/a.png", "masks/c.png")
    assert isinstance(reject, Reject)
    assert (reject.image, reject.stage) == (tasks[1].image.path, "write")
    assert reject.error == "IsADirectoryError"
    assert sorted(path.name for path in (tmp_path / "out/overlays").iterdir()) == ["a.jpg", "c.jpg"]
    assert not [path for path in (tmp_path / "out/.unfinished").rglob("*") if path.is_file()]


@dataclass(frozen=True)
class Refusing(Files):
    """Refuses one name; notes what is deleted."""

    error: Exception = None
    deleted: list = field(default_factory=list)

    def write(self, path, data, **options):
        if path.endswith("/b.png") or (path.endswith("/b.jpg") and "overlays" in path):
            raise self.error
        return super().write(path, data, **options)

    def delete(self, path):
        self.deleted.append(path)
        super().delete(path)


NAMES_FAULTS = [
    BadName("s3://b/o/masks/b.png: its name holds what S3 cannot"),
    OSError(errno.ENAMETOOLONG, "File name too long", "/o/masks/b.png"),
    OSError(errno.EILSEQ, "Invalid or incomplete multibyte character", "/o/masks/b.png"),
    NotADirectoryError(errno.ENOTDIR, "Not a directory", "/o/masks/b.png"),
]


@pytest.mark.parametrize("error", NAMES_FAULTS, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("products", [(), (OVERLAYS,)])
def test_a_write_that_fails_for_the_name_is_that_images(task, out, error, products):
    out = OutputFolder(out.path, Refusing(error=error), products, run="r1")
    first, reject, last = write(window_of([task(letter) for letter in "abc"]), out)
    assert [type(first), type(last)] == [Row, Row]
    assert (reject.stage, reject.error) == ("write", type(error).__name__)


@pytest.mark.parametrize("run", ["", "r1"])
@pytest.mark.parametrize("fails", [False, True])
def test_a_name_that_nothing_can_have_is_one_reject_whatever_fails(task, tmp_path, run, fails):
    (tmp_path / "out").mkdir()
    out = OutputFolder(str(tmp_path / "out"), FILES, run=run)
    long = task("a")._replace(mask_name="/".join(["d" * 200] * 21))  # longer than any path
    window = window_of([long, task("b")])
    reject, row = write(rejecting(window, 0)[0] if fails else window, out)
    assert isinstance(row, Row)
    assert reject.error == ("ValueError" if fails else "OSError")


OTHER_FAULTS = [
    (OSError(errno.ENOSPC, "No space left on device", "/o/masks/b.png"), "free some space"),
    (OSError(errno.EDQUOT, "Disk quota exceeded", "/o/masks/b.png"), "larger quota"),
    (OSError(errno.EROFS, "Read-only file system", "/o/masks/b.png"), "make the disk writable"),
    (OSError(errno.EIO, "Input/output error", "/o/masks/b.png"), "check the disk or store"),
    (PermissionError(errno.EACCES, "Permission denied", "/o/masks/b.png"), "the permissions"),
    (FileNotFoundError(errno.ENOENT, "No such file or directory", "/o"), "restore it"),
    (Unavailable("s3://b/o/masks/b.png: the store does not answer"), "check the network"),
    (Unauthenticated("s3://b/o/masks/b.png: not accepted"), "renew the credentials"),
]


@pytest.mark.parametrize(
    ("error", "remedy"), OTHER_FAULTS, ids=[str(error) for error, _ in OTHER_FAULTS]
)
@pytest.mark.parametrize("products", [(), (OVERLAYS,)])
def test_every_other_write_that_fails_ends_the_job_with_the_remedy(
    task, out, error, remedy, products
):
    before = standing(out)
    failing = OutputFolder(out.path, Refusing(error=error), products, run="r1")
    with pytest.raises(JobError, match=remedy) as ended:
        write(window_of([task(letter) for letter in "abc"]), failing)
    assert ended.value.__cause__ is error
    assert "\n" not in str(ended.value)
    assert failing.files.deleted == []
    # Those that could be written stand, and prove themselves to the next run.
    written = {"masks/a.png", "masks/c.png"}
    if products:
        written |= {"overlays/a.jpg", "overlays/c.jpg"}
    assert standing(out).keys() - before.keys() == written


def test_a_fault_of_ours_is_no_reject(task, out):
    failing = OutputFolder(out.path, Refusing(error=ZeroDivisionError("oh")), run="r1")
    with pytest.raises(ZeroDivisionError, match="oh"):
        write(window_of([task(letter) for letter in "abc"]), failing)


def test_a_mask_that_does_not_fit_into_memory_is_that_images(task, out, monkeypatch):
    def run_out(origin, **needs):
        if origin.image == "b.png":
            raise MemoryError("cannot allocate")
        return MASKS.encode(origin=origin, **needs)

    monkeypatch.setattr(windows, "MASKS", replace(MASKS, encode=run_out))
    first, reject, last = write(window_of([task(letter) for letter in "abc"]), out)
    assert [first.mask, last.mask] == ["masks/a.png", "masks/c.png"]
    assert (reject.stage, reject.error) == ("write", "MemoryError")


def test_no_stale_mask_stands_beside_a_reject(task, out):
    tasks = [task(name) for name in ("a", "[ab]", "*", "b")]
    out = OutputFolder(out.path, out.files, (OVERLAYS,), run="r1")
    rows = write(window_of(tasks), out)
    before = standing(out)
    assert len(before) == 8
    again = [
        one._replace(mask=row.written, products=OVERLAID)
        for one, row in zip(tasks, rows, strict=True)
    ]
    for index, stage in ((2, "decode"), (1, "infer")):
        window, reject = rejecting(window_of(again), index, stage)
        outcomes = write(window, out)
        assert outcomes[index] == reject
        assert [type(one) for at, one in enumerate(outcomes) if at != index] == [Row] * 3
        for file in ("masks/{}.png", "overlays/{}.jpg"):
            name = tasks[index].mask_name.removesuffix(".png")
            assert not FILES.exists(f"{out.path}/{file.format(name)}")
        assert len(standing(out)) == 6
        write(window_of(again), out)
        assert standing(out) == before


def test_a_stale_mask_goes_once_its_reject_is_in_the_journal(task, out):
    (row,) = write(window_of([task("a")]), out)
    noted = []

    @dataclass(frozen=True)
    class Looking(Files):
        def delete(self, path):
            noted.append((path.rpartition("/")[2], [line.get("stage") for line in journalled(out)]))
            super().delete(path)

    window, _ = rejecting(window_of([task("a")._replace(mask=row.written)]), 0)
    write(window, OutputFolder(out.path, Looking(), run="r1"))
    names = [product.file("a.png").rpartition("/")[2] for product in PRODUCTS]
    assert [name for name, _ in noted] == names
    assert all("infer" in stages for _, stages in noted)


def test_where_nothing_stands_nothing_is_deleted(task, out):
    refusing = Refusing()
    window, reject = rejecting(window_of([task("a")]), 0)
    assert write(window, OutputFolder(out.path, refusing, run="r1")) == [reject]
    assert refusing.deleted == []
    # Nobody has looked at what stands in one that no run has claimed.
    FILES.write(f"{out.path}/masks/a.png", b"stale")
    assert write(window, OutputFolder(out.path, refusing)) == [reject]
    assert f"{out.path}/masks/a.png" in refusing.deleted
    assert standing(out) == {}


def test_an_overlay_without_its_mask_goes_too(task, out):
    out.write("overlays/a.jpg", b"left by a run that was killed")
    window, _ = rejecting(window_of([task("a")._replace(products=OVERLAID)]), 0)
    write(window, out)
    assert standing(out) == {}


def test_an_overlay_that_is_not_made_again_goes(task, out):
    tasks = [task("a")]
    (row,) = write(window_of(tasks), OutputFolder(out.path, out.files, (OVERLAYS,), run="r1"))
    assert sorted(standing(out)) == ["masks/a.png", "overlays/a.jpg"]
    FILES.delete(f"{out.path}/masks/a.png")  # by hand, say: the overlay tells of no mask any more
    write(window_of([tasks[0]._replace(products=OVERLAID)]), out)
    assert sorted(standing(out)) == ["masks/a.png"]
    assert row.mask == "masks/a.png"


def test_a_stale_mask_that_cannot_be_deleted_ends_the_job(task, tmp_path):
    @dataclass(frozen=True)
    class Keeping(Files):
        def delete(self, path):
            raise PermissionError(errno.EACCES, "Permission denied", path)

    out = OutputFolder(str(tmp_path / "out"), Keeping())
    window, _ = rejecting(window_of([task("a")]), 0)
    with pytest.raises(JobError, match=r"masks/a\.png: Permission denied; check the permissions"):
        write(window, out)


def test_the_mask_of_an_image_that_cannot_be_read_just_now_is_left_alone(task, out):
    tasks = [task(letter) for letter in "ab"]
    out = replace(out, products=(OVERLAYS,))
    write(window_of(tasks), out)
    before = {file.path: FILES.read(file.path) for file in FILES.list(out.path)}
    rejects = tuple(Reject(one.image.path, "read", "OSError", "gone") for one in tasks)
    again = tuple(one._replace(mask=Stamp(1, "1"), products=OVERLAID) for one in tasks)
    assert write(Window(again, rejects, rejects), out) == list(rejects)
    after = {file.path: FILES.read(file.path) for file in FILES.list(out.path)}
    assert after.items() >= before.items()


@pytest.mark.parametrize("step", ["masks", "overlays"])
def test_a_redo_that_ends_half_way_leaves_no_product_of_another_mask(task, out, step):
    @dataclass(frozen=True)
    class Full(Files):
        def write(self, path, data, **options):
            if f"/{step}/" in path:
                raise OSError(errno.ENOSPC, "No space left on device", path)
            return super().write(path, data, **options)

    both = replace(out, products=(OVERLAYS,))
    (row,) = write(window_of([task("a")]), both)
    before = standing(out)
    again = task("a")._replace(mask=row.written, products=frozenset({"overlays"}))
    window = window_of([again])._replace(class_maps=(np.full((10, 20), 9, np.uint8),))
    with pytest.raises(JobError, match="No space left"):
        write(window, replace(both, files=Full()))
    after = standing(out)
    assert "overlays/a.jpg" not in after
    assert (after["masks/a.png"] == before["masks/a.png"]) == (step == "masks")


def test_in_an_output_that_was_not_listed_products_of_an_earlier_mask_go(task, out):
    unlisted = replace(out, run="")
    write(window_of([task("a")]), replace(unlisted, products=(OVERLAYS,)))
    assert "overlays/a.jpg" in standing(out)
    write(window_of([task("a")]), unlisted)
    assert [*standing(out)] == ["masks/a.png"]


def test_a_photo_that_a_format_cannot_hold_is_rejected(task, out):
    def refuse(**needs):
        raise OSError("broken data stream when writing image file")

    odd = replace(out, products=(replace(OVERLAYS, encode=refuse),))
    (reject,) = write(window_of([task("a")]), odd)
    assert (reject.stage, reject.error) == ("write", "OSError")
    assert standing(out) == {}
