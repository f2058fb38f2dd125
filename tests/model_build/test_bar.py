import io
import sys

import pytest

from model_build.bar import bar


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize(("of_bytes", "counts"), [(False, "3/4"), (True, "3/4 bytes")])
def test_a_terminal_gets_a_bar(monkeypatch, of_bytes, counts):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with bar("check", of_bytes=of_bytes) as advance:
        advance(3, 4)
    shown = terminal.getvalue()
    assert "check" in shown
    assert counts in shown


def test_a_file_gets_nothing(capsys):
    with bar("check") as advance:
        advance(3, 4)
    assert capsys.readouterr() == ("", "")
