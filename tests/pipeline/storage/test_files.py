"""One behaviour on every disk and store: local disk, memory, moto and fake-gcs-server."""

import itertools
import os
import pickle
import threading

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.storage import File, Files
from pipeline.storage.stores import object_store
from tests.waiting import DEADLINE

FILES = Files()

HOSTILE = [
    "[1]",
    "*",
    "?",
    "#",
    "%20",
    " ",
    "é",
    "e\u0301",
    "-",
    ".",
    "..",
    "~",
    "&",
    "+",
    "=",
    "\\",
]
HOSTILE += ["::", "'", '"', "<", "|", "{a,b}", "!", "@", ":", ";", "$", "漢", "😀", "a", "b.jpg"]
parts = st.lists(st.sampled_from(HOSTILE), min_size=1, max_size=4).map("".join)
parts = parts.filter(lambda part: part not in (".", "..") and len(part.encode()) < 200)
names = st.lists(parts, min_size=1, max_size=3).map("/".join)


@st.composite
def trees(draw):
    """Names of files of which none is another's folder."""
    found = draw(st.lists(names, min_size=1, max_size=5, unique=True))
    return [
        name for name in found if not any(other.startswith(f"{name}/") for other in found)
    ] or found[:1]


def listed(folder):
    return {file.path[len(folder) + 1 :] for file in FILES.list(folder)}


numbers = itertools.count()


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(tree=trees())
def test_hostile_names_are_written_listed_read_replaced_and_deleted_literally(folder, tree):
    root = f"{folder}/{next(numbers)}"
    for name in tree:
        FILES.write(f"{root}/{name}", name.encode())
    assert listed(root) == set(tree)
    for name in tree:
        assert FILES.exists(f"{root}/{name}")
        assert FILES.read(f"{root}/{name}") == name.encode()
        FILES.write(f"{root}/{name}", b"again")
        assert FILES.stat(f"{root}/{name}").size == 5
    for index, name in enumerate(tree):
        FILES.delete(f"{root}/{name}")
        assert listed(root) == set(tree[index + 1 :])
        assert not FILES.exists(f"{root}/{name}")


def test_line_ends_are_literal_where_a_disk_holds_them(tmp_path):
    for name in ("a\nb.jpg", "\r", "a\x01"):
        FILES.write(f"{tmp_path}/x/{name}", name.encode())
    assert listed(f"{tmp_path}/x") == {"a\nb.jpg", "\r", "a\x01"}
    FILES.delete(f"{tmp_path}/x/a\nb.jpg")
    assert listed(f"{tmp_path}/x") == {"\r", "a\x01"}


def test_deleting_nothing_is_no_error(folder):
    FILES.write(f"{folder}/a", b"1")
    for name in ("b", "b/c", "*", "[a]", "?"):
        FILES.delete(f"{folder}/{name}")
    assert listed(folder) == {"a"}


def test_what_is_not_there_is_told_as_that(folder):
    FILES.write(f"{folder}/x/a", b"1")
    for name in ("b", "x", "x/a/b"):
        with pytest.raises(OSError, match=r"[Nn]o such|Is a directory|Not a directory"):
            FILES.read(f"{folder}/{name}")
        assert not FILES.exists(f"{folder}/{name}")
    assert list(FILES.list(f"{folder}/nowhere"))[1:] == []
    assert not [found for found in FILES.list(f"{folder}/nowhere") if isinstance(found, File)]


def test_a_write_a_listing_and_a_question_tell_one_size_and_version(folder):
    written = FILES.write(f"{folder}/a [1] é%20#+", b"12345")
    assert (written.path, written.size) == (f"{folder}/a [1] é%20#+", 5)
    assert written.version
    (told,) = FILES.list(folder)
    assert told.written
    assert told._replace(written=None) == written
    assert FILES.stat(written.path) == written


def test_a_file_that_is_written_again_has_another_version(folder):
    versions = {FILES.write(f"{folder}/a", data).version for data in (b"1", b"2", b"22", b"3")}
    assert len(versions) == 4


def test_a_file_that_must_not_exist_yet_is_created_once(folder):
    created = FILES.write(f"{folder}/a", b"first", exclusive=True)
    with pytest.raises(FileExistsError):
        FILES.write(f"{folder}/a", b"second", exclusive=True)
    assert FILES.read(f"{folder}/a") == b"first"
    assert FILES.stat(f"{folder}/a") == created
    assert listed(folder) == {"a"}


def test_many_files_are_asked_about_at_once_and_each_fails_by_itself(folder):
    written = FILES.write(f"{folder}/a", b"1")
    found = FILES.stat_each([f"{folder}/{name}" for name in ("a", "nowhere", "a")])
    assert (found[0], found[2]) == (written, written)
    assert isinstance(found[1], FileNotFoundError)
    assert FILES.stat_each([]) == []


def test_all_files_below_a_folder_are_deleted_and_none_beside_it(folder):
    for name in ("p/a", "p/x/y [1]/z", "p/*", "p2/b", "pa"):
        FILES.write(f"{folder}/{name}", b"")
    FILES.delete_all(f"{folder}/p")
    assert listed(folder) == {"p2/b", "pa"}
    assert not os.path.exists(f"{folder}/p")
    FILES.delete_all(f"{folder}/p")
    FILES.delete_all(f"{folder}/nowhere")
    assert listed(folder) == {"p2/b", "pa"}


def test_a_folder_is_made_on_a_disk_and_a_store_needs_none(folder):
    for _ in range(2):
        FILES.make_folder(f"{folder}/x/y")
    assert os.path.isdir(f"{folder}/x/y") == folder.startswith("/")
    assert not list(FILES.list(folder))
    FILES.prune(f"{folder}/x/y")
    assert not os.path.exists(f"{folder}/x/y")


def test_a_store_creates_once_what_nobody_can_hold(folder):
    handle = FILES.create_held(f"{folder}/lock/1", b"first")
    assert (handle is None) != folder.startswith("/")
    with pytest.raises(FileExistsError):
        FILES.create_held(f"{folder}/lock/1", b"second")
    assert FILES.read(f"{folder}/lock/1") == b"first"
    assert FILES.is_held(f"{folder}/lock/1") is (True if folder.startswith("/") else None)
    if handle is not None:
        os.close(handle)


def test_a_prefix_is_no_folder(folder):
    for name in ("p/a", "p2/b", "p"[:1] + "q"):
        FILES.write(f"{folder}/{name}", b"")
    assert listed(f"{folder}/p") == {"a"}
    found = [file.path[len(folder) + 1 :] for file in FILES.starting_with(f"{folder}/p")]
    assert found == ["pq"]


def test_a_glob_matches_what_lies_in_folders_and_below(folder):
    for name in ("x1/a.jpg", "x2/b.jpg", "x2/c.txt", "x2/deep/d.jpg", "y/e.jpg"):
        FILES.write(f"{folder}/{name}", b"")

    def matched(pattern):
        return sorted(file.path[len(folder) + 1 :] for file in FILES.glob(f"{folder}/{pattern}"))

    assert matched("x*/*.jpg") == ["x1/a.jpg", "x2/b.jpg"]
    assert matched("x[!1]/?.jpg") == ["x2/b.jpg"]
    assert matched("**/*.jpg") == ["x1/a.jpg", "x2/b.jpg", "x2/deep/d.jpg", "y/e.jpg"]


def test_a_part_of_a_file_is_read(folder):
    FILES.write(f"{folder}/a", b"0123456789")
    assert [FILES.read(f"{folder}/a", limit) for limit in (0, 4, 99, -1)] == [
        b"",
        b"0123",
        b"0123456789",
        b"0123456789",
    ]


def test_an_empty_file_is_read(folder):
    FILES.write(f"{folder}/a", b"")
    assert FILES.read(f"{folder}/a") == b""
    assert FILES.read(f"{folder}/a", 10) == b""


def test_many_files_are_read_at_once_and_each_fails_by_itself(folder):
    for index in range(40):
        if index % 7:
            FILES.write(f"{folder}/{index}", str(index).encode())
    read = list(FILES.read_each((f"{folder}/{index}", None) for index in range(40)))
    assert len(read) == 40
    for index, data in enumerate(read):
        assert isinstance(data, OSError) if index % 7 == 0 else data == str(index).encode()


def test_what_is_read_ahead_is_bounded_in_bytes(tmp_path, monkeypatch):
    from pipeline.storage import files

    monkeypatch.setattr(files, "MAX_BYTES_AHEAD", 100)
    started = []

    class Counting(Files):
        def read(self, path, limit=-1):
            started.append(path)
            return b""

    read = Counting().read_each([(str(index), 60) for index in range(9)])
    next(read)
    assert len(started) <= 2
    assert len(list(read)) == 8


def test_operations_run_at_once_and_each_fails_by_itself():
    meeting = threading.Barrier(3, timeout=DEADLINE)

    def fail():
        meeting.wait()
        raise OSError("full")

    outcomes = FILES.run_each([meeting.wait, fail, meeting.wait])
    assert [type(outcome) for outcome in outcomes] == [int, OSError, int]


def test_a_folder_is_copied_here(folder, tmp_path):
    for name in ("m/model.json", "m/x/y [1]/z", "other"):
        FILES.write(f"{folder}/{name}", name.encode())
    FILES.copy_here(f"{folder}/m", f"{tmp_path}/here")
    here = {p.relative_to(tmp_path / "here").as_posix() for p in (tmp_path / "here").rglob("*.*")}
    assert "model.json" in here
    assert (tmp_path / "here/x/y [1]/z").read_text() == "m/x/y [1]/z"


@pytest.mark.parametrize("count", [7, 8, 16])
def test_a_listing_goes_on_over_its_pages(bucket, monkeypatch, count):
    monkeypatch.setattr(object_store, "PAGE_SIZE", 7)
    FILES.run_each([lambda i=i: FILES.write(f"{bucket}/p/{i:05}", b"") for i in range(count)])
    names = [file.path.rpartition("/")[2] for file in FILES.list(f"{bucket}/p")]
    assert names == [f"{index:05}" for index in range(count)]


@pytest.mark.parametrize("key", ["a//b", "x/../y", "./z", "a\tb"])
def test_keys_that_are_no_paths_are_literal_in_a_bucket(bucket, key):
    FILES.write(f"{bucket}/{key}", b"1")
    assert [file.path for file in FILES.list(bucket)] == [f"{bucket}/{key}"]
    assert FILES.read(f"{bucket}/{key}") == b"1"
    FILES.delete(f"{bucket}/{key}")
    assert not list(FILES.list(bucket))


def test_a_name_that_a_client_would_take_for_another_is_refused(s3):
    name = f"{s3}/a?versionId=b"
    for operation in (lambda: FILES.write(name, b"1"), lambda: FILES.read(name)):
        with pytest.raises(OSError, match=r"contains \?versionId=, .*; rename it"):
            operation()
    with pytest.raises(OSError, match="ends with #"):
        FILES.delete("az://container/a#")
    assert not list(FILES.list(s3))


def test_a_bucket_that_is_not_there(bucket):
    where = f"{bucket}nowhere"
    with pytest.raises(FileNotFoundError, match="no such object or bucket"):
        FILES.read(f"{where}/a")
    with pytest.raises(FileNotFoundError, match="no such object or bucket"):
        list(FILES.list(where))
    with pytest.raises(OSError, match="nowhere"):
        FILES.write(f"{where}/a", b"1")


def test_an_object_that_marks_a_folder_is_no_file(s3):
    FILES.write(f"{s3}/p/", b"")
    FILES.write(f"{s3}/p/a", b"")
    assert listed(f"{s3}/p") == {"a"}


def test_files_travel_and_do_not_show_secrets():
    files = Files((("s3", "secret", "hush"),))
    assert pickle.loads(pickle.dumps(files)) == files
    assert "hush" not in repr(files)


def test_a_web_server_is_read_and_neither_listed_nor_written(tmp_path):
    import functools
    from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *arguments):
            pass

    (tmp_path / "a [1] é.jpg").write_bytes(b"photo")
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=tmp_path))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        root = f"http://127.0.0.1:{server.server_port}"
        for name in ("a%20[1]%20%C3%A9.jpg", "a [1] é.jpg"):
            assert FILES.read(f"{root}/{name}") == b"photo"
        with pytest.raises(FileNotFoundError):
            FILES.read(f"{root}/b.jpg")
        with pytest.raises(OSError, match="@LIST"):
            list(FILES.list(root))
        with pytest.raises(OSError, match="cannot be written"):
            FILES.write(f"{root}/b.jpg", b"")
    finally:
        server.shutdown()
