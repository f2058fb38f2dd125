"""One writer: the run whose lock ``OUT/lock/N`` has the highest N.

The lock is advisory: even if two jobs write to the same OUT, no data is corrupted. Masks of one
recipe have equal bytes, all other names contain the run's, and a run that finds another's name in
``run.json`` ends. So a run never waits for another to end, and a lock never has to
be removed by hand: the lock of a process that has ended is dead.

On local disk the operating system knows whether a process still holds the file. Elsewhere the file
is rewritten every few seconds: it is dead once it has not changed for a minute of the observer's
own clock, or at once if its process ran on this machine and has ended. A run that fails says so in
its lock.

A job on a cluster may outlive the process that submitted it. Its lock names the job, and the
cluster is asked whether it still runs.
"""

from __future__ import annotations

import json
import logging
import os
import threading
import time
from collections.abc import Callable
from typing import Any

from model_build.common.errors import UserError
from pipeline.outputs import runs
from pipeline.outputs.folder import LOCK, SUMMARY, OutputFolder, parse_json, utf8
from pipeline.storage import is_remote

_LOGGER = logging.getLogger(__name__)

HEARTBEAT_SECONDS = 15.0  # between two rewrites of a lock
DEAD_AFTER_SECONDS = 60.0  # without a change
POLL_SECONDS = 2.0  # between two looks at another run's lock

IsRunning = Callable[[Any], bool | None]  # of a cluster's job, by its record; None: no answer


class Lock:
    """The lock of one run on its output folder.

    Args:
        wait: sleeps for a number of seconds between two looks at another run's lock.
        job: the run's job on a cluster, as plain values; None for a run of this process.
        is_running: asks a cluster for such a job.

    Attributes:
        number: N of its file; 0 until it is taken.
    """

    number: int = 0

    def __init__(
        self,
        out: OutputFolder,
        wait: Callable[[float], None] = time.sleep,
        job: dict[str, str] | None = None,
        is_running: IsRunning = lambda job: None,
    ):
        self._out, self._wait, self._is_running = out, wait, is_running
        self._handle: int | None = None
        self._content = {
            "run": out.run,
            "started": time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime()),
            **runs.this_process(),
            "held": not is_remote(out.path),  # by the operating system
            "beat": 0,
            "ended": False,
        }
        if job is not None:
            self._content["job"] = job
        self._stop = threading.Event()
        self._heartbeat: threading.Thread | None = None

    def take(self) -> Lock:
        """Takes the lock.

        Raises:
            UserError: another run holds it.
            OSError: OUT cannot be written.
        """
        runs.active.add(self._out.run)
        while True:
            highest, living = _highest(self._out, self._is_running, self._wait)
            if living is not None:
                raise UserError(
                    f"{self._out.path}: another job is writing there ({describe_holder(living)}); "
                    "wait for it, or choose another --output"
                )
            self.number = highest + 1
            if self._create():
                break
        if self._handle is None:
            if self._content["held"]:  # a disk without locks
                self._content["held"] = False
                self._write()
            self._heartbeat = threading.Thread(target=self._beat, daemon=True)
            self._heartbeat.start()
        return self

    def release(self) -> None:
        """Ends a run that has cleaned up: removes its lock and those of dead runs before it."""
        self._end_heartbeat()
        try:
            for number in sorted(lock_numbers(self._out)):
                if number < self.number or (number == self.number and self._is_mine()):
                    self._out.files.delete(_path(self._out, number))
        finally:
            self._let_go()

    def abandon(self) -> None:
        """Ends a run that has failed: its lock stays, and says that the run has ended.

        If that cannot be written the lock is dead anyway, as this process no longer holds it.
        """
        self._end_heartbeat()
        try:
            if self.number and self._is_mine():
                self._content["ended"] = True
                self._write()
        finally:
            self._let_go()

    def hand_over(self) -> None:
        """Leaves the run to its cluster: the lock stays, and is alive while the job runs there."""
        self._end_heartbeat()
        self._close()

    def taken_at(self) -> float | None:
        """When it was last written, by the clock of OUT's disk or store, in seconds since 1970.

        Raises:
            OSError: OUT cannot be listed.
        """
        path = _path(self._out, self.number)
        found = self._out.files.starting_with(path)
        return next((file.written for file in found if file.path == path), None)

    def _create(self) -> bool:
        """Creates the file, held if the disk knows locks; False if another run was faster."""
        try:
            self._handle = self._put(self._out.files.create_held)
        except FileExistsError:
            # An attempt of this run may have succeeded although its answer was lost.
            return self._is_mine()
        return True

    def _write(self) -> None:
        self._put(self._out.files.write)

    def _put(self, put: Callable[..., Any]) -> Any:
        data = utf8(json.dumps(self._content))
        path = _path(self._out, self.number)
        return put(path, data, scratch=self._out.scratch, root=self._out.path)

    def _is_mine(self) -> bool:
        return (_content(self._out, self.number) or {}).get("run") == self._out.run

    def _let_go(self) -> None:
        self._close()
        self._out.clean_up([self._out.run])

    def _close(self) -> None:
        runs.active.discard(self._out.run)
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None

    def _beat(self) -> None:
        while not self._stop.wait(HEARTBEAT_SECONDS):
            try:
                if not self._is_mine():
                    return  # removed, or another run's: the run checks for that before it ends
                self._content["beat"] += 1
                self._write()
            except Exception as error:  # if it lasts, the job's own writes fail
                _LOGGER.info("%s: %s", _path(self._out, self.number), error)

    def _end_heartbeat(self) -> None:
        self._stop.set()
        if self._heartbeat is not None:
            self._heartbeat.join()
            self._heartbeat = None


def holder(
    out: OutputFolder,
    is_running: IsRunning = lambda job: None,
    wait: Callable[[float], None] = time.sleep,
) -> dict[str, Any] | None:
    """Returns the content of the lock of the run that is writing to OUT; None if there is none.

    Where that cannot be decided at once, the lock is watched for a minute.

    Raises:
        OSError: the locks cannot be read.
    """
    return _highest(out, is_running, wait)[1]


def describe_holder(content: dict[str, Any]) -> str:
    """Describes the run of a lock, for people: its job, process, machine and start."""
    job = content.get("job")
    of_job = f"{job.get('name')} on {job.get('at')}, " if isinstance(job, dict) else ""
    return (
        f"{of_job}process {content.get('process', '?')} on {content.get('host', '?')}, since "
        f"{content.get('started', '?')}"
    )


def lock_numbers(out: OutputFolder) -> list[int]:
    """Returns the N of each lock in OUT."""
    found = out.files.starting_with(f"{out.path}/{LOCK}/")
    names = (file.path.rpartition("/")[2] for file in found)
    return [int(name) for name in names if name.isascii() and name.isdecimal()]


def later_runs(out: OutputFolder) -> set[str]:
    """Returns the runs whose locks are higher than this run's; if it has none, all that have one.

    Raises:
        OSError: the locks cannot be read.
    """
    found = {number: (_content(out, number) or {}).get("run") for number in lock_numbers(out)}
    mine = max((number for number, run in found.items() if run == out.run), default=0)
    return {run for number, run in found.items() if number > mine and isinstance(run, str)}


def _path(out: OutputFolder, number: int) -> str:
    return f"{out.path}/{LOCK}/{number}"


def _content(out: OutputFolder, number: int) -> dict[str, Any] | None:
    """The content of a lock; None if it has gone, ``{}`` if it cannot be parsed."""
    try:
        content = parse_json(out.files.read(_path(out, number)))
    except FileNotFoundError:
        return None
    except ValueError:
        return {}
    return content if isinstance(content, dict) else {}


def _highest(
    out: OutputFolder, is_running: IsRunning, wait: Callable[[float], None]
) -> tuple[int, dict[str, Any] | None]:
    """The N of the highest lock, 0 if there is none; and its content if its run is alive."""
    number = max(lock_numbers(out), default=0)
    content = _content(out, number) if number else None
    if content is None:
        return number, None
    alive = _is_alive(out, number, content, is_running)
    if alive is not None:
        return number, content if alive else None
    _LOGGER.warning(
        "%s: checking for up to %.0f s whether the job on %s is still running",
        out.path,
        DEAD_AFTER_SECONDS,
        content.get("host", "another machine"),
    )
    end = time.monotonic() + DEAD_AFTER_SECONDS
    while time.monotonic() < end:
        wait(POLL_SECONDS)
        now = _content(out, number)
        if now is None or now.get("ended"):
            break
        if now != content:
            return number, now
    return number, None


def _is_alive(
    out: OutputFolder, number: int, content: dict[str, Any], is_running: IsRunning
) -> bool | None:
    """Whether the run of a lock is alive; None if that cannot be decided without waiting."""
    if content.get("ended"):
        return False
    held = out.files.is_held(_path(out, number))
    if isinstance(content.get("job"), dict):
        return held or _is_job_alive(out, content, is_running)
    # One that cannot be parsed comes from a disk that knows locks, as files are written whole.
    if held or (held is False and content.get("held", True)):
        return held
    return runs.is_alive(content)


def _is_job_alive(out: OutputFolder, content: dict[str, Any], is_running: IsRunning) -> bool | None:
    """Whether a job on a cluster runs, or the process that submitted it."""
    submitter = runs.is_alive(content)
    if submitter:
        return True
    summary = out.read_json(SUMMARY)
    if isinstance(summary, dict) and summary.get("run") == content.get("run"):
        return False  # it is done, and its cluster may have gone
    running = is_running(content["job"])
    # A job that the cluster does not know yet may still be submitted, if its process may be alive.
    return submitter if running is False else running
