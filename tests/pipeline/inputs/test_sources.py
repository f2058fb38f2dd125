import os
import threading

import pytest

from model_build.common.errors import UserError
from pipeline.inputs.sources import common_folder, parse_source, read_list
from pipeline.records import Source
from pipeline.storage import Files

FILES = Files()


def parse(text):
    return parse_source(text, FILES)


def put(*uris):
    for uri in uris:
        FILES.write(uri, b"")


# Local paths


def test_a_folder_a_file_and_a_glob_are_distinguished(tmp_path, touch):
    touch(tmp_path, "photos/a.jpg")
    folder = f"{tmp_path}/photos"
    assert parse(folder) == Source("folder", folder, folder)
    assert parse(f"{folder}/a.jpg") == Source("file", f"{folder}/a.jpg", folder)
    assert parse(f"{tmp_path}/p*/*.jpg") == Source("glob", f"{tmp_path}/p*/*.jpg", str(tmp_path))


def test_a_file_named_by_itself_may_have_any_extension(tmp_path, touch):
    touch(tmp_path, "scan.dat")
    assert parse(f"{tmp_path}/scan.dat").kind == "file"


def test_a_glob_without_a_folder_is_below_the_current_one(tmp_path, touch, monkeypatch):
    touch(tmp_path, "a.jpg", "b.png")
    monkeypatch.chdir(tmp_path)
    assert parse("*.jpg") == Source("glob", f"{tmp_path}/*.jpg", str(tmp_path))


def test_a_path_that_exists_is_no_pattern(tmp_path, touch):
    touch(tmp_path, "a[1].jpg", "a1.jpg", "dir[1]/x.jpg")
    assert parse(f"{tmp_path}/a[1].jpg").kind == "file"
    assert parse(f"{tmp_path}/dir[1]").kind == "folder"
    assert parse(f"{tmp_path}/a[2].jpg").kind == "glob"


def test_a_relative_path_is_made_absolute(tmp_path, touch, monkeypatch):
    touch(tmp_path, "photos/a.jpg")
    monkeypatch.chdir(tmp_path)
    assert parse("photos/") == Source("folder", f"{tmp_path}/photos", f"{tmp_path}/photos")
    assert parse("./photos/../photos/a.jpg").where == f"{tmp_path}/photos/a.jpg"


def test_a_missing_input_is_a_user_error(tmp_path):
    with pytest.raises(UserError, match=r"nowhere: no such file or folder"):
        parse(f"{tmp_path}/nowhere")


def test_an_empty_input_is_not_the_current_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="an INPUT is empty"):
        parse("")


# Lists


def write_list(tmp_path, data):
    (tmp_path / "list.txt").write_bytes(data)
    return f"@{tmp_path}/list.txt"


@pytest.mark.parametrize(
    "data",
    [
        b"b/2.jpg\n%s/c/3.dat\n",
        b"\xef\xbb\xbfb/2.jpg\r\n%s/c/3.dat\r\n",
        b"\n\nb/2.jpg\n\r\n\n./b/../%s/c/3.dat",
    ],
    ids=["plain", "BOM and CRLF", "blank lines and no end"],
)
def test_a_list_contains_relative_and_absolute_paths(tmp_path, monkeypatch, data):
    monkeypatch.chdir(tmp_path)
    absolute = b"" if b".." in data else os.fsencode(tmp_path)
    text = write_list(tmp_path, data.replace(b"%s/", absolute + b"/" if absolute else b""))
    assert parse(text) == Source("list", f"{tmp_path}/list.txt", str(tmp_path))
    found = list(read_list(f"{tmp_path}/list.txt", FILES))
    assert found == [f"{tmp_path}/b/2.jpg", f"{tmp_path}/c/3.dat"]


def test_a_path_with_two_slashes_at_its_beginning_is_that_with_one(tmp_path, touch):
    touch(tmp_path, "p/a.jpg")
    folder = f"{tmp_path}/p"
    assert parse(f"/{folder}").where == folder
    text = write_list(tmp_path, f"{folder}/a.jpg\n/{folder}/a.jpg\n".encode())
    assert set(read_list(parse(f"@/{text[1:]}").where, FILES)) == {f"{folder}/a.jpg"}


def test_a_list_is_found_from_the_current_folder(tmp_path, monkeypatch):
    write_list(tmp_path, b"a.jpg\n")
    monkeypatch.chdir(tmp_path)
    assert parse("@list.txt") == Source("list", f"{tmp_path}/list.txt", str(tmp_path))


def test_a_list_may_be_a_pipe(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    lines = f"{tmp_path}/b/1.jpg\n{tmp_path}/b/2.jpg\n"
    threading.Thread(target=(tmp_path / "pipe").write_text, args=[lines], daemon=True).start()
    source = parse(f"@{tmp_path}/pipe")
    assert (source.kind, source.folder) == ("list", f"{tmp_path}/b")
    for _ in range(2):
        assert list(read_list(source.where, FILES)) == lines.splitlines()


def test_an_empty_pipe_is_reported_by_its_own_name():
    with pytest.raises(UserError, match=r"^/dev/null: the list is empty"):
        parse("@/dev/null")


def test_an_input_that_is_a_pipe_gets_the_hint_about_lists(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UserError, match=r"pipe: not a file or folder; .* use @"):
        parse(f"{tmp_path}/pipe")


def test_a_list_of_uris(tmp_path):
    text = write_list(tmp_path, b"memory://b/x/1.jpg\nmemory://b/x/y/2\n")
    assert parse(text).folder == "memory://b/x"
    found = list(read_list(text[1:], FILES))
    assert found == ["memory://b/x/1.jpg", "memory://b/x/y/2"]


def test_a_list_may_mix_disk_and_stores(tmp_path):
    assert parse(write_list(tmp_path, b"/x/1.jpg\nmemory://b/2.jpg\n")).folder == ""


@pytest.mark.parametrize("data", [b"", b"\n\r\n\n", b"\xef\xbb\xbf"])
def test_an_empty_list_is_the_users_error(tmp_path, data):
    with pytest.raises(UserError, match=r"list\.txt: the list is empty"):
        parse(write_list(tmp_path, data))


@pytest.mark.parametrize(
    "data",
    [
        "a.jpg\nb.jpg\n".encode("utf-16"),
        "a.jpg\nb.jpg\n".encode("utf-16-le"),
        b"a.jpg\0b.jpg\0",
        b"\xff\xd8\xff\xe0\0\x10JFIF\0",
        b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR",
        "写真.jpg\n".encode("utf-16"),
    ],
    ids=["UTF-16", "UTF-16 without BOM", "find -print0", "JPEG", "PNG", "UTF-16 of one script"],
)
def test_a_list_that_is_no_text_is_the_users_error(tmp_path, data):
    with pytest.raises(UserError, match=r"list\.txt: no text list in UTF-8, one path a line; "):
        parse(write_list(tmp_path, data))


def test_a_list_may_contain_names_that_are_not_utf_8(tmp_path):
    text = write_list(tmp_path, b"/x/\xff\xfe.jpg\n")
    assert list(read_list(parse(text).where, FILES)) == ["/x/\udcff\udcfe.jpg"]


def test_a_list_that_cannot_be_read_is_the_users_error(tmp_path):
    with pytest.raises(UserError, match=r"nowhere\.txt: the list cannot be read"):
        parse(f"@{tmp_path}/nowhere.txt")
    with pytest.raises(UserError, match="the list cannot be read"):
        parse(f"@{tmp_path}")


def test_a_remote_list(memory):
    FILES.write("memory://b/list.txt", b"memory://b/x/1.jpg\nmemory://c/2.jpg\n")
    assert parse("@memory://b/list.txt") == Source("list", "memory://b/list.txt", "memory:/")
    with pytest.raises(UserError, match="the list cannot be read"):
        parse("@memory://b/nowhere.txt")


def test_a_list_whose_store_is_unknown_is_the_users_error(tmp_path):
    with pytest.raises(UserError, match=r"nosuch://b/1\.jpg: unknown scheme nosuch://"):
        parse(write_list(tmp_path, b"/x/a.jpg\nnosuch://b/1.jpg\n"))


# Stores


@pytest.mark.parametrize("text", ["memory://b/p", "memory://b/p/"])
def test_a_remote_folder(memory, text):
    put("memory://b/p/1.jpg")
    assert parse(text) == Source("folder", "memory://b/p", "memory://b/p")


@pytest.mark.parametrize("text", ["memory://b", "memory://b/"])
def test_a_whole_bucket(memory, text):
    put("memory://b/p/1.jpg")
    assert parse(text) == Source("folder", "memory://b", "memory://b")


def test_a_remote_file(memory):
    put("memory://b/p/scan")
    assert parse("memory://b/p/scan") == Source("file", "memory://b/p/scan", "memory://b/p")


@pytest.mark.parametrize(
    ("text", "folder"),
    [
        ("memory://b/p*/*.jpg", "memory://b"),
        ("memory://b/p/**.jpg", "memory://b/p"),
        ("memory://b/p/?.jpg", "memory://b/p"),
    ],
)
def test_a_remote_glob(memory, text, folder):
    assert parse(text) == Source("glob", text, folder)


def test_a_remote_object_that_exists_is_no_pattern(memory):
    put("memory://b/a[1].jpg", "memory://b/a1.jpg")
    assert parse("memory://b/a[1].jpg").kind == "file"
    assert parse("memory://b/a[2].jpg").kind == "glob"


def test_an_unknown_scheme_is_the_users_error():
    with pytest.raises(UserError, match="nosuch://b/x: unknown scheme nosuch://"):
        parse("nosuch://b/x")


def test_a_uri_without_a_bucket_is_the_users_error():
    with pytest.raises(UserError, match="memory:///x: no bucket given"):
        parse("memory:///x")


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_web_server_cannot_be_listed(scheme):
    with pytest.raises(UserError, match="cannot list a web server; put its URLs into an @LIST"):
        parse(f"{scheme}://localhost:9/photos/")


# The folder that contains all of it


@pytest.mark.parametrize(
    ("folders", "common"),
    [
        (["/a/b", "/a/c"], "/a"),
        (["/a/b", "/a/bc"], "/a"),
        (["/a/b"], "/a/b"),
        (["/a", "/b"], ""),
        (["/", "/b"], ""),
        (["gs://x/a", "gs://x/b"], "gs://x"),
        (["gs://x/a", "gs://y/a"], "gs:/"),
        (["gs://x/a", "/x/a"], ""),
        ([], ""),
    ],
)
def test_common_folder(folders, common):
    assert common_folder(folders) == common
