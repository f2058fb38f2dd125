"""A job elsewhere, as its runner knows it: does it live, how far is it, its end.

Beam's own interface forgets a job when its client ends, and its cancelling may end the client
alone. So the runner itself is asked, by the name of the job, which no other job has.
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

LISTED_WITHIN = 10.0  # seconds that a job which has been handed over may take to be listed


@dataclass(frozen=True)
class RemoteJob(ABC):
    """A job on a cluster or service; each kind has a class of its own.

    Attributes:
        at: where it is asked for, a URL.
        name: which no other job has there.
    """

    at: str
    name: str

    ENDED: ClassVar[tuple[str, ...]] = ()
    STARTED: ClassVar[tuple[str, ...]] = ()
    FAILED: ClassVar[tuple[str, ...]] = ()
    CANCELLING: ClassVar[str] = ""
    OPTION: ClassVar[str] = ""
    """States of its runner, and the option that names where it is."""

    def __str__(self) -> str:
        return f"the job {self.name} on {self.at}"

    def to_json(self) -> dict[str, str]:
        """As a lock notes it."""
        return asdict(self)

    # What each kind has of its own

    @abstractmethod
    def states(self) -> Mapping[str, str]:
        """The state of each job of this name by the runner's id; also of those that have ended.

        Raises:
            OSError: the runner cannot be asked.
        """

    @abstractmethod
    def request_end(self, job: str) -> None:
        """Asks for a job to be cancelled.

        Args:
            job: the runner's id.

        Raises:
            OSError: the runner cannot be asked.
        """

    @abstractmethod
    def page(self) -> str:
        """The runner's page about it."""

    def metrics(self, result: PipelineResult) -> MetricResults:
        """Beam's metrics, as far as its workers have told.

        Args:
            result: what Beam has of it.
        """
        return result.metrics()

    # What they have in common

    def ids(self) -> list[str]:
        """The runner's ids of the jobs of this name that have not ended.

        Raises:
            OSError: the runner cannot be asked.
        """
        return [job for job, state in self.states().items() if state not in self.ENDED]

    def prepare(self, options: PipelineOptions) -> None:
        """Asks the runner for anything, before it gets the job.

        Args:
            options: of the job; what is left open there, and depends on the runner, is set.

        Raises:
            UserError: it does not answer.
        """
        try:
            self.ids()
        except OSError as error:
            why = first_line(error)
            raise UserError(f"{self.OPTION} {self.at}: cannot be asked for jobs ({why})") from None

    def wait_until_listed(self, seconds: float = 120.0) -> None:
        """Waits until the runner has the job, which goes on from there without its client.

        Raises:
            JobError: it does not come, or has failed.
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
                raise JobError(f"{self} has not started, or has failed; its page tells why")
            time.sleep(0.5)

    def cancel(self, seconds: float = 60.0) -> bool:
        """Cancels it and waits for its end.

        Returns:
            False where it is being cancelled, which takes longer than so many seconds.

        Raises:
            OSError: the runner cannot be asked, or the job goes on.
        """
        start, found = time.monotonic(), False
        while True:
            states = self.states()
            ids = [job for job, state in states.items() if state not in self.ENDED]
            found = found or bool(ids)
            waited = time.monotonic() - start
            if not ids and (found or waited > LISTED_WITHIN):
                return True
            if waited > seconds:
                break
            for job in ids:
                if states[job] != self.CANCELLING:
                    self.request_end(job)
            time.sleep(0.5)
        if all(states[job] == self.CANCELLING for job in ids):
            return False
        raise OSError(f"it still runs after {seconds:.0f} s")
