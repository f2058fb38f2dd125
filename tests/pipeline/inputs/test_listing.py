import os

import apache_beam as beam
import pytest
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.testing.util import assert_that, equal_to
from hypothesis import given
from hypothesis import strategies as st

from model_build.errors import UserError
from pipeline import listing
from pipeline.listing import (
    IMAGE_EXTENSIONS,
    ImageRef,
    ListImages,
    PassedOver,
    Source,
    assign_mask_names,
    common_folder,
    group_key,
    list_source,
    parse_source,
)
from pipeline.rejects import Reject


def listed(text, **options):
    """What INPUT ``text`` lists, by kind: names of images, of files passed over, rejects."""
    source = parse_source(text)
    found = list(list_source(source, options.pop("root", source.folder), **options))
    return (
        [one.name for one in found if isinstance(one, ImageRef)],
        [one.path for one in found if isinstance(one, PassedOver)],
        [one for one in found if isinstance(one, Reject)],
    )


def names(text, **options):
    images, _, rejects = listed(text, **options)
    assert rejects == []
    return images


# Folders


def test_a_folder_is_searched_recursively_and_in_order(tmp_path, touch):
    touch(tmp_path, "b/2.jpg", "b/1.png", "a/deep/er/x.webp", "z.gif")
    assert names(str(tmp_path)) == ["z.gif", "a/deep/er/x.webp", "b/1.png", "b/2.jpg"]


def test_an_image_has_path_and_time(tmp_path, touch):
    touch(tmp_path, "a.jpg", mtime=1234.5)
    source = parse_source(str(tmp_path))
    assert list(list_source(source, source.folder)) == [
        ImageRef(f"{tmp_path}/a.jpg", "a.jpg", 1234.5)
    ]


@pytest.mark.parametrize("extension", sorted(IMAGE_EXTENSIONS))
def test_extensions_count_in_any_case(tmp_path, touch, extension):
    files = [f"a{extension}", f"b{extension.upper()}", f"c{extension.title()}"]
    touch(tmp_path, *files)
    assert names(str(tmp_path)) == files


def test_other_files_are_passed_over_and_counted(tmp_path, touch):
    touch(tmp_path, "a.jpg", "notes.txt", "b/Makefile", "b/.jpg", "x.jpg.bak", "y.eps")
    images, passed_over, _ = listed(str(tmp_path))
    assert images == ["a.jpg"]
    others = ("notes.txt", "x.jpg.bak", "y.eps", "b/.jpg", "b/Makefile")
    assert passed_over == [f"{tmp_path}/{name}" for name in others]


def test_all_files_takes_every_file(tmp_path, touch):
    touch(tmp_path, "a.jpg", "b/raw", "c.dat")
    images, passed_over, _ = listed(str(tmp_path), all_files=True)
    assert images == ["a.jpg", "c.dat", "b/raw"]
    assert passed_over == []


@pytest.mark.parametrize(
    "name",
    ["[a].jpg", "a b .jpg", "a\nb.jpg", "*.jpg", "-x.jpg", ".hidden.jpg", "…ü漢.jpg", "@a.jpg"],
)
def test_odd_names_are_listed_as_they_are(tmp_path, touch, name):
    folder = tmp_path / "odd [dir] *"
    touch(folder, name, f"sub [x]/{name}")
    assert names(str(folder)) == [name, f"sub [x]/{name}"]


@pytest.mark.parametrize("broken", [b"bad\xff.jpg", b"bad\xff/good.jpg"])
def test_a_name_that_is_not_utf_8_is_rejected_and_printable(tmp_path, touch, broken):
    touch(tmp_path, "a.jpg", os.fsdecode(broken))
    images, _, rejects = listed(str(tmp_path))
    assert images == ["a.jpg"]
    assert [(one.stage, one.image.encode() != b"") for one in rejects] == [("list", True)]
    assert "bad\\udcff" in rejects[0].image


def test_links_are_followed_but_a_loop_is_not(tmp_path, touch):
    touch(tmp_path, "photos/a/1.jpg", "elsewhere/2.jpg")
    (tmp_path / "photos/a/up").symlink_to(tmp_path / "photos")
    (tmp_path / "photos/a/self").symlink_to(".")
    (tmp_path / "photos/b").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "photos/c.jpg").symlink_to(tmp_path / "elsewhere/2.jpg")
    assert names(str(tmp_path / "photos")) == ["c.jpg", "a/1.jpg", "b/2.jpg"]


def test_a_dangling_link_is_left_to_be_rejected_when_read(tmp_path):
    (tmp_path / "a.jpg").symlink_to("nowhere")
    source = parse_source(str(tmp_path))
    assert list(list_source(source, source.folder)) == [
        ImageRef(f"{tmp_path}/a.jpg", "a.jpg", None)
    ]


def test_a_named_pipe_is_no_image(tmp_path, touch):
    touch(tmp_path, "a.jpg")
    os.mkfifo(tmp_path / "pipe.jpg")  # reading it would wait for ever
    assert listed(str(tmp_path))[0] == ["a.jpg"]


def test_an_unreadable_folder_is_rejected_and_the_rest_is_listed(tmp_path, touch, monkeypatch):
    touch(tmp_path, "a/1.jpg", "b/2.jpg", "c/3.jpg")
    scandir = os.scandir

    def refuse(path):
        if os.fspath(path).endswith("/b"):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    images, _, rejects = listed(str(tmp_path))
    assert images == ["a/1.jpg", "c/3.jpg"]
    assert rejects == [Reject(f"{tmp_path}/b", "list", "PermissionError", "Permission denied")]


def test_the_output_inside_the_input_is_passed_over(tmp_path, touch):
    touch(tmp_path, "a.jpg", "out/masks/a.png", "out2/b.jpg")
    images, passed_over, _ = listed(str(tmp_path), exclude=f"{tmp_path}/out")
    assert images == ["a.jpg", "out2/b.jpg"]
    assert passed_over == [f"{tmp_path}/out/masks/a.png"]


def test_the_output_is_passed_over_when_the_input_is_reached_by_a_link(tmp_path, touch):
    touch(tmp_path, "real/a.jpg", "real/out/masks/a.png")
    (tmp_path / "link").symlink_to("real")
    assert names(f"{tmp_path}/link", exclude=f"{tmp_path}/real/out") == ["a.jpg"]


@pytest.mark.parametrize("out", ["", "/photos"], ids=["around the input", "the input itself"])
def test_an_output_that_holds_the_input_does_not_hide_it(tmp_path, touch, out):
    touch(
        tmp_path, "photos/a.jpg", "photos/b/c.jpg", f".{out}/masks/a.png", f".{out}/overlays/a.jpg"
    )
    assert names(f"{tmp_path}/photos", exclude=f"{tmp_path}{out}") == ["a.jpg", "b/c.jpg"]


# Other kinds of INPUT


def test_a_glob_stops_at_folders_and_takes_only_images(tmp_path, touch):
    touch(tmp_path, "x1/a.jpg", "x2/b.JPG", "x2/c.txt", "x2/deep/d.jpg", "y/e.jpg")
    images, passed_over, _ = listed(f"{tmp_path}/x*/*")
    assert images == ["x1/a.jpg", "x2/b.JPG"]
    assert passed_over == [f"{tmp_path}/x2/c.txt"]


def test_two_stars_search_all_folders(tmp_path, touch):
    touch(tmp_path, "a.jpg", "x/b.jpg", "x/deep/c.jpg", "x/d.png")
    assert names(f"{tmp_path}/**/*.jpg") == ["a.jpg", "x/b.jpg", "x/deep/c.jpg"]


def test_a_glob_without_a_folder_is_below_the_current_one(tmp_path, touch, monkeypatch):
    touch(tmp_path, "a.jpg", "b.png")
    monkeypatch.chdir(tmp_path)
    assert parse_source("*.jpg") == Source("glob", f"{tmp_path}/*.jpg", str(tmp_path))
    assert names("*.jpg") == ["a.jpg"]


def test_a_path_that_exists_is_no_pattern(tmp_path, touch):
    touch(tmp_path, "a[1].jpg", "a1.jpg", "dir[1]/x.jpg")
    assert names(f"{tmp_path}/a[1].jpg") == ["a[1].jpg"]
    assert names(f"{tmp_path}/dir[1]") == ["x.jpg"]


def test_a_file_named_by_itself_is_tried_whatever_its_extension(tmp_path, touch):
    touch(tmp_path, "scan.dat")
    assert parse_source(f"{tmp_path}/scan.dat").kind == "file"
    assert names(f"{tmp_path}/scan.dat") == ["scan.dat"]


def test_a_relative_path_is_made_absolute(tmp_path, touch, monkeypatch):
    touch(tmp_path, "photos/a.jpg")
    monkeypatch.chdir(tmp_path)
    assert parse_source("photos/") == Source("folder", f"{tmp_path}/photos", f"{tmp_path}/photos")
    assert parse_source("./photos/../photos/a.jpg").where == f"{tmp_path}/photos/a.jpg"


def test_an_input_that_is_not_there_is_the_users_error(tmp_path):
    with pytest.raises(UserError, match=r"nowhere: no such file or folder"):
        parse_source(f"{tmp_path}/nowhere")


def test_an_empty_input_is_not_the_current_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError):
        parse_source("")


# Lists


def write_list(tmp_path, data):
    (tmp_path / "list.txt").write_bytes(data)
    return f"@{tmp_path}/list.txt"


@pytest.mark.parametrize(
    "data",
    [
        b"b/2.jpg\n%s/c/3.dat\n",
        b"\xef\xbb\xbfb/2.jpg\r\n%s/c/3.dat\r\n",
        b"\n\nb/2.jpg\n\r\n\n./b/../%s/c/3.dat",
    ],
    ids=["plain", "BOM and CRLF", "blank lines and no end"],
)
def test_a_list_holds_relative_and_absolute_paths(tmp_path, monkeypatch, data):
    monkeypatch.chdir(tmp_path)
    absolute = b"" if b".." in data else os.fsencode(tmp_path)
    text = write_list(tmp_path, data.replace(b"%s/", absolute + b"/" if absolute else b""))
    assert parse_source(text) == Source("list", f"{tmp_path}/list.txt", str(tmp_path))
    assert names(text) == ["b/2.jpg", "c/3.dat"]


def test_a_list_is_found_from_the_current_folder(tmp_path, monkeypatch):
    write_list(tmp_path, b"a.jpg\n")
    monkeypatch.chdir(tmp_path)
    assert names("@list.txt") == ["a.jpg"]


def test_a_list_of_uris(tmp_path):
    text = write_list(tmp_path, b"mem://b/x/1.jpg\nmem://b/x/y/2\n")
    assert parse_source(text).folder == "mem://b/x"
    assert names(text) == ["1.jpg", "y/2"]


def test_a_list_keeps_odd_names(tmp_path):
    lines = ["a [1].jpg", " b.jpg", "c .jpg ", "#d.jpg", "@e.jpg", "f\x85g\u2028h.jpg", "x\ry.jpg"]
    text = write_list(tmp_path, "\n".join(f"{tmp_path}/{line}" for line in lines).encode())
    assert names(text) == lines


def test_a_list_entry_that_is_not_utf_8_is_rejected(tmp_path):
    text = write_list(tmp_path, b"/x/a.jpg\n/x/b\xff.jpg\n")
    images, _, rejects = listed(text)
    assert images == ["a.jpg"]
    assert [one.image for one in rejects] == ["/x/b\\udcff.jpg"]


@pytest.mark.parametrize("data", [b"", b"\n\r\n\n", b"\xef\xbb\xbf"])
def test_an_empty_list_is_the_users_error(tmp_path, data):
    with pytest.raises(UserError, match=r"list\.txt: the list is empty"):
        parse_source(write_list(tmp_path, data))


def test_a_list_that_cannot_be_read_is_the_users_error(tmp_path):
    with pytest.raises(UserError, match=r"nowhere\.txt: the list cannot be read"):
        parse_source(f"@{tmp_path}/nowhere.txt")
    with pytest.raises(UserError, match="the list cannot be read"):
        parse_source(f"@{tmp_path}")


def test_a_remote_list(mem):
    mem.files["mem://b/list.txt"] = b"mem://b/x/1.jpg\nmem://c/2.jpg\n"
    assert names("@mem://b/list.txt", root="mem:/") == ["b/x/1.jpg", "c/2.jpg"]
    with pytest.raises(UserError, match="the list cannot be read"):
        parse_source("@mem://b/nowhere.txt")


# Remote


def test_a_remote_folder_is_listed_by_prefix(mem):
    mem.files.update(
        dict.fromkeys(
            ["mem://b/p/1.jpg", "mem://b/p/q/2.PNG", "mem://b/p/q/", "mem://b/p2/3.jpg"], b""
        )
    )
    mem.files["mem://b/p/notes.txt"] = b""
    mem.times["mem://b/p/1.jpg"] = 77.0
    for text in ("mem://b/p", "mem://b/p/"):
        source = parse_source(text)
        assert source == Source("folder", "mem://b/p", "mem://b/p")
        assert list(list_source(source, source.folder)) == [
            ImageRef("mem://b/p/1.jpg", "1.jpg", 77.0),
            PassedOver("mem://b/p/notes.txt"),
            ImageRef("mem://b/p/q/2.PNG", "q/2.PNG", 0.0),
        ]
    assert mem.listed == ["mem://b/p/"] * 2


@pytest.mark.parametrize("text", ["mem://b", "mem://b/"])
def test_a_whole_bucket(mem, text):
    mem.files["mem://b/p/1.jpg"] = b""
    assert names(text) == ["p/1.jpg"]


def test_a_remote_glob(mem):
    mem.files.update(
        dict.fromkeys(["mem://b/p/1.jpg", "mem://b/p/q/2.jpg", "mem://b/pp/3.jpg"], b"")
    )
    assert names("mem://b/p*/*.jpg") == ["p/1.jpg", "pp/3.jpg"]
    assert names("mem://b/p/**.jpg") == ["1.jpg", "q/2.jpg"]
    assert mem.listed == ["mem://b/", "mem://b/p/"]


def test_wildcards_in_the_names_of_objects_are_not_expanded(mem):
    mem.files.update(dict.fromkeys(["mem://b/p/x[1]/a*.jpg", "mem://b/p/x1/ab.jpg"], b""))
    assert names("mem://b/p") == ["x1/ab.jpg", "x[1]/a*.jpg"]


def test_a_remote_file(mem):
    mem.files["mem://b/p/scan"] = b""
    assert parse_source("mem://b/p/scan") == Source("file", "mem://b/p/scan", "mem://b/p")


def test_a_remote_object_that_exists_is_no_pattern(mem):
    mem.files.update(dict.fromkeys(["mem://b/a[1].jpg", "mem://b/a1.jpg"], b""))
    assert names("mem://b/a[1].jpg") == ["a[1].jpg"]


def test_a_remote_output_inside_the_input_is_passed_over(mem):
    mem.files.update(dict.fromkeys(["mem://b/1.jpg", "mem://b/out/masks/1.png"], b""))
    assert names("mem://b/", exclude="mem://b/out") == ["1.jpg"]


def test_an_unknown_scheme_is_the_users_error():
    with pytest.raises(UserError, match="nosuch://b/x: cannot be looked up"):
        parse_source("nosuch://b/x")


@pytest.mark.parametrize("key", ["p//1.jpg", "../../1.jpg", "p/../1.jpg", "./1.jpg"])
def test_keys_that_are_no_path_below_a_folder_are_rejected(mem, key):
    # Their masks would land on another image's, or outside of a local output folder.
    mem.files.update(dict.fromkeys([f"mem://b/{key}", "mem://b/p/1.jpg"], b""))
    images, _, rejects = listed("mem://b/")
    assert images == ["p/1.jpg"]
    assert [(one.image, one.stage) for one in rejects] == [(f"mem://b/{key}", "list")]


# Names

parts = st.text(st.sampled_from("ab."), min_size=1, max_size=3).filter(lambda p: set(p) != {"."})
paths = st.lists(parts, min_size=1, max_size=4).map("/".join)
roots = st.sampled_from(["/", "mem://b/", "mem://c/", "gs://b/"])
full_paths = st.builds(str.__add__, roots, paths)


@given(st.lists(full_paths, min_size=1, max_size=8, unique=True))
def test_the_common_folder_holds_all_and_names_below_it_are_unique(given_paths):
    sources = [Source("file", path, path.rpartition("/")[0]) for path in given_paths]
    root = common_folder(source.folder for source in sources)
    assert all(f"{source.folder}/".startswith(f"{root}/") for source in sources) or root == ""
    deeper = {source.folder[len(root) + 1 :].split("/")[0] for source in sources}
    assert len(deeper) > 1 or "" in deeper or root == ""
    images = [image for source in sources for image in list_source(source, root)]
    assert [image.path for image in images] == given_paths
    assert len({image.name for image in images}) == len(images)
    assert not any(image.name.startswith("/") or "//" in image.name for image in images)


@pytest.mark.parametrize(
    ("folders", "common"),
    [
        (["/a/b", "/a/c"], "/a"),
        (["/a/b", "/a/bc"], "/a"),
        (["/a/b"], "/a/b"),
        (["/a", "/b"], ""),
        (["/", "/b"], ""),
        (["gs://x/a", "gs://x/b"], "gs://x"),
        (["gs://x/a", "gs://y/a"], "gs:/"),
        (["gs://x/a", "/x/a"], ""),
        ([], ""),
    ],
)
def test_common_folder(folders, common):
    assert common_folder(folders) == common


@pytest.mark.parametrize(
    ("path", "root", "name"),
    [
        ("gs://x/a/1.jpg", "gs:/", "x/a/1.jpg"),
        ("gs://x/a/1.jpg", "", "gs/x/a/1.jpg"),
        ("/x/a/1.jpg", "", "x/a/1.jpg"),
        ("/x/a/1.jpg", "/", "x/a/1.jpg"),
        ("/1.jpg", "", "1.jpg"),
    ],
)
def test_names_of_mixed_roots(path, root, name):
    (image,) = list_source(Source("file", path, ""), root)
    assert image.name == name


# Names of masks

stems = st.text(st.sampled_from("ab"), min_size=1, max_size=1)
extensions = st.sampled_from([".jpg", ".png", ".JPG", ".tif"])
image_names = st.builds(
    lambda s, e: s + "".join(e), stems, st.lists(extensions, min_size=1, max_size=3)
)
many_image_names = st.sets(image_names, max_size=8)
any_name = st.builds(
    lambda s, e: s + "".join(e),
    st.sampled_from(["a", "x/a", "x.jpg/a", ".a", "a.raw"]),
    st.lists(st.sampled_from([".jpg", ".png", ".raw", ".", ""]), max_size=3),
)
any_names = st.sets(any_name, max_size=8)


@given(st.one_of(many_image_names, any_names))
def test_every_name_gets_a_mask_of_its_own(found):
    masks = assign_mask_names(sorted(found))
    assert set(masks) == found
    assert len(set(masks.values())) == len(found)
    for name, mask in masks.items():
        assert mask in (f"{os.path.splitext(name)[0]}.png", f"{name}.png")


@given(many_image_names)
def test_names_that_do_not_clash_are_short_and_those_that_do_keep_all(found):
    masks = assign_mask_names(found)
    short = {name: f"{os.path.splitext(name)[0]}.png" for name in found}
    for name, mask in masks.items():
        if mask == short[name]:
            assert list(masks.values()).count(mask) == 1
            assert sum(other == mask for other in short.values()) == 1
        else:
            rivals = {short[other] for other in found - {name}} | {
                f"{other}.png" for other in found - {name}
            }
            assert short[name] in rivals


@given(st.lists(image_names, unique=True, max_size=8), st.randoms())
def test_masks_do_not_depend_on_the_order(found, random):
    shuffled = list(found)
    random.shuffle(shuffled)
    assert assign_mask_names(found) == assign_mask_names(shuffled)


@pytest.mark.parametrize(
    ("found", "masks"),
    [
        (["a.jpg"], ["a.png"]),
        (["x/a.jpg", "y/a.png"], ["x/a.png", "y/a.png"]),
        (["a.jpg", "a.png"], ["a.jpg.png", "a.png.png"]),
        (["a.jpg", "a.JPG"], ["a.jpg.png", "a.JPG.png"]),
        (["a.jpg", "a.png", "a.jpg.png"], ["a.jpg.png", "a.png.png", "a.jpg.png.png"]),
        (["a.b.jpg"], ["a.b.png"]),
        (["a"], ["a.png"]),
    ],
)
def test_names_of_masks(found, masks):
    assert list(assign_mask_names(found).values()) == masks


def by_group(found):
    groups = {}
    for name in found:
        groups.setdefault(group_key(name), []).append(name)
    masks = {}
    for group in groups.values():
        masks |= assign_mask_names(group)
    return masks


@given(many_image_names)
def test_names_whose_masks_may_clash_share_a_key(found):
    assert by_group(found) == assign_mask_names(found)


@given(any_names)
def test_masks_are_unique_over_all_groups_with_unknown_extensions_too(found):
    assert len(set(by_group(found).values())) == len(found)


def test_a_camera_raw_does_not_take_the_mask_of_its_export():
    masks = by_group(["a.raw", "a.jpg", "a.raw.jpg"])
    assert len(set(masks.values())) == 3


def test_keys_are_fine_grained():
    assert group_key("x/2024.01.02.jpg") == "x/2024.01.02"
    assert group_key("a.jpg") != group_key("b.jpg")


# The transform


def test_list_images_has_three_outputs(tmp_path, touch):
    touch(tmp_path, "p/a.jpg", "p/notes.txt", "p/" + os.fsdecode(b"\xff.jpg"), "q/b.png", mtime=5)
    touch(tmp_path, "p/out/masks/a.png")
    sources = [Source("folder", f"{tmp_path}/{name}", f"{tmp_path}/{name}") for name in "pq"]
    with beam.Pipeline(runner=FnApiRunner()) as pipeline:
        found = (
            pipeline | beam.Create(sources) | ListImages(str(tmp_path), exclude=f"{tmp_path}/p/out")
        )
        images = [
            ImageRef(f"{tmp_path}/p/a.jpg", "p/a.jpg", 5.0),
            ImageRef(f"{tmp_path}/q/b.png", "q/b.png", 5.0),
        ]
        passed_over = [
            PassedOver(f"{tmp_path}/p/notes.txt"),
            PassedOver(f"{tmp_path}/p/out/masks/a.png"),
        ]
        rejects = [
            Reject(
                f"{tmp_path}/p/\\udcff.jpg", "list", "NameError", "its name is not UTF-8; rename it"
            )
        ]
        assert_that(found.images, equal_to(images), "Images")
        assert_that(found.passed_over, equal_to(passed_over), "PassedOver")
        assert_that(found.rejected, equal_to(rejects), "Rejected")


def test_all_files_reaches_the_workers(tmp_path, touch):
    touch(tmp_path, "a.dat", mtime=5)
    source = Source("folder", str(tmp_path), str(tmp_path))
    do_fn = listing._ListSource(str(tmp_path), True, "")
    assert list(do_fn.process(source)) == [ImageRef(f"{tmp_path}/a.dat", "a.dat", 5.0)]
