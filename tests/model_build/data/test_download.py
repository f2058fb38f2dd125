import io
import tarfile
from types import SimpleNamespace

import pytest

from model_build.common.errors import UserError
from model_build.data import download
from model_build.data.download import VOC2012, download_and_unpack

FOLDER = "VOCdevkit/VOC2012"


def tree(root):
    """All paths under a folder, with the files' bytes."""
    return {
        path.relative_to(root).as_posix(): path.read_bytes() if path.is_file() else None
        for path in root.rglob("*")
    }


def packed(*members):
    """A tar of (name, what): bytes of a file, or the attributes of another kind of member."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        for name, what in members:
            member = tarfile.TarInfo(name)
            if isinstance(what, bytes):
                member.size = len(what)
                tar.addfile(member, io.BytesIO(what))
            else:
                for attribute, value in what.items():
                    setattr(member, attribute, value)
                tar.addfile(member)
    return file.getvalue()


def run(source, dest):
    """Downloads; gives the folder or the error, and the lines said."""
    lines = []
    folder = error = None
    try:
        folder = download_and_unpack(source, dest, lines.append)
    except UserError as caught:
        error = str(caught)
        assert "\n" not in error
    return SimpleNamespace(folder=folder, error=error, lines=lines)


@pytest.fixture
def dest(tmp_path):
    return tmp_path / "data"


@pytest.fixture
def part(dest):
    dest.mkdir()
    return dest / "voc.tar.part"


def expect_whole(done, dest, content):
    assert done.error is None
    assert done.folder == dest / FOLDER
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:
        expected = {
            member.name: tar.extractfile(member).read() for member in tar if member.isfile()
        }
    files = {name: content for name, content in tree(dest).items() if content is not None}
    assert files == {**expected, "voc.tar": content}
    assert {path.name for path in dest.iterdir()} == {"voc.tar", "VOCdevkit"}


def test_the_archive_is_downloaded_and_unpacked(serve, voc_tar, make_source, dest):
    server = serve(voc_tar)
    done = run(make_source(server.url, voc_tar), dest)
    expect_whole(done, dest, voc_tar)
    assert server.asked == [None]


def test_an_unpacked_archive_is_not_downloaded_again(serve, voc_tar, make_source, dest):
    server = serve(voc_tar)
    source = make_source(server.url, voc_tar)
    run(source, dest)
    (dest / "voc.tar").unlink()
    done = run(source, dest)
    assert done.folder == dest / FOLDER
    assert done.lines == [f"{dest / FOLDER}: already there; nothing to download"]
    assert len(server.asked) == 1
    assert not (dest / "voc.tar").exists()


@pytest.mark.parametrize("cuts", [(1,), (512,), (70_000,), (20_000, 30_000), (0, 20_000, 1)])
def test_a_broken_connection_is_resumed_where_it_broke(serve, voc_tar, make_source, dest, cuts):
    server = serve(voc_tar, cuts=cuts)
    done = run(make_source(server.url, voc_tar), dest)
    expect_whole(done, dest, voc_tar)
    stands = [sum(cuts[:index]) for index in range(len(cuts) + 1)]
    assert server.asked == [f"bytes={stand}-" if stand else None for stand in stands]
    tries = [line for line in done.lines if "trying again" in line]
    assert len(tries) == len(cuts)
    assert f"{stands[-1]:,} of {len(voc_tar):,} bytes are here" in tries[-1]


def test_the_same_command_resumes_after_many_breaks(serve, voc_tar, make_source, dest):
    server = serve(voc_tar, cuts=[10_000] * 4)
    source = make_source(server.url, voc_tar)
    done = run(source, dest)
    assert done.error.startswith(f"{server.url}: the connection broke; 40,000 of ")
    assert "run the same command again to go on" in done.error
    assert str(dest / "voc.tar") in done.error
    assert tree(dest) == {"voc.tar.part": voc_tar[:40_000]}
    expect_whole(run(source, dest), dest, voc_tar)
    assert server.asked[4:] == ["bytes=40000-"]


def test_a_server_that_ignores_ranges_starts_anew(serve, voc_tar, make_source, dest):
    server = serve(voc_tar, cuts=(50_000,), ranges=False)
    expect_whole(run(make_source(server.url, voc_tar), dest), dest, voc_tar)
    assert server.asked == [None, "bytes=50000-"]


def test_a_response_without_length_is_read_to_the_end(serve, voc_tar, make_source, dest):
    server = serve(voc_tar, cuts=(50_000,), length=False)
    expect_whole(run(make_source(server.url, voc_tar), dest), dest, voc_tar)


def test_a_server_that_sends_another_range_is_refused(serve, voc_tar, make_source, part):
    part.write_bytes(voc_tar[:1000])
    server = serve(voc_tar, shift=1)
    done = run(make_source(server.url, voc_tar), part.parent)
    assert "sent a different part than requested" in done.error
    assert part.read_bytes() == voc_tar[:1000]


def test_a_silent_server_times_out(serve, voc_tar, make_source, dest, monkeypatch):
    monkeypatch.setattr(download, "TIMEOUT_SECONDS", 0.2)
    server = serve(voc_tar, cuts=[10_000] * 4, hang=True)
    done = run(make_source(server.url, voc_tar), dest)
    assert "timed out; 40,000 of" in done.error
    assert len(server.asked) == 4


def test_an_existing_archive_is_checked_and_unpacked(serve, voc_tar, make_source, part):
    (part.parent / "voc.tar").write_bytes(voc_tar)
    server = serve(voc_tar)
    expect_whole(run(make_source(server.url, voc_tar), part.parent), part.parent, voc_tar)
    assert server.asked == []


def test_a_whole_part_needs_no_request(serve, voc_tar, make_source, part):
    part.write_bytes(voc_tar)
    server = serve(voc_tar)
    expect_whole(run(make_source(server.url, voc_tar), part.parent), part.parent, voc_tar)
    assert server.asked == []


def test_a_part_that_is_too_long_is_downloaded_again(serve, voc_tar, make_source, part):
    part.write_bytes(voc_tar + b"!")
    server = serve(voc_tar)
    expect_whole(run(make_source(server.url, voc_tar), part.parent), part.parent, voc_tar)
    assert server.asked == [None]


def test_a_damaged_part_is_removed_and_the_next_run_starts_again(serve, voc_tar, make_source, part):
    part.write_bytes(b"?" * 1000)
    server = serve(voc_tar)
    source = make_source(server.url, voc_tar)
    done = run(source, part.parent)
    assert done.error.startswith(f"{part}: removed, as its checksum is wrong")
    assert source.sha256 in done.error
    assert tree(part.parent) == {}
    expect_whole(run(source, part.parent), part.parent, voc_tar)
    assert server.asked == ["bytes=1000-", None]


def test_another_file_of_the_same_size_is_removed(serve, voc_tar, make_source, dest):
    server = serve(voc_tar[::-1])
    done = run(make_source(server.url, voc_tar), dest)
    assert done.error.startswith(f"{dest / 'voc.tar.part'}: removed, as its checksum is wrong")
    assert tree(dest) == {}


@pytest.mark.parametrize("content", [b"<html>Please log in</html>", b"x" * 1_000_000])
def test_a_file_of_another_size_is_not_downloaded(serve, voc_tar, make_source, dest, content):
    server = serve(content)
    done = run(make_source(server.url, voc_tar), dest)
    assert done.error.startswith(
        f"{server.url}: the file there is another one, of {len(content):,} bytes"
    )
    assert len(server.asked) == 1
    assert tree(dest) == {}


def test_a_longer_file_of_unknown_length_is_removed(serve, voc_tar, make_source, dest):
    server = serve(voc_tar + b"x" * 1_000_000, length=False)
    done = run(make_source(server.url, voc_tar), dest)
    assert "removed, as its checksum is wrong" in done.error
    assert tree(dest) == {}


def test_a_wrong_file_of_the_users_is_refused_but_kept(serve, voc_tar, make_source, part):
    archive = part.parent / "voc.tar"
    archive.write_bytes(b"mine")
    server = serve(voc_tar)
    done = run(make_source(server.url, voc_tar), part.parent)
    assert done.error.startswith(f"{archive}: is not the file at {server.url}; move it away")
    assert tree(part.parent) == {"voc.tar": b"mine"}
    assert server.asked == []


@pytest.mark.parametrize("status", [403, 404, 416])
def test_a_permanent_server_error_is_not_retried(serve, voc_tar, make_source, dest, status):
    server = serve(voc_tar, statuses=[status])
    done = run(make_source(server.url, voc_tar), dest)
    assert done.error.startswith(f"{server.url}: the server answers {status} ")
    assert len(server.asked) == 1


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_temporary_server_error_is_retried(serve, voc_tar, make_source, dest, status):
    server = serve(voc_tar, statuses=[status])
    done = run(make_source(server.url, voc_tar), dest)
    expect_whole(done, dest, voc_tar)
    assert f"the server answers {status} " in done.lines[0]


def test_no_server_is_one_line(serve, voc_tar, make_source, dest):
    server = serve(voc_tar)
    server.shutdown()
    server.server_close()
    done = run(make_source(server.url, voc_tar), dest)
    assert done.error.startswith(f"{server.url}: ")
    assert "refused; 0 of" in done.error


def test_lack_of_disk_space_is_reported_before_downloading(serve, voc_tar, make_source, dest):
    server = serve(voc_tar)
    for changes in ({"size": 10**18}, {"unpacked": 10**18}):
        done = run(make_source(server.url, voc_tar, **changes), dest)
        assert done.error.startswith(f"{dest}: 1000000000.0 GB needed")
    assert server.asked == []


def test_a_downloaded_archive_needs_no_disk_space(serve, voc_tar, make_source, part):
    with open(part, "wb") as file:
        file.truncate(10**13)  # sparse: takes no disk
    source = make_source("http://unused/voc.tar", b"", size=10**13, unpacked=0)
    download._check_room(source, part.parent / "voc.tar")


def test_a_folder_that_is_not_whole_is_refused(serve, voc_tar, make_source, dest):
    (dest / FOLDER).mkdir(parents=True)
    server = serve(voc_tar)
    done = run(make_source(server.url, voc_tar), dest)
    assert done.error.startswith(f"{dest / FOLDER}: exists, but without ImageSets/")
    assert server.asked == []


def test_neighbours_stay_and_leftovers_go(serve, voc_tar, make_source, part):
    dest = part.parent
    neighbour = dest / "VOCdevkit" / "VOC2007" / "a.txt"
    leftover = dest / "voc.tar.unpacking" / FOLDER / "JPEGImages" / "half.jpg"
    for path in (neighbour, leftover):
        path.parent.mkdir(parents=True)
        path.write_text("a")
    assert run(make_source(serve(voc_tar).url, voc_tar), dest).error is None
    assert neighbour.read_text() == "a"
    assert not (dest / "voc.tar.unpacking").exists()
    assert not (dest / FOLDER / "JPEGImages" / "half.jpg").exists()


def test_a_dest_that_cannot_be_a_folder_is_named(serve, voc_tar, make_source, dest):
    dest.write_text("a file")
    done = run(make_source(serve(voc_tar).url, voc_tar), dest)
    assert done.error == f"{dest}: cannot be written: File exists"


GOOD = (f"{FOLDER}/{download.MARKER}", b"a\n")
SYMLINK, HARD_LINK = {"type": tarfile.SYMTYPE}, {"type": tarfile.LNKTYPE}
EVIL = {
    "parent": [("../evil", b"!")],
    "parents": [("../../../../../../evil", b"!")],
    "parent inside": [(f"{FOLDER}/../../../evil", b"!")],
    "absolute": [("/tmp/fcn-beam-evil", b"!")],
    "link to a file": [("link", {**SYMLINK, "linkname": "../../evil"})],
    "link to an absolute path": [("link", {**SYMLINK, "linkname": "/etc/passwd"})],
    "file through a link": [
        ("link", {**SYMLINK, "linkname": "../.."}),
        ("link/evil", b"!"),
    ],
    "hard link": [("link", {**HARD_LINK, "linkname": "../../outside"})],
    "absolute hard link": [("link", {**HARD_LINK, "linkname": "/etc/passwd"})],
    "hard link to itself": [("link", {**HARD_LINK, "linkname": "link"})],
    "hard link to a folder": [
        ("folder", {"type": tarfile.DIRTYPE}),
        ("link", {**HARD_LINK, "linkname": "folder"}),
    ],
    "folder outside": [("../evil", {"type": tarfile.DIRTYPE})],
    "fifo": [("pipe", {"type": tarfile.FIFOTYPE})],
    "device": [("zero", {"type": tarfile.CHRTYPE, "devmajor": 1, "devminor": 5})],
}


@pytest.mark.parametrize("members", EVIL.values(), ids=EVIL)
def test_paths_outside_the_folder_are_refused(serve, make_source, tmp_path, dest, members):
    (tmp_path / "outside").write_bytes(b"secret")
    content = packed(GOOD, *members)
    done = run(make_source(serve(content).url, content), dest)
    assert done.error.startswith(f"{dest / 'voc.tar'}: refused: '{members[-1][0][:4]}")
    assert tree(tmp_path) == {"outside": b"secret", "data": None, "data/voc.tar": content}
    assert (tmp_path / "outside").stat().st_nlink == 1


def test_a_hard_link_becomes_a_copy(serve, make_source, dest):
    name = f"{FOLDER}/copy"
    content = packed(GOOD, (name, {**HARD_LINK, "linkname": GOOD[0]}), (f"{FOLDER}/last", b"z"))
    done = run(make_source(serve(content).url, content), dest)
    assert done.error is None
    assert (dest / name).read_bytes() == b"a\n"
    assert (dest / name).stat().st_nlink == 1
    assert (dest / FOLDER / "last").read_bytes() == b"z"


@pytest.mark.parametrize(
    "content",
    [
        b"no tar at all" * 100,
        packed((f"{FOLDER}/a", b"x" * 5000))[:3000],
        packed(("file", b"!"), ("file/in/a/file", b"!")),
    ],
    ids=["other", "cut", "clash"],
)
def test_an_archive_that_cannot_be_unpacked_leaves_nothing(serve, make_source, dest, content):
    done = run(make_source(serve(content).url, content), dest)
    assert done.error.startswith(str(dest))
    assert tree(dest) == {"voc.tar": content}


def test_an_archive_without_the_folder_is_refused(serve, make_source, dest):
    content = packed(("README", b"hello"))
    done = run(make_source(serve(content).url, content), dest)
    assert f"does not contain {FOLDER}/{download.MARKER}" in done.error
    assert tree(dest) == {"voc.tar": content}


def test_the_file_of_voc_2012():
    assert VOC2012.file == "VOCtrainval_11-May-2012.tar"
    assert VOC2012.folder == FOLDER
    assert len(bytes.fromhex(VOC2012.sha256)) == 32
