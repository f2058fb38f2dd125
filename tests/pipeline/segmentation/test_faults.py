"""Faults of the world end the job in one line, and the same command goes on; an image's do not."""

import errno
import functools
import os
import shutil
import signal
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from PIL import Image

from model_build import artifact
from model_build.common.errors import JobError, UserError
from pipeline.segmentation import plan, run, windows
from pipeline.storage import local, retries
from pipeline.storage.stores import table
from pipeline.storage.stores.object_store import ObjectStore
from tests.pipeline.segmentation import reliability
from tests.pipeline.segmentation.reliability import (
    Countdown,
    FirstOf,
    Job,
    StubSegmenter,
    assert_complete,
    interpose,
    interpose_everywhere,
    masks,
    pictures,
    rows,
    stub_network,
    versions,
)
from tests.servers.proxy import proxy

COUNT = 12
GOES_ON = "run the same command again"


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    """Photos that no test changes."""
    folder = tmp_path_factory.mktemp("archive")
    pictures(folder, COUNT)
    return folder


@pytest.fixture(scope="module")
def expected(archive, stub_model, tmp_path_factory):
    """The masks of a run that nothing disturbs."""
    out = str(tmp_path_factory.mktemp("undisturbed") / "out")
    with pytest.MonkeyPatch.context() as patch:
        stub_network(patch.setattr)
        run.segment(plan.Request(inputs=[str(archive)], output=out, model=stub_model()))
    return masks(out)


@pytest.fixture
def out(tmp_path):
    return str(tmp_path / "out")


@pytest.fixture
def start(archive, out, stub_model, tmp_path):
    """Starts the command in a process: ``start(prepare, …, options=[…])``."""
    model = stub_model()

    def do(*prepare, options=(), where=archive, into=out):
        command = ["segment", str(where), "--output", into, "--model", model, *options]
        return Job(command, tmp_path / "log", [stub_network, *prepare])

    return do


def assert_one_line(errors, *parts):
    """Checks that a failed command printed one line, which contains these."""
    (line,) = errors.splitlines()
    assert line.startswith("fcn-beam: ")
    for part in parts:
        assert part in line, f"no {part!r} in {line}"


# Disks


@pytest.fixture
def small_disk(tmp_path):
    """A disk of a few hundred KB, to be made larger: ``small_disk("size=4m")``."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", str(folder)]
    try:
        mounted = subprocess.run(command, capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip("no mount on this system")
    if mounted.returncode:
        pytest.skip(f"a disk cannot be mounted: {mounted.stderr.strip()}")

    def remount(options):
        command = ["mount", "-o", f"remount,{options}", str(folder)]
        subprocess.run(command, check=True, capture_output=True)

    remount.folder = folder
    yield remount
    subprocess.run(["umount", str(folder)], check=True, capture_output=True)


@pytest.mark.slow
def test_a_full_disk_ends_the_job_in_one_line(small_disk, start, tmp_path):
    pictures(tmp_path / "many", 80, side=40)
    out = small_disk.folder / "out"
    (small_disk.folder / "others").write_bytes(bytes(200 << 10))
    full = start(where=tmp_path / "many", into=str(out))
    assert full.wait() == 1
    assert_one_line(full.errors, "No space left", "free some space", "of 80 images", GOES_ON)
    stood = versions(str(out))
    assert 0 < len(stood) < 80
    assert not list(out.rglob(".unfinished/*/*"))
    small_disk("size=4m")
    done = start(where=tmp_path / "many", into=str(out))
    assert (done.wait(), done.errors) == (0, "")
    now = versions(str(out))
    assert {path: now[path] for path in stood} == stood
    assert len(now) == 80
    assert_complete(str(out), masks(str(out)))


@pytest.mark.slow
def test_a_read_only_disk_ends_the_job_in_one_line(small_disk, start, expected):
    out = f"{small_disk.folder}/out"
    small_disk("size=4m")
    assert start(into=out).wait() == 0
    before = versions(out)
    small_disk("ro")
    for into in (out, f"{small_disk.folder}/new"):
        refused = start(into=into)
        assert refused.wait() == 1
        assert_one_line(refused.errors, into, "Read-only", "make the disk writable")
    small_disk("rw")
    assert start(into=out).wait() == 0
    assert versions(out) == before
    assert_complete(out, expected)


def lose_output(out):
    """Somebody moves OUT away when some masks are written."""
    reliability.small_steps()
    moved = Countdown(COUNT // 2, lambda: os.rename(out, f"{out}-moved"))
    interpose(local, ["write"], moved.hit)


@pytest.mark.slow
def test_an_output_folder_that_is_removed_meanwhile_ends_the_job(start, out, expected):
    lost = start(functools.partial(lose_output, out))
    assert lost.wait() == 1
    assert_one_line(lost.errors, out, "restore it", GOES_ON)
    assert not os.path.exists(out), "it is not made anew, less what was in it"
    os.rename(f"{out}-moved", out)
    assert start().wait() == 0
    assert_complete(out, expected)


# Stores


@pytest.fixture
def refusing(s3, moto_address, monkeypatch):
    """A proxy before a bucket."""
    with proxy(moto_address) as between:
        monkeypatch.setenv("AWS_ENDPOINT_URL", between.address)
        monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
        monkeypatch.setattr(retries, "DEADLINE", 0.2)
        table._open.cache_clear()
        yield between


@pytest.mark.slow
def test_a_store_that_refuses_from_some_request_on_ends_the_job(stub_job, refusing, s3, tmp_path):
    pictures(tmp_path / "few", 3)
    reliability.upload(tmp_path / "few", f"{s3}/in")
    before = refusing.requests
    stub_job(f"{s3}/in", f"{s3}/undisturbed")
    requests = refusing.requests - before
    expected = masks(f"{s3}/undisturbed")
    for status, code, remedy, share in (
        (400, "ExpiredToken", "renew the credentials", 0.2),
        (400, "ExpiredToken", "renew the credentials", 0.9),
        (503, "SlowDown", "check the network and the store's quota", 0.5),
    ):
        out = f"{s3}/out-{code}-{share}"
        refusing.status, refusing.code = status, code
        refusing.refuse_from = refusing.requests + int(share * requests)
        with pytest.raises(JobError) as failed:
            stub_job(f"{s3}/in", out)
        assert remedy in str(failed.value)
        assert share < 0.4 or GOES_ON in str(failed.value)  # before it has begun there is no more
        assert "\n" not in str(failed.value)
        refusing.refuse_from = None
        stub_job(f"{s3}/in", out)
        assert_complete(out, expected)


# Every operation


OF_MEMORY = ("cat_file", "pipe_file", "rm_file", "info")


def run_with(before, kind, where, out, model):
    """Runs a job in this process, and calls a function before its operations.

    Args:
        kind: ``"full"`` means writes, to a disk; ``"any"`` all operations: on the photos' disk and
            on OUT's store.
    """
    request = plan.Request(inputs=[where], output=out, model=model, workers=1)
    with pytest.MonkeyPatch.context() as patch:
        if kind == "any":
            reliability.interpose_locally(before, patch.setattr)
            interpose(MemoryFileSystem, OF_MEMORY, before, patch.setattr)
            interpose(ObjectStore, ["objects"], before, patch.setattr)
        elif kind == "full":
            reliability.interpose_bytes(before, patch.setattr)
        return run.segment(request)


def operations_of(kind, where, out, model):
    """The operations of an undisturbed run that differ, in their order."""
    seen = FirstOf(None, None)
    run_with(seen.hit, kind, where, f"{out}/0", model)
    return list(seen.operations)


def fail_first(number, operation, kind, where, out, model, expected):
    """A job in which the first of an operation's kind fails, and a second run.

    Returns:
        What the failed job has told, nothing if it had a reject instead.
    """
    out = f"{out}/{number}"
    fault = FirstOf(operation, functools.partial(_fault, kind))
    try:
        found = run_with(fault.hit, kind, where, out, model)
    except (JobError, UserError) as error:
        failure, told = error, str(error)
    else:
        failure, told = None, ""
        assert found.masks + found.rejected == len(expected)
    assert operation in fault.operations, "it has not failed"
    assert "\n" not in told
    assert "bug in fcn-beam" not in told, told
    # What cannot even be looked at is told as a mistake, before anything is written.
    assert not isinstance(failure, UserError) or not reliability.contents(out), told
    second = run_with(None, None, where, out, model)
    assert (second.masks, second.rejected) == (len(expected), 0), told
    assert_complete(out, expected)
    return told


def _fault(kind):
    number = errno.ENOSPC if kind == "full" else errno.EIO
    raise OSError(number, os.strerror(number), "/a/file")


@pytest.fixture(scope="module")
def workers():
    with ProcessPoolExecutor(2, reliability.PROCESSES, initializer=stub_network) as pool:
        yield pool


WRITTEN = ("run.json", "masks/0/0.png", "journal/", "histograms-", "summary.json")
READ = ("few/0/0.png", "lock/", "journal/")


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "files"), [("any", WRITTEN + READ), ("full", WRITTEN)])
def test_after_any_operation_has_failed_a_second_run_completes(
    workers, stub_job, stub_model, tmp_path, kind, files
):
    pictures(tmp_path / "few", 2)
    stub_job(tmp_path / "few", tmp_path / "undisturbed")
    job = {
        "kind": kind,
        "where": str(tmp_path / "few"),
        "out": "memory://bucket" if kind == "any" else str(tmp_path / "out"),
        "model": stub_model(),
    }
    operations = workers.submit(operations_of, **job).result()
    for file in files:
        assert any(file in operation.file for operation in operations), f"nothing of {file}"
    attempt = functools.partial(fail_first, **job, expected=masks(f"{tmp_path}/undisturbed"))
    told = list(workers.map(attempt, range(1, len(operations) + 1), operations))
    # Most of the operations are such that no image alone is to blame.
    assert sum(bool(text) for text in told) > len(told) / 2


# Faults of our own


def fail_in_our_code(where, name):
    def fail(*arguments, **options):
        raise KeyError("no such thing")

    setattr(sys.modules[where], name, fail)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("where", "name", "streams"),
    [
        ("pipeline.segmentation.tasks", "assign_mask_names", "2"),
        ("pipeline.segmentation.windows", "histogram", "1"),
        ("pipeline.segmentation.windows", "histogram", "2"),
        ("pipeline.outputs.summary", "leftovers", "2"),
    ],
)
def test_an_exception_of_our_own_ends_the_job_and_rejects_no_image(
    start, out, expected, where, name, streams
):
    fail = functools.partial(fail_in_our_code, where, name)
    failed = start(fail, options=["--workers", streams])
    assert failed.wait() == 1
    assert_one_line(failed.errors, "a bug in fcn-beam: KeyError", "no such thing", GOES_ON)
    assert start().wait() == 0
    assert_complete(out, expected)


def forget_an_outcome():
    process = windows.WriteWindow.process

    def without_the_last(self, window):
        yield from list(process(self, window))[:-1]

    windows.WriteWindow.process = without_the_last


def tell_an_outcome_twice():
    process = windows.WriteWindow.process

    def twice(self, window):
        outcomes = list(process(self, window))
        yield from [*outcomes, outcomes[0]]

    windows.WriteWindow.process = twice


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "told"),
    [
        (forget_an_outcome, "images have neither a mask nor a reject: "),
        (tell_an_outcome_twice, "images have more than one: "),
    ],
)
def test_an_image_without_just_one_outcome_ends_the_job_and_is_named(
    start, archive, out, expected, fault, told
):
    failed = start(fault)
    assert failed.wait() == 1
    assert_one_line(failed.errors, f"{told}{archive}/", ".png", GOES_ON)
    assert not os.path.exists(f"{out}/summary.json"), "it is not complete"
    assert start().wait() == 0
    assert_complete(out, expected)


@pytest.mark.slow
def test_the_first_traceback_of_each_cause_is_shown_at_level_info_alone(start, tmp_path):
    pictures(tmp_path / "some", 2)
    for name in ("x", "y", "z"):
        (tmp_path / f"some/{name}.jpg").write_text("no image")
    Image.new("RGB", (50, 50)).save(tmp_path / "some/large.png")
    options = ["--max-pixels", "2000"]
    quiet = start(where=tmp_path / "some", into=f"{tmp_path}/one", options=options)
    assert quiet.wait() == 0
    assert quiet.errors == ""
    assert "decode: UnidentifiedImageError" in quiet.output
    options += ["--log-level", "info"]
    verbose = start(where=tmp_path / "some", into=f"{tmp_path}/two", options=options)
    assert verbose.wait() == 0
    assert verbose.errors.count("Traceback") == 2
    assert verbose.errors.count("UnidentifiedImageError: not an image in a known format") == 1
    assert verbose.errors.count("TooManyPixels: 50×50") == 1


@pytest.mark.slow
def test_what_ends_a_job_is_shown_with_its_traceback_at_level_info(start):
    fail = functools.partial(fail_in_our_code, "pipeline.segmentation.windows", "histogram")
    failed = start(fail, options=["--log-level", "info"])
    assert failed.wait() == 1
    assert "Traceback" in failed.errors
    assert "in fail" in failed.errors
    assert failed.errors.splitlines()[-1].startswith("fcn-beam: a bug in fcn-beam")


# Interrupts


def signal_at(number, at):
    """This process is sent a signal at its n-th operation."""
    reliability.small_steps()
    interpose_everywhere(Countdown(at, lambda: os.kill(os.getpid(), number)).hit)


def whole(path):
    with Image.open(path) as image:
        image.load()
    return True


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "status", "word", "shares"),
    [
        (signal.SIGTERM, 143, "terminated", (0.4, 0.85)),
        (signal.SIGINT, 130, "interrupted", (0.15, 0.6)),
    ],
)
def test_an_interrupted_job_leaves_cleanly_and_is_resumed(
    start, out, expected, number, status, word, shares, stub_job, archive, tmp_path, monkeypatch
):
    operations = Countdown(None, None)
    with monkeypatch.context() as patch:
        reliability.small_steps(patch.setattr)
        interpose_everywhere(operations.hit, patch.setattr)
        stub_job(archive, tmp_path / "counted")
    for share in shares:
        into = f"{out}{share}"
        at = int(share * operations.count)
        interrupted = start(functools.partial(signal_at, number, at), into=into)
        assert interrupted.wait() == status, interrupted.errors
        assert_one_line(interrupted.errors, word, GOES_ON)
        assert "Traceback" not in interrupted.errors
        assert all(map(whole, Path(into).glob("masks/**/*.png")))
        assert not list(Path(into).rglob(".unfinished/*/*"))
        before = versions(into)
        resumed = start(into=into)
        assert resumed.wait() == 0, resumed.errors
        now = versions(into)
        assert {path: now[path] for path in before} == before
        assert_complete(into, expected)


# The network


class Small(StubSegmenter):
    """Has too little memory for all but small photos."""

    def __call__(self, images):
        if images.shape[2] > 32:
            raise MemoryError("too large")
        return super().__call__(images)


@pytest.mark.slow
def test_no_memory_for_one_image_alone_rejects_it(stub_job, tmp_path, monkeypatch):
    pictures(tmp_path / "some", 3)
    Image.new("RGB", (90, 30)).save(tmp_path / "some/wide.png")
    stub_job(tmp_path / "some", tmp_path / "first", batch_size=1)
    monkeypatch.setattr("pipeline.network.segmenter.Segmenter", Small)
    out = f"{tmp_path}/out"
    found = stub_job(tmp_path / "some", out, batch_size=1)
    assert (found.masks, found.causes) == (3, {"infer: MemoryError": 1})
    (reject,) = rows(out, "rejected")
    assert reject["image"] == f"{tmp_path}/some/wide.png"


@pytest.mark.slow
def test_no_memory_for_several_images_ends_the_job_and_names_the_batch_size(
    stub_job, tmp_path, monkeypatch
):
    pictures(tmp_path / "some", 3)
    Image.new("RGB", (90, 30)).save(tmp_path / "some/wide.png")
    out = f"{tmp_path}/out"
    with monkeypatch.context() as patch:
        patch.setattr("pipeline.network.segmenter.Segmenter", Small)
        with pytest.raises(JobError, match="--batch-size 1 --overwrite") as failed:
            stub_job(tmp_path / "some", out, batch_size=4)
    assert "out of memory at 96×32 pixels in batches of 4" in str(failed.value)
    found = stub_job(tmp_path / "some", out, batch_size=1, overwrite=True)
    assert (found.masks, found.kept) == (4, 0)
    assert_complete(out, masks(out))


@pytest.fixture(scope="module")
def overflowing_model(tiny_model, tmp_path_factory):
    """A network whose scores overflow for bright images."""
    import keras

    model = keras.models.load_model(f"{tiny_model}/model.keras")
    kernel = next(weight for weight in model.weights if "kernel" in weight.path)
    kernel.assign(np.abs(kernel.numpy()) * 1e38)
    folder = tmp_path_factory.mktemp("overflowing")
    with mock.patch("model_build.export.check"):  # it would not be saved
        artifact.save(folder, model, artifact.describe(tiny_model))
    return str(folder)


@pytest.mark.slow
def test_an_image_whose_scores_are_not_finite_is_rejected(overflowing_model, tmp_path):
    for name, colour in (("dark", 128), ("bright", 255)):
        (tmp_path / "in").mkdir(exist_ok=True)
        Image.new("RGB", (64, 64), (colour,) * 3).save(tmp_path / f"in/{name}.png")
    out = f"{tmp_path}/out"
    found = run.segment(
        plan.Request(inputs=[f"{tmp_path}/in"], output=out, model=overflowing_model)
    )
    assert found.causes == {"infer: NonFiniteScores": 1}
    assert list(masks(out)) == ["dark.png"]
    (reject,) = rows(out, "rejected")
    assert reject["image"] == f"{tmp_path}/in/bright.png"


def test_a_model_that_does_not_load_stops_the_job_before_out_is_touched(
    tiny_model, archive, out, tmp_path
):
    broken = shutil.copytree(tiny_model, tmp_path / "broken")
    (broken / "saved_model/saved_model.pb").write_bytes(b"no network")
    for told in ("a file is truncated, changed or missing", "is truncated or no SavedModel"):
        with pytest.raises(UserError, match=told) as failed:
            run.segment(plan.Request(inputs=[str(archive)], output=out, model=str(broken)))
        assert "\n" not in str(failed.value)
        assert not os.path.exists(out)
        artifact.write_description(broken, artifact.describe(broken))


# The terminal


@pytest.mark.slow
def test_libraries_print_nothing_of_their_own_about_damaged_files(start, tmp_path):
    rng = np.random.default_rng(0)
    (tmp_path / "damaged").mkdir()
    for index, compression in enumerate(("tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg")):
        path = tmp_path / f"damaged/{index}.tif"
        pixels = rng.integers(0, 256, (64, 64, 3), np.uint8)
        Image.fromarray(pixels).save(path, compression=compression)
        data = bytearray(path.read_bytes())
        for place in range(100, len(data) // 2, 7):  # the directory comes last
            data[place] ^= 0xFF
        path.write_bytes(data)
    job = start(where=tmp_path / "damaged")
    assert job.wait() in (0, 3)
    assert "rejected" in job.output
    assert [line for line in job.errors.splitlines() if not line.startswith("fcn-beam: ")] == []
