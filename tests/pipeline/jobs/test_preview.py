import os

import pytest

from model_build.errors import UserError
from pipeline import outputs, preview
from pipeline.job import Settings
from pipeline.listing import common_folder, parse_source


def prepared(tmp_path, *inputs, **options):
    """Sources and settings of a run that writes to ``out``."""
    sources = [parse_source(f"{tmp_path}/{text}") for text in inputs or ("in",)]
    settings = Settings(
        **{
            "out": f"{tmp_path}/out",
            "root": common_folder(source.folder for source in sources),
            "model": "none",
            "long_side": None,
            "max_pixels": 100,
            "started": 0.0,
        }
        | options
    )
    return sources, settings


def dry_run(tmp_path, *inputs, **options):
    """The lines of a dry run, with paths from ``tmp_path`` on."""
    lines = []
    preview.dry_run(*prepared(tmp_path, *inputs, **options), lines.append)
    return [line.replace(f"{tmp_path}/", "") for line in lines]


def test_input_with_an_image_is_fine(tmp_path, touch):
    touch(tmp_path, "in/a.txt", "in/x/b.jpg")
    preview.check_input(*prepared(tmp_path))


def test_the_first_image_ends_the_search(tmp_path, touch, monkeypatch):
    touch(tmp_path, "in/a.jpg", "in/z/b.jpg")
    listed = []

    def list_source(source, root, **options):
        for name in ("a", "b"):
            listed.append(name)
            yield preview.ImageRef(f"/{name}.jpg", f"{name}.jpg", None)

    monkeypatch.setattr(preview, "list_source", list_source)
    preview.check_input(*prepared(tmp_path))
    assert listed == ["a"]


def test_an_empty_folder_is_the_users_error(tmp_path):
    (tmp_path / "in/x").mkdir(parents=True)
    with pytest.raises(UserError, match="in: holds no file; check the path"):
        preview.check_input(*prepared(tmp_path))


def test_a_glob_without_a_match_is_the_users_error(tmp_path):
    with pytest.raises(UserError, match=r"\*\.jpg: holds no file"):
        preview.check_input(*prepared(tmp_path, "*.jpg"))


def test_a_folder_of_other_files_tells_of_all_files(tmp_path, touch):
    touch(tmp_path, "in/a.dat", "in/b")
    with pytest.raises(UserError, match=r"none of its 2 files .* --all-files"):
        preview.check_input(*prepared(tmp_path))
    preview.check_input(*prepared(tmp_path, all_files=True))


@pytest.mark.parametrize("out", ["", "/in"], ids=["around the input", "the input itself"])
def test_an_output_that_holds_the_input_does_not_hide_it(tmp_path, touch, out):
    touch(tmp_path, "in/a.jpg")
    preview.check_input(*prepared(tmp_path, out=f"{tmp_path}{out}"))


def test_all_inputs_are_searched_and_named(tmp_path, touch):
    touch(tmp_path, "in/a.txt", "other/b.txt")
    with pytest.raises(UserError, match=r"in, .*other: none of its 2 files"):
        preview.check_input(*prepared(tmp_path, "in", "other"))
    touch(tmp_path, "other/b.jpg")
    preview.check_input(*prepared(tmp_path, "in", "other"))


def test_a_remote_input_that_cannot_be_listed_is_the_users_error(tmp_path, mem, monkeypatch):
    sources, settings = prepared(tmp_path, "*.jpg")
    sources = [parse_source("mem://b/x/")]

    def refuse(self, prefix):
        raise OSError("access denied")

    monkeypatch.setattr(mem, "_list", refuse)
    for look in (preview.check_input, lambda *args: preview.dry_run(*args, print)):
        with pytest.raises(UserError, match="mem://b/x: cannot be listed: access denied"):
            look(sources, settings)


def test_a_dry_run_tells_what_would_be_done(tmp_path, touch):
    touch(tmp_path, "in/b.jpg", "in/x/a.jpg", "in/x/a.png", "in/notes.txt", mtime=100)
    touch(tmp_path, "in/" + os.fsdecode(b"\xff.jpg"))
    touch(tmp_path, "out/masks/b.png", mtime=200)
    assert dry_run(tmp_path) == [
        "in/\\udcff.jpg: rejected: its name is not UTF-8; rename it",
        "in/b.jpg -> masks/b.png: up to date",
        "in/x/a.jpg -> masks/x/a.jpg.png: to do",
        "in/x/a.png -> masks/x/a.png.png: to do",
        "3 images: 2 to do, 1 up to date; 1 rejected; 1 files passed over",
    ]


def test_a_dry_run_writes_nothing(tmp_path, touch):
    touch(tmp_path, "in/a.jpg")
    before = sorted(tmp_path.rglob("*"))
    dry_run(tmp_path, overlays=True)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_dry_run_knows_masks_that_no_longer_hold(tmp_path, touch):
    touch(tmp_path, "in/a.jpg", mtime=300)
    touch(tmp_path, "in/b.jpg", mtime=100)
    touch(tmp_path, "out/masks/a.png", "out/masks/b.png", mtime=200)
    assert dry_run(tmp_path)[-1].startswith("2 images: 1 to do, 1 up to date;")
    assert dry_run(tmp_path, since=250.0)[-1].startswith("2 images: 2 to do, 0 up to date;")


def test_a_dry_run_with_overlays(tmp_path, touch):
    touch(tmp_path, "in/a.jpg", "in/b.jpg", mtime=100)
    touch(tmp_path, "out/masks/a.png", "out/masks/b.png", "out/overlays/b.jpg", mtime=200)
    assert dry_run(tmp_path, overlays=True)[:2] == [
        "in/a.jpg -> masks/a.png: to do",
        "in/b.jpg -> masks/b.png: up to date",
    ]


def test_limit_takes_the_first_by_name(tmp_path, touch):
    touch(tmp_path, "in/c.jpg", "in/a.jpg", "in/x/b.jpg")
    assert dry_run(tmp_path, limit=2) == [
        "in/a.jpg -> masks/a.png: to do",
        "in/c.jpg -> masks/c.png: to do",
        "2 images: 2 to do, 0 up to date; 0 rejected; 0 files passed over",
    ]


def test_limit_goes_by_name_where_inputs_are_local_and_remote(tmp_path, touch, mem):
    mem.files["mem://b/a.jpg"] = b""
    touch(tmp_path, "a.jpg")
    sources = [parse_source(f"{tmp_path}/a.jpg"), parse_source("mem://b/a.jpg")]
    _, settings = prepared(tmp_path, "a.jpg", root="", limit=1)
    lines = []
    preview.dry_run(sources, settings, lines.append)
    first = min(f"{tmp_path}/a.jpg".lstrip("/"), "mem/b/a.jpg")
    assert lines[0].endswith(f"-> masks/{first.removesuffix('.jpg')}.png: to do")


def test_an_image_of_two_inputs_is_one(tmp_path, touch):
    touch(tmp_path, "in/a.jpg")
    assert dry_run(tmp_path, "in", "in/a.jpg") == [
        "in/a.jpg -> masks/a.png: to do",
        "1 images: 1 to do, 0 up to date; 0 rejected; 0 files passed over",
    ]


def test_a_dry_run_passes_the_output_over(tmp_path, touch):
    touch(tmp_path, "in/a.jpg", "in/out/masks/a.png")
    lines = dry_run(tmp_path, out=f"{tmp_path}/in/out")
    assert [line.split(" -> ")[0] for line in lines[:-1]] == ["in/a.jpg"]


def test_a_dry_run_looks_at_what_a_run_looks_at(tmp_path, touch):
    """Masks that the plan of a run would find are found here, whatever their names."""
    names = ["a.jpg", "a.png", "a.jpg.png", "b.tar.jpg", "c.raw", "d"]
    touch(tmp_path, *(f"in/{name}" for name in names), mtime=100)
    for line in dry_run(tmp_path, all_files=True)[:-1]:
        mask = line.split(" -> ")[1].split(":")[0]
        assert mask.startswith(f"{outputs.MASKS}/")
        touch(tmp_path, f"out/{mask}", mtime=200)
    assert dry_run(tmp_path, all_files=True)[-1].startswith("6 images: 0 to do, 6 up to date;")
