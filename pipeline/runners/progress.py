"""Stage times and live counts of a run.

Both are Beam metrics, so remote workers report them as well: some runners publish them while a job
runs, others at the end of each step. Until then the journal shows how many images are done. A local
run executes its DoFns in this process and also counts in plain variables.
"""

from __future__ import annotations

import contextlib
import logging
import sys
import threading
import time
from collections.abc import Callable, Iterator

from apache_beam.metrics import Metrics
from apache_beam.metrics.metric import MetricResults, MetricsFilter
from apache_beam.runners.runner import PipelineResult

from model_build.common.progress_bar import progress_bar
from pipeline.network.handler import METRICS

_LOGGER = logging.getLogger(__name__)

TIMED_STAGES = ("read", "decode", "infer", "write")
INFER = "inference_batch_latency_micro_secs"  # measured by RunInference


@contextlib.contextmanager
def stage_timer(stage: str) -> Iterator[None]:
    """Adds the duration of its block to the stage's total; for use inside a DoFn."""
    start = time.perf_counter_ns()
    try:
        yield
    finally:
        elapsed = (time.perf_counter_ns() - start) // 1000
        Metrics.distribution(METRICS, f"{stage}_us").update(elapsed)


def stage_seconds(result: PipelineResult) -> dict[str, float]:
    """Returns the seconds of each stage, summed over all workers; {} without metrics."""
    try:
        found = result.metrics().query(MetricsFilter().with_namespace(METRICS))["distributions"]
    except Exception as error:  # the job has succeeded nevertheless
        _LOGGER.info("no stage times: %s", error)
        return {}
    sums = {metric.key.metric.name: metric.result.sum / 1e6 for metric in found}
    names = {stage: f"{stage}_us" for stage in TIMED_STAGES} | {"infer": INFER}
    return {stage: sums.get(name, 0.0) for stage, name in names.items()} if sums else {}


class Counts:
    """Thread-safe counts of a run."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.reset()

    def reset(self) -> None:
        self.listed = self.masks = self.kept = self.rejects = 0

    def set(self, **counts: int) -> None:
        """Sets counts to new values."""
        with self._lock:
            for name, value in counts.items():
                setattr(self, name, value)

    def add(self, **changes: int) -> None:
        with self._lock:
            for name, change in changes.items():
                setattr(self, name, getattr(self, name) + change)

    @property
    def done(self) -> int:
        return self.masks + self.kept + self.rejects


COUNTS = Counts()
COUNT_NAMES = ("listed", "masks", "kept", "rejects")
_counters = {name: Metrics.counter(METRICS, name) for name in COUNT_NAMES}
_polling = threading.Event()  # set during a remote run, whose counts :func:`poll_counts` sets


def count(**changes: int) -> None:
    """Counts images; for use inside a DoFn."""
    if not _polling.is_set():
        COUNTS.add(**changes)
    for name, change in changes.items():
        _counters[name].inc(change)


def metric_counts(metrics: MetricResults) -> dict[str, int]:
    """Returns the counts of all workers from a runner's metrics."""
    found = metrics.query(MetricsFilter().with_namespace(METRICS))["counters"]
    counts = dict.fromkeys(COUNT_NAMES, 0)
    for metric in found:
        if metric.key.metric.name in counts:
            counts[metric.key.metric.name] += metric.result or 0
    return counts


@contextlib.contextmanager
def poll_counts(
    metrics: Callable[[], MetricResults],
    journalled: Callable[[], tuple[int, int]],
    interval: float = 5.0,
) -> Iterator[None]:
    """Updates :data:`COUNTS` from a remote run while its block runs.

    Args:
        metrics: queries the runner for its metrics.
        journalled: returns the numbers of masks and rejects so far. Each image counts once, even if
            a worker was lost and its work repeated.
        interval: seconds between two polls.
    """
    finished = threading.Event()

    def poll_once() -> None:
        try:
            counts = metric_counts(metrics())
        except Exception as error:  # some runners publish none before the end
            _LOGGER.debug("no metrics: %s", error)
            counts = dict.fromkeys(COUNT_NAMES, 0)
        try:
            masks, rejects = journalled()
        except (OSError, ValueError) as error:
            _LOGGER.debug("no journal: %s", error)
            return
        kept, listed = counts["kept"], counts["listed"]
        COUNTS.set(listed=max(listed, masks + rejects), masks=masks, rejects=rejects, kept=kept)

    def poll() -> None:
        while not finished.wait(interval):
            poll_once()

    _polling.set()
    thread = threading.Thread(target=poll, daemon=True)
    thread.start()
    try:
        yield
    finally:
        finished.set()
        thread.join()
        _polling.clear()


@contextlib.contextmanager
def show_progress(interval: float = 10.0) -> Iterator[None]:
    """Shows :data:`COUNTS` while its block runs: a bar on a terminal, else a line per interval.

    Args:
        interval: seconds between two lines.
    """
    COUNTS.reset()
    finished = threading.Event()
    show = _show_bar if sys.stderr.isatty() else _show_lines
    thread = threading.Thread(target=show, args=(finished, interval), daemon=True)
    thread.start()
    try:
        yield
    finally:
        finished.set()
        thread.join()


def _show_bar(finished: threading.Event, interval: float) -> None:
    with progress_bar("images") as advance:
        first: tuple[float, int] | None = None
        stopped = False
        while not stopped:
            stopped = finished.wait(0.2)
            first, rate = _rate(first)
            note = f"{rate:.1f} images/s, {COUNTS.rejects} rejected"
            advance(COUNTS.done, COUNTS.listed or None, note)


def _show_lines(finished: threading.Event, interval: float) -> None:
    first: tuple[float, int] | None = None
    due = time.monotonic() + interval
    while not finished.wait(min(interval, 0.2)):
        first, rate = _rate(first)
        if time.monotonic() < due:
            continue
        due += interval
        left = f"{(COUNTS.listed - COUNTS.done) / rate:.0f} s left" if rate else "starting"
        print(
            f"{COUNTS.done}/{COUNTS.listed} images, {rate:.1f} images/s, {left}, "
            f"{COUNTS.rejects} rejected",
            file=sys.stderr,
            flush=True,
        )


def _rate(first: tuple[float, int] | None) -> tuple[tuple[float, int] | None, float]:
    """Returns images/s since the first image was done: start-up would distort the time left."""
    now, done = time.monotonic(), COUNTS.done
    if first is None:
        return ((now, done) if done else None), 0.0
    elapsed = now - first[0]
    return first, (done - first[1]) / elapsed if elapsed else 0.0
