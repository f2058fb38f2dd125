import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model_build.common.errors import UserError
from pipeline.outputs.folder import OutputFolder, parse_output, unsupported_name
from pipeline.outputs.products import MASKS
from pipeline.storage import Files

FILES = Files()


# --output


def test_output_is_made_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert parse_output("out/", FILES) == f"{tmp_path}/out"
    assert parse_output("./x/../out", FILES) == f"{tmp_path}/out"
    assert parse_output(str(tmp_path), FILES) == str(tmp_path)
    assert parse_output("memory://bucket/out//", FILES) == "memory://bucket/out"
    assert parse_output("memory://bucket", FILES) == "memory://bucket"
    assert list(tmp_path.iterdir()) == []


def test_output_must_not_be_a_file(tmp_path, touch):
    touch(tmp_path, "a.txt")
    with pytest.raises(UserError, match=r"a\.txt: is a file; --output must be a folder"):
        parse_output(f"{tmp_path}/a.txt", FILES)


@pytest.mark.parametrize("text", ["out*", "out?", "out[1]", "memory://b/out[1]", "memory://b/*/o?"])
def test_wildcards_of_an_output_are_literal(tmp_path, monkeypatch, memory, text):
    monkeypatch.chdir(tmp_path)
    path = parse_output(text, FILES)
    assert path in (f"{tmp_path}/{text}", text)
    near = OutputFolder(path.translate(str.maketrans("*?[", "xxx")), FILES)
    out = OutputFolder(path, FILES)
    for folder in (near, out):
        folder.write("masks/a.png", b"data")
    out.delete("masks/a.png")
    assert (list(out.existing(MASKS)), [mask.mask_name for mask in near.existing(MASKS)]) == (
        [],
        ["a.png"],
    )


@pytest.mark.parametrize(("name", "told"), [(b"out\xff", r"/out\\udcff"), (b"out\0", "/out\0")])
def test_an_output_whose_name_no_folder_can_have_is_the_users_error(tmp_path, name, told):
    with pytest.raises(UserError, match=f"{told}: its name is not UTF-8 or contains a NUL; choose"):
        parse_output(f"{tmp_path}/{os.fsdecode(name)}", FILES)


def test_an_empty_output_is_not_the_current_folder():
    with pytest.raises(UserError, match="--output is empty"):
        parse_output("", FILES)


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("nosuch://b/out", "nosuch://b/out: unknown scheme"),
        ("https://host/out", "cannot write to a web server"),
        ("memory:///out", "no bucket given"),
    ],
)
def test_an_output_that_nobody_can_write_to_is_the_users_error(text, cause):
    with pytest.raises(UserError, match=cause):
        parse_output(text, FILES)


# Names that OUT cannot hold

characters = st.characters(exclude_categories=["Cs"], exclude_characters="/\0")
parts = st.text(characters, min_size=1, max_size=260).filter(lambda part: part not in (".", ".."))
mask_names = st.lists(parts, min_size=1, max_size=3).map(lambda found: "/".join(found) + ".png")


@given(mask_names)
def test_a_disk_holds_every_name_that_is_said_to_be_holdable(tmp_path_factory, name):
    out = OutputFolder(str(tmp_path_factory.mktemp("out")), FILES)
    short = all(len(part.encode()) <= 255 for part in name.split("/"))
    assert (unsupported_name(name, out.path) is None) == short
    if short:
        out.write(MASKS.file(name), b"data")
        assert [mask.mask_name for mask in out.existing(MASKS)] == [name]
    else:
        with pytest.raises(OSError, match="too long"):
            out.write(MASKS.file(name), b"data")


@pytest.mark.parametrize(("letter", "count"), [("a", 251), ("ü", 125), ("漢", 83)])
def test_the_longest_part_of_a_name_is_counted_in_bytes(letter, count):
    assert unsupported_name(f"x/{letter * count}.png", "/out") is None
    assert "over 255 bytes; shorten" in unsupported_name(f"x/{letter * (count + 1)}.png", "/out")
    assert "over 255 bytes" in unsupported_name(f"{letter * (count + 5)}/a.png", "/out")


def test_a_disk_holds_no_nul():
    assert "contains a NUL; rename it" in unsupported_name("a\0b.png", "/out")


@pytest.mark.parametrize("character", ["\n", "\r", "\t", "\0", "\x7f", "\x85"])
def test_a_store_holds_no_control_characters(character):
    assert "control character" in unsupported_name(f"a{character}b.png", "memory://b/out")
    assert (unsupported_name(f"a{character}b.png", "/out") is None) == (character != "\0")


@pytest.mark.parametrize(
    ("out", "before"), [("memory://b/o/u", "o/u/masks/"), ("memory://b", "masks/")]
)
def test_a_store_holds_keys_up_to_1024_bytes(out, before):
    longest = "ü" * ((1024 - len(before) - 4) // 2) + "a" * (len(before) % 2) + ".png"
    assert len(f"{before}{longest}".encode()) == 1024
    assert unsupported_name(longest, out) is None
    assert "over 1024 bytes; shorten" in unsupported_name(f"a{longest}", out)


def test_a_part_in_a_store_may_be_longer_than_on_a_disk():
    assert unsupported_name("a" * 300 + ".png", "memory://b/out") is None
