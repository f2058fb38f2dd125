"""Shared by tests of reliability: jobs with a network that costs nothing, here or in a process.

A job in a process of its own is the real command line; it is forked off a server that has Beam
loaded already, so that many of them can be started, interrupted and killed.
"""

from __future__ import annotations

import atexit
import importlib
import itertools
import json
import multiprocessing
import os
import re
import signal
import sys
import threading
import types
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

import pipeline.cli.main
import pipeline.cli.segment
import pipeline.segmentation.dry_run
import pipeline.segmentation.run
from model_build import artifact
from model_build.data.labels import VOC
from pipeline.network import models, threads
from pipeline.outputs import journal, runs
from pipeline.outputs.folder import SUMMARY, OutputFolder
from pipeline.records import hash_of
from pipeline.segmentation import windows
from pipeline.storage import File, Files, is_remote, local
from pipeline.storage.stores import object_store
from tests.signatures import remember_signatures
from tests.waiting import DEADLINE

remember_signatures()

FILES = Files()
SEGMENTER = "pipeline.network.segmenter"
STORE_VARIABLES = ("AWS_", "STORAGE_EMULATOR_HOST", "GCSFS_", "GOOGLE_", "HTTPS_PROXY")


class StubSegmenter:
    """In the place of :class:`pipeline.network.segmenter.Segmenter`: classes by colour.

    They differ between models whose fingerprints begin with different digits.
    """

    stride = 32

    def __init__(self, network, engine, batch_size, precision, tile, long_side):
        self._shift = int(network.fingerprint[0], 16)
        self.batch_size, self.tile = batch_size, tile

    def __call__(self, images):
        class_maps = (images[..., 0] // 32 + images[..., 1] // 64 + self._shift) % 21
        return class_maps.astype(np.uint8), np.ones(len(images), bool)


def stub_network(patch: Callable = setattr) -> None:
    """Lets jobs of this process run without a network; without TensorFlow if it runs nothing else.

    Args:
        patch: sets an attribute, as ``monkeypatch.setattr`` does where it is to be undone.
    """
    if patch is setattr and "tensorflow" not in sys.modules:
        sys.modules[SEGMENTER] = types.ModuleType(SEGMENTER)
        for module in ("model_build.common.quiet_imports", "pipeline.segmentation.run"):
            patch(sys.modules[module], "import_tensorflow", lambda: None)
        patch(threads, "set_threads", lambda: True)
    patch(importlib.import_module(SEGMENTER), "Segmenter", StubSegmenter)
    patch(models, "load", models.describe)


def save_stub(folder: Path, fingerprint: str = "a" * 64) -> str:
    """Writes the description of a network, which :func:`stub_network` is; gives the folder."""
    description = artifact.Description(
        backbone="stub",
        labels=VOC,
        normalisation={},
        stride=StubSegmenter.stride,
        long_side=96,
        parameters=0,
        fingerprint=fingerprint,
    )
    (folder / artifact.DESCRIPTION).write_text(json.dumps(description.to_json()))
    return str(folder)


def pictures(folder: Path, count: int, seed: int = 0, side: int = 24) -> None:
    """Makes small photos of random colours, in several subfolders."""
    rng = np.random.default_rng(seed)
    for index in range(count):
        path = folder / f"{index % 4}" / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 256, (side, side + index % 5, 3), np.uint8)
        Image.fromarray(pixels).save(path)


# What a run has left


def contents(where: str) -> dict[str, bytes]:
    """Names and bytes of the files below a folder, local or remote."""
    found = [file for file in FILES.list(where) if isinstance(file, File)]
    return {file.path[len(where) + 1 :]: FILES.read(file.path) for file in found}


def upload(folder: Path, where: str) -> None:
    """Copies a local folder to a store."""
    for name, data in contents(str(folder)).items():
        FILES.write(f"{where}/{name}", data)


def masks(out: str) -> dict[str, bytes]:
    return contents(f"{out}/masks")


def versions(out: str) -> dict[str, str]:
    """Of each mask, what its disk or store says: another one whenever it has been written."""
    return {
        file.path: file.version for file in FILES.list(f"{out}/masks") if isinstance(file, File)
    }


def summary(out: str) -> dict:
    return json.loads(FILES.read(f"{out}/{SUMMARY}"))


def rows(out: str, kind: str = "histograms") -> list[dict]:
    """The lines of the shards that ``summary.json`` names."""
    names = [name for name in summary(out)["shards"] if name.startswith(kind)]
    lines = b"".join(FILES.read(f"{out}/{name}") for name in names).splitlines()
    return sorted(map(json.loads, lines), key=lambda row: row["image"])


def journalled(out: str) -> set[str]:
    """Paths of the masks that have a row in the journal."""
    found = set()
    for file in FILES.starting_with(f"{out}/journal/"):
        for line in FILES.read(file.path).splitlines():
            if "mask" in (row := json.loads(line)):
                found.add(f"{out}/{row['mask']}")
    return found


def assert_complete(out: str, expected: dict[str, bytes], rejected: int = 0) -> None:
    """A finished run: these masks, a true row each, and nothing else in OUT."""
    found = masks(out)
    assert sorted(found) == sorted(expected)
    assert found == expected
    written = summary(out)
    assert (written["masks"], written["rejected"]) == (len(expected), rejected)
    lines = rows(out)
    assert sorted(row["mask"] for row in lines) == sorted(f"masks/{name}" for name in expected)
    stamps = {
        file.path[len(out) + 1 :]: {
            "size": file.size,
            "version": file.version,
            "sha256": hash_of(FILES.read(file.path)),
        }
        for file in FILES.list(f"{out}/masks")
    }
    for row in lines:
        assert row["versions"]["mask"] == stamps[row["mask"]]
        assert sum(row["pixels"].values()) == row["width"] * row["height"]
    assert len(rows(out, "rejected")) == rejected
    others = {name for name in contents(out) if not name.startswith(("masks/", "overlays/"))}
    assert sorted(others) == sorted({"run.json", "summary.json", *written["shards"]})
    if not is_remote(out):
        assert sorted(os.listdir(out)) == sorted({*others, "masks"})


# Jobs in a process


PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload([__name__])


class Job:
    """A command in a process of its own.

    Args:
        arguments: of ``fcn-beam``.
        folder: where its standard output and error go.
        prepare: called in the process before the command, as in ``[stub_network]``.
    """

    def __init__(
        self, arguments: Sequence[str], folder: Path, prepare: Sequence[Callable] = (stub_network,)
    ):
        folder.mkdir(parents=True, exist_ok=True)
        number = len(list(folder.glob("*.err")))
        self._out, self._err = folder / f"{number}.out", folder / f"{number}.err"
        self._err.touch()
        variables = {k: v for k, v in os.environ.items() if k.startswith(STORE_VARIABLES)}
        self._process = PROCESSES.Process(
            target=_run_command,
            args=(list(arguments), variables, str(self._out), str(self._err), list(prepare)),
        )
        self._process.start()

    def send(self, number: int) -> None:
        """Sends a signal, unless it has ended."""
        if self._process.exitcode is None:
            os.kill(self._process.pid, number)

    @property
    def running(self) -> bool:
        return self._process.is_alive()

    def wait(self) -> int:
        """Its exit status; a signal's number, negative, if that has ended it."""
        self._process.join(DEADLINE)
        status = self._process.exitcode
        if status is None:
            self._process.kill()
            raise AssertionError(f"the job hangs: {self.errors}")
        return status

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def output(self) -> str:
        return self._out.read_text()

    @property
    def errors(self) -> str:
        """Its standard error, less :func:`without_progress`."""
        return without_progress(self._err.read_text())


def without_progress(errors: str) -> str:
    """Removes the lines of progress, which appear on slow machines."""
    return re.sub(r"^\d+/\d+ images, .*\n", "", errors, flags=re.MULTILINE)


def _run_command(arguments, variables, output, errors, prepare):
    os.environ.update(variables)
    for number, path in ((1, output), (2, errors)):
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, number)
    # A shell's background jobs ignore it, and so do their children.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for function in prepare:
        function()
    sys.argv = ["fcn-beam", *arguments]
    try:
        pipeline.cli.main.main()
    finally:
        atexit._run_exitfuncs()  # multiprocessing does not, and Beam ends its job server there


# Faults


class Countdown:
    """Calls a function at the n-th operation, and counts them."""

    def __init__(self, at: int | None, action: Callable[[], None]):
        self.count, self._at, self._action = 0, at, action

    def hit(self, *_: object) -> None:
        self.count += 1
        if self.count == self._at:
            self._action()


class Operation(NamedTuple):
    """An operation on a disk or store, less what is equal in all of its kind.

    Attributes:
        name: of the function that does it.
        file: its file or folder; numbers and random names are left out.
        caller: the function that asks the storage for it; empty in a thread of the storage's own.
    """

    name: str
    file: str
    caller: str


def operation(name: str, *arguments: object) -> Operation:
    """Describes the operation that is under way, from what is interposed before it."""
    paths = [argument for argument in arguments if isinstance(argument, str)]
    path = paths[-1] if name == "objects" else paths[0]
    file = re.sub(r"\d{8}T\d{6}Z-[0-9a-f]{6}|[0-9a-f]{16,}", "*", path)
    frame = sys._getframe()
    while frame := frame.f_back:
        module = frame.f_globals["__name__"]
        if module.startswith("pipeline.") and not module.startswith("pipeline.storage."):
            return Operation(name, re.sub(r"\d+", "0", file), f"{module}:{frame.f_code.co_name}")
    return Operation(name, re.sub(r"\d+", "0", file), "")


class FirstOf:
    """Calls a function at the first operation of a kind, and keeps the kinds that it has seen."""

    def __init__(self, kind: Operation | None, action: Callable[[], None]):
        self.operations: dict[Operation, None] = {}  # a set in their order
        self._kind, self._action = kind, action

    def hit(self, name: str, *arguments: object) -> None:
        kind = operation(name, *arguments)
        if kind not in self.operations:
            self.operations[kind] = None
            if kind == self._kind:
                self._action()


LOCAL = ("read", "write", "create_held", "is_held", "delete", "stat", "prune")
LOCAL += ("list_part", "walk", "walk_links", "file_at")


def interpose(module, names: Sequence[str], before: Callable[..., None], patch=setattr) -> None:
    """Calls ``before(name, *arguments)`` before each call of the functions of these names."""

    def around(name, function):
        def call(*arguments, **options):
            before(name, *arguments)
            return function(*arguments, **options)

        return call

    for name in names:
        patch(module, name, around(name, getattr(module, name)))


def interpose_locally(before: Callable[..., None], patch=setattr) -> None:
    """Calls a function before each operation on a local disk."""
    interpose(local, LOCAL, before, patch)


def interpose_everywhere(before: Callable[..., None], patch=setattr) -> None:
    """Calls a function before each operation on a local disk or a store."""
    interpose_locally(before, patch)
    interpose(object_store, ["with_retries"], before, patch)


def interpose_bytes(before: Callable[..., None], patch=setattr) -> None:
    """Calls a function when half of an unfinished local file is written."""

    unfinished, target = local._unfinished, threading.local()

    def note(path: str, data: bytes, scratch: str):
        target.path = path
        return unfinished(path, data, scratch)

    def create(path: str, data: bytes) -> None:
        with open(path, "xb", buffering=0) as file:
            file.write(data[: len(data) // 2])
            before("write", target.path)
            file.write(data[len(data) // 2 :])

    patch(local, "_unfinished", note)
    patch(local, "_create", create)


def hold_masks(after: int) -> None:
    """Lets a job of this process write so many masks, and wait then until its run is stopped."""
    write, stop = OutputFolder.write, runs.stop_writes
    begun, stopped = itertools.count(1), threading.Event()

    def hold(self, name: str, data: bytes):
        if name.startswith("masks/") and next(begun) > after:
            stopped.wait()
        return write(self, name, data)

    def stop_and_release(*arguments) -> None:
        stop(*arguments)
        stopped.set()

    OutputFolder.write, runs.stop_writes = hold, stop_and_release


def small_steps(patch=setattr) -> None:
    """Small windows and small files of the journal, so that a small job has many of them."""
    patch(windows, "PHOTOS_PER_WINDOW", 4)
    patch(journal, "ROWS_PER_FILE", 4)


def die() -> None:
    """Ends this process as a power cut would."""
    os.kill(os.getpid(), signal.SIGKILL)
