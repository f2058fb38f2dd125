import os
import pickle

import pytest

from model_build.common.errors import UserError
from model_build.data.labels import VOC
from model_build.data.layouts import DataFolder, list_local


def opened(root):
    return DataFolder(str(root))


class Store:
    """An object store that counts its listings; it knows files, but no folders."""

    def __init__(self, *files, **contents):
        self.files = dict.fromkeys(files, b"") | contents
        self.listed = []

    def list_files(self, folder):
        self.listed.append(folder)
        return [path for path in self.files if path.startswith(f"{folder}/")]

    def read(self, path):
        if path not in self.files:
            raise FileNotFoundError(f"no object {path}")
        if isinstance(self.files[path], Exception):
            raise self.files[path]
        return self.files[path]

    def folder(self):
        return DataFolder("gs://b/data/", self.list_files, self.read)


def refused(folder, split="train"):
    with pytest.raises(UserError) as caught:
        (folder if isinstance(folder, DataFolder) else opened(folder)).names(split)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_a_folder_without_labels_json_has_the_labels_of_voc(voc_folder, toy_labels):
    assert opened(voc_folder).labels() == toy_labels
    (voc_folder / "labels.json").unlink()
    assert opened(voc_folder).labels() == VOC


def test_a_bad_labels_json_is_not_passed_over(voc_folder):
    (voc_folder / "labels.json").write_text("{")
    with pytest.raises(UserError, match=r"labels\.json"):
        opened(voc_folder).labels()


@pytest.mark.parametrize("suffix", [".jpg", ".jpeg", ".JPG", ".Jpg", ".jfif", ".PNG"])
def test_photos_may_be_jpegs(make_voc, tmp_path, suffix):
    folder = opened(make_voc(tmp_path / "data", suffix=suffix))
    for name in folder.names("val"):
        assert folder.photo(name) == f"{tmp_path}/data/JPEGImages/{name}{suffix}"


def test_a_missing_list_is_named(voc_folder):
    path = voc_folder / "ImageSets" / "Segmentation" / "test.txt"
    message = refused(voc_folder, "test")
    assert message.startswith(f"{path}: cannot be read: No such file")
    assert message.endswith("the splits are train, val")
    assert refused(voc_folder, "val.txt").endswith("; did you mean val?")


def test_a_folder_of_neither_layout_gets_an_error_with_both_layouts(tmp_path):
    assert "PASCAL VOC layout" in refused(tmp_path)


@pytest.mark.parametrize("content", ["", "\n  \n"])
def test_an_empty_list_is_named(voc_folder, content):
    path = voc_folder / "ImageSets" / "Segmentation" / "train.txt"
    path.write_text(content)
    assert refused(voc_folder).startswith(f"{path}: no images for the split train")


def test_a_list_that_is_no_text_is_named(voc_folder):
    path = voc_folder / "ImageSets" / "Segmentation" / "train.txt"
    path.write_bytes(b"\xff\xfe\x00train_0")
    assert refused(voc_folder).startswith(f"{path}: ")


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_lists_may_come_from_windows(voc_folder, mark):
    path = voc_folder / "ImageSets" / "Segmentation" / "train.txt"
    path.write_bytes(mark + b"train_1\r\n\r\n  train_0 \r\n")
    assert opened(voc_folder).names("train") == ["train_1", "train_0"]


def test_paired_folders_with_lists(make_paired, tmp_path):
    root = make_paired(tmp_path, ["a", "b", "deep/c"])
    (root / "train.txt").write_text("deep/c\na\n")
    (root / "extra.txt").write_text("b\n")
    folder = opened(root)
    assert folder.names("train") == ["deep/c", "a"]
    assert folder.photo("deep/c") == f"{root}/images/deep/c.png"
    assert folder.mask("deep/c") == f"{root}/masks/deep/c.png"
    assert folder.names("extra") == ["b"]
    assert opened(root).splits() == ["train"], "other text files need not be lists"
    message = refused(root, "val")
    assert message.startswith(f"{root / 'val.txt'}: not found, and neither is the folder ")


def test_paired_folders_with_a_folder_for_each_split(make_paired, tmp_path):
    root = make_paired(tmp_path, ["train/b", "train/a", "val/a", "test/d/e"])
    assert opened(root).splits() == ["train", "val", "test"]
    assert opened(root).names("train") == ["train/a", "train/b"]
    assert opened(root).names("val") == ["val/a"]
    assert opened(root).names("test") == ["test/d/e"]
    assert opened(root).mask("val/a") == f"{root}/masks/val/a.png"
    assert refused(root, "tset").startswith(f"{root / 'tset.txt'}: not found")


def test_a_list_takes_precedence_over_a_folder(make_paired, tmp_path):
    root = make_paired(tmp_path, ["train/b", "train/a", "c"])
    (root / "train.txt").write_text("c\n")
    assert opened(root).names("train") == ["c"]


def test_photos_beside_a_test_folder_are_not_divided(make_paired, tmp_path):
    root = make_paired(tmp_path, ["a", "b", "test/c"])
    assert opened(root).splits() == ["test"]
    assert "write the list" in refused(root)


def test_paired_folders_without_lists_are_divided_by_name(make_paired, tmp_path):
    every = [f"photo{index:03d}" for index in range(40)] + ["deep/a.b"]
    root = make_paired(tmp_path, every)
    (root / "LICENSE.txt").write_text("CC0")
    (root / "images" / ".hidden.png").write_bytes(b"")
    (root / "images" / "notes.txt").write_text("not a photo")
    assert opened(root).splits() == ["train", "val"]
    train, val = opened(root).names("train"), opened(root).names("val")
    assert sorted(train + val) == sorted(every)
    assert train == sorted(train)
    assert 1 <= len(val) <= 10
    message = refused(root, "test")
    assert message.startswith(f"{root / 'test.txt'}: not found")

    make_paired(tmp_path, ["added0", "added1", "added2"])
    assert set(train) <= set(opened(root).names("train"))
    assert set(val) <= set(opened(root).names("val"))


@pytest.mark.parametrize("prefix", "abcdefgh")
def test_few_pairs_are_still_split(make_paired, tmp_path, prefix):
    every = [f"{prefix}{index}" for index in range(12)]
    for count in range(2, len(every) + 1):
        store = Store(*(f"gs://b/data/images/{name}.jpg" for name in every[:count]))
        store.files["gs://b/data/masks/a.png"] = b""
        train, val = store.folder().names("train"), store.folder().names("val")
        assert sorted(train + val) == sorted(every[:count])
        assert 1 <= len(val) < count
        assert store.folder().names("val") == val


def test_a_photo_added_is_at_most_exchanged_for_the_only_one_of_validation():
    names = [f"photo{index}" for index in range(60)]
    before = []
    for count in range(2, len(names)):
        store = Store(*(f"gs://b/data/images/{name}.jpg" for name in names[:count]))
        store.files["gs://b/data/masks/a.png"] = b""
        val = store.folder().names("val")
        assert set(before) <= set(val) or (len(before) == len(val) == 1 and count < 20)
        before = val
    assert 3 <= len(before) <= 12


def test_two_photos_of_one_name_are_one_name(make_paired, tmp_path):
    root = make_paired(tmp_path, ["a"])
    make_paired(tmp_path, ["a"], suffix=".jpg")
    for split in ("train", "val"):
        with pytest.raises(UserError) as caught:
            opened(root).names(split)
        assert str(caught.value) == (
            f"{root / 'images'}: has only one photo, but training needs two: one to learn from and "
            "one to score on; add photos and their masks"
        )


def test_a_folder_without_any_split_is_refused(tmp_path):
    with pytest.raises(UserError, match="has neither the folders images and masks nor lists in"):
        opened(tmp_path).splits()


def test_the_lists_of_a_voc_folder_are_its_splits(voc_folder):
    for name in ("trainval", "a", "z"):
        (voc_folder / "ImageSets" / "Segmentation" / f"{name}.txt").write_text("train_0\n")
    assert opened(voc_folder).splits() == ["train", "val", "trainval", "a", "z"]


def test_a_voc_folder_on_a_store():
    store = Store("gs://b/data/JPEGImages/a.jpg", "gs://b/data/SegmentationClass/a.png")
    store.files["gs://b/data/ImageSets/Segmentation/train.txt"] = b"a\n"
    folder = store.folder()
    assert folder.splits() == ["train"]
    assert folder.names("train") == folder.photos() == ["a"]
    assert folder.photo("a") == "gs://b/data/JPEGImages/a.jpg"
    assert folder.photo("b") is None
    assert folder.expected("b") == "gs://b/data/JPEGImages/b.jpg"
    assert folder.mask("a") == "gs://b/data/SegmentationClass/a.png"
    assert folder.list_of("val") == "gs://b/data/ImageSets/Segmentation/val.txt"
    assert folder.labels() == VOC
    assert refused(folder, "trian") == (
        "gs://b/data/ImageSets/Segmentation/trian.txt: cannot be read: no object "
        "gs://b/data/ImageSets/Segmentation/trian.txt; the splits are train; did you mean train?"
    )


def test_paired_folders_on_a_store():
    names = ["train/a", "train/b", "val/c"]
    store = Store(*(f"gs://b/data/images/{name}.jpg" for name in names))
    store.files |= dict.fromkeys((f"gs://b/data/masks/{name}.png" for name in names), b"")
    folder = store.folder()
    assert folder.splits() == ["train", "val"]
    assert folder.names("train") == ["train/a", "train/b"]
    assert folder.photo("val/c") == "gs://b/data/images/val/c.jpg"
    assert folder.list_of("val") == "gs://b/data/val.txt"


def test_photos_are_listed_once():
    store = Store("gs://b/data/JPEGImages/a.jpg", "gs://b/data/JPEGImages/a.png")
    folder = store.folder()
    assert [folder.photo("a") for _ in range(3)] == ["gs://b/data/JPEGImages/a.jpg"] * 3
    assert folder.photos() == ["a", "a"]
    assert store.listed.count("gs://b/data/JPEGImages") == 1
    assert pickle.loads(pickle.dumps(opened("data"))) == opened("data")


@pytest.mark.parametrize("name", ["labels.json", "ImageSets/Segmentation/train.txt"])
def test_an_unreadable_file_is_named(name):
    store = Store("gs://b/data/ImageSets/Segmentation/val.txt")
    store.files[f"gs://b/data/{name}"] = PermissionError("403 Forbidden")
    folder = store.folder()
    with pytest.raises(UserError) as caught:
        folder.labels() if name == "labels.json" else folder.names("train")
    assert str(caught.value).startswith(f"gs://b/data/{name}: cannot be read: 403 Forbidden")


def test_a_folder_that_cannot_be_listed_is_named():
    def list_files(folder):
        raise PermissionError("403 Forbidden")

    folder = DataFolder("gs://b/data", list_files)
    with pytest.raises(UserError, match="gs://b/data/images: cannot be listed: 403 Forbidden"):
        folder.photos()


@pytest.mark.parametrize("linked", ["JPEGImages", "JPEGImages/deep"])
def test_folders_of_photos_may_be_links(voc_folder, tmp_path, linked):
    deep = voc_folder / "JPEGImages" / "deep"
    deep.mkdir()
    (voc_folder / "JPEGImages" / "val_0.png").rename(deep / "a.png")
    (voc_folder / linked).rename(tmp_path / "elsewhere")
    (voc_folder / linked).symlink_to(tmp_path / "elsewhere")
    folder = opened(voc_folder)
    assert folder.photo("deep/a") == f"{deep}/a.png"
    assert folder.photo("val_1") == f"{voc_folder}/JPEGImages/val_1.png"
    assert len(folder.photos()) == 6


def test_links_back_into_the_folder_are_not_followed(tmp_path):
    for name in "ab":
        (tmp_path / name).mkdir()
        (tmp_path / name / f"{name}.png").touch()
    (tmp_path / "a" / "to_b").symlink_to(tmp_path / "b")
    (tmp_path / "b" / "to_a").symlink_to(tmp_path / "a")
    (tmp_path / "a" / "up").symlink_to(tmp_path)
    (tmp_path / "a" / "dangling.png").symlink_to(tmp_path / "nowhere.png")
    found = sorted(path.removeprefix(f"{tmp_path}/") for path in list_local(str(tmp_path)))
    assert found == ["a/a.png", "b/b.png"]


def test_a_missing_folder_has_no_files(tmp_path):
    (tmp_path / "file").touch()
    assert list(list_local(str(tmp_path / "file"))) == []
    assert list(list_local(str(tmp_path / "missing"))) == []


def test_a_list_may_come_from_find(voc_folder):
    (voc_folder / "ImageSets" / "Segmentation" / "train.txt").write_text("./train_0\n.//train_1\n")
    folder = opened(voc_folder)
    first, second = folder.names("train")
    assert folder.photo(first) == f"{voc_folder}/JPEGImages/train_0.png"
    assert folder.mask(second) == f"{voc_folder}/SegmentationClass/train_1.png"


def test_extensions_of_photos_and_masks_count_in_any_case():
    photos = ("a.Jpg", "b.jfif", "c.tif", "d.WebP", "e.bmp")
    masks = ("a.PNG", "b.png", "c.tiff", "d.png", "d.tif", "e.Png")
    folder = Store(
        *(f"gs://b/data/images/{name}" for name in photos),
        *(f"gs://b/data/masks/{name}" for name in masks),
    ).folder()
    assert folder.photos() == folder.masks()[:3] + ["d", "e"] == list("abcde")
    assert [folder.photo(name).rpartition("/")[2] for name in "abcde"] == list(photos)
    used = [folder.mask(name).rpartition("/")[2] for name in "abcde"]
    assert used == ["a.PNG", "b.png", "c.tiff", "d.png", "e.Png"]


def test_of_two_photos_of_one_name_the_usual_extension_is_used():
    names = ("a.tif", "a.JPG", "a.png", "a.jpg")
    folder = Store(*(f"gs://b/data/JPEGImages/{name}" for name in names)).folder()
    assert folder.photo("a") == "gs://b/data/JPEGImages/a.jpg"


def test_unused_files_are_found(make_paired, tmp_path):
    root = make_paired(tmp_path, ["a"])
    (root / "images/.ipynb_checkpoints").mkdir()
    for name in ("images/.ipynb_checkpoints/a-checkpoint.png", "images/Thumbs.db", "images/x.heic"):
        (root / name).write_bytes(b"")
    (root / "masks/b.npy").write_bytes(b"")
    folder = opened(root)
    assert folder.photos() == ["a"]
    assert folder.never_photos() == [".ipynb_checkpoints/a-checkpoint.png", "Thumbs.db"]
    assert folder.unused_files() == {f"{root}/images": ["x.heic"], f"{root}/masks": ["b.npy"]}
    # A list may name what is hidden.
    assert folder.photo(".ipynb_checkpoints/a-checkpoint")


def test_a_folder_without_images_is_reported_with_its_extensions(make_paired, tmp_path):
    root = make_paired(tmp_path, [])
    for name in ("images/a.heic", "images/b.HEIC", "images/c.mov", "masks/a.png"):
        (root / name).write_bytes(b"")
    message = refused(root)
    assert "none of its 3 files is a photo by its extension (.heic 2, .mov 1)" in message
    assert message.endswith(".tif, .tiff, .webp")


def test_a_link_to_itself_is_no_file(make_paired, tmp_path):
    root = make_paired(tmp_path, ["a", "b"])
    for name in ("loop", "loop.png"):
        (root / "images" / name).symlink_to(name)
    assert opened(root).photos() == ["a", "b"]


def test_a_folder_of_the_system_need_not_be_listed(make_paired, tmp_path, monkeypatch):
    root = make_paired(tmp_path, ["a", "b"])
    (root / "images/lost+found").mkdir()
    (root / "images/private").mkdir()
    scandir, closed = os.scandir, {"lost+found"}

    def refuse(path):
        if os.path.basename(path) in closed:
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    assert opened(root).photos() == ["a", "b"]
    closed.add("private")
    with pytest.raises(UserError, match="cannot be listed: Permission denied"):
        opened(root).photos()


def test_files_meant_as_labels_are_named_if_voc_labels_are_used(voc_folder):
    assert opened(voc_folder).labels_note() is None
    (voc_folder / "labels.json").rename(voc_folder / "Labels.json.txt")
    (voc_folder / "labelmap.txt").write_text("deer:200,80,0::")
    (voc_folder / "LICENSE.txt").write_text("CC0")
    assert opened(voc_folder).labels_note() == (
        f"{voc_folder}/labels.json: not found, so the 21 labels of PASCAL VOC are used; "
        "Labels.json.txt, labelmap.txt are not read: write labels.json"
    )
    (voc_folder / "Labels.json.txt").unlink()
    assert (
        opened(voc_folder).labels_note().endswith("; labelmap.txt is not read: write labels.json")
    )
    (voc_folder / "labelmap.txt").unlink()
    assert opened(voc_folder).labels_note().endswith("labels of PASCAL VOC are used")


def test_a_name_in_another_unicode_form_is_called_that(make_paired, tmp_path):
    composed, decomposed = "B\u00e4r", "Ba\u0308r"
    root = make_paired(tmp_path, [decomposed, "x"])
    folder = opened(root)
    photo, mask = folder.similar(composed)
    assert photo == mask == "; a file has this name in Unicode's form NFD instead of NFC: rename it"
    (root / "masks/y.npy").write_bytes(b"")
    assert folder.similar("z") == ("", "")
    photo, mask = opened(root).similar("y")
    assert photo == ""
    assert mask.startswith(f"; {root}/masks/y.npy is there, but images end in .jpg, ")
