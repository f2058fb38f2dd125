import os
from dataclasses import dataclass, replace

import pytest

from model_build.errors import UserError
from pipeline.inputs.listing import ListOptions
from pipeline.inputs.sources import common_folder, parse_source
from pipeline.jobs import preview
from pipeline.jobs.segment import Request, plan
from pipeline.outputs import folder
from pipeline.storage import Files


def check_input(tmp_path, *inputs, files=None, out="out", **options):
    """:func:`preview.check_input` for a run that writes to ``out``."""
    sources = [
        parse_source(text if "://" in text else f"{tmp_path}/{text}", Files())
        for text in inputs or ("in",)
    ]
    output = folder.OutputFolder(f"{tmp_path}/{out}".rstrip("/"), Files())
    root = common_folder(source.folder for source in sources)
    listing = ListOptions(root, exclude=output.written(), **options)
    preview.check_input(sources, listing, files or Files())


@pytest.fixture
def dry_run(tmp_path, tiny_model):
    """The lines of a dry run, with paths from ``tmp_path`` on."""

    def run(*inputs, out="out", since=0.0, **options):
        request = Request(
            inputs=[text if "://" in text else f"{tmp_path}/{text}" for text in inputs or ("in",)],
            output=f"{tmp_path}/{out}",
            model=tiny_model,
            overwrite=True,  # `since` tells what stands
            **options,
        )
        lines = []
        preview.dry_run(replace(plan(request), since=since), lines.append)
        return [line.replace(f"{tmp_path}/", "") for line in lines]

    return run


def test_input_with_an_image_is_fine(tmp_path, touch):
    touch(tmp_path, "in/a.txt", "in/x/b.jpg")
    check_input(tmp_path)


def test_the_first_image_ends_the_search(tmp_path, touch):
    touch(tmp_path, "in/a.txt", "in/b.jpg", "in/c.jpg", "in/d.jpg")
    listed = []

    @dataclass(frozen=True)
    class Noting(Files):
        def list(self, folder):
            for file in super().list(folder):
                listed.append(file.path.rpartition("/")[2])
                yield file

    check_input(tmp_path, files=Noting())
    assert listed == ["a.txt", "b.jpg"]


def test_an_empty_folder_is_the_users_error(tmp_path):
    (tmp_path / "in/x").mkdir(parents=True)
    with pytest.raises(UserError, match="in: holds no file; check the path"):
        check_input(tmp_path)


def test_an_empty_place_in_a_store_is_the_users_error(tmp_path, memory):
    Files().write("memory://bucket/inn/a.jpg", b"")
    with pytest.raises(UserError, match="memory://bucket/in: holds no file; check the path"):
        check_input(tmp_path, "memory://bucket/in")


def test_a_glob_without_a_match_is_the_users_error(tmp_path):
    with pytest.raises(UserError, match=r"\*\.jpg: holds no file"):
        check_input(tmp_path, "*.jpg")


def test_a_folder_of_other_files_tells_of_all_files(tmp_path, touch):
    touch(tmp_path, "in/a.dat", "in/b")
    with pytest.raises(UserError, match=r"none of its 2 files .* --all-files"):
        check_input(tmp_path)
    check_input(tmp_path, all_files=True)


@pytest.mark.parametrize("out", ["", "in"], ids=["around the input", "the input itself"])
def test_an_output_that_holds_the_input_does_not_hide_it(tmp_path, touch, out):
    touch(tmp_path, "in/a.jpg")
    check_input(tmp_path, out=out)


def test_all_inputs_are_searched_and_named(tmp_path, touch):
    touch(tmp_path, "in/a.txt", "other/b.txt")
    with pytest.raises(UserError, match=r"in, .*other: none of its 2 files"):
        check_input(tmp_path, "in", "other")
    touch(tmp_path, "other/b.jpg")
    check_input(tmp_path, "in", "other")


def test_a_remote_input_that_cannot_be_listed_is_the_users_error(tmp_path, memory, tiny_model):
    @dataclass(frozen=True)
    class Refusing(Files):
        def list(self, folder):
            raise OSError("access denied")

    Files().write("memory://bucket/x/a.jpg", b"")
    message = "memory://bucket/x: cannot be listed: access denied"
    with pytest.raises(UserError, match=message):
        check_input(tmp_path, "memory://bucket/x/", files=Refusing())
    planned = plan(Request(["memory://bucket/x/"], f"{tmp_path}/out", tiny_model))
    refused = replace(planned, out=replace(planned.out, files=Refusing()))
    with pytest.raises(UserError, match=message):
        preview.dry_run(refused, print)


def test_a_dry_run_tells_what_would_be_done(dry_run, tmp_path, touch):
    touch(tmp_path, "in/b.jpg", "in/x/a.jpg", "in/x/a.png", "in/notes.txt", mtime=100)
    touch(tmp_path, "in/" + os.fsdecode(b"\xff.jpg"))
    touch(tmp_path, "out/masks/b.png", mtime=200)
    assert dry_run() == [
        "in/\\udcff.jpg: rejected: its name is not UTF-8; rename it",
        "in/b.jpg -> masks/b.png: up to date",
        "in/x/a.jpg -> masks/x/a.jpg.png: to do",
        "in/x/a.png -> masks/x/a.png.png: to do",
        "3 images: 2 to do, 1 up to date; 1 rejected; 1 files passed over",
    ]


def test_a_dry_run_tells_of_names_that_the_output_cannot_hold(dry_run, tmp_path, touch):
    touch(tmp_path, "in/" + "a" * 252, "in/" + "b" * 251)
    reject, task, total = dry_run(all_files=True)
    assert reject.endswith(
        "aaa: rejected: a part of its mask's name has over 255 bytes; shorten its name"
    )
    assert task.endswith("bbb.png: to do")
    assert total == "1 images: 1 to do, 0 up to date; 1 rejected; 0 files passed over"


def test_a_dry_run_writes_nothing(dry_run, tmp_path, touch):
    touch(tmp_path, "in/a.jpg")
    before = sorted(tmp_path.rglob("*"))
    dry_run(overlays=True)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_dry_run_knows_masks_that_no_longer_hold(dry_run, tmp_path, touch):
    touch(tmp_path, "in/a.jpg", mtime=300)
    touch(tmp_path, "in/b.jpg", mtime=100)
    touch(tmp_path, "out/masks/a.png", "out/masks/b.png", mtime=200)
    assert dry_run()[-1].startswith("2 images: 1 to do, 1 up to date;")
    assert dry_run(since=250.0)[-1].startswith("2 images: 2 to do, 0 up to date;")
    assert dry_run(since=None)[-1].startswith("2 images: 2 to do, 0 up to date;")


def test_a_dry_run_with_overlays(dry_run, tmp_path, touch):
    touch(tmp_path, "in/a.jpg", "in/b.jpg", mtime=100)
    touch(tmp_path, "out/masks/a.png", "out/masks/b.png", "out/overlays/b.jpg", mtime=200)
    assert dry_run(overlays=True)[:2] == [
        "in/a.jpg -> masks/a.png: to do",
        "in/b.jpg -> masks/b.png: up to date",
    ]


def test_limit_takes_the_first_by_name(dry_run, tmp_path, touch):
    touch(tmp_path, "in/c.jpg", "in/a.jpg", "in/x/b.jpg")
    assert dry_run(limit=2) == [
        "in/a.jpg -> masks/a.png: to do",
        "in/c.jpg -> masks/c.png: to do",
        "2 images: 2 to do, 0 up to date; 0 rejected; 0 files passed over",
    ]


def test_limit_goes_by_name_where_inputs_are_local_and_remote(dry_run, tmp_path, touch, memory):
    Files().write("memory://b/a.jpg", b"")
    touch(tmp_path, "a.jpg")
    line, _ = dry_run("a.jpg", "memory://b/a.jpg", limit=1)
    first = min(f"{tmp_path}/a.jpg".lstrip("/"), "memory/b/a.jpg")
    expected = first.removesuffix(".jpg").replace(f"{tmp_path}/".lstrip("/"), "")
    assert line.replace(f"{tmp_path}/".lstrip("/"), "").endswith(f"-> masks/{expected}.png: to do")


def test_an_image_of_two_inputs_is_one(dry_run, tmp_path, touch):
    touch(tmp_path, "in/a.jpg")
    assert dry_run("in", "in/a.jpg") == [
        "in/a.jpg -> masks/a.png: to do",
        "1 images: 1 to do, 0 up to date; 0 rejected; 0 files passed over",
    ]


def test_a_dry_run_passes_the_output_over(dry_run, tmp_path, touch):
    touch(tmp_path, "in/a.jpg", "in/out/masks/a.png")
    lines = dry_run(out="in/out")
    assert [line.split(" -> ")[0] for line in lines[:-1]] == ["in/a.jpg"]


def test_a_dry_run_looks_at_what_a_run_looks_at(dry_run, tmp_path, touch):
    """Masks that the plan of a run would find are found here, whatever their names."""
    names = ["a.jpg", "a.png", "a.jpg.png", "b.tar.jpg", "c.raw", "d"]
    touch(tmp_path, *(f"in/{name}" for name in names), mtime=100)
    for line in dry_run(all_files=True)[:-1]:
        mask = line.split(" -> ")[1].split(":")[0]
        assert mask.startswith(f"{folder.MASKS}/")
        touch(tmp_path, f"out/{mask}", mtime=200)
    assert dry_run(all_files=True)[-1].startswith("6 images: 0 to do, 6 up to date;")
