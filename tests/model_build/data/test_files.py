import pytest

from model_build.data.files import image_extension, is_never_photo


@pytest.mark.parametrize("name", ["a.Jpg", "x/a.JFIF", "a.b.tif", ".hidden.webp"])
def test_extensions_count_in_any_case(name):
    assert name.endswith(image_extension(name) or "none")


@pytest.mark.parametrize(
    "path",
    [
        ".ipynb_checkpoints/a-checkpoint.jpg",
        "x/@eaDir/a.jpg/SYNOPHOTO_THUMB_M.jpg",
        "__MACOSX/x/._a.jpg",
        ".Trash-1000/files/a.jpg",
        ".Trashes/501/a.jpg",
        "$RECYCLE.BIN/a.jpg",
        "System Volume Information/a.jpg",
        "x/.thumbnails/large/a.png",
        "._a.jpg",
        "x/.DS_Store",
        "Thumbs.db",
        "x/Desktop.ini",
    ],
)
def test_files_of_programs_and_systems_are_no_photos(path):
    assert is_never_photo(path)


@pytest.mark.parametrize(
    "path", ["a.jpg", "trash/a.jpg", ".hidden/a.jpg", "_a.jpg", "macosx/a.jpg", "x/lost+found"]
)
def test_other_files_may_be_photos(path):
    assert not is_never_photo(path)
