"""Locks as other runs leave them."""

import json

from pipeline.outputs.folder import OutputFolder
from pipeline.storage import Files

FILES = Files()


def run_of(out, name):
    return OutputFolder(out.path, FILES, run=name)


def content(out, number):
    return json.loads(FILES.read(f"{out.path}/lock/{number}"))


def put(out, number, **changes):
    """A lock of a job on another machine, which beats; its clock is an hour ahead."""
    FILES.write(f"{out.path}/lock/{number}", json.dumps(foreign(**changes)).encode())


def foreign(**changes):
    found = {
        "run": "other",
        "started": "2999-01-01 00:00:00 UTC",
        "host": "elsewhere",
        "boot": "b007",
        "processes": "pid:[1]",
        "process": 77,
        "began": "123",
        "held": False,
        "beat": 4,
        "ended": False,
    }
    return found | changes
