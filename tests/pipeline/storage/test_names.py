import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model_build.common.errors import UserError
from pipeline.storage import absolute, escape_folders, glob_folder, is_remote, unescape_folders
from pipeline.storage.names import bucket_and_key, pattern_of


@pytest.mark.parametrize(
    ("pattern", "matching", "others"),
    [
        ("a/*.jpg", ["a/b.jpg", "a/.jpg"], ["a/b/c.jpg", "a/b.JPG", "b.jpg"]),
        ("a/**.jpg", ["a/b.jpg", "a/b/c.jpg"], ["b.jpg"]),
        ("a/**/b", ["a/b", "a/x/b", "a/x/y/b"], ["ab", "a/xb"]),
        ("a?c", ["abc", "a\nc"], ["ac", "a/c"]),
        ("[ab]x", ["ax", "bx"], ["cx", "[ab]x"]),
        ("[!a]x", ["bx", "^x"], ["ax"]),
        ("a[", ["a["], ["a"]),
        ("a+(b).c", ["a+(b).c"], ["aab.c", "a+(b)xc"]),
        ("[]]x", ["]x"], ["x"]),
    ],
)
def test_patterns_over_the_names_of_a_store(pattern, matching, others):
    matches = pattern_of(pattern).fullmatch
    assert all(matches(name) for name in matching)
    assert not any(matches(name) for name in others)


def test_the_folder_of_a_glob():
    assert glob_folder("/a/b/*.jpg") == "/a/b"
    assert glob_folder("gs://b/p*/x") == "gs://b"
    assert glob_folder("gs://b/p/[1]/x") == "gs://b/p"


def test_uris_are_taken_apart():
    assert bucket_and_key("gs://b/a//c?d#e") == ("b", "a//c?d#e")
    assert bucket_and_key("gs://b") == ("b", "")
    assert is_remote("gs://b") and not is_remote("/a:/b")  # noqa: PT018


@pytest.mark.parametrize("keeps", [True, False], ids=["two slashes kept", "as it is here"])
def test_an_absolute_path_begins_with_one_slash(monkeypatch, keeps):
    if keeps:  # as POSIX allows, and some versions of Python do
        monkeypatch.setattr(os.path, "abspath", lambda path: path)
    for path in ("/x/a.jpg", "//x/a.jpg", "///x/a.jpg"):
        assert absolute(path) == "/x/a.jpg"
    assert absolute("//") == "/"


def test_a_uri_is_absolute_as_it_is():
    assert absolute("gs://b//x/../a.jpg") == "gs://b//x/../a.jpg"


def test_a_relative_path_needs_a_current_folder(tmp_path, monkeypatch):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    with pytest.raises(UserError, match=r"^a: the current folder has been removed; change to"):
        absolute("a")
    assert absolute("/a/../b") == "/b"


parts = st.sampled_from(["a", "a.png", "a.png_", "a.png__", ".png", "a.PNG", "a.png.b", "a_", "\n"])
paths = st.lists(parts, min_size=1, max_size=4).map("/".join)


@given(paths)
def test_folders_that_are_called_like_files_get_other_names_and_come_back(path):
    escaped = escape_folders(path, ".png")
    assert not any(folder.endswith(".png") for folder in escaped.split("/")[:-1])
    assert unescape_folders(escaped, ".png") == path
    if not any(".png" in folder for folder in path.split("/")[:-1]):
        assert escaped == path
