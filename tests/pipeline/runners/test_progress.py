import contextlib
import io
import re
import sys
import threading
import types

import apache_beam as beam
import pytest
from apache_beam.runners.portability.fn_api_runner import FnApiRunner

from pipeline.runners import progress
from pipeline.runners.progress import COUNTS, Counts, stage_seconds, stage_timer
from tests.waiting import wait_until


@pytest.fixture(autouse=True)
def clean_counts():
    COUNTS.reset()
    yield
    COUNTS.reset()


def test_counts_add_up():
    counts = Counts()
    counts.add(listed=5, masks=1)
    counts.add(masks=1, kept=1, rejects=1)
    assert (counts.listed, counts.masks, counts.done) == (5, 2, 4)
    counts.reset()
    assert (counts.listed, counts.done) == (0, 0)


def test_counts_lose_nothing_between_threads():
    counts = Counts()
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [
            threading.Thread(target=lambda: [counts.add(masks=1, listed=2) for _ in range(2000)])
            for _ in range(8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert (counts.masks, counts.listed) == (16_000, 32_000)


def _work(seconds):
    with stage_timer("read"):
        progress.time.now += seconds
    with contextlib.suppress(ValueError), stage_timer("decode"):
        progress.time.now += 2 * seconds
        raise ValueError


def test_stage_times_are_reported_as_metrics(monkeypatch):
    clock = types.SimpleNamespace(now=0)
    monkeypatch.setattr(progress, "time", clock)
    clock.perf_counter_ns = lambda: clock.now * 10**9
    pipeline = beam.Pipeline(runner=FnApiRunner())
    pipeline | beam.Create([1, 2]) | beam.Map(_work)
    result = pipeline.run()
    result.wait_until_finish()
    assert stage_seconds(result) == {"read": 3, "decode": 6, "infer": 0, "write": 0}


def test_a_runner_without_stage_times_yields_none():
    pipeline = beam.Pipeline(runner=FnApiRunner())
    pipeline | beam.Create([1]) | beam.Map(str)
    result = pipeline.run()
    result.wait_until_finish()
    assert stage_seconds(result) == {}


def _count_images(number):
    progress.count(masks=number)
    progress.count(listed=1)
    return number


def counted():
    pipeline = beam.Pipeline(runner=FnApiRunner())
    pipeline | beam.Create([1, 2]) | beam.Map(_count_images)
    result = pipeline.run()
    result.wait_until_finish()
    return result.metrics


def test_counts_are_reported_as_metrics():
    counts = progress.metric_counts(counted()())
    assert counts == {"listed": 2, "masks": 3, "kept": 0, "rejects": 0}
    assert (COUNTS.listed, COUNTS.masks) == (2, 3), "this process has counted, too"


def test_a_remote_run_is_followed_by_its_metrics_and_journal():
    metrics, journal = counted(), [(0, 0)]
    COUNTS.reset()
    with progress.poll_counts(metrics, lambda: journal[0], interval=0.01):
        wait_until(lambda: COUNTS.listed == 2, "the metrics are read")
        assert COUNTS.done == 0, "masks are told by the journal"
        journal[0] = (1, 1)
        wait_until(lambda: COUNTS.done == 2, "the journal is read again")
        assert (COUNTS.masks, COUNTS.rejects) == (1, 1)
        progress.count(masks=5)  # of a worker in this process, whose metrics come back
        wait_until(lambda: COUNTS.masks == 1, "the journal is read again")
    progress.count(masks=1)
    assert COUNTS.masks == 2, "a later run in this process counts here"


def test_a_runner_without_metrics_is_followed_by_the_journal():
    def none_yet():
        raise RuntimeError("not implemented")

    with progress.poll_counts(none_yet, lambda: (3, 1), interval=0.01):
        wait_until(lambda: COUNTS.done == 4, "the journal is read")
    assert COUNTS.listed == 4


def wait_for(pattern, read):
    """Waits until the text that ``read`` gives holds the pattern."""
    wait_until(lambda: re.search(pattern, read()), f"{pattern!r} is shown")


def test_progress_is_plain_lines_without_a_terminal(monkeypatch):
    stderr = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stderr)
    threads = threading.active_count()
    COUNTS.add(listed=99)
    with progress.show_progress(interval=0.02):
        wait_for(r"0/0 images, 0\.0 images/s, starting, 0 rejected\n", stderr.getvalue)
        COUNTS.add(listed=8, masks=2)
        wait_for(r"2/8 images", stderr.getvalue)
        COUNTS.add(kept=1, rejects=1)
        wait_for(r"4/8 images, \d+\.\d images/s, \d+ s left, 1 rejected\n", stderr.getvalue)
    assert threading.active_count() == threads, "a thread goes on to print"
    assert "\r" not in stderr.getvalue()
    assert "\x1b" not in stderr.getvalue()


def test_a_short_run_shows_no_lines(capsys):
    with progress.show_progress():
        pass
    assert capsys.readouterr().err == ""


def test_the_display_ends_when_a_run_fails():
    before = threading.active_count()
    with pytest.raises(ValueError, match="failed"), progress.show_progress(interval=0.01):
        raise ValueError("failed")
    assert threading.active_count() == before


def test_a_bar_on_a_terminal(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    for name in ("NO_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    with progress.show_progress():
        COUNTS.add(listed=8, masks=3, rejects=1)
    shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", terminal.getvalue())
    assert re.search(r"images .* 4/8 \d+\.\d images/s, 1 rejected", shown)
    assert "\x1b" in terminal.getvalue()
