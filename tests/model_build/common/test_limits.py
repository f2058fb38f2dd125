"""Limits of the process: asked before, and the end of it where a thread cannot start."""

import resource
import subprocess
import sys
import threading

import pytest

from model_build.common import limits
from model_build.common.errors import JobError


@pytest.fixture
def limited(monkeypatch, tmp_path):
    """Limits the address space, as this module sees it, with some of it taken."""

    def to(limit, taken=0):
        pages = tmp_path / "statm"
        pages.write_text(f"{taken // resource.getpagesize()} 1 2 3 0 4 0\n")
        monkeypatch.setattr(limits, "MEMORY", pages)
        monkeypatch.setattr(resource, "getrlimit", lambda kind: (limit, limit))

    return to


def test_address_space_left_is_the_limit_minus_the_usage(limited):
    limited(3 << 30, 1 << 30)
    assert limits.address_space_left() == 2 << 30
    limited(1 << 30, 3 << 30)
    assert limits.address_space_left() == 0
    limited(resource.RLIM_INFINITY)
    assert limits.address_space_left() is None


def test_a_system_without_memory_statistics_has_no_limit(limited, monkeypatch, tmp_path):
    limited(1 << 30)
    monkeypatch.setattr(limits, "MEMORY", tmp_path / "none")
    assert limits.address_space_left() is None


def test_too_little_address_space_is_one_line_with_cause_and_remedy(limited):
    limited(2_000_000_000, 1_500_000_000 // 4096 * 4096)
    limits.check_address_space(400_000_000, "TensorFlow")
    with pytest.raises(JobError) as raised:
        limits.check_address_space(1_400_000_000, "TensorFlow", ", or use fewer --workers")
    assert str(raised.value) == (
        "TensorFlow needs 1.4 GB of address space, but `ulimit -v` leaves 0.5 GB; raise it "
        "(`ulimit -v unlimited`), or use fewer --workers"
    )


def test_without_a_limit_anything_may_be_taken(limited):
    limited(resource.RLIM_INFINITY)
    limits.check_address_space(1 << 60, "TensorFlow")


@pytest.mark.parametrize(
    ("left", "error", "blamed"),
    [
        (2 << 30, ImportError("failed to map segment from shared object"), True),
        (2 << 30, MemoryError(), True),
        (2 << 30, ValueError("a bug"), False),
        (1 << 20, ValueError("a bug, or what comes of too little memory"), True),
    ],
)
def test_errors_of_little_memory_name_the_limit(limited, left, error, blamed):
    limited(left)
    assert ("ulimit -v" in limits.memory_limit_hint(error)) == blamed
    limited(resource.RLIM_INFINITY)
    assert limits.memory_limit_hint(error) == ""


NO_THREAD = """
import resource, sys, threading
from model_build.common import limits
limits.adapt_to_limits()
taken = int(limits.MEMORY.read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (taken + (1 << 20),) * 2)
try:
    threading.Thread(target=print, args=("started",), daemon=True).start()
except RuntimeError:
    pass  # as those do who log it and wait
sys.exit(0)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux enforces the limit")
def test_a_thread_that_cannot_start_ends_the_process_with_one_line():
    done = subprocess.run(
        [sys.executable, "-c", NO_THREAD], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.count("\n") == 1
    assert "ulimit -v is" in done.stderr
    assert "run the same command again" in done.stderr


def test_a_thread_that_is_started_twice_is_an_error_as_ever():
    start = limits._exiting_on_failure(threading.Thread.start)
    thread = threading.Thread(target=lambda: None)
    start(thread)
    thread.join()
    with pytest.raises(RuntimeError, match="once"):
        start(thread)
