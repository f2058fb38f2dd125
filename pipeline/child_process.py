"""A job in a process of its own.

TensorFlow's threads are set once a process. Where it is in use with others, as in a notebook, a job
would be slower and its masks might differ in a few pixels, so it runs beside it.
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
from model_build.common.limits import stay_within
from model_build.common.quiet_imports import claim_process, gc_paused

ERRORS = {"UserError": UserError, "JobError": JobError}
_CODE = "import sys; sys.path[:] = {path!r}; from pipeline.child_process import main; main()"


def run_in_child(function: str, request: Any) -> dict[str, Any]:
    """Runs ``segment`` or ``evaluate`` in a new process; its progress goes to standard error.

    The child ends when this process does, however that ends.

    Args:
        request: the function's request, whose fields are plain values.

    Returns:
        The fields of what the function returns.

    Raises:
        UserError, JobError: as the function does.
        KeyboardInterrupt: the child is interrupted, too, and waited for.
    """
    # The request may hold secrets: it goes by a pipe and not by arguments, which all may read.
    command = [sys.executable, "-c", _CODE.format(path=sys.path)]
    child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert child.stdin is not None
    assert child.stdout is not None
    asked = json.dumps({"function": function, "request": asdict(request)})
    with child.stdin, child.stdout:
        try:
            with contextlib.suppress(BrokenPipeError):  # its status tells
                os.write(child.stdin.fileno(), f"{asked}\n".encode())
            # The pipe is left open: its end tells the child that this process has ended.
            answer = child.stdout.read()
        except KeyboardInterrupt:
            child.send_signal(signal.SIGINT)
            raise
        finally:
            child.wait()
    try:
        told = json.loads(answer.splitlines()[-1])
    except (IndexError, ValueError):
        raise JobError(
            f"the job failed: its process ended with status {child.returncode}"
        ) from None
    if "error" in told:
        raise ERRORS[told["error"]](told["message"])
    return told["result"]


def main() -> None:
    """The child's side: a request on standard input, the answer as one line on standard output."""
    told = json.loads(sys.stdin.readline())
    open_streams()
    stay_within()
    threading.Thread(target=_end_with_parent, daemon=True).start()
    claim_process()
    try:
        answer: dict[str, Any] = {"result": asdict(_run(told["function"], told["request"]))}
    except tuple(ERRORS.values()) as error:
        answer = {"error": type(error).__name__, "message": str(error)}
    except KeyboardInterrupt as interrupt:
        if interrupt.args:  # what has become of a job elsewhere
            print(f"fcn-beam: {visible(str(interrupt))}", file=sys.stderr)
        sys.exit(130)
    print(json.dumps(answer))


def _end_with_parent() -> None:
    os.read(sys.stdin.fileno(), 1)  # returns when nobody is left who could write
    os.kill(os.getpid(), signal.SIGTERM)


def _run(function: str, fields: dict[str, Any]) -> Any:
    with gc_paused():
        from pipeline.evaluation import run as evaluation
        from pipeline.segmentation import run as segmentation

    if function == "segment":
        return segmentation.segment(segmentation.Request(**fields))
    return evaluation.evaluate(evaluation.Request(**fields))
