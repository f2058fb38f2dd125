import os

import pytest

from pipeline.storage import File, Files, Unlisted, local

FILES = Files()


def tree(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_a_file_is_written_with_its_folders(tmp_path):
    FILES.write(f"{tmp_path}/masks/x/a.png", b"data", scratch=f"{tmp_path}/.unfinished")
    assert tree(tmp_path) == {"masks/x/a.png": b"data"}


@pytest.mark.parametrize("before", [None, b"old"])
def test_a_write_that_fails_leaves_what_was_there(tmp_path, monkeypatch, before):
    path, scratch = f"{tmp_path}/masks/a.png", f"{tmp_path}/.unfinished"
    if before:
        FILES.write(path, before, scratch=scratch)

    def fail(source, target):
        assert os.path.dirname(source) == scratch
        with open(source, "rb") as file:
            assert file.read() == b"new"
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="No space left"):
        FILES.write(path, b"new", scratch=scratch)
    assert tree(tmp_path) == ({"masks/a.png": before} if before else {})


def test_a_write_cut_off_half_way_leaves_nothing_behind(tmp_path, monkeypatch):
    def fail(path, data):
        with open(path, "wb") as file:
            file.write(data[:1])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(local.Path, "write_bytes", fail)
    with pytest.raises(OSError, match="No space left"):
        FILES.write(f"{tmp_path}/a", b"new")
    assert tree(tmp_path) == {}


def test_a_name_that_is_not_utf_8_is_listed_and_read(tmp_path):
    path = os.fsdecode(os.fsencode(tmp_path) + b"/bad\xff.jpg")
    FILES.write(path, b"1")
    assert [file.path for file in FILES.list(str(tmp_path))] == [path]
    assert FILES.read(path) == b"1"


def test_links_are_followed_but_a_loop_is_not(tmp_path, touch):
    touch(tmp_path, "photos/a/1.jpg", "elsewhere/2.jpg")
    (tmp_path / "photos/a/up").symlink_to(tmp_path / "photos")
    (tmp_path / "photos/b").symlink_to(tmp_path / "elsewhere")
    found = [file.path for file in FILES.list(f"{tmp_path}/photos")]
    assert found == [f"{tmp_path}/photos/a/1.jpg", f"{tmp_path}/photos/b/2.jpg"]


def test_a_pipe_is_no_regular_file(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (found,) = FILES.list(str(tmp_path))
    assert not found.regular
    assert not FILES.exists(f"{tmp_path}/pipe")


def test_an_unreadable_folder_is_told_and_the_rest_is_listed(tmp_path, touch, monkeypatch):
    touch(tmp_path, "a/1", "b/2")
    scandir = os.scandir

    def refuse(path):
        if os.fspath(path).endswith("/b"):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    found = list(FILES.list(str(tmp_path)))
    assert [type(one) for one in found] == [File, Unlisted]
    assert found[1] == Unlisted(f"{tmp_path}/b", "PermissionError", "Permission denied")


def test_a_name_longer_than_a_disk_takes_is_an_error_that_says_so(tmp_path):
    with pytest.raises(OSError, match="too long"):
        FILES.write(f"{tmp_path}/{'a' * 256}", b"")
