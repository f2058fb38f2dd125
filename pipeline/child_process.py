"""Runs a job in a child process.

TensorFlow's threads can be set only once in a process. If they are already set otherwise, as in a
notebook, a job would be slower and its masks might differ in a few pixels, so it runs in a child
process.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from dataclasses import asdict
from typing import Any

from model_build.common.console import open_streams, visible
from model_build.common.errors import JobError, UserError
from model_build.common.limits import adapt_to_limits
from model_build.common.quiet_imports import claim_process, gc_paused

ERRORS = {"UserError": UserError, "JobError": JobError}
_CODE = "import sys; sys.path[:] = {path!r}; from pipeline.child_process import main; main()"


def run_in_child(function: str, request: Any) -> dict[str, Any]:
    """Runs ``segment`` or ``evaluate`` in a new process; its progress goes to standard error.

    The child exits when this process ends, even if that is killed.

    Args:
        request: the function's request, whose fields are plain values.

    Returns:
        The fields of the function's result.

    Raises:
        UserError, JobError: as the function does.
        KeyboardInterrupt: after the child has been interrupted and has ended.
    """
    # The request may contain secrets, so it goes through a pipe: arguments are visible to all
    # users.
    command = [sys.executable, "-c", _CODE.format(path=sys.path)]
    child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert child.stdin is not None
    assert child.stdout is not None
    message = json.dumps({"function": function, "request": asdict(request)})
    with child.stdin, child.stdout:
        try:
            with contextlib.suppress(BrokenPipeError):  # reported by its exit status below
                os.write(child.stdin.fileno(), f"{message}\n".encode())
            # The pipe stays open: when it closes, the child knows that this process has ended.
            output = child.stdout.read()
        except KeyboardInterrupt:
            child.send_signal(signal.SIGINT)
            raise
        finally:
            child.wait()
    try:
        answer = json.loads(output.splitlines()[-1])
    except (IndexError, ValueError):
        raise JobError(
            f"the job failed: its process ended with status {child.returncode}"
        ) from None
    if "error" in answer:
        raise ERRORS[answer["error"]](answer["message"])
    return answer["result"]


def main() -> None:
    """Runs in the child: reads a request from standard input, prints the answer as one line."""
    message = json.loads(sys.stdin.readline())
    open_streams()
    adapt_to_limits()
    threading.Thread(target=_end_with_parent, daemon=True).start()
    claim_process()
    try:
        answer: dict[str, Any] = {"result": asdict(_run(message["function"], message["request"]))}
    except tuple(ERRORS.values()) as error:
        answer = {"error": type(error).__name__, "message": str(error)}
    except KeyboardInterrupt as interrupt:
        if interrupt.args:  # the outcome of cancelling a remote job
            print(f"fcn-beam: {visible(str(interrupt))}", file=sys.stderr)
        sys.exit(130)
    print(json.dumps(answer))


def _end_with_parent() -> None:
    os.read(sys.stdin.fileno(), 1)  # returns when the parent has closed the pipe or ended
    os.kill(os.getpid(), signal.SIGTERM)


def _run(function: str, fields: dict[str, Any]) -> Any:
    with gc_paused():
        from pipeline.evaluation import run as evaluation
        from pipeline.segmentation import run as segmentation

    if function == "segment":
        return segmentation.segment(segmentation.Request(**fields))
    return evaluation.evaluate(evaluation.Request(**fields))
