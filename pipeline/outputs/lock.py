"""One writer: ``OUT/lock/N``, where the highest N holds.

The lock is a courtesy: two jobs that write to one OUT all the same do no harm, as masks of a recipe
have equal bytes and everything else has names of a run's own. So the lock is never waited for, and
nobody ever unlocks by hand: a lock whose process is gone is dead.

How that is known: on local disk the operating system tells whether a process still holds the file.
Elsewhere the file is written anew every few seconds, and is dead once it has not changed for a
minute by the observer's own clock; or at once, where its machine is this one and its process is
gone. A run that has failed says so in its lock.

A job on a cluster may outlive the process that submitted it. Its lock names it, and its cluster is
asked whether it still runs.

Beside its lock a run has a mark among its unfinished files, before anything else of it is in OUT.
It tells whether the run lives, even if the lock is taken away by force.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import secrets
import threading
import time
from collections.abc import Callable
from typing import Any

from model_build.common.errors import JobError, UserError
from pipeline.outputs import processes
from pipeline.outputs.folder import LOCK, SUMMARY, UNFINISHED, OutputFolder, parse_json, utf8
from pipeline.storage import as_job_error, is_remote

_LOGGER = logging.getLogger(__name__)

BEAT = 15.0  # seconds from one writing of the file to the next
DEAD_AFTER = 60.0  # seconds without a change
LOOK = 2.0  # seconds between two looks of an observer

_RUN = re.compile(r"\d{8}T\d{6}Z-[0-9a-f]{6}")  # see new_run

Lives = Callable[[Any], bool | None]  # whether a job runs, by its note; None: cannot be asked

_under_way: set[str] = set()  # runs of this process


def new_run() -> str:
    """A name for a run, which no other has: when it began, for people, and six random digits."""
    return f"{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}-{secrets.token_hex(3)}"


class Lock:
    """The claim of one run on its output folder.

    Args:
        wait: for so many seconds, between two looks at another run's lock.
        job: what a cluster knows the run by; plain values, None for a run of this process.
        lives: asks a cluster for such a job.

    Attributes:
        number: N of its file; 0 as long as there is none.
        dead: names of the runs whose locks were found dead: what they have left may be removed.
    """

    number: int = 0
    dead: tuple[str, ...] = ()

    def __init__(
        self,
        out: OutputFolder,
        wait: Callable[[float], None] = time.sleep,
        job: dict[str, str] | None = None,
        lives: Lives = lambda job: None,
    ):
        self._out, self._wait, self._lives = out, wait, lives
        self._handles: list[int] = []
        self._content = {
            "run": out.run,
            "started": time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime()),
            **processes.this_process(),
            "held": not is_remote(out.path),  # by the operating system
            "beat": 0,
            "ended": False,
        }
        if job is not None:
            self._content["job"] = job
        self._stop = threading.Event()
        self._beating: threading.Thread | None = None

    def take(self) -> Lock:
        """Takes the lock.

        Raises:
            UserError: another run has it.
            OSError: OUT cannot be written.
        """
        _under_way.add(self._out.run)
        with contextlib.suppress(FileExistsError):  # heard of late: no other run has its name
            self._create(_mark(self._out, self._out.run))
        if not self._handles and self._content["held"]:  # a disk without locks
            self._content["held"] = False
            self._write(_mark(self._out, self._out.run))
        while True:
            found = self._found()
            if found:
                number, content = max(found.items())
                self._check_dead(number, content)
            self.number = max(found, default=0) + 1
            if self._claim():
                break
        runs = (content.get("run") for content in found.values())
        self.dead = tuple(run for run in runs if isinstance(run, str) and _is_name(run))
        if not self._content["held"]:
            self._beating = threading.Thread(target=self._beat, daemon=True)
            self._beating.start()
        return self

    def release(self) -> None:
        """Ends a run that has cleaned up: its lock goes, and those of the dead before it."""
        self._end_beat()
        try:
            for number in sorted(self._found()):
                if number < self.number or (number == self.number and self._is_mine()):
                    self._out.files.delete(self._path(number))
        finally:
            self._let_go()

    def abandon(self) -> None:
        """Ends a run that has not come to its end: its lock stays, and says that it is dead.

        Where that cannot be written it is dead all the same: this process no longer holds it.
        """
        self._end_beat()
        try:
            if self.number and self._is_mine():
                self._content["ended"] = True
                self._write(self._path(self.number))
        finally:
            self._let_go()

    def leave(self) -> None:
        """Leaves a run to its cluster: its lock stays, and holds as long as the job runs there."""
        self._end_beat()
        _under_way.discard(self._out.run)
        self._close()

    def taken(self) -> float | None:
        """When it was taken, by the clock of OUT's disk or store, in seconds since 1970.

        Raises:
            OSError: OUT cannot be listed.
        """
        mark = _mark(self._out, self._out.run)
        return next((file.written for file in self._out.files.starting_with(mark)), None)

    # The files

    def _path(self, number: int) -> str:
        return _path(self._out, number)

    def _found(self) -> dict[int, dict[str, Any]]:
        """The content of each lock by its N; ``{}`` of one that cannot be understood."""
        return {n: _content(self._out, self._path(n)) or {} for n in numbers(self._out)}

    def _claim(self) -> bool:
        """Writes the lock's file; False where another was faster."""
        try:
            self._create(self._path(self.number))
        except FileExistsError:
            # An attempt of ours may have succeeded without our hearing of it.
            return self._is_mine()
        return True

    def _is_mine(self) -> bool:
        content = _content(self._out, self._path(self.number))
        return content is not None and content.get("run") == self._out.run

    def _create(self, path: str) -> None:
        """Writes a file that must not exist yet, and holds it where that can be."""
        handle = self._out.files.create_held(
            path,
            utf8(json.dumps(self._content)),
            scratch=self._out.scratch,
            root=self._out.path,
        )
        if handle is not None:
            self._handles.append(handle)

    def _write(self, path: str) -> None:
        self._out.files.write(
            path,
            utf8(json.dumps(self._content)),
            scratch=self._out.scratch,
            root=self._out.path,
        )

    def _let_go(self) -> None:
        _under_way.discard(self._out.run)
        self._close()
        self._out.clean_up([self._out.run])  # its mark, too

    def _close(self) -> None:
        while self._handles:
            os.close(self._handles.pop())

    # Alive or dead

    def _beat(self) -> None:
        while not self._stop.wait(BEAT):
            try:
                if not self._is_mine():
                    return  # taken away; what that means is asked before shards are written
                self._content["beat"] += 1
                self._write(self._path(self.number))
            except Exception as error:  # the job's own writes will tell, if it lasts
                _LOGGER.info("%s: %s", self._path(self.number), error)

    def _end_beat(self) -> None:
        self._stop.set()
        if self._beating is not None:
            self._beating.join()
            self._beating = None

    def _check_dead(self, number: int, content: dict[str, Any]) -> None:
        """Returns once a lock is dead or gone; raises UserError if its run lives."""
        living = _living(self._out, number, content, self._lives, self._wait)
        if living is not None:
            raise UserError(
                f"{self._out.path}: another job is writing there ({described(living)}); wait for "
                "it, or choose another --output"
            )


def holder(
    out: OutputFolder,
    lives: Lives = lambda job: None,
    wait: Callable[[float], None] = time.sleep,
) -> dict[str, Any] | None:
    """What the lock of the run says that is writing to OUT; None where none is.

    Where nobody can tell at once, the lock is watched for a minute.

    Raises:
        OSError: the locks cannot be looked at.
    """
    number = max(numbers(out), default=0)
    content = _content(out, _path(out, number)) if number else None
    return None if content is None else _living(out, number, content, lives, wait)


def described(content: dict[str, Any]) -> str:
    """Who holds a lock, and since when, for people."""
    job = content.get("job")
    of_job = f"{job.get('name')} on {job.get('at')}, " if isinstance(job, dict) else ""
    return (
        f"{of_job}process {content.get('process', '?')} on {content.get('host', '?')}, since "
        f"{content.get('started', '?')}"
    )


def _living(
    out: OutputFolder,
    number: int,
    content: dict[str, Any],
    lives: Lives,
    wait: Callable[[float], None],
) -> dict[str, Any] | None:
    """What a lock says now whose run lives; None once it is dead or gone."""
    path = _path(out, number)
    alive = _is_alive(out, path, content, lives)
    if alive is not None:
        return content if alive else None
    _LOGGER.warning(
        "%s: checking for up to %.0f s whether the job on %s is still running",
        out.path,
        DEAD_AFTER,
        content.get("host", "another machine"),
    )
    end = time.monotonic() + DEAD_AFTER
    while time.monotonic() < end:
        wait(LOOK)
        now = _content(out, path)
        if now is None or now.get("ended"):
            return None
        if now != content:
            return now
    return None


def _path(out: OutputFolder, number: int) -> str:
    return f"{out.path}/{LOCK}/{number}"


def numbers(out: OutputFolder) -> list[int]:
    """The N of each lock that stands in OUT."""
    names = (
        file.path.rpartition("/")[2] for file in out.files.starting_with(f"{out.path}/{LOCK}/")
    )
    return [int(name) for name in names if name.isascii() and name.isdecimal()]


def check_claim(out: OutputFolder, number: int) -> None:
    """Ends a run that another one has taken OUT over from.

    Args:
        number: of the run's lock.

    Raises:
        JobError: another run has a higher one; or the locks cannot be looked at.
    """
    with as_job_error():
        highest = max(numbers(out), default=0)
    if highest > number:
        raise JobError(
            f"{out.path}: another job has taken over this output folder; let that one finish"
        )


def is_gone(out: OutputFolder, run: str) -> bool:
    """Whether a run has ended, whatever has become of its lock: what it has left may be removed.

    Of a run in a store, whose machine cannot be asked, nobody knows: it may live.
    """
    if not _RUN.fullmatch(run):
        return False  # of somebody else, who only names his files alike
    content = _content(out, _mark(out, run))
    return content is None or _is_alive(out, _mark(out, run), content) is False


def _mark(out: OutputFolder, run: str) -> str:
    """The file that stands as long as a run does."""
    return f"{out.path}/{UNFINISHED}/{run}/run"


def _content(out: OutputFolder, path: str) -> dict[str, Any] | None:
    """What a lock or a mark says; None where it is gone."""
    try:
        content = parse_json(out.files.read(path))
    except FileNotFoundError:
        return None
    except ValueError:
        return {}
    return content if isinstance(content, dict) else {}


def _is_name(run: str) -> bool:
    """Whether this can be a run's name: what runs have left is removed by it, and nothing else."""
    return bool(re.fullmatch(r"[\w-]+", run))


def _is_alive(
    out: OutputFolder,
    path: str,
    content: dict[str, Any],
    lives: Lives = lambda job: None,
) -> bool | None:
    """Whether the run of a lock or a mark lives; None where nobody can tell without waiting."""
    if content.get("ended"):
        return False
    held = out.files.is_held(path)
    if isinstance(content.get("job"), dict):
        return held or _job_lives(out, content, lives)
    # One that cannot be understood is of a disk that knows locks, as files are written whole.
    if held or (held is False and content.get("held", True)):
        return held
    return _process_lives(content)


def _job_lives(out: OutputFolder, content: dict[str, Any], lives: Lives) -> bool | None:
    """Whether a job on a cluster runs, or the process that has submitted it."""
    submitter = _process_lives(content)
    if submitter:
        return True
    summary = out.read_json(SUMMARY)
    if isinstance(summary, dict) and summary.get("run") == content.get("run"):
        return False  # it is done, and its cluster may be gone by now
    running = lives(content["job"])
    # What the cluster does not know may be about to be submitted, unless that process is gone.
    return submitter if running is False else running


def _process_lives(content: dict[str, Any]) -> bool | None:
    """Whether the process of a lock still runs; None where this machine cannot tell."""
    alive = processes.lives(content)
    if alive and content.get("process") == os.getpid():
        # A run of this very process may have failed without being able to say so in its lock.
        return content.get("run") in tuple(_under_way)
    return alive
