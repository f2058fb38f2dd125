"""A Flink cluster for tests, and workers with a stub network.

Such a worker is a script that :func:`worker` writes, for ``--environment_type PROCESS``. It
replaces the network by the stub of :mod:`tests.pipeline.segmentation.reliability`, records when it
loads it, and stops after each window while a certain file exists. It also records the stops, so
that a test can observe or kill it.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.runners.flink import FlinkJob
from tests.servers.process import running as running_server
from tests.waiting import DEADLINE
from tools import flink_cluster as cluster
from tools.flink_cluster import reserved_port

ROOT = Path(__file__).parent.parent.parent
# A job that has lost a task manager may be started again several times, until all results that were
# on it are computed anew.
RESTARTS = 10
JOB_SERVER = str(cluster.FOLDER / "job-server.jar")
WORKER = """#!{python}
import os, sys, time
sys.path[0] = {root!r}
from tests.pipeline.segmentation import reliability
reliability.stub_network()
from pipeline.segmentation import windows
from pipeline.cli import worker
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
def running(folder: Path) -> Iterator[Cluster]:
    """A cluster and a job server for it, while its block runs."""
    cluster.fetch()
    with reserved_port() as port, reserved_port() as job_port:
        started = cluster.up(folder, port, RESTARTS, jars=cluster.FOLDER, seconds=DEADLINE)
        command = ["java", "-jar", JOB_SERVER, "--flink-master", f"http://localhost:{port}"]
        command += ["--artifacts-dir", f"{folder}/artifacts", "--job-port", str(job_port)]
        command += ["--artifact-port", "0", "--expansion-port", "0"]
        try:
            with running_server(command, job_port, folder / "logs/job-server.log"):
                yield Cluster(folder, started, f"localhost:{job_port}")
        finally:
            cluster.down(folder)


class Cluster:
    """A cluster that is up.

    Args:
        started: see :func:`tools.flink_cluster.up`.
        job_server: the address of a job server for it, see :func:`use_job_server`.
    """

    def __init__(self, folder: Path, started: Mapping[str, Any], job_server: str):
        self.folder, self.port, self.job_server = folder, started["port"], job_server
        self.job_manager: int = started["job_manager"]
        self.task_managers: Sequence[int] = started["task_managers"]

    def options(self, command: str, environment: Mapping[str, str] | None = None) -> list[str]:
        """Returns the Beam options of a job on it.

        Args:
            command: starts a worker.
            environment: variables for the workers.
        """
        worker = {"command": command, "env": dict(environment or {})}
        return [
            *("--runner", "FlinkRunner", "--flink_master", f"localhost:{self.port}"),
            *("--flink_job_server_jar", JOB_SERVER),
            *("--environment_type", "PROCESS", "--environment_config", json.dumps(worker)),
            # Else a task manager ends its worker and starts another at each exchange of the job.
            *("--environment_cache_millis", "20000"),
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
        self.task_managers = cluster.up(self.folder, seconds=DEADLINE)["task_managers"]

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


def use_job_server(address: str) -> None:
    """Lets Beam submit jobs of this process to a job server that runs, and not start its own."""
    from apache_beam.runners.portability.flink_runner import FlinkRunner
    from apache_beam.runners.portability.job_server import ExternalJobServer

    def default_job_server(self, options):
        start_own(self, options)  # which it has not done yet: options are completed
        return ExternalJobServer(address)

    start_own = FlinkRunner.default_job_server
    FlinkRunner.default_job_server = default_job_server


def worker(folder: Path) -> str:
    """Writes the command of a worker; ``loaded``, ``hold`` and ``held`` are files of its folder."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "worker"
    path.write_text(WORKER.format(python=sys.executable, root=str(ROOT), folder=str(folder)))
    path.chmod(0o755)
    return str(path)
