"""Paths and names on the command line."""

import click
import pytest
from click.testing import CliRunner

from pipeline.cli.options import PassThroughCommand, input_path, path


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    return str(tmp_path)


@pytest.fixture
def parsed(monkeypatch):
    """Returns a command's own option and all further arguments."""

    @click.command(cls=PassThroughCommand, context_settings={"ignore_unknown_options": True})
    @click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
    @click.option("--output", callback=path)
    def command(arguments, output):
        return output, list(arguments)

    def parse(*arguments):
        result = CliRunner().invoke(command, arguments, standalone_mode=False)
        assert result.exception is None
        return result.return_value

    return parse


def test_a_leading_tilde_is_the_home_folder(parsed, home):
    assert parsed("--output=~/x")[0] == f"{home}/x"
    assert parsed("--output", "~")[0] == home
    assert parsed()[0] is None


@pytest.mark.parametrize("text", ["./~/x", "a~", "/~/x", "gs://~/x", "~nobody-of-that-name/x"])
def test_another_tilde_is_a_character(parsed, home, text):
    assert parsed("--output", text)[0] == text
    assert input_path(text) == text


def test_an_input_and_a_list_may_be_in_the_home_folder(home):
    assert input_path("~/photos") == f"{home}/photos"
    assert input_path("@~/list.txt") == f"@{home}/list.txt"
    assert input_path("@-") == "@-"


def test_all_behind_two_dashes_are_names(parsed):
    assert parsed("--a", "b", "--", "-photos", "--output", "c")[1] == [
        *("--a", "b"),
        *("./-photos", "./--output", "c"),
    ]
