"""What a run tells while it works: stage times and live counts.

Both are Beam metrics, so they come back from workers elsewhere, too: some runners tell them as a
job goes, some at the end of each step. Meanwhile the journal tells how many images are done. A
local run counts in plain variables as well, as it executes its DoFns in this process.
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

from model_build.common.progress_bar import bar
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
    """Seconds each stage took, summed over all threads and workers; none if nobody can tell."""
    try:
        found = result.metrics().query(MetricsFilter().with_namespace(METRICS))["distributions"]
    except Exception as error:  # the job is done all the same
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

    def put(self, **counts: int) -> None:
        """Puts others in their place."""
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
COUNTED = ("listed", "masks", "kept", "rejects")
_counters = {name: Metrics.counter(METRICS, name) for name in COUNTED}
_followed = threading.Event()  # a run elsewhere, whose counts are put by what follows it


def count(**changes: int) -> None:
    """Counts images; for use inside a DoFn."""
    if not _followed.is_set():
        COUNTS.add(**changes)
    for name, change in changes.items():
        _counters[name].inc(change)


def metric_counts(metrics: MetricResults) -> dict[str, int]:
    """The counts of all workers, of a runner that tells them."""
    found = metrics.query(MetricsFilter().with_namespace(METRICS))["counters"]
    counts = dict.fromkeys(COUNTED, 0)
    for metric in found:
        if metric.key.metric.name in counts:
            counts[metric.key.metric.name] += metric.result or 0
    return counts


@contextlib.contextmanager
def following(
    metrics: Callable[[], MetricResults],
    journalled: Callable[[], tuple[int, int]],
    interval: float = 5.0,
) -> Iterator[None]:
    """Lets :data:`COUNTS` follow a run elsewhere while its block runs.

    Args:
        metrics: asks its runner for them.
        journalled: numbers of images that have got a mask and a reject by now. Each is there once,
            however often a worker was lost.
        interval: seconds between two looks.
    """
    finished = threading.Event()

    def look() -> None:
        try:
            counts = metric_counts(metrics())
        except Exception as error:  # some runners have none before the end; the job's own end tells
            _LOGGER.debug("no metrics: %s", error)
            counts = dict.fromkeys(COUNTED, 0)
        try:
            masks, rejects = journalled()
        except (OSError, ValueError) as error:
            _LOGGER.debug("no journal: %s", error)
            return
        kept, listed = counts["kept"], counts["listed"]
        COUNTS.put(listed=max(listed, masks + rejects), masks=masks, rejects=rejects, kept=kept)

    def follow() -> None:
        while not finished.wait(interval):
            look()

    _followed.set()
    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    try:
        yield
    finally:
        finished.set()
        thread.join()
        _followed.clear()


@contextlib.contextmanager
def shown(interval: float = 10.0) -> Iterator[None]:
    """Shows :data:`COUNTS` while its block runs: a bar on a terminal, else a line now and then.

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
    with bar("images") as advance:
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
    """Images/s since the first image was done: start-up must not spoil the time left."""
    now, done = time.monotonic(), COUNTS.done
    if first is None:
        return ((now, done) if done else None), 0.0
    elapsed = now - first[0]
    return first, (done - first[1]) / elapsed if elapsed else 0.0
