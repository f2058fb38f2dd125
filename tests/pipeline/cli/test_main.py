"""The group: what all commands have in common."""

import importlib
import logging
import os
import subprocess
import sys
from pathlib import Path

import click
import pytest

from model_build.common.errors import JobError, UserError
from pipeline.cli import main
from pipeline.cli.main import COMMANDS


def test_help_imports_nothing_heavy():
    code = (
        "import sys\n"
        "from pipeline.cli.main import COMMANDS, fcn_beam\n"
        "for arguments in (['--help'], *([name, '--help'] for name in COMMANDS)):\n"
        "    fcn_beam.main(arguments, standalone_mode=False)\n"
        "heavy = {'tensorflow', 'keras', 'apache_beam', 'numpy', 'PIL', 'fsspec'}\n"
        "sys.exit(f'imported: {heavy & set(sys.modules)}' if heavy & set(sys.modules) else 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for command in COMMANDS:
        assert f"  {command} " in done.stdout
    assert done.stdout.count("Usage:") == 1 + len(COMMANDS)


def test_help_of_the_commands_below_a_command_imports_nothing_heavy_either():
    code = (
        "import sys\n"
        "from pipeline.cli.main import fcn_beam\n"
        "data = fcn_beam.get_command(None, 'data')\n"
        "for name in data.commands:\n"
        "    fcn_beam.main(['data', name, '--help'], standalone_mode=False)\n"
        "heavy = {'tensorflow', 'keras', 'apache_beam', 'numpy', 'PIL', 'fsspec'}\n"
        "sys.exit(f'imported: {heavy & set(sys.modules)}' if heavy & set(sys.modules) else 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Usage:") >= 1


@pytest.mark.parametrize(
    "arguments", [["segment", "photos", "--max-rejected", "5%"], ["evaluate", "photos"]]
)
def test_beam_is_imported_once_the_log_is_set_up(arguments):
    code = (
        "import sys\n"
        "from pipeline.cli import evaluate, segment\n"
        "from pipeline.cli.main import fcn_beam\n"
        "def look(level):\n"
        "    sys.exit('imported before' if 'apache_beam' in sys.modules else 'not imported yet')\n"
        "segment.set_up_logging = evaluate.set_up_logging = look\n"
        f"fcn_beam.main({arguments}, standalone_mode=False)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr.strip() == "not imported yet"


@pytest.mark.parametrize("arguments", [["-m", "pipeline"], ["-P", "-m", "pipeline"]])
def test_a_mistyped_command_is_one_line_and_status_2(tmp_path, arguments):
    environment = os.environ | {"PYTHONPATH": os.getcwd()}
    done = subprocess.run(
        [sys.executable, *arguments, "segmnt"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr == "fcn-beam: no such command 'segmnt'; did you mean segment?\n"
    assert done.stdout == ""


@pytest.fixture
def end(monkeypatch, capsys):
    """How the command ends when a subcommand raises or returns something."""

    def run(outcome):
        @click.command()
        def command():
            if isinstance(outcome, BaseException):
                raise outcome
            return outcome

        monkeypatch.setattr("sys.argv", ["fcn-beam", "info"])
        monkeypatch.setattr(main, "adapt_to_limits", lambda: None)  # only for processes of fcn-beam
        monkeypatch.setattr(main.Commands, "get_command", lambda *arguments: command)
        with pytest.raises(SystemExit) as stop:
            main.main()
        return stop.value.code, capsys.readouterr().err

    return run


@pytest.mark.parametrize(
    ("outcome", "status", "line"),
    [
        (0, 0, ""),
        (None, None, ""),
        (3, 3, ""),
        (UserError("a: fix it"), 2, "fcn-beam: a: fix it\n"),
        (click.UsageError("no such option"), 2, "fcn-beam: no such option\n"),
        (JobError("the job failed: why"), 1, "the job failed: why (--log-level info"),
        (
            RuntimeError("Traceback\n  a line\nOSError: why\n"),
            1,
            "fcn-beam: unexpected error: OSError: why; please report it\n",
        ),
        (RuntimeError(), 1, "fcn-beam: unexpected error: RuntimeError; please report it\n"),
        (KeyboardInterrupt(), 130, "fcn-beam: interrupted\n"),
        (click.Abort(), 130, "fcn-beam: interrupted\n"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_each_outcome_has_its_status_and_one_line(end, outcome, status, line):
    ended, err = end(outcome)
    assert ended == status
    assert line in err
    assert len(err.strip().splitlines()) == bool(line)


def test_a_traceback_is_printed_at_level_debug(end, caplog):
    caplog.set_level(logging.DEBUG)
    with pytest.raises(JobError, match="why"):
        end(JobError("why"))


def test_commands_print_through_one_function():
    for name in COMMANDS.values():
        source = Path(importlib.import_module(name).__file__).read_text()
        assert "echo(" not in source
        assert "print(" not in source
