"""Files that are not taken for images: their extensions, a sample of them, and hints."""

import functools
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from pipeline.inputs import skipped
from pipeline.inputs.skipped import begins_like_image, count_lookalikes, hints, sample_of
from pipeline.records import PassedOver
from pipeline.storage import Files

FILES = Files()


@pytest.mark.parametrize(
    ("path", "extension"),
    [
        ("/a/b.HEIC", ".heic"),
        ("gs://b/a.tar.gz", ".gz"),
        ("/a.b/c", "none"),
        ("/a/.hidden", "none"),
        ("/a/b.", "other"),
        ("/a/b.写", "other"),
        ("/a/b.jpg!large", "other"),
        ("/a/b.mp4_from_a_phone", "other"),
    ],
)
def test_an_extension_is_a_short_word_in_lower_case(path, extension):
    assert skipped.extension(path) == extension


def test_the_most_common_extensions_are_named_and_the_others_are_one():
    counts = {".a": 1, ".b": 3, "other": 5, ".c": 3, "none": 2}
    assert skipped.most_common(counts, 2) == {".b": 3, ".c": 3, "other": 8}
    assert list(skipped.most_common(counts, 9)) == [".b", ".c", "none", ".a", "other"]
    assert skipped.most_common({}, 2) == {}


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "BMP", "GIF", "TIFF", "WEBP"])
def test_images_start_with_a_known_magic_number(kind):
    data = io.BytesIO()
    Image.new("RGB", (8, 8)).save(data, kind)
    assert begins_like_image(data.getvalue()[: skipped.HEAD_BYTES])


@pytest.mark.parametrize("head", [b"", b"BMW is a car maker", b"RIFF\0\0\0\0WAVEfmt ", b"%PDF-1.7"])
def test_other_files_do_not(head):
    assert not begins_like_image(head[: skipped.HEAD_BYTES])


def test_hints_name_formats_that_are_not_read_and_images_by_other_names():
    heic = "HEIC is not read: convert such files to JPEG or PNG first"
    assert hints({".heic": 3, ".mov": 1}, 0) == [heic]
    assert hints({".img": 3}, 1) == ["1 file looks like an image: add --all-files"]
    assert hints({".heif": 3}, 12) == [heic, "12 files look like images: add --all-files"]
    assert hints({".nef": 1}, 0)[0].startswith("camera RAW is not read")
    assert hints({".txt": 3}, 0) == []


def test_files_of_a_sample_are_looked_at(tmp_path):
    image = io.BytesIO()
    Image.new("RGB", (8, 8)).save(image, "TIFF")
    contents = {"a.img": image.getvalue(), "b": image.getvalue(), "c.txt": b"II", "d.nef": b"II*\0"}
    for name, data in contents.items():
        (tmp_path / name).write_bytes(data)
    found = [PassedOver(f"{tmp_path}/{name}") for name in (*contents, "gone.dat")]
    found += [PassedOver(f"{tmp_path}/a.img", written=True), PassedOver("b", never_photo=True)]
    sample = sample_of(found)
    assert sorted(sample) == [".dat", ".img", ".txt", "none"]
    assert count_lookalikes(sample, FILES) == 2


paths = st.lists(
    st.builds("{}.{}".format, st.integers(0, 30), st.sampled_from("abcdefg")).map(PassedOver)
)


@given(paths, paths)
def test_a_sample_is_the_same_however_the_files_are_shared_out(first, second):
    def sampled(files):
        return functools.reduce(skipped.add_file, files, {})

    assert skipped.merged([sampled(first), sampled(second)]) == sample_of(second + first)


def test_a_sample_stays_small():
    sample = sample_of(PassedOver(f"{n}.x{n % 99}") for n in range(9999))
    assert len(sample) == skipped.MAX_SAMPLED_EXTENSIONS
    assert {len(some) for some in sample.values()} == {skipped.SAMPLES_PER_EXTENSION}
