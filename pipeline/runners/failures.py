"""Explains in one line why a job failed, from the text its runner raised."""

from __future__ import annotations

import re

from apache_beam.runners.runner import PipelineState

from model_build.common.errors import JobError, UserError

# Beam passes on a worker's exception as text: its traceback, which ends with the class and message.
# The message of a KeyError is in quotes, including what Beam adds to it.
_EXCEPTION_LINE = re.compile(
    r"^(?:\S*?(?P<kind>[A-Za-z_]\w*): )(?P<quote>[\"']?)(?P<message>.+?)"
    r"(?P<step>(?: \[while running '[^']*'\])*)(?P=quote)$"
)


# The message of Dataflow's client for a job that was ended from outside.
_DATAFLOW_END = re.compile(r"Dataflow pipeline failed\. State: (?P<state>[A-Z_]+), Error:\s+None$")


def describe_end(state: str) -> str:
    """Describes the end of a job whose runner reports only its final state.

    Args:
        state: a Beam ``PipelineState``.
    """
    if state == PipelineState.FAILED:
        return "the job failed, and its runner does not say why; its page there may"
    return f"the job was {state.lower()} there"


def explain_failure(text: str) -> str:
    """Returns in one line why a job failed, from the exception its runner raised.

    Args:
        text: the exception's text: tracebacks of workers, perhaps wrapped in one of another
            language.
    """
    ended = _DATAFLOW_END.search(text.strip())
    if ended is not None:
        return describe_end(ended["state"])
    lines = [line.strip() for line in text.strip().splitlines()] or ["no cause was given"]
    found = [match for line in lines if (match := _EXCEPTION_LINE.match(line))]
    for match in found:
        if match["kind"] in (JobError.__name__, UserError.__name__):
            return match["message"]
    for match in reversed(found):
        if match["step"]:  # raised unexpectedly by one of the pipeline's own steps
            why = f"{match['kind']}: {match['message']}"
            return f"a bug in fcn-beam: {why}; please report it"
    return f"the job failed: {lines[-1]}"
