"""A remote job as its runner knows it: its state, its metrics, and how to cancel it.

Beam's own interface forgets a job when its client ends, and cancelling may end only the client. So
the runner itself is queried, by the job's unique name.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import ClassVar

from apache_beam.metrics.metric import MetricResults
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.runners.runner import PipelineResult

from model_build.common.errors import JobError, UserError, first_line

SECONDS_UNTIL_LISTED = 10.0  # a runner may take this long to list a submitted job


@dataclass(frozen=True)
class RemoteJob(ABC):
    """A job on a cluster or service; each kind has a class of its own.

    Attributes:
        at: URL at which its runner is queried.
        name: unique on that runner.
    """

    at: str
    name: str

    ENDED: ClassVar[tuple[str, ...]] = ()
    STARTED: ClassVar[tuple[str, ...]] = ()
    FAILED: ClassVar[tuple[str, ...]] = ()
    CANCELLING: ClassVar[str] = ""
    OPTION: ClassVar[str] = ""
    """The runner's names of job states, and the option that names its address."""

    def __str__(self) -> str:
        return f"the job {self.name} on {self.at}"

    def to_json(self) -> dict[str, str]:
        """Returns the form in which a lock records it."""
        return asdict(self)

    # Specific to each runner

    @abstractmethod
    def states(self) -> Mapping[str, str]:
        """Returns the states of all jobs of this name, ended ones included, by the runner's id.

        Raises:
            OSError: the runner does not answer.
        """

    @abstractmethod
    def request_cancellation(self, job: str) -> None:
        """Requests the cancellation of a job, without waiting for it.

        Args:
            job: the runner's id.

        Raises:
            OSError: the runner does not answer.
        """

    @abstractmethod
    def page(self) -> str:
        """Returns the URL of the runner's web page about it, or "" if there is none."""

    def metrics(self, result: PipelineResult) -> MetricResults:
        """Returns the Beam metrics that the runner has published so far.

        Args:
            result: Beam's result of the same job.
        """
        return result.metrics()

    # Common to all runners

    def ids(self) -> list[str]:
        """Returns the runner's ids of the jobs of this name that have not ended.

        Raises:
            OSError: the runner does not answer.
        """
        return [job for job, state in self.states().items() if state not in self.ENDED]

    def prepare(self, options: PipelineOptions) -> None:
        """Checks that the runner answers before the job is submitted to it.

        Args:
            options: of the job; those that depend on the runner are set if they are missing.

        Raises:
            UserError: the runner does not answer.
        """
        try:
            self.ids()
        except OSError as error:
            why = first_line(error)
            raise UserError(f"{self.OPTION} {self.at}: cannot be asked for jobs ({why})") from None

    def wait_until_listed(self, seconds: float = 120.0) -> None:
        """Waits until the runner has accepted the job, which then runs without its client.

        Raises:
            JobError: the job does not appear in time, or has failed.
        """
        deadline = time.monotonic() + seconds
        while True:
            try:
                states = set(self.states().values())
            except OSError as error:
                raise JobError(f"{self.at}: {error}") from error
            if states.intersection(self.STARTED):
                return
            if states.intersection(self.FAILED) or time.monotonic() > deadline:
                raise JobError(f"{self} has not started, or has failed; its page says why")
            time.sleep(0.5)

    def cancel(self, seconds: float = 60.0) -> bool:
        """Cancels it and waits for its end.

        Returns:
            True once it has ended; False if it is still being cancelled after ``seconds``.

        Raises:
            OSError: the runner does not answer, or the job still runs.
        """
        start, found = time.monotonic(), False
        while True:
            states = self.states()
            ids = [job for job, state in states.items() if state not in self.ENDED]
            found = found or bool(ids)
            waited = time.monotonic() - start
            if not ids and (found or waited > SECONDS_UNTIL_LISTED):
                return True
            if waited > seconds:
                break
            for job in ids:
                if states[job] != self.CANCELLING:
                    self.request_cancellation(job)
            time.sleep(0.5)
        if all(states[job] == self.CANCELLING for job in ids):
            return False
        raise OSError(f"it still runs after {seconds:.0f} s")
