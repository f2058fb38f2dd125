"""Ends everything that tests have started, however their process ends.

A guard is a process beside pytest, or beside one of pytest-xdist's workers. A pipe between the two
closes when pytest ends, also by a SIGKILL. The guard then kills all processes that pytest has
started, directly or through other processes, and removes their folder for temporary files. It
recognises them by an environment variable, which a process inherits even if it is in a session of
its own or its parent has ended. It reads the variables in /proc, which only Linux has.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

VARIABLE = "FCN_BEAM_TESTS"


class Guard:
    """A guard of this process and of all processes that it starts from now on.

    Attributes:
        folder: for their temporary files. pytest's own ``tmp_path`` is elsewhere, as the files of
            a test that has failed are kept.
    """

    def __init__(self) -> None:
        # pytest's own variable. A worker's folder lies beside pytest's, not in it: paths of sockets
        # have to be short.
        root = os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", tempfile.gettempdir())
        self.folder = tempfile.mkdtemp(prefix="fcn-beam-", dir=root)
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", __file__, self.folder],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            # Of a pytest that another pytest has started, the outer guard does not end the inner.
            env={name: value for name, value in os.environ.items() if name != VARIABLE},
            start_new_session=True,  # Ctrl-C is not for it
        )
        os.environ[VARIABLE] = os.environ["TMPDIR"] = tempfile.tempdir = self.folder


def guarded(folder: str) -> Iterator[int]:
    """Ids of the processes that were started with this guard's folder in their environment."""
    mark = f"{VARIABLE}={folder}".encode()
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            variables = path.read_bytes()
        except OSError:  # it has ended, or is another user's
            continue
        if mark in variables.split(b"\0"):
            yield int(path.parent.name)


def end(folder: str) -> None:
    """Kills them."""
    while found := list(guarded(folder)):  # again, as one may have started another meanwhile
        for process in found:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        time.sleep(0.02)


def main(folder: str) -> None:
    """Waits until standard input is closed, then ends what is guarded."""
    sys.stdin.buffer.read()
    end(folder)
    shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main(sys.argv[1])
