"""Nothing that tests start outlives their process, however it ends: tests.servers.guard."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.servers.guard import guarded
from tests.waiting import wait_until

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="a guard reads /proc"),
]

ROOT = Path(__file__).parent.parent
# A server; a process in a session of its own whose parent has ended; a job that is forked off a
# server of processes, and stops in the middle of its work.
TESTS = """
import os, signal, subprocess, tempfile, time
from pathlib import Path
from tests.servers.guard import VARIABLE
from tests.waiting import wait_until

HERE = Path(__file__).parent


def test_it(moto_address):
    from multiprocessing import get_context

    daemon = "sleep 10000 & echo $! > {here}/daemon"
    subprocess.run(["sh", "-c", daemon.format(here=HERE)], check=True, start_new_session=True)
    job = get_context("forkserver").Process(target=time.sleep, args=[10000])
    job.start()
    tempfile.mkdtemp()
    (HERE / "guarded").write_text(os.environ[VARIABLE])
    (HERE / "pid").write_text(str(os.getpid()))
    (HERE / "started").touch()
    wait_until((HERE / "end").exists, "the test may end")
    job.kill()
"""


@pytest.fixture
def run(tmp_path):
    """Runs such a test until it waits: ``run(*options)`` → the process, its test's, and the folder.

    What it has started is in ``folder``, the one for temporary files.
    """
    (tmp_path / "test_it.py").write_text(TESTS)
    processes = []

    def start(*options):
        command = [sys.executable, "-m", "pytest", "-p", "tests.servers.fixtures", *options]
        command += [
            "-p",
            "no:cacheprovider",
            "--rootdir",
            str(tmp_path),
            "--basetemp",
            str(tmp_path / "temporary"),
        ]
        with (tmp_path / "log").open("wb") as log:
            process = subprocess.Popen(
                [*command, str(tmp_path / "test_it.py")],
                env=os.environ | {"PYTHONPATH": str(ROOT)},
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        processes.append(process)

        def started():
            assert process.poll() is None, (tmp_path / "log").read_text()
            return (tmp_path / "started").exists()

        wait_until(started, "the test waits")
        folder = (tmp_path / "guarded").read_text()
        running = list(guarded(folder))
        assert int((tmp_path / "daemon").read_text()) in running
        assert len(running) >= 4, "moto, the daemon, the server of processes, the job"
        assert os.listdir(folder)
        return process, int((tmp_path / "pid").read_text()), folder

    yield start
    for process in processes:
        process.kill()
        process.wait()


def gone(folder):
    wait_until(lambda: not list(guarded(folder)), "its processes are gone")
    wait_until(lambda: not os.path.exists(folder), "its folder is gone")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_of_a_pytest_that_is_interrupted_or_killed_nothing_is_left(run, number):
    process, _, folder = run("-n0")
    process.send_signal(number)
    process.wait()
    gone(folder)


def test_of_a_worker_that_is_killed_nothing_is_left(run, tmp_path):
    process, worker, folder = run("-n1", "--max-worker-restart=0")
    assert worker != process.pid
    os.kill(worker, signal.SIGKILL)
    gone(folder)
    assert process.wait() == 1


def test_of_a_pytest_whose_worker_lives_nothing_is_left(run):
    process, worker, folder = run("-n1")
    process.kill()
    gone(folder)
    wait_until(lambda: not os.path.exists(f"/proc/{worker}"), "its worker is gone")


def test_nothing_is_left_behind_at_the_end(run, tmp_path):
    process, _, folder = run("-n0")
    (tmp_path / "end").touch()
    assert process.wait() == 0, (tmp_path / "log").read_text()
    gone(folder)
