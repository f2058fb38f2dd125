"""A small Flink session cluster on this machine: one job manager and some task managers.

    python deploy/flink/cluster.py up
    python deploy/flink/cluster.py down

Everything of it lies in one folder, by default ``.flink`` in the checkout: ``jars/``, which Maven
fetches once, ``logs/``, ``job-server.jar`` for ``--flink_job_server_jar``, and ``cluster.json``,
which says what runs. Needs Java 11 or 17, and Maven for the first time.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / ".flink"
PORT = 8081
TASK_MANAGERS = 2

JOB_MANAGER = "org.apache.flink.runtime.entrypoint.StandaloneSessionClusterEntrypoint"
TASK_MANAGER = "org.apache.flink.runtime.taskexecutor.TaskManagerRunner"
JOB_SERVER = "org.apache.beam.runners.flink.FlinkJobServerDriver"

# Internals of Java 17 that Flink and Beam access.
OPENS = (
    "java.base/java.lang",
    "java.base/java.lang.invoke",
    "java.base/java.lang.reflect",
    "java.base/java.io",
    "java.base/java.net",
    "java.base/java.nio",
    "java.base/java.text",
    "java.base/java.time",
    "java.base/java.util",
    "java.base/java.util.concurrent",
    "java.base/java.util.concurrent.atomic",
    "java.base/java.util.concurrent.locks",
    "java.base/sun.net.util",
    "java.base/sun.nio.ch",
)


class ClusterError(Exception):
    """Why there is no cluster, in one line, with the remedy."""


def missing(folder: Path = FOLDER) -> str:
    """Returns what this machine lacks to run a cluster; ``""`` if nothing."""
    if shutil.which("java") is None:
        return "Flink needs Java, which is not installed (Debian: openjdk-17-jre-headless)"
    if not _jars(folder) and shutil.which("mvn") is None:
        return "Flink's jars are fetched by Maven, which is not installed (Debian: maven)"
    return ""


# The jars


def fetch(folder: Path = FOLDER) -> None:
    """Fetches the jars that ``pom.xml`` names, unless they are there, and makes the job server's.

    Raises:
        ClusterError: Java or Maven is missing, or Maven fails.
    """
    if reason := missing(folder):
        raise ClusterError(reason)
    if not _jars(folder):
        folder.mkdir(parents=True, exist_ok=True)
        incoming = folder / "incoming"
        shutil.rmtree(incoming, ignore_errors=True)
        command = ["mvn", "--batch-mode", "--quiet", "--file", str(ROOT / "deploy/flink/pom.xml")]
        command += ["dependency:copy-dependencies", "-DincludeScope=runtime"]
        command += [f"-DoutputDirectory={incoming}"]
        log = folder / "maven.log"
        with log.open("wb") as sink:
            status = subprocess.run(command, stdout=sink, stderr=subprocess.STDOUT).returncode
        if status:
            raise ClusterError(f"Maven could not fetch Flink's jars; see {log}")
        incoming.rename(folder / "jars")  # all of them, or none
    _make_job_server(folder)


def _jars(folder: Path) -> list[Path]:
    return sorted((folder / "jars").glob("*.jar"))


def _make_job_server(folder: Path) -> None:
    """Writes ``job-server.jar``: a manifest that names Beam's job server and the jars beside it.

    Beam's own has everything in it, 300 MB. On one machine that is not needed: the cluster has the
    same jars already.
    """
    manifest = {
        "Manifest-Version": "1.0",
        "Main-Class": JOB_SERVER,
        "Add-Opens": " ".join(OPENS),
        "Class-Path": " ".join(f"jars/{jar.name}" for jar in _jars(folder)),
    }
    with zipfile.ZipFile(folder / "job-server.jar", "w", zipfile.ZIP_DEFLATED) as jar:
        lines = "".join(_manifest_line(f"{key}: {value}") for key, value in manifest.items())
        jar.writestr("META-INF/MANIFEST.MF", lines + "\r\n")


def _manifest_line(text: str) -> str:
    """A line of a manifest: at most 72 bytes, gone on with after a space."""
    parts = [text[:70], *(f" {text[at : at + 69]}" for at in range(70, len(text), 69))]
    return "".join(f"{part}\r\n" for part in parts)


# The cluster


def settings(
    port: int, rpc_port: int, folder: Path, restarts: int, task_managers: int
) -> dict[str, Any]:
    """Flink's settings, with every memory size that its own scripts would work out."""
    return {
        "rest.port": port,
        "rest.address": "127.0.0.1",
        "rest.bind-address": "127.0.0.1",
        "jobmanager.rpc.address": "127.0.0.1",
        "jobmanager.rpc.port": rpc_port,
        "jobmanager.bind-host": "127.0.0.1",
        "taskmanager.host": "127.0.0.1",
        "taskmanager.bind-host": "127.0.0.1",
        "blob.server.port": 0,
        "io.tmp.dirs": folder / "tmp",
        "parallelism.default": task_managers,
        # One stream of photos each; all streams of a task manager share one Python worker.
        "taskmanager.numberOfTaskSlots": 1,
        "taskmanager.cpu.cores": 1,
        "taskmanager.memory.framework.heap.size": "128m",
        "taskmanager.memory.framework.off-heap.size": "128m",
        "taskmanager.memory.task.heap.size": "384m",
        "taskmanager.memory.task.off-heap.size": "0m",
        "taskmanager.memory.managed.size": "128m",
        # A job has some 46 steps, with exchanges between them, each with buffers of its own.
        "taskmanager.memory.network.min": "192m",
        "taskmanager.memory.network.max": "192m",
        "taskmanager.memory.jvm-metaspace.size": "256m",
        "taskmanager.memory.jvm-overhead.min": "192m",
        "taskmanager.memory.jvm-overhead.max": "192m",
        # A task manager that was killed is missed after seconds, as it refuses connections; one
        # that only is slow has as long as Flink gives it by default.
        "heartbeat.interval": 1000,
        "heartbeat.timeout": 50000,
        "restart-strategy.type": "fixed-delay" if restarts else "none",
        "restart-strategy.fixed-delay.attempts": restarts,
        "restart-strategy.fixed-delay.delay": "1 s",
        # Beam's classes are loaded once, and not again for each job: only then does a task manager
        # keep a job's worker from one step to the next (--environment_cache_millis).
        "classloader.resolve-order": "parent-first",
        "web.submit.enable": False,
    }


JOB_MANAGER_MEMORY = ("-Xmx512m", "-XX:MaxMetaspaceSize=256m")
TASK_MANAGER_MEMORY = (
    "-Xmx512m",
    "-XX:MaxDirectMemorySize=320m",
    "-XX:MaxMetaspaceSize=256m",
)


def up(
    folder: Path = FOLDER,
    port: int = PORT,
    restarts: int = 3,
    jars: Path | None = None,
    seconds: float = 90,
    task_managers: int = TASK_MANAGERS,
) -> dict[str, Any]:
    """Starts a cluster, or the lost task managers of a running one, and waits for them.

    Args:
        port: of Flink's web page and REST API, on localhost.
        restarts: how often a job is started again when a task manager is lost.
        jars: another cluster's folder, whose jars are shared.
        seconds: how long to wait.
        task_managers: number for a new cluster; a running one keeps its number.

    Returns:
        The content of ``cluster.json``: the port, the number of task managers ``wanted``, and the
        process ids of ``job_manager`` and ``task_managers``.

    Raises:
        ClusterError: Java or Maven is missing, the port is taken, or it does not come up.
    """
    with reserved_port() as rpc_port:  # until a new job manager listens on it
        started = state(folder)
        if started is None:
            if jars is None:
                fetch(folder)
            options = settings(port, rpc_port, folder, restarts, task_managers)
            started = _start_job_manager(folder, options, jars or folder)
        alive = [process for process in started["task_managers"] if _is_ours(process)]
        started["task_managers"] = alive
        while len(alive) < started["wanted"]:
            alive.append(_start(folder, started["jars"], TASK_MANAGER, TASK_MANAGER_MEMORY))
            _note(folder, started)
        try:
            _wait(started, seconds, folder)
        except ClusterError:
            down(folder)
            raise
    return started


def _start_job_manager(folder: Path, options: Mapping[str, Any], jars: Path) -> dict[str, Any]:
    port = options["rest.port"]
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=10):
        raise ClusterError(f"port {port} is taken; end what listens there, or choose another")
    for name in ("tmp", "logs"):
        shutil.rmtree(folder / name, ignore_errors=True)
    for name in ("tmp", "logs", "conf"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    lines = "".join(f"{key}: {_text(value)}\n" for key, value in options.items())
    (folder / "conf/flink-conf.yaml").write_text(lines)
    started: dict[str, Any] = {"port": port, "jars": f"{jars}/jars/*"}
    started |= {"wanted": options["parallelism.default"], "task_managers": []}
    started["job_manager"] = _start(folder, started["jars"], JOB_MANAGER, JOB_MANAGER_MEMORY)
    _note(folder, started)
    return started


def _start(folder: Path, jars: str, main: str, memory: tuple[str, ...]) -> int:
    """Starts a process of the cluster, which outlives this one; returns its id."""
    opens = [part for module in OPENS for part in ("--add-opens", f"{module}=ALL-UNNAMED")]
    command = ["java", *memory, *opens, "-cp", jars, main, "--configDir", str(folder / "conf")]
    number = len(list((folder / "logs").iterdir()))
    with (folder / f"logs/{number}-{main.rpartition('.')[2]}.log").open("wb") as log:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C of a job in the same terminal is not for it
        )
    return process.pid


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _wait(started: Mapping[str, Any], seconds: float, folder: Path) -> None:
    deadline = time.monotonic() + seconds
    while True:
        with contextlib.suppress(OSError, ValueError):
            if ask(started["port"], "/overview")["taskmanagers"] == started["wanted"]:
                return
        ended = [process for process in _processes(started) if not _is_ours(process)]
        if ended or time.monotonic() > deadline:
            raise ClusterError(f"the cluster does not come up; see {folder / 'logs'}")
        time.sleep(0.2)


def down(folder: Path = FOLDER, seconds: float = 20) -> bool:
    """Ends the cluster; False where none was up."""
    noted = _noted(folder)
    if noted is None:
        return False
    processes = [process for process in _processes(noted) if _is_ours(process)]
    for number, wait in ((signal.SIGTERM, seconds), (signal.SIGKILL, 5.0)):
        for process in processes:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process, number)  # with the Python workers of a task manager
        deadline = time.monotonic() + wait
        while processes and time.monotonic() < deadline:
            time.sleep(0.1)
            processes = [process for process in processes if _is_ours(process)]
    (folder / "cluster.json").unlink()
    shutil.rmtree(folder / "tmp", ignore_errors=True)
    return True


def state(folder: Path = FOLDER) -> dict[str, Any] | None:
    """Reads ``cluster.json`` of a running cluster; None if none is running."""
    noted = _noted(folder)
    if noted is None or not _is_ours(noted["job_manager"]):
        return None
    return noted


def _noted(folder: Path) -> dict[str, Any] | None:
    try:
        return json.loads((folder / "cluster.json").read_text())
    except FileNotFoundError:
        return None


def _note(folder: Path, started: Mapping[str, Any]) -> None:
    (folder / "cluster.json").write_text(json.dumps(started) + "\n")


def _processes(noted: Mapping[str, Any]) -> Iterator[int]:
    yield noted["job_manager"]
    yield from noted["task_managers"]


def _is_ours(process: int) -> bool:
    """Whether a process is a living one of Flink: its number may have been given to another."""
    with contextlib.suppress(ChildProcessError):
        os.waitpid(process, os.WNOHANG)  # a child that has ended stays until it is asked for
    listed = subprocess.run(["ps", "-ww", "-o", "args=", "-p", str(process)], capture_output=True)
    return b"org.apache.flink." in listed.stdout


def ask(port: int, path: str) -> Any:
    """Sends a request to Flink's REST API and returns its answer."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as answer:
        return json.load(answer)


@contextlib.contextmanager
def reserved_port() -> Iterator[int]:
    """A TCP port of the loopback interface that the system gives to no other program meanwhile.

    On Linux a server may bind it, as all that are started here set ``SO_REUSEADDR``. Elsewhere it
    is only known to have been free.
    """
    with socket.socket() as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        holder.bind(("127.0.0.1", 0))
        port = holder.getsockname()[1]
        if sys.platform != "linux":
            holder.close()
        yield port


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("up", "down"))
    parser.add_argument("--port", type=int, default=PORT, help="of the web page")
    parser.add_argument("--restarts", type=int, default=3, help="of a job, at most")
    parser.add_argument("--task-managers", type=int, default=TASK_MANAGERS, help="of a new cluster")
    options = parser.parse_args()
    try:
        if options.what == "down":
            print("Flink is down" if down() else "no Flink was up")
            return 0
        started = up(
            port=options.port, restarts=options.restarts, task_managers=options.task_managers
        )
    except ClusterError as error:
        print(f"flink: {error}", file=sys.stderr)
        return 1
    print(f"Flink is up: http://127.0.0.1:{started['port']}, logs in {FOLDER / 'logs'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
