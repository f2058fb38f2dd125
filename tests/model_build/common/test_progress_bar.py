import io
import sys

import pytest

from model_build.common.progress_bar import progress_bar


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize(("of_bytes", "counts"), [(False, "3/4"), (True, "3/4 bytes")])
def test_a_terminal_gets_a_bar(monkeypatch, of_bytes, counts):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with progress_bar("check", of_bytes=of_bytes) as advance:
        advance(3, 4)
    shown = terminal.getvalue()
    assert "check" in shown
    assert counts in shown


def test_a_redirected_stderr_gets_no_bar(capsys):
    with progress_bar("check") as advance:
        advance(3, 4)
    assert capsys.readouterr() == ("", "")


def test_a_bar_shows_a_note_and_needs_no_total(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with progress_bar("images") as advance:
        advance(3, None, "41.0 images/s, 2 [rejected]")
    shown = terminal.getvalue()
    assert "3/?" in shown
    assert "41.0 images/s, 2 [rejected]" in shown
