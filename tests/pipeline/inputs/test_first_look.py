"""INPUT is checked for a first image before anything starts."""

import re
from dataclasses import dataclass

import pytest

from model_build.common.errors import UserError
from pipeline.inputs import first_look as module
from pipeline.inputs.listing import ListOptions
from pipeline.inputs.sources import common_folder, parse_source
from pipeline.outputs import folder
from pipeline.storage import Files


def check_input(tmp_path, *inputs, files=None, out="out", **options):
    """:func:`first_look.check_input` for a run that writes to ``out``."""
    sources = [
        parse_source(text if "://" in text else f"{tmp_path}/{text}", Files())
        for text in inputs or ("in",)
    ]
    output = folder.OutputFolder(f"{tmp_path}/{out}".rstrip("/"), Files())
    root = common_folder(source.folder for source in sources)
    listing = ListOptions(root, exclude=output.written(), **options)
    module.check_input(sources, listing, files or Files())


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
    with pytest.raises(UserError, match="in: no files found; check the path"):
        check_input(tmp_path)


def test_an_empty_place_in_a_store_is_the_users_error(tmp_path, memory):
    Files().write("memory://bucket/inn/a.jpg", b"")
    with pytest.raises(UserError, match="memory://bucket/in: no files found; check the path"):
        check_input(tmp_path, "memory://bucket/in")


def test_a_glob_without_a_match_is_the_users_error(tmp_path):
    with pytest.raises(UserError, match=r"\*\.jpg: no files found"):
        check_input(tmp_path, "*.jpg")


def test_a_folder_of_other_files_gets_the_hint_all_files(tmp_path, touch):
    touch(tmp_path, "in/a.dat", "in/b")
    with pytest.raises(UserError, match=r"none of its 2 files .* --all-files"):
        check_input(tmp_path)
    check_input(tmp_path, all_files=True)


def test_a_folder_of_only_thumbnails_is_a_user_error(tmp_path, touch):
    touch(tmp_path, "in/@eaDir/a.jpg")
    with pytest.raises(UserError, match=r"never hold photos, such as .*/in/@eaDir/a.jpg; name"):
        check_input(tmp_path, all_files=True)
    check_input(tmp_path, "in/@eaDir")


def test_a_folder_of_heic_is_reported_as_unsupported(tmp_path, touch):
    touch(tmp_path, "in/a.HEIC", "in/b.heic")
    with pytest.raises(UserError) as raised:
        check_input(tmp_path)
    assert str(raised.value).endswith(
        "none of its 2 files has an image extension (.heic 2); HEIC is not read: convert such "
        "files to JPEG or PNG first"
    )


@pytest.mark.parametrize("text", ["out/masks", "out", "out/masks/*.png", "out/masks/a.png", "link"])
@pytest.mark.parametrize("all_files", [False, True])
def test_the_outputs_own_masks_are_no_input(tmp_path, touch, text, all_files):
    touch(tmp_path, "out/masks/a.png", "out/masks/x/b.png", "out/run.json")
    (tmp_path / "link").symlink_to(tmp_path / "out/masks")
    with pytest.raises(
        UserError, match=f"{re.escape(text)}: contains only results of earlier runs"
    ):
        check_input(tmp_path, text, all_files=all_files)


def test_results_of_runs_are_not_counted_among_the_files_to_try(tmp_path, touch):
    touch(tmp_path, "in/out/masks/a.png", "in/notes.txt")
    with pytest.raises(UserError, match="none of its 1 files has an image extension"):
        check_input(tmp_path, out="in/out")


@pytest.mark.parametrize("out", ["", "in"], ids=["around the input", "the input itself"])
def test_an_output_that_contains_the_input_does_not_hide_it(tmp_path, touch, out):
    touch(tmp_path, "in/a.jpg")
    check_input(tmp_path, out=out)


def test_all_inputs_are_searched_and_named(tmp_path, touch):
    touch(tmp_path, "in/a.txt", "other/b.txt")
    for inputs in (["in", "other"], ["in", "other", "in"]):
        with pytest.raises(UserError, match=r"in, .*other: none of its 2 files"):
            check_input(tmp_path, *inputs)
    touch(tmp_path, "other/b.jpg")
    check_input(tmp_path, "in", "other")
