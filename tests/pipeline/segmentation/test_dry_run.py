"""A dry run shows what a run would do and writes nothing."""

import os
from dataclasses import dataclass, replace

import pytest

from model_build.common.errors import UserError
from pipeline.outputs import run_json
from pipeline.outputs.journal import Journal
from pipeline.outputs.products import MASKS
from pipeline.records import Row, Stamp
from pipeline.segmentation import dry_run as module
from pipeline.segmentation.plan import Request, plan
from pipeline.storage import Files

FILES = Files()


@pytest.fixture
def ask(tmp_path, tiny_model):
    def make(*inputs, out="out", **options):
        return Request(
            inputs=[text if "://" in text else f"{tmp_path}/{text}" for text in inputs or ("in",)],
            output=out if "://" in out else f"{tmp_path}/{out}",
            **{"model": tiny_model} | options,
        )

    return make


@pytest.fixture
def dry_run(ask, tmp_path):
    """The lines of a dry run, with paths from ``tmp_path`` on."""

    def run(*inputs, **options):
        lines = []
        module.dry_run(plan(ask(*inputs, **options)), lines.append)
        return [line.replace(f"{tmp_path}/", "") for line in lines]

    return run


@pytest.fixture
def earlier_run(ask):
    """Leaves what a run that was killed leaves: ``run.json``, masks, and rows in the journal.

    Args:
        masks: the mask's name, of each image's path below ``in``.
        rowless: images whose rows were not put into the journal any more.
        edited: images whose masks a run has found edited by hand.
    """

    def leave(masks, rowless=(), edited=(), **options):
        planned = plan(ask(**options))
        out = replace(planned.out, run="r1")
        FILES.make_folder(out.path)
        run_json.claim(out, planned.recipe, planned.listing.root, (), {})
        journal = Journal(out)
        for name, mask in masks.items():
            path = f"{planned.listing.root}/{name}"
            source = FILES.stat(path)
            row = Row(
                *(path, f"masks/{mask}", 2, 1, {"cat": 2}),
                source=Stamp(source.size, source.version),
                hash="ab12",
                written=out.write(f"masks/{mask}", b"a mask"),
                recipe=None if name in edited else planned.recipe.id,
            )
            journal.add([] if name in rowless else [row])
        journal.flush()

    return leave


def test_a_dry_run_counts_what_programs_and_systems_leave(dry_run, touch, tmp_path):
    touch(tmp_path, "in/a.jpg", "in/._a.jpg", "in/b.txt")
    assert dry_run()[-1].endswith("2 files skipped (.txt 1, 1 in folders of caches and systems)")


def test_images_by_other_names_are_counted(dry_run, touch, tmp_path):
    touch(tmp_path, "in/a.jpg", "in/c.mov")
    (tmp_path / "in/b.IMG").write_bytes(b"\xff\xd8\xff\xe0")
    assert dry_run()[-2:] == [
        "1 images: 1 to do, 0 to check, 0 up to date; 0 rejected; 2 files skipped (.img 1, .mov 1)",
        "1 file looks like an image: add --all-files",
    ]


def test_names_in_a_dry_run_are_harmless_to_a_terminal(dry_run, touch, tmp_path):
    touch(tmp_path, "in/a\x1b[2J\n.jpg")
    assert dry_run()[0] == "in/a\\x1b[2J\\n.jpg -> masks/a\\x1b[2J\\n.png: to do"


def test_a_remote_input_that_cannot_be_listed_is_the_users_error(tmp_path, memory, tiny_model):
    @dataclass(frozen=True)
    class Refusing(Files):
        def list(self, folder):
            raise OSError("access denied")

    Files().write("memory://bucket/x/a.jpg", b"")
    message = "memory://bucket/x: cannot be listed: access denied"
    planned = plan(Request(["memory://bucket/x/"], f"{tmp_path}/out", model=tiny_model))
    refused = replace(planned, out=replace(planned.out, files=Refusing()))
    with pytest.raises(UserError, match=message):
        module.dry_run(refused, print)


def test_a_dry_run_tells_what_would_be_done(dry_run, earlier_run, tmp_path, touch):
    touch(tmp_path, "in/b.jpg", "in/c.jpg", "in/d.jpg", "in/x/a.jpg", "in/x/a.png", "in/notes.txt")
    touch(tmp_path, "in/" + os.fsdecode(b"\xff.jpg"))
    earlier_run({"b.jpg": "b.png", "c.jpg": "c.png", "d.jpg": "d.png"}, rowless=["c.jpg"])
    os.utime(tmp_path / "in/d.jpg", (7, 7))
    assert dry_run() == [
        "in/\\udcff.jpg: rejected: its name is not UTF-8; rename it",
        "in/b.jpg -> masks/b.png: up to date",
        "in/c.jpg -> masks/c.png: to check",
        "in/d.jpg -> masks/d.png: to check",
        "in/x/a.jpg -> masks/x/a.jpg.png: to do",
        "in/x/a.png -> masks/x/a.png.png: to do",
        "5 images: 2 to do, 2 to check, 1 up to date; 1 rejected; 1 files skipped (.txt 1)",
    ]


def test_a_dry_run_tells_of_names_that_the_output_cannot_hold(dry_run, tmp_path, touch):
    touch(tmp_path, "in/" + "a" * 252, "in/" + "b" * 251)
    reject, task, total = dry_run(all_files=True)
    assert reject.endswith(
        "aaa: rejected: its mask's name would have over 255 bytes; shorten its name"
    )
    assert task.endswith("bbb.png: to do")
    assert total == "1 images: 1 to do, 0 to check, 0 up to date; 1 rejected; 0 files skipped"


def everything(folder):
    """Of all files and folders below, when they were changed."""
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


def test_a_dry_run_writes_nothing(dry_run, earlier_run, tmp_path, touch):
    touch(tmp_path, "in/a.jpg", "in/b.jpg")
    before = everything(tmp_path)
    dry_run(overlays=True)
    assert everything(tmp_path) == before
    earlier_run({"a.jpg": "a.png"}, rowless=["a.jpg"])
    before = everything(tmp_path)
    dry_run(overlays=True)
    dry_run(verify=True)
    dry_run(overwrite=True)
    assert everything(tmp_path) == before


def test_a_dry_run_reads_no_photo_and_no_mask(ask, earlier_run, tmp_path, touch):
    touch(tmp_path, "in/a.jpg", "in/b.jpg", "in/c.jpg")
    earlier_run({"a.jpg": "a.png", "b.jpg": "b.png"}, rowless=["b.jpg"])
    read = []

    @dataclass(frozen=True)
    class Noting(Files):
        def read(self, path, limit=-1):
            read.append(path)
            return super().read(path, limit)

    planned = plan(ask(verify=True))
    planned = replace(planned, out=replace(planned.out, files=Noting()))
    module.dry_run(planned, lambda line: None)
    assert read
    assert all("/journal/" in path for path in read)


def test_a_dry_run_knows_masks_that_no_longer_hold(dry_run, earlier_run, tmp_path, touch):
    touch(tmp_path, "in/a.jpg", "in/b.jpg")
    earlier_run({"a.jpg": "a.png", "b.jpg": "b.png"})
    assert dry_run()[-1].startswith("2 images: 0 to do, 0 to check, 2 up to date;")
    (tmp_path / "in/a.jpg").write_bytes(b"another photo")
    assert dry_run()[-1].startswith("2 images: 0 to do, 1 to check, 1 up to date;")
    (tmp_path / "out/masks/b.png").write_bytes(b"another mask")
    assert dry_run()[-1].startswith("2 images: 0 to do, 2 to check, 0 up to date;")
    assert dry_run(verify=True)[-1].startswith("2 images: 0 to do, 2 to check, 0 up to date;")
    other = {"long_side": 64, "overwrite": True}
    # A mask that nothing is known of may be of that recipe.
    assert dry_run(**other)[:2] == [
        "in/a.jpg -> masks/a.png: to do",
        "in/b.jpg -> masks/b.png: to check",
    ]


def test_a_dry_run_verifies_everything_that_has_a_row(dry_run, earlier_run, tmp_path, touch):
    touch(tmp_path, "in/a.jpg", "in/b.jpg")
    earlier_run({"a.jpg": "a.png"})
    assert dry_run(verify=True)[:2] == [
        "in/a.jpg -> masks/a.png: to check",
        "in/b.jpg -> masks/b.png: to do",
    ]


def test_a_dry_run_discards_edits_and_tells_their_number_first(
    dry_run, earlier_run, tmp_path, touch
):
    touch(tmp_path, "in/a.jpg", "in/b.jpg")
    earlier_run({"a.jpg": "a.png", "b.jpg": "b.png"}, edited=["b.jpg"])
    assert dry_run()[:2] == [
        "in/a.jpg -> masks/a.png: up to date",
        "in/b.jpg -> masks/b.png: up to date",
    ]
    assert dry_run(overwrite=True) == dry_run()
    before = everything(tmp_path)
    assert dry_run(discard_edits=True)[:3] == [
        "edited masks to discard: 1",
        "in/a.jpg -> masks/a.png: up to date",
        "in/b.jpg -> masks/b.png: to do",
    ]
    assert everything(tmp_path) == before


def test_a_dry_run_with_overlays(dry_run, earlier_run, tmp_path, touch):
    touch(tmp_path, "in/a.jpg", "in/b.jpg", "in/c.jpg")
    earlier_run({"a.jpg": "a.png", "b.jpg": "b.png"})
    touch(tmp_path, "out/overlays/b.jpg")
    assert dry_run(overlays=True) == [
        "in/a.jpg -> masks/a.png: up to date, overlays to add",
        "in/b.jpg -> masks/b.png: up to date",
        "in/c.jpg -> masks/c.png: to do",
        "3 images: 1 to do, 0 to check, 2 up to date, 1 overlays to add; 0 rejected; "
        "0 files skipped",
    ]
    (tmp_path / "in/a.jpg").write_bytes(b"another photo")
    assert dry_run(overlays=True)[0] == "in/a.jpg -> masks/a.png: to check, overlays to add"


def test_images_of_a_list_are_asked_for_where_they_have_a_mask(ask, earlier_run, tmp_path, touch):
    touch(tmp_path, "in/a.jpg", "in/b.jpg", "in/c.jpg")
    names = [f"{tmp_path}/in/{name}.jpg" for name in ("a", "b", "c", "gone")]
    (tmp_path / "list.txt").write_text("".join(f"{name}\n" for name in names))
    earlier_run({"a.jpg": "a.png", "b.jpg": "b.png"})
    (tmp_path / "in/b.jpg").write_bytes(b"changed")
    lines = []
    module.dry_run(plan(replace(ask(), inputs=[f"@{tmp_path}/list.txt"])), lines.append)
    assert [line.replace(f"{tmp_path}/", "") for line in lines] == [
        "in/a.jpg -> masks/a.png: up to date",
        "in/b.jpg -> masks/b.png: to check",
        "in/c.jpg -> masks/c.png: to do",
        "in/gone.jpg -> masks/gone.png: to do",
        "4 images: 2 to do, 1 to check, 1 up to date; 0 rejected; 0 files skipped",
    ]


def test_masks_in_a_store_are_known_as_well(ask, earlier_run, memory):
    for name in "abc":
        FILES.write(f"memory://b/in/{name}.jpg", b"")
    places = {"inputs": ["memory://b/in"], "output": "memory://b/out"}
    request = replace(ask(), **places)
    planned = plan(request)
    out = replace(planned.out, run="r1")
    run_json.claim(out, planned.recipe, planned.listing.root, (), {})
    out.write("masks/a.png", b"a mask")
    lines = []
    module.dry_run(plan(request), lines.append)
    assert lines == [
        "memory://b/in/a.jpg -> masks/a.png: to check",
        "memory://b/in/b.jpg -> masks/b.png: to do",
        "memory://b/in/c.jpg -> masks/c.png: to do",
        "3 images: 2 to do, 1 to check, 0 up to date; 0 rejected; 0 files skipped",
    ]


def test_limit_takes_the_first_by_name(dry_run, tmp_path, touch):
    touch(tmp_path, "in/c.jpg", "in/a.jpg", "in/x/b.jpg")
    assert dry_run(limit=2) == [
        "in/a.jpg -> masks/a.png: to do",
        "in/c.jpg -> masks/c.png: to do",
        "2 images: 2 to do, 0 to check, 0 up to date; 0 rejected; 0 files skipped",
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
        "1 images: 1 to do, 0 to check, 0 up to date; 0 rejected; 0 files skipped",
    ]


def test_what_two_inputs_have_counts_once(dry_run, tmp_path, touch):
    touch(tmp_path, "in/a.jpg", "in/x/b.jpg", "in/x/notes.txt", "in/x/" + os.fsdecode(b"\xff.jpg"))
    assert dry_run("in/x", "in", "in/x", limit=2) == [
        "in/x/\\udcff.jpg: rejected: its name is not UTF-8; rename it",
        "in/a.jpg -> masks/a.png: to do",
        "in/x/b.jpg -> masks/x/b.png: to do",
        "2 images: 2 to do, 0 to check, 0 up to date; 1 rejected; 1 files skipped (.txt 1)",
    ]


def test_of_two_images_of_one_name_the_second_is_rejected(ask, tmp_path, memory):
    (tmp_path / "list.txt").write_text("memory://b/a.jpg\n/memory/b/a.jpg\n")
    lines = []
    module.dry_run(plan(replace(ask(), inputs=[f"@{tmp_path}/list.txt"])), lines.append)
    reject = "/memory/b/a.jpg would get the same mask name; rename one of them"
    assert lines == [
        f"memory://b/a.jpg: rejected: {reject}",
        "/memory/b/a.jpg -> masks/memory/b/a.png: to do",
        "1 images: 1 to do, 0 to check, 0 up to date; 1 rejected; 0 files skipped",
    ]


def test_a_dry_run_passes_the_output_over(dry_run, earlier_run, tmp_path, touch):
    touch(tmp_path, "in/a.jpg")
    earlier_run({"a.jpg": "a.png"}, out="in/out")
    lines = dry_run(out="in/out")
    assert [line.split(" -> ")[0] for line in lines[:-1]] == ["in/a.jpg"]


def test_a_dry_run_looks_at_what_a_run_looks_at(dry_run, earlier_run, tmp_path, touch):
    """Masks that the plan of a run would find are found here, whatever their names."""
    names = ["a.jpg", "a.png", "a.jpg.png", "b.tar.jpg", "c.raw", "d"]
    touch(tmp_path, *(f"in/{name}" for name in names))
    masks = {}
    for line in dry_run(all_files=True)[:-1]:
        image, mask = line.removesuffix(": to do").split(" -> ")
        masks[image.removeprefix("in/")] = MASKS.mask_name(mask)
    earlier_run(masks)
    assert dry_run(all_files=True)[-1].startswith("6 images: 0 to do, 0 to check, 6 up to date;")
