"""Explains in one line why a job failed, from the text its runner raised."""

from __future__ import annotations

import re

from apache_beam.runners.runner import PipelineState

from model_build.common.errors import JobError, UserError

# Beam passes on what a worker raised as text: its traceback, which ends by the class and message.
# The message of a KeyError is in quotes, with what Beam adds to it.
_RAISED = re.compile(
    r"^(?:\S*?(?P<kind>[A-Za-z_]\w*): )(?P<quote>[\"']?)(?P<message>.+?)"
    r"(?P<step>(?: \[while running '[^']*'\])*)(?P=quote)$"
)


# What Dataflow's client raises of a job that has ended otherwise than by itself.
_ENDED = re.compile(r"Dataflow pipeline failed\. State: (?P<state>[A-Z_]+), Error:\s+None$")


def how_ended(state: str) -> str:
    """How a job has come to its end, of which its runner tells no more.

    Args:
        state: of Beam's.
    """
    if state == PipelineState.FAILED:
        return "the job failed, and its runner does not say why; its page there may"
    return f"the job was {state.lower()} there"


def explain(text: str) -> str:
    """Why a job failed, in one line, of what its runner raised.

    Args:
        text: of the exception: tracebacks of workers, perhaps of another language around them.
    """
    ended = _ENDED.search(text.strip())
    if ended is not None:
        return how_ended(ended["state"])
    lines = [line.strip() for line in text.strip().splitlines()] or ["no cause was given"]
    found = [match for line in lines if (match := _RAISED.match(line))]
    for match in found:
        if match["kind"] in (JobError.__name__, UserError.__name__):
            return match["message"]
    for match in reversed(found):
        if match["step"]:  # raised by a step of ours, and not meant to be
            why = f"{match['kind']}: {match['message']}"
            return f"a bug in fcn-beam: {why}; please report it"
    return f"the job failed: {lines[-1]}"
