"""Benchmarks start from any folder: they are run seldom, and what they import changes often."""

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPTS = [
    path
    for path in sorted((Path(__file__).parent.parent / "benchmarks").rglob("*.py"))
    if "@click." in path.read_text()
]


@pytest.mark.parametrize("script", SCRIPTS, ids=[path.stem for path in SCRIPTS])
def test_benchmarks_start(script, tmp_path):
    done = subprocess.run(
        [sys.executable, script, "--help"], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"Usage: {script.name}")
