"""Benchmarks start from any folder: they are run seldom, and what they import changes often."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

SCRIPTS = [
    path
    for path in sorted((Path(__file__).parent.parent / "benchmarks").rglob("*.py"))
    if "@click." in path.read_text()
]

# One process starts them all, as what they import takes longer than they do.
HELP = """
import contextlib, io, json, os, runpy, sys, traceback
found, path = {}, list(sys.path)
for script in sys.argv[1:]:
    sys.argv, sys.path[:] = [script, "--help"], [os.path.dirname(script), *path]
    printed, status = io.StringIO(), None
    try:
        with contextlib.redirect_stdout(printed):
            runpy.run_path(script, run_name="__main__")
    except SystemExit as ended:
        status = ended.code
    except Exception:
        traceback.print_exc(file=printed)
    found[script] = [status, printed.getvalue()]
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def started(tmp_path_factory):
    """Exit status and output of each script's ``--help``."""
    done = subprocess.run(
        [sys.executable, "-c", HELP, *map(str, SCRIPTS)],
        cwd=tmp_path_factory.mktemp("anywhere"),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("script", SCRIPTS, ids=[path.stem for path in SCRIPTS])
def test_benchmarks_start(started, script):
    status, printed = started[str(script)]
    assert status == 0, printed
    assert printed.startswith(f"Usage: {script.name}")
