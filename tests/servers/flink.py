"""A Flink cluster for tests, and workers of it whose network costs nothing.

Such a worker is a script that :func:`worker` writes, for ``--environment_type PROCESS``. It puts
the stub of :mod:`tests.pipeline.jobs.reliability` in the network's place, notes when it loads it,
and stops after each window for as long as a file stands, which it notes, too, so that a test may
look on, or kill it.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from deploy.flink import cluster
from pipeline.jobs.flink import FlinkJob
from tests.servers.process import free_port

ROOT = Path(__file__).parent.parent.parent
WORKER = """#!{python}
import os, sys, time
sys.path[0] = {root!r}
from tests.pipeline.jobs import reliability
reliability.stub_network()
from pipeline.jobs import windows, worker
from pipeline.network import models

describe, write_window = models.load, windows.write_window

def load(*arguments):
    with open({folder!r} + "/loaded", "a") as log:
        print(os.getpid(), file=log)
    return describe(*arguments)

def write_and_hold(*arguments):
    outcomes = write_window(*arguments)
    if os.path.exists({folder!r} + "/hold"):
        with open({folder!r} + "/held", "a") as log:
            print(os.getpid(), file=log)
    while os.path.exists({folder!r} + "/hold"):
        time.sleep(0.05)
    return outcomes

models.load, windows.write_window = load, write_and_hold
worker.main()
"""


@contextlib.contextmanager
def running(
    folder: Path, restarts: int = 3, task_managers: int = cluster.TASK_MANAGERS
) -> Iterator[Cluster]:
    """A cluster, while its block runs."""
    cluster.fetch()
    started = cluster.up(
        folder, free_port(), restarts, jars=cluster.FOLDER, task_managers=task_managers
    )
    try:
        yield Cluster(folder, started)
    finally:
        cluster.down(folder)


class Cluster:
    """A cluster that is up.

    Args:
        started: see :func:`deploy.flink.cluster.up`.
    """

    def __init__(self, folder: Path, started: Mapping[str, Any]):
        self.folder, self.port = folder, started["port"]
        self.job_manager: int = started["job_manager"]
        self.task_managers: Sequence[int] = started["task_managers"]

    def options(self, command: str, environment: Mapping[str, str] | None = None) -> list[str]:
        """What a job on it is told.

        Args:
            command: that starts a worker.
            environment: variables for the workers.
        """
        worker = {"command": command, "env": dict(environment or {})}
        return [
            *("--runner", "FlinkRunner", "--flink_master", f"localhost:{self.port}"),
            *("--flink_job_server_jar", str(cluster.FOLDER / "job-server.jar")),
            *("--environment_type", "PROCESS", "--environment_config", json.dumps(worker)),
            "--shared-disk",
        ]

    def jobs(self) -> dict[str, str]:
        """The state of each job by its id."""
        found = cluster.ask(self.port, "/jobs/overview")["jobs"]
        return {job["jid"]: job["state"] for job in found}

    def kill_task_manager(self, worker: int) -> None:
        """Kills the task manager that has started a worker: of another one no job misses anything.

        Args:
            worker: its process id.
        """
        found = subprocess.run(["ps", "-o", "ppid=", "-p", str(worker)], capture_output=True)
        manager = int(found.stdout)
        assert manager in self.task_managers
        os.kill(manager, signal.SIGKILL)

    def heal(self) -> None:
        """Starts task managers in the place of those that were killed."""
        self.task_managers = cluster.up(self.folder)["task_managers"]

    def cancel_all(self) -> None:
        """Ends what a test has left."""
        for job in cluster.ask(self.port, "/jobs/overview")["jobs"]:
            if job["state"] not in FlinkJob.ENDED:
                FlinkJob(f"http://127.0.0.1:{self.port}", job["name"]).cancel()

    def running_jobs(self) -> list[str]:
        return [job for job, state in self.jobs().items() if state == "RUNNING"]

    def failures(self, job: str) -> int:
        """How often a part of a job has failed, and perhaps was started again."""
        found = cluster.ask(self.port, f"/jobs/{job}/exceptions")
        return len(found["exceptionHistory"]["entries"])


def worker(folder: Path) -> str:
    """Writes the command of a worker; ``loaded``, ``hold`` and ``held`` are files of its folder."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "worker"
    path.write_text(WORKER.format(python=sys.executable, root=str(ROOT), folder=str(folder)))
    path.chmod(0o755)
    return str(path)


def wait_until(condition: Callable[[], Any], what: str, seconds: float = 400) -> Any:
    """Waits for something that comes sooner or later, and returns it."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, f"not {what} within {seconds} s"
        time.sleep(0.1)
    return found
