import datetime
import itertools
import os

import apache_beam as beam
import pytest
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.testing.util import assert_that, equal_to
from hypothesis import given
from hypothesis import strategies as st

from model_build.data.files import IMAGE_EXTENSIONS
from pipeline.inputs import listing
from pipeline.inputs.listing import (
    FirstImages,
    ListImages,
    ListOptions,
    distinct,
    list_source,
    name_below,
)
from pipeline.inputs.sources import common_folder, parse_source
from pipeline.outputs.folder import OutputFolder
from pipeline.records import ImageRef, PassedOver, Reject, Source, Stamp
from pipeline.storage import Files
from pipeline.storage.stores.object_store import ObjectStore

FILES = Files()


def listed(text, **options):
    """Lists INPUT ``text``: names of images, files passed over, rejects."""
    source = parse_source(text, FILES)
    found = list(list_source(source, ListOptions(**{"root": source.folder} | options), FILES))
    return (
        [one.name for one in found if isinstance(one, ImageRef)],
        [one.path for one in found if isinstance(one, PassedOver)],
        [one for one in found if isinstance(one, Reject)],
    )


def names(text, **options):
    images, _, rejects = listed(text, **options)
    assert rejects == []
    return images


def written(out):
    """The globs that are passed over for an output folder."""
    return OutputFolder(out, FILES).written()


def put(*uris):
    for uri in uris:
        FILES.write(uri, b"")


# Folders


def test_a_folder_is_searched_recursively_and_in_order(tmp_path, touch):
    touch(tmp_path, "b/2.jpg", "b/1.png", "a/deep/er/x.webp", "z.gif")
    assert names(str(tmp_path)) == ["z.gif", "a/deep/er/x.webp", "b/1.png", "b/2.jpg"]


def test_an_image_has_path_size_and_time_of_writing_in_nanoseconds(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"12345")
    os.utime(tmp_path / "a.jpg", ns=(0, 1234567890123456789))
    source = parse_source(str(tmp_path), FILES)
    assert list(list_source(source, ListOptions(source.folder), FILES)) == [
        ImageRef(f"{tmp_path}/a.jpg", "a.jpg", Stamp(5, "1234567890123456789"))
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


def test_files_of_programs_and_systems_are_passed_over(tmp_path, touch, memory):
    files = ("a.jpg", "x/@eaDir/b.jpg/T.jpg", ".Trash-1000/c.jpg", "__MACOSX/d.jpg", "._a.jpg")
    touch(tmp_path / "in", *files)
    put(*(f"memory://photos/in/{file}" for file in files))
    for text, count in (
        (f"{tmp_path}/in", 4),
        (f"{tmp_path}/in/**", 2),  # on local disk no star takes a name that begins with a dot
        ("memory://photos/in", 4),
        ("memory://photos/*/**", 4),
    ):
        source = parse_source(text, FILES)
        found = list(list_source(source, ListOptions(source.folder, all_files=True), FILES))
        images = [one.path for one in found if isinstance(one, ImageRef)]
        assert [path.rpartition("/")[2] for path in images] == ["a.jpg"]
        assert sum(isinstance(one, PassedOver) and one.never_photo for one in found) == count


@pytest.mark.parametrize("inside", ["", "/*", "/**"])
def test_a_folder_named_by_the_user_is_read_whatever_its_name(tmp_path, touch, inside):
    touch(tmp_path, "in/.ipynb_checkpoints/a.jpg", "in/.ipynb_checkpoints/._b.jpg")
    assert names(f"{tmp_path}/in/.ipynb_checkpoints{inside}") == ["a.jpg"]
    assert names(f"{tmp_path}/in/.ipynb_checkpoints/._b.jpg") == ["._b.jpg"]


def test_folders_spelled_out_in_a_pattern_are_named_by_the_user(tmp_path, touch):
    touch(tmp_path, "in/x/@eaDir/a.jpg")
    assert names(f"{tmp_path}/in/*/@eaDir/*") == ["x/@eaDir/a.jpg"]
    assert names(f"{tmp_path}/in/*/*/*") == []


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
    source = parse_source(str(tmp_path), FILES)
    assert list(list_source(source, ListOptions(source.folder), FILES)) == [
        ImageRef(f"{tmp_path}/a.jpg", "a.jpg", None)
    ]


def test_a_named_pipe_is_no_image(tmp_path, touch):
    touch(tmp_path, "a.jpg")
    os.mkfifo(tmp_path / "pipe.jpg")  # reading it would wait for ever
    for all_files in (False, True):
        images, passed_over, _ = listed(str(tmp_path), all_files=all_files)
        assert (images, passed_over) == (["a.jpg"], [f"{tmp_path}/pipe.jpg"])


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


def test_an_unreadable_folder_of_the_system_is_no_reject(tmp_path, touch, monkeypatch):
    touch(tmp_path, "a.jpg", "lost+found/b.jpg")
    scandir = os.scandir

    def refuse(path):
        if str(path).endswith("lost+found"):
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    images, passed_over, rejects = listed(str(tmp_path))
    assert (images, passed_over, rejects) == (["a.jpg"], [f"{tmp_path}/lost+found"], [])


def test_the_output_inside_the_input_is_passed_over(tmp_path, touch):
    touch(tmp_path, "a.jpg", "out/masks/a.png", "out2/b.jpg")
    images, passed_over, _ = listed(str(tmp_path), exclude=written(f"{tmp_path}/out"))
    assert images == ["a.jpg", "out2/b.jpg"]
    assert passed_over == [f"{tmp_path}/out/masks/a.png"]


def test_the_output_is_passed_over_when_the_input_is_reached_by_a_link(tmp_path, touch):
    touch(tmp_path, "real/a.jpg", "real/out/masks/a.png")
    (tmp_path / "link").symlink_to("real")
    assert names(f"{tmp_path}/link", exclude=written(f"{tmp_path}/real/out")) == ["a.jpg"]


WRITTEN = ["run.json", "summary.json", "staged/input-0.txt", "staged/model-1/model.json"]
WRITTEN += [f"{kind}-r1-00000-of-00001.jsonl" for kind in ("histograms", "rejected")]


@pytest.mark.parametrize("where", ["disk", "store"])
def test_nothing_that_runs_write_is_an_image_even_if_all_files_are(tmp_path, memory, where):
    root = f"{tmp_path}/p" if where == "disk" else "memory://b/p"
    put(*(f"{root}/out/{name}" for name in (*WRITTEN, "masks/a.png", "lock/1")))
    put(f"{root}/a.dat", f"{root}/run.json", f"{root}/out/x.jsonl", f"{root}/out/x/run.json")
    images, passed_over, _ = listed(root, all_files=True, exclude=written(f"{root}/out"))
    assert set(images) == {"a.dat", "run.json", "out/x.jsonl", "out/x/run.json"}
    assert len(passed_over) == len(WRITTEN) + 2


def test_photos_in_the_output_folder_are_taken_whatever_their_names(tmp_path, touch):
    photos = ["histograms-1.jpg", "input-1.jpg", "rejected-.png", "run.json.jpg"]
    touch(tmp_path, *photos)
    assert names(str(tmp_path), exclude=written(tmp_path)) == photos


def test_no_character_of_the_outputs_name_is_a_pattern(tmp_path, touch):
    touch(tmp_path, "out1/run.json", "out[1]/run.json", "out[1]/masks/a.png")
    images = names(str(tmp_path), all_files=True, exclude=written(f"{tmp_path}/out[1]"))
    assert images == ["out1/run.json"]


@pytest.mark.parametrize("out", ["", "/photos"], ids=["around the input", "the input itself"])
def test_an_output_that_contains_the_input_does_not_hide_it(tmp_path, touch, out):
    touch(
        tmp_path, "photos/a.jpg", "photos/b/c.jpg", f".{out}/masks/a.png", f".{out}/overlays/a.jpg"
    )
    assert names(f"{tmp_path}/photos", exclude=written(f"{tmp_path}{out}")) == ["a.jpg", "b/c.jpg"]


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
    assert names("*.jpg") == ["a.jpg"]


def test_a_path_that_exists_is_no_pattern(tmp_path, touch):
    touch(tmp_path, "a[1].jpg", "a1.jpg", "dir[1]/x.jpg")
    assert names(f"{tmp_path}/a[1].jpg") == ["a[1].jpg"]
    assert names(f"{tmp_path}/dir[1]") == ["x.jpg"]


def test_a_file_named_by_itself_is_tried_whatever_its_extension(tmp_path, touch):
    touch(tmp_path, "scan.dat")
    assert names(f"{tmp_path}/scan.dat") == ["scan.dat"]


# Lists


def write_list(tmp_path, data):
    (tmp_path / "list.txt").write_bytes(data)
    return f"@{tmp_path}/list.txt"


def test_files_of_a_list_are_tried_whatever_their_extensions(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = write_list(tmp_path, b"b/2.jpg\n" + os.fsencode(tmp_path) + b"/c/3.dat\n")
    assert names(text) == ["b/2.jpg", "c/3.dat"]


def test_a_list_is_found_from_the_current_folder(tmp_path, monkeypatch):
    write_list(tmp_path, b"a.jpg\n")
    monkeypatch.chdir(tmp_path)
    assert names("@list.txt") == ["a.jpg"]


def test_files_of_a_list_are_not_looked_up_on_disk(tmp_path, touch):
    touch(tmp_path, "a.jpg", mtime=5)
    source = parse_source(write_list(tmp_path, f"{tmp_path}/a.jpg\n".encode()), FILES)
    assert list(list_source(source, ListOptions(source.folder), FILES)) == [
        ImageRef(f"{tmp_path}/a.jpg", "a.jpg", None)
    ]


def test_a_list_of_uris(tmp_path):
    text = write_list(tmp_path, b"memory://b/x/1.jpg\nmemory://b/x/y/2\n")
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


def test_a_remote_list(memory):
    FILES.write("memory://b/list.txt", b"memory://b/x/1.jpg\nmemory://c/2.jpg\n")
    assert names("@memory://b/list.txt", root="memory:/") == ["b/x/1.jpg", "c/2.jpg"]


# Remote


@pytest.fixture
def prefixes(monkeypatch):
    """Records the beginnings of the URIs that stores are asked to list."""
    asked = []
    objects = ObjectStore.objects

    def spy(self, uri, *arguments):
        asked.append(uri)
        return objects(self, uri, *arguments)

    monkeypatch.setattr(ObjectStore, "objects", spy)
    return asked


def test_a_remote_folder_is_listed_by_prefix(memory, prefixes):
    put("memory://b/p/q/2.PNG", "memory://b/p2/3.jpg", "memory://b/p/notes.txt")
    FILES.write("memory://b/p/1.jpg", b"123")
    created = datetime.datetime.fromtimestamp(77, datetime.timezone.utc)
    for file in memory.store.values():
        file.created = created
    for text in ("memory://b/p", "memory://b/p/"):
        source = parse_source(text, FILES)
        assert list(list_source(source, ListOptions(source.folder), FILES)) == [
            ImageRef("memory://b/p/1.jpg", "1.jpg", Stamp(3, created.isoformat())),
            PassedOver("memory://b/p/notes.txt"),
            ImageRef("memory://b/p/q/2.PNG", "q/2.PNG", Stamp(0, created.isoformat())),
        ]
    assert prefixes == ["memory://b/p/"] * 2


@pytest.mark.parametrize("text", ["memory://b", "memory://b/"])
def test_a_whole_bucket(memory, text):
    put("memory://b/p/1.jpg", "memory://bb/2.jpg")
    assert names(text) == ["p/1.jpg"]


def test_a_remote_glob(memory, prefixes):
    put("memory://b/p/1.jpg", "memory://b/p/q/2.jpg", "memory://b/pp/3.jpg")
    assert names("memory://b/p*/*.jpg") == ["p/1.jpg", "pp/3.jpg"]
    assert names("memory://b/p/**.jpg") == ["1.jpg", "q/2.jpg"]
    # There might be folders of these names.
    literal = ["memory://b/p*/*.jpg/", "memory://b/p/**.jpg/"]
    assert [prefix for prefix in prefixes if prefix not in literal] == [
        "memory://b/",
        "memory://b/p/",
    ]


def test_a_remote_folder_that_exists_is_no_pattern(memory):
    put("memory://b/p [1]/a.jpg", "memory://b/p 1/b.jpg")
    assert names("memory://b/p [1]") == ["a.jpg"]


def test_wildcards_in_the_names_of_objects_are_not_expanded(memory):
    put("memory://b/p/x[1]/a*.jpg", "memory://b/p/x1/ab.jpg")
    assert names("memory://b/p") == ["x1/ab.jpg", "x[1]/a*.jpg"]


def test_a_remote_file_is_tried_whatever_its_extension(memory):
    put("memory://b/p/scan")
    assert names("memory://b/p/scan") == ["scan"]


def test_a_remote_object_that_exists_is_no_pattern(memory):
    put("memory://b/a[1].jpg", "memory://b/a1.jpg")
    assert names("memory://b/a[1].jpg") == ["a[1].jpg"]


def test_a_remote_output_inside_the_input_is_passed_over(memory):
    put("memory://b/1.jpg", "memory://b/out/masks/1.png")
    assert names("memory://b/", exclude=written("memory://b/out")) == ["1.jpg"]


@pytest.mark.parametrize("key", ["p//1.jpg", "../../1.jpg", "p/../1.jpg", "./1.jpg"])
def test_keys_that_are_no_path_below_a_folder_are_rejected(memory, key):
    # Their masks would land on another image's, or outside of a local output folder.
    put(f"memory://b/{key}", "memory://b/p/1.jpg")
    images, _, rejects = listed("memory://b/")
    assert images == ["p/1.jpg"]
    assert [(one.image, one.stage) for one in rejects] == [(f"memory://b/{key}", "list")]


def test_a_key_with_two_slashes_is_not_taken_for_the_one_with_one(memory, tmp_path):
    put("memory://b/a.jpg", "memory://b//a.jpg")
    for text in ("memory://b", write_list(tmp_path, b"memory://b/a.jpg\nmemory://b//a.jpg\n")):
        images, _, rejects = listed(text)
        assert images == ["a.jpg"]
        assert [(one.image, one.stage) for one in rejects] == [("memory://b//a.jpg", "list")]


def test_a_folder_of_an_empty_name_may_be_the_root(memory):
    put("memory://b//a.jpg")
    assert names("memory://b//a.jpg") == ["a.jpg"]


def test_a_source_that_cannot_be_listed_is_an_oserror():
    source = Source("folder", "https://localhost:9/photos", "https://localhost:9/photos")
    with pytest.raises(OSError, match="cannot list a web server"):
        list(list_source(source, ListOptions(source.folder), FILES))


# Names

parts = st.text(st.sampled_from("ab."), min_size=1, max_size=3).filter(lambda p: set(p) != {"."})
paths = st.lists(parts, min_size=1, max_size=4).map("/".join)
roots = st.sampled_from(["/", "memory://b/", "memory://c/", "gs://b/"])
full_paths = st.builds(str.__add__, roots, paths)


@given(st.lists(full_paths, min_size=1, max_size=8, unique=True))
def test_the_common_folder_contains_all_and_names_below_it_are_unique(given_paths):
    sources = [Source("file", path, path.rpartition("/")[0]) for path in given_paths]
    root = common_folder(source.folder for source in sources)
    assert all(f"{source.folder}/".startswith(f"{root}/") for source in sources) or root == ""
    deeper = {source.folder[len(root) + 1 :].split("/")[0] for source in sources}
    assert len(deeper) > 1 or "" in deeper or root == ""
    images = [
        image for source in sources for image in list_source(source, ListOptions(root), FILES)
    ]
    assert [image.path for image in images] == given_paths
    assert len({image.name for image in images}) == len(images)
    assert not any(image.name.startswith("/") or "//" in image.name for image in images)


@pytest.mark.parametrize(
    ("path", "root", "name"),
    [
        ("gs://x/a/1.jpg", "gs:/", "x/a/1.jpg"),
        ("gs://x/a/1.jpg", "", "gs/x/a/1.jpg"),
        ("/x/a/1.jpg", "", "x/a/1.jpg"),
        ("/x/a/1.jpg", "/", "x/a/1.jpg"),
        ("/1.jpg", "", "1.jpg"),
        ("gs://x//1.jpg", "gs://x/", "1.jpg"),
    ],
)
def test_names_of_mixed_roots(path, root, name):
    (image,) = list_source(Source("file", path, ""), ListOptions(root), FILES)
    assert image.name == name_below(path, root) == name


def test_distinct_images_are_sorted_and_keep_their_stamps():
    a, b, other = ImageRef("/x/a", "a"), ImageRef("/x/b", "b"), ImageRef("/y/a", "a")
    seen = a._replace(stamp=Stamp(1, "v"))
    for images in itertools.permutations([b, a, other, seen]):
        assert distinct(images) == [seen, other, b]


# The transform


@pytest.mark.slow
def test_list_images_has_three_outputs(tmp_path, touch):
    touch(tmp_path, "p/a.jpg", "p/notes.txt", "p/" + os.fsdecode(b"\xff.jpg"), "q/b.png", mtime=5)
    touch(tmp_path, "p/out/masks/a.png")
    sources = [Source("folder", f"{tmp_path}/{name}", f"{tmp_path}/{name}") for name in "pq"]
    options = ListOptions(str(tmp_path), exclude=written(f"{tmp_path}/p/out"))
    with beam.Pipeline(runner=FnApiRunner()) as pipeline:
        found, others, rejected = pipeline | beam.Create(sources) | ListImages(options, FILES)
        images = [
            ImageRef(f"{tmp_path}/p/a.jpg", "p/a.jpg", Stamp(0, "5000000000")),
            ImageRef(f"{tmp_path}/q/b.png", "q/b.png", Stamp(0, "5000000000")),
        ]
        passed_over = [
            PassedOver(f"{tmp_path}/p/notes.txt"),
            PassedOver(f"{tmp_path}/p/out/masks/a.png", written=True),
        ]
        rejects = [
            Reject(
                f"{tmp_path}/p/\\udcff.jpg", "list", "BadName", "its name is not UTF-8; rename it"
            )
        ]
        assert_that(found, equal_to(images), "Images")
        assert_that(others, equal_to(passed_over), "PassedOver")
        assert_that(rejected, equal_to(rejects), "Rejected")


@pytest.mark.parametrize("limit", [2, 9])
def test_a_limit_takes_the_first_by_name_over_all_sources(tmp_path, touch, limit):
    touch(tmp_path, "p/c.jpg", "p/a.jpg", "q/b.jpg", "p/notes.txt", mtime=5)
    sources = [Source("folder", f"{tmp_path}/{name}", f"{tmp_path}/{name}") for name in "pq"]
    with beam.Pipeline(runner=FnApiRunner()) as pipeline:
        found, others, _ = (
            pipeline
            | beam.Create(sources)
            | ListImages(ListOptions(str(tmp_path), limit=limit), FILES)
        )
        first = ["p/a.jpg", "p/c.jpg", "q/b.jpg"][:limit]
        assert_that(found | beam.Map(lambda image: image.name), equal_to(first), "Images")
        assert_that(others, equal_to([PassedOver(f"{tmp_path}/p/notes.txt")]), "PassedOver")


def test_a_limit_takes_an_image_of_two_sources_once(tmp_path, touch):
    touch(tmp_path, "p/a.jpg", "p/b.jpg", "p/q/c.jpg")
    (tmp_path / "list.txt").write_text(f"{tmp_path}/p/b.jpg\n" * 2)
    sources = [parse_source(f"{tmp_path}/{name}", FILES) for name in ("p", "p/q", "p")]
    sources.append(parse_source(f"@{tmp_path}/list.txt", FILES))
    with beam.Pipeline(runner=FnApiRunner()) as pipeline:
        options = ListOptions(f"{tmp_path}/p", limit=3, overlap=True)
        found, _, _ = pipeline | beam.Create(sources) | ListImages(options, FILES)
        listed_names = found | beam.Map(lambda image: image.name)
        assert_that(listed_names, equal_to(["a.jpg", "b.jpg", "q/c.jpg"]))


def test_a_passed_over_file_of_several_sources_appears_once(tmp_path, touch):
    touch(tmp_path, "p/a.jpg", "p/notes.txt", "p/" + os.fsdecode(b"\xff.jpg"))
    sources = [Source("folder", f"{tmp_path}/p", f"{tmp_path}/p")] * 2
    with beam.Pipeline(runner=FnApiRunner()) as pipeline:
        options = ListOptions(f"{tmp_path}/p", overlap=True)
        _, others, rejected = pipeline | beam.Create(sources) | ListImages(options, FILES)
        rejects = rejected | beam.Map(lambda reject: reject.error)
        assert_that(others, equal_to([PassedOver(f"{tmp_path}/p/notes.txt")]), "PassedOver")
        assert_that(rejects, equal_to(["BadName"]), "Rejected")


@given(
    st.lists(st.lists(st.integers(0, 9), max_size=8), min_size=1, max_size=4),
    st.integers(1, 12),
)
def test_the_first_images_are_the_same_whichever_workers_see_them(shares, count):
    shares = [[ImageRef(f"/x/{number}", str(number)) for number in share] for share in shares]
    first = listing._First(count)
    parts = []
    for share in shares:
        found = first.create_accumulator()
        for image in share:
            found = first.add_input(found, image)
        parts.append(found)
    everything = itertools.chain.from_iterable(shares)
    merged = first.extract_output(first.merge_accumulators(parts))
    assert merged == distinct(everything)[:count]


def test_memory_for_the_first_images_is_bounded():
    first = listing._First(2)
    found = first.create_accumulator()
    for number in range(5000):
        found = first.add_input(found, ImageRef(f"/x/{number}", f"{number:04}"))
        assert len(found) <= 1100
    assert [image.name for image in first.extract_output(found)] == ["0000", "0001"]


def test_the_first_of_no_images_are_none():
    with beam.Pipeline(runner=FnApiRunner()) as pipeline:
        assert_that(pipeline | beam.Create([]) | FirstImages(3), equal_to([]))


def test_all_files_reaches_the_workers(tmp_path, touch):
    touch(tmp_path, "a.dat", mtime=5)
    source = Source("folder", str(tmp_path), str(tmp_path))
    with beam.Pipeline(runner=FnApiRunner()) as pipeline:
        options = ListOptions(str(tmp_path), all_files=True)
        found, _, _ = pipeline | beam.Create([source]) | ListImages(options, FILES)
        image = ImageRef(f"{tmp_path}/a.dat", "a.dat", Stamp(0, "5000000000"))
        assert_that(found, equal_to([image]))


def test_listed_images_have_the_versions_that_stat_reports(bucket):
    for name in ("a.jpg", "x/b.jpg"):
        FILES.write(f"{bucket}/p/{name}", name.encode())
    source = parse_source(f"{bucket}/p", FILES)
    found = list(list_source(source, ListOptions(source.folder), FILES))
    asked = [FILES.stat(image.path) for image in found]
    assert [image.stamp for image in found] == [Stamp(one.size, one.version) for one in asked]
    assert [image.name for image in found] == ["a.jpg", "x/b.jpg"]


@pytest.mark.parametrize(
    "record", [Reject("a\n\udcff.jpg", "list", "OSError", "ä: denied"), PassedOver("b", "results")]
)
def test_a_duplicate_record_is_kept_once(record, caplog):
    with beam.Pipeline(FnApiRunner()) as pipeline:
        once = pipeline | beam.Create([record, record]) | listing.Once(type(record))
        assert_that(once, equal_to([record]))
    assert "coder" not in caplog.text
