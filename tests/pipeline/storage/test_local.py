import contextlib
import errno
import glob
import os
import socket
import subprocess
import sys
import threading
import tracemalloc
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from pipeline.storage import File, Files, Unlisted, local
from pipeline.storage.faults import NotRegular
from tests.waiting import DEADLINE

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
    write, written = os.write, []

    def fail(handle, data):
        if written:
            raise OSError(28, "No space left on device")
        written.append(data[:1])
        return write(handle, data[:1])

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", fail)
        with pytest.raises(OSError, match="No space left"):
            FILES.write(f"{tmp_path}/a", b"new")
    assert written == [b"n"]
    assert tree(tmp_path) == {}


def test_a_write_that_takes_several_calls_is_whole(tmp_path, monkeypatch):
    write = os.write
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", lambda handle, data: write(handle, data[:2]))
        FILES.write(f"{tmp_path}/a", b"seven b")
    assert tree(tmp_path) == {"a": b"seven b"}


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


# Globs


def globbed(pattern):
    return [file.path for file in FILES.glob(pattern) if isinstance(file, File)]


PARTS = ["a", "b.jpg", ".h", ".h.jpg", "ab", "[a]"]
WILD = ["*", "**", "?", "*.jpg", ".*", "**.jpg", "[ab]*", "[!.]*", "[[]a]", "a", ".h", "[", "b.jpg"]
depths = {"min_size": 1, "max_size": 4}


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=100)
@given(
    st.lists(st.lists(st.sampled_from(PARTS), **depths).map("/".join), min_size=1, max_size=6),
    st.lists(st.sampled_from(WILD), **depths).map("/".join),
)
def test_a_glob_finds_the_files_that_pythons_own_finds(tmp_path, names, pattern):
    root = f"{tmp_path}/{uuid.uuid4().hex}"
    for name in names:
        with contextlib.suppress(OSError):  # a file has the name of a folder
            FILES.write(f"{root}/{name}", b"")
    assume(glob.has_magic(pattern))
    expected = glob.glob(f"{root}/{pattern}", recursive=True)
    assert sorted(globbed(f"{root}/{pattern}")) == sorted(filter(os.path.isfile, set(expected)))


def test_a_glob_below_the_root_of_the_disk_is_found(tmp_path, touch):
    touch(tmp_path, "a.jpg")
    first, rest = str(tmp_path)[1:].split("/", 1)
    assert globbed(f"/{first[:-1]}?/{rest}/*.jpg") == [f"{tmp_path}/a.jpg"]


def test_a_glob_enters_only_folders_that_may_hold_what_it_matches(tmp_path, touch, monkeypatch):
    touch(tmp_path, "x1/p/a.jpg", "x1/q/b.jpg", "x1/p/deep/c.jpg", "y/p/d.jpg", ".x/p/e.jpg")
    entered, scandir = [], os.scandir

    def spy(path):
        entered.append(os.fspath(path)[len(str(tmp_path)) :])
        return scandir(path)

    monkeypatch.setattr(os, "scandir", spy)
    assert globbed(f"{tmp_path}/x*/p/*.jpg") == [f"{tmp_path}/x1/p/a.jpg"]
    assert entered == ["", "/x1", "/x1/p"]


def test_a_glob_tells_of_folders_that_cannot_be_listed(tmp_path, touch, unlistable):
    touch(tmp_path, "a/1.jpg", "b/2.jpg", "c/3.txt")
    unlistable("/b", "/c")
    unlisted = Unlisted(f"{tmp_path}/b", "PermissionError", "Permission denied")
    found = list(FILES.glob(f"{tmp_path}/[ab]/*.jpg"))
    assert [one.path for one in found] == [f"{tmp_path}/a/1.jpg", unlisted.path]
    assert found[1] == unlisted
    assert len(list(FILES.glob(f"{tmp_path}/**/*.jpg"))) == 3


def test_a_glob_follows_links_but_no_loop(tmp_path, touch):
    touch(tmp_path, "photos/a/1.jpg", "elsewhere/2.jpg")
    (tmp_path / "photos/a/up").symlink_to(tmp_path / "photos")
    (tmp_path / "photos/b").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "photos/gone.jpg").symlink_to("nowhere")
    found = globbed(f"{tmp_path}/photos/**/*.jpg")
    assert found == [f"{tmp_path}/photos/{name}" for name in ("gone.jpg", "a/1.jpg", "b/2.jpg")]


def test_a_glob_misses_nothing_where_a_link_leads_to_a_folder_first(tmp_path, touch):
    touch(tmp_path, "z/deep/1.jpg")
    (tmp_path / "a").symlink_to(tmp_path / "z/deep")
    assert globbed(f"{tmp_path}/**/deep/*.jpg") == [f"{tmp_path}/z/deep/1.jpg"]


# What is no file


@pytest.fixture(params=["pipe", "socket", "device"])
def not_regular(request, tmp_path, monkeypatch):
    """The path of something that reading might never end."""
    path = f"{tmp_path}/x"
    if request.param == "pipe":
        os.mkfifo(path)
    elif request.param == "socket":
        monkeypatch.chdir(tmp_path)  # the name of a socket must be short
        with socket.socket(socket.AF_UNIX) as server:
            server.bind("x")
    else:
        path = "/dev/zero"
    return path


def test_what_is_no_regular_file_is_not_read(not_regular):
    before = len(os.listdir("/proc/self/fd"))
    for operation in (FILES.read, FILES.stat):
        with pytest.raises(NotRegular, match=f"{not_regular}: is a pipe, socket or device"):
            operation(not_regular)
    with pytest.raises(NotRegular):
        FILES.read(not_regular, 10)
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize("start", [0, 2, 9])
def test_no_more_memory_is_taken_than_there_is_to_read(tmp_path, start):
    path = tmp_path / "a"
    path.write_bytes(b"abcd")
    tracemalloc.start()
    try:
        assert local.read(str(path), 1 << 30, start) == b"abcd"[start:]
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 1 << 20


@pytest.mark.skipif(sys.platform != "linux", reason="there is no /proc")
@pytest.mark.parametrize("limit", [20, 1 << 20])
def test_a_file_that_does_not_tell_its_size_is_read(monkeypatch, limit):
    monkeypatch.setattr(local, "_BLOCK", 7)
    assert local.read("/proc/version", limit) == Path("/proc/version").read_bytes()[:limit]


def test_a_folder_is_not_read(tmp_path):
    for operation in (FILES.read, FILES.stat):
        with pytest.raises(IsADirectoryError, match="Is a directory"):
            operation(str(tmp_path))


def test_a_file_can_be_read_again_and_again_where_it_is(tmp_path, touch, memory):
    touch(tmp_path, "list.txt")
    FILES.write("memory://b/list.txt", b"")
    for path in (f"{tmp_path}/list.txt", "memory://b/list.txt", f"{tmp_path}/nowhere"):
        assert FILES.rereadable(path) == path


def feed(path, data):
    """Writes to a pipe once somebody reads it."""
    thread = threading.Thread(target=lambda: Path(path).write_bytes(data), daemon=True)
    thread.start()


def test_a_pipe_is_kept_as_a_file_while_the_process_lives(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    data = b"1\n2\n"
    feed(tmp_path / "pipe", data)
    code = (
        "import sys; from pipeline.storage import Files; files = Files()\n"
        "kept = files.rereadable(sys.argv[1]); print(kept, files.read(kept), files.read(kept))"
    )
    command = [sys.executable, "-c", code, f"{tmp_path}/pipe"]
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    kept, told = done.stdout.split(maxsplit=1)
    assert told == f"{data!r} {data!r}\n"
    assert kept.startswith(f"{tmp_path}/fcn-beam-")
    assert os.listdir(tmp_path) == ["pipe"]


@pytest.fixture
def unlistable(monkeypatch):
    """Lets folders refuse to be listed: ``unlistable(ending, …)``, of their paths."""
    scandir = os.scandir

    def make(*endings):
        def refuse(path):
            if os.fspath(path).endswith(endings):
                raise PermissionError(13, "Permission denied", path)
            return scandir(path)

        monkeypatch.setattr(os, "scandir", refuse)

    return make


def test_an_unreadable_folder_is_told_and_the_rest_is_listed(tmp_path, touch, unlistable):
    touch(tmp_path, "a/1", "b/2")
    unlistable("/b")
    found = list(FILES.list(str(tmp_path)))
    assert [type(one) for one in found] == [File, Unlisted]
    assert found[1] == Unlisted(f"{tmp_path}/b", "PermissionError", "Permission denied")


def test_a_name_longer_than_a_disk_takes_is_an_error_that_says_so(tmp_path):
    with pytest.raises(OSError, match="too long"):
        FILES.write(f"{tmp_path}/{'a' * 256}", b"")


def test_a_time_of_writing_is_told_in_nanoseconds(tmp_path):
    (tmp_path / "a").write_bytes(b"12345")
    os.utime(tmp_path / "a", ns=(0, 1234567890123456789))
    found = FILES.stat(f"{tmp_path}/a")
    assert found == File(f"{tmp_path}/a", 5, "1234567890123456789")
    os.utime(tmp_path / "a", ns=(0, 1234567890123456790))
    assert FILES.stat(f"{tmp_path}/a").version != found.version


def test_a_write_that_fails_names_the_file_that_was_wanted(tmp_path, touch):
    touch(tmp_path, "file")
    for path in (f"{tmp_path}/file/a", f"{tmp_path}/{'a' * 256}"):
        with pytest.raises(OSError, match=r"Not a directory|too long") as caught:
            FILES.write(path, b"", scratch=f"{tmp_path}/.unfinished")
        assert caught.value.filename in (path, f"{tmp_path}/file")


# A folder that must be there


def test_folders_below_a_root_are_made_and_the_root_is_not(tmp_path):
    root = f"{tmp_path}/out"
    where = {"scratch": f"{root}/.unfinished/r1", "root": root}
    for write in (FILES.write, FILES.create_held):
        with pytest.raises(FileNotFoundError, match="has been removed") as caught:
            write(f"{root}/masks/x/a", b"1", **where)
        assert caught.value.filename == root
        assert os.listdir(tmp_path) == []
    os.mkdir(root)
    FILES.write(f"{root}/masks/x/a", b"1", **where)
    os.close(FILES.create_held(f"{root}/lock/1", b"2", **where))
    assert tree(tmp_path) == {"out/masks/x/a": b"1", "out/lock/1": b"2"}


def test_a_root_that_is_a_file_is_not_there(tmp_path, touch):
    touch(tmp_path, "out")
    with pytest.raises(FileNotFoundError, match="has been removed"):
        FILES.write(f"{tmp_path}/out/a", b"", root=f"{tmp_path}/out")


@pytest.mark.parametrize("operation", ["replace", "link"])
def test_a_folder_that_is_pruned_while_a_file_is_written_is_made_again(
    tmp_path, monkeypatch, operation
):
    """Another run that ends at this moment removes the folders that are empty."""
    folder, scratch = f"{tmp_path}/lock", f"{tmp_path}/.unfinished"
    real, pruned = getattr(os, operation), []

    def prune_first(source, target):
        if not pruned:
            pruned.append(folder)
            os.rmdir(folder)
        real(source, target)

    monkeypatch.setattr(os, operation, prune_first)
    if operation == "link":
        os.close(FILES.create_held(f"{folder}/1", b"1", scratch=scratch, root=str(tmp_path)))
    else:
        FILES.write(f"{folder}/1", b"1", scratch=scratch, root=str(tmp_path))
    assert pruned
    assert tree(tmp_path) == {"lock/1": b"1"}


# Files that a process holds

HOLD = """
import sys, time
from pipeline.storage import Files
handle = Files().create_held(sys.argv[1], b"held")
print("held", flush=True)
sys.stdin.read()
"""


def test_a_file_is_held_as_long_as_its_handle_is_open(tmp_path):
    path = f"{tmp_path}/x/1"
    handle = FILES.create_held(path, b"data", scratch=f"{tmp_path}/.unfinished")
    assert FILES.is_held(path)
    assert FILES.is_held(path)
    assert tree(tmp_path) == {"x/1": b"data"}
    os.close(handle)
    assert FILES.is_held(path) is False


def test_a_file_that_is_there_is_not_created_again(tmp_path):
    path = f"{tmp_path}/1"
    handle = FILES.create_held(path, b"first")
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(FileExistsError):
        FILES.create_held(path, b"second")
    assert len(os.listdir("/proc/self/fd")) == before
    assert FILES.is_held(path)
    assert tree(tmp_path) == {"1": b"first"}
    os.close(handle)


def test_a_file_that_is_not_there_is_not_held(tmp_path):
    assert FILES.is_held(f"{tmp_path}/1") is False


def test_a_process_that_is_killed_holds_no_file(tmp_path):
    path = f"{tmp_path}/1"
    command = [sys.executable, "-c", HOLD, path]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"held\n"
        assert FILES.is_held(path)
        process.kill()
        process.wait()
        assert FILES.is_held(path) is False
    assert tree(tmp_path) == {"1": b"held"}


def test_a_handle_does_not_pass_to_programs_that_are_started(tmp_path):
    path = f"{tmp_path}/1"
    handle = FILES.create_held(path, b"")
    with subprocess.Popen(["sleep", "60"], close_fds=False) as child:
        os.close(handle)
        assert FILES.is_held(path) is False
        child.kill()


def test_a_disk_without_locks_creates_a_file_that_nobody_holds(tmp_path, monkeypatch):
    def refuse(handle, operation):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(local.fcntl, "flock", refuse)
    assert FILES.create_held(f"{tmp_path}/1", b"data") is None
    assert FILES.is_held(f"{tmp_path}/1") is None
    assert tree(tmp_path) == {"1": b"data"}


# A disk without hard links


@pytest.fixture(params=["EPERM", "EOPNOTSUPP", "ENOSYS"])
def no_links(request, monkeypatch):
    """A disk that knows no hard links, such as exFAT; counts how often it was asked."""
    asked = []

    def refuse(source, target):
        asked.append(target)
        number = getattr(errno, request.param)
        raise OSError(number, os.strerror(number), source, None, target)

    monkeypatch.setattr(os, "link", refuse)
    return asked


def test_a_disk_without_hard_links_creates_whole_files_that_are_held(tmp_path, no_links):
    path, scratch = f"{tmp_path}/lock/1", f"{tmp_path}/.unfinished"
    handle = FILES.create_held(path, b"first", scratch=scratch)
    with pytest.raises(FileExistsError):
        FILES.create_held(path, b"second", scratch=scratch)
    with pytest.raises(FileExistsError):
        FILES.write(path, b"third", scratch=scratch, exclusive=True)
    assert FILES.is_held(path)
    os.close(handle)
    assert FILES.is_held(path) is False
    assert tree(tmp_path) == {"lock/1": b"first"}
    assert no_links == [path] * 3


def test_of_several_who_create_a_file_without_hard_links_just_one_does(tmp_path, no_links):
    start = threading.Barrier(8)

    def create(number):
        start.wait(DEADLINE)
        try:
            return FILES.write(f"{tmp_path}/x/1", b"%d" % number, exclusive=True) and number
        except FileExistsError:
            return None

    with ThreadPoolExecutor(8) as pool:
        (winner,) = [one for one in pool.map(create, range(8)) if one is not None]
    assert tree(tmp_path) == {"x/1": b"%d" % winner}


def test_a_folder_that_is_pruned_while_a_file_is_created_without_links_is_made_again(
    tmp_path, no_links, monkeypatch
):
    rename, pruned = os.rename, []

    def prune_first(source, target):
        if not pruned:
            pruned.append(target)
            os.rmdir(f"{tmp_path}/lock")
        rename(source, target)

    monkeypatch.setattr(os, "rename", prune_first)
    os.close(FILES.create_held(f"{tmp_path}/lock/1", b"1", scratch=f"{tmp_path}/.unfinished"))
    assert tree(tmp_path) == {"lock/1": b"1"}


def test_a_link_that_is_refused_for_another_cause_is_told(tmp_path, monkeypatch):
    def refuse(source, target):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "link", refuse)
    with pytest.raises(OSError, match="Input/output error"):
        FILES.write(f"{tmp_path}/1", b"", exclusive=True)
    assert tree(tmp_path) == {}


def test_only_an_empty_folder_is_pruned(tmp_path, touch):
    touch(tmp_path, "full/a")
    os.mkdir(tmp_path / "empty")
    for name in ("full", "empty", "nowhere", "full/a"):
        FILES.prune(f"{tmp_path}/{name}")
    assert os.listdir(tmp_path) == ["full"]
    assert tree(tmp_path).keys() == {"full/a"}
