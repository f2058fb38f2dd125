"""The console: closed streams, characters that it lacks, names that would rewrite a terminal."""

import os
import signal
import subprocess
import sys

import pytest

from model_build.common import console
from model_build.common.console import visible, visible_lines


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a plain näme, 写真 👩‍🔬.jpg", "a plain näme, 写真 👩‍🔬.jpg"),
        ("\x1b[2Ja", "\\x1b[2Ja"),
        ("a\nb\tc\rd", "a\\nb\\tc\\rd"),
        ("\x7f\x9b31m", "\\x7f\\x9b31m"),
        ("gpj.\u202ea", "gpj.\\u202ea"),
        ("a\u2028b", "a\\u2028b"),
        ("\udcff", "\\udcff"),
        ("C:\\x1b", "C:\\x1b"),
    ],
)
def test_characters_that_would_rewrite_a_terminal_are_escaped(text, shown):
    assert visible(text) == shown
    assert visible(shown) == shown


def test_lines_stay_apart():
    assert visible_lines("a\x1b\nb\r\n") == "a\\x1b\nb\\r\n"


def test_names_in_errors_are_harmless(capsys):
    assert console.complain("a\x1b[2J\nb: no such file", 2) == 2
    assert capsys.readouterr().err == "fcn-beam: a\\x1b[2J\\nb: no such file\n"


STREAMS = """
import os, sys
from model_build.common.console import open_streams
open_streams()
taken = [os.open(os.devnull, os.O_RDONLY) for _ in range(3)]
assert min(taken) > 2, taken
for stream in (sys.stdout, sys.stderr):
    print("\\xe4 \\u5199", file=stream, flush=True)
assert sys.stdin.read() == ""
os.write(2, b"a library\\n")
os.system("echo a child; echo a child >&2")
"""


def shell(redirections, **environment):
    command = f'"$PYTHON" -c "$CODE" {redirections}'
    variables = os.environ | {"PYTHON": sys.executable, "CODE": STREAMS} | environment
    return subprocess.run(
        ["sh", "-c", command],
        env=variables,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=False,
    )


@pytest.mark.parametrize(
    ("closed", "out", "err"),
    [
        ("", "ä 写\na child\n", "ä 写\na library\na child\n"),
        ("2>&-", "ä 写\na child\n", ""),
        (">&-", "", "ä 写\na library\na child\n"),
        ("<&-", "ä 写\na child\n", "ä 写\na library\na child\n"),
        ("<&- >&- 2>&-", "", ""),
    ],
)
def test_closed_streams_are_the_null_device(closed, out, err):
    done = shell(closed)
    assert (done.returncode, done.stdout, done.stderr) == (0, out, err)


@pytest.mark.parametrize(
    ("environment", "shown"),
    [
        ({"PYTHONIOENCODING": "ascii"}, "\\xe4 \\u5199\n"),
        ({"PYTHONIOENCODING": "ascii:strict"}, "\\xe4 \\u5199\n"),
        ({"LC_ALL": "C", "PYTHONUTF8": "0"}, "\\xe4 \\u5199\n"),
    ],
)
def test_characters_that_an_encoding_lacks_are_escapes(environment, shown):
    done = shell("", **environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(shown)


# Standard output

TALKING = """
import sys, click
from model_build.common.console import say
from pipeline.cli import main

@click.command()
def talk():
    for number in range(LINES):
        say(f"line {number}")

main.Commands.get_command = lambda *arguments: talk
sys.argv = ["fcn-beam", "info"]
main.main()
"""


def talking(lines, stdout):
    command = [sys.executable, "-c", TALKING.replace("LINES", str(lines))]
    return subprocess.Popen(command, stdout=stdout, stderr=subprocess.PIPE, text=True)


@pytest.mark.parametrize("lines", [3, 100_000])
def test_a_command_ends_silently_when_its_output_pipe_is_closed(lines):
    reading, writing = os.pipe()
    os.close(reading)
    with talking(lines, writing) as process:
        os.close(writing)
        _, err = process.communicate()
    assert (process.returncode, err) == (128 + signal.SIGPIPE, "")


@pytest.mark.parametrize("lines", [3, 100_000])
def test_a_full_standard_output_is_one_line_and_status_1(lines):
    with open("/dev/full", "w") as full, talking(lines, full) as process:
        _, err = process.communicate()
    assert process.returncode == 1
    assert "cannot write to standard output: No space left on device" in err
    assert err.count("\n") == 1
