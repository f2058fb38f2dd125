"""The network as a step of other people's pipelines."""

import json
from pathlib import Path

import apache_beam as beam
import pytest
from PIL import Image

from model_build.common.errors import UserError
from pipeline import SegmentImages
from pipeline.records import ImageRef, hash_of
from pipeline.segmentation.plan import Request
from pipeline.segmentation.run import segment
from pipeline.segmentation.transform import named
from pipeline.storage import Files


@pytest.fixture
def run(tiny_model, tmp_path):
    """Runs SegmentImages on paths; returns its rows and its rejects."""

    def go(paths, output, **options):
        files = [tmp_path / f"{name}.json" for name in ("rows", "rejected")]
        with beam.Pipeline(runner="FnApiRunner") as pipeline:
            made = (
                pipeline
                | "Paths" >> beam.Create(list(map(str, paths)))
                | SegmentImages(output, **{"model": tiny_model} | options)
            )
            for records, file in zip((made.rows, made.rejected), files, strict=True):
                listed = records | f"List{file.stem}" >> beam.combiners.ToList()
                _ = listed | f"Tell{file.stem}" >> beam.Map(
                    lambda found, path: Path(path).write_text(json.dumps(found)), str(file)
                )
        told = [json.loads(file.read_text()) for file in files]
        return [sorted(records, key=lambda record: record["image"]) for records in told]

    return go


def stored(out):
    files = Files()
    return {file.path[len(str(out)) + 1 :]: files.read(file.path) for file in files.list(str(out))}


def by_segment(inputs, out, tiny_model, **options):
    """The masks, overlays and rows of the whole job."""
    # SegmentImages computes in float32, as the CPUs of its workers are not known.
    segment(Request([str(inputs)], str(out), model=tiny_model, precision="float32", **options))
    made = stored(out)
    (rows,) = (data for name, data in made.items() if name.startswith("histograms-"))
    pictures = {name: data for name, data in made.items() if name.startswith(("masks", "overlays"))}
    return pictures, sorted(map(json.loads, rows.splitlines()), key=lambda row: row["image"])


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [{"tile": True}, {"overlays": True, "long_side": 64, "engine": "graph", "batch_size": 2}],
    ids=["in tiles", "with options"],
)
def test_masks_and_rows_are_those_of_the_whole_job(run, photos, tiny_model, tmp_path, options):
    rows, rejected = run(photos.glob("*/*.jpg"), tmp_path / "out", root=str(photos), **options)
    masks, expected = by_segment(photos, tmp_path / "job", tiny_model, **options)
    assert len(rows) == 5
    for row, other in zip(rows, expected, strict=True):
        written = row["versions"].pop("mask")
        path = tmp_path / "out" / row["mask"]
        stands = path.stat()
        assert written == {
            "size": stands.st_size,
            "version": str(stands.st_mtime_ns),
            "sha256": hash_of(path.read_bytes()),
        }
        # What the disk says of another file may differ; what is in it may not.
        assert other["versions"].pop("mask")["sha256"] == written["sha256"]
    assert rows == expected
    assert rejected == []
    assert stored(tmp_path / "out") == masks


@pytest.mark.parametrize(
    "change",
    [{"output": b"out"}, {"root": 5}, {"batch_size": 0}, {"max_pixels": "9"}, {"long_side": "abc"}],
)
def test_an_argument_that_cannot_serve_is_named(tiny_model, tmp_path, change):
    ((name, value),) = change.items()
    with pytest.raises(UserError, match=f"^{name}={value!r}: "):
        SegmentImages(**{"output": tmp_path, "model": tiny_model} | change)
    assert SegmentImages(tmp_path, Path(tiny_model), root=tmp_path).root == str(tmp_path)


def test_names_are_whole_paths_unless_a_root_is_named(run, photos, tmp_path):
    rows, _ = run([photos / "a/0.jpg"], tmp_path / "out")
    assert rows[0]["mask"] == f"masks{photos}/a/0.png"
    assert (tmp_path / "out" / rows[0]["mask"]).is_file()


def test_what_lies_outside_the_root_keeps_its_whole_path(run, photos, tmp_path):
    rows, _ = run(photos.glob("*/[01].jpg"), tmp_path / "out", root=str(photos / "a"))
    assert [row["mask"] for row in rows] == ["masks/0.png", f"masks{photos}/b/1.png"]


@pytest.mark.slow
def test_relative_paths_are_below_the_current_folder(run, photos, tmp_path, monkeypatch):
    monkeypatch.chdir(photos)
    rows, _ = run(["a/0.jpg", "./b/../b/1.jpg"], "../out", root="")
    assert [row["image"] for row in rows] == [f"{photos}/a/0.jpg", f"{photos}/b/1.jpg"]
    assert len(stored(tmp_path / "out")) == 2
    rows, _ = run(["a/0.jpg"], "../out", root=".")
    assert [row["mask"] for row in rows] == ["masks/a/0.png"]


def test_an_image_named_twice_has_one_row(run, photos, tmp_path):
    bad = photos / "bad.jpg"
    bad.write_text("no image")
    rows, rejected = run([photos / "a/0.jpg", photos / "a/0.jpg", bad, bad], tmp_path / "out")
    assert [row["image"] for row in rows] == [str(photos / "a/0.jpg")]
    assert [row["image"] for row in rejected] == [str(bad)]


def test_of_two_images_of_one_name_the_second_is_a_reject(run, photos, tmp_path):
    root = tmp_path / "root"
    inside, outside = Path(f"{root}{photos}/a/0.jpg"), photos / "a/0.jpg"
    inside.parent.mkdir(parents=True)
    inside.write_bytes(outside.read_bytes())
    rows, rejected = run([outside, inside], tmp_path / "out", root=str(root))
    first, second = sorted([str(inside), str(outside)])
    assert [row["image"] for row in rows] == [first]
    assert [reject["image"] for reject in rejected] == [second]
    assert first in rejected[0]["detail"]


def test_clashing_names_keep_their_extensions(run, tmp_path):
    names = ("a.jpg", "a.png", "b.jpg")
    for name in names:
        Image.new("RGB", (40, 30), "gray").save(tmp_path / name)
    rows, _ = run([tmp_path / name for name in names], tmp_path / "out", root=str(tmp_path))
    assert [row["mask"] for row in rows] == ["masks/a.jpg.png", "masks/a.png.png", "masks/b.png"]
    assert sorted(stored(tmp_path / "out")) == [row["mask"] for row in rows]


def test_every_image_is_in_just_one_of_rows_and_rejects(run, photos, tmp_path):
    (photos / "text.jpg").write_text("no image")
    Image.new("RGB", (300, 300)).save(photos / "huge.png")
    paths = [*photos.rglob("*.*"), photos / "gone.jpg", "memory://b/../x.jpg"]
    rows, rejected = run(paths, tmp_path / "out", root=str(photos), max_pixels=80_000)
    assert len(rows) == 5
    assert {Path(reject["image"]).name: reject["stage"] for reject in rejected} == {
        "text.jpg": "decode",
        "huge.png": "decode",
        "gone.jpg": "read",
        "x.jpg": "list",
    }
    assert set(rejected[0]) == {"image", "stage", "error", "detail"}
    assert {row["mask"] for row in rows} == set(stored(tmp_path / "out"))


@pytest.mark.slow
def test_a_mask_that_stands_is_replaced_and_a_stale_one_is_deleted(run, photos, tmp_path):
    out, paths = tmp_path / "out", list(photos.glob("a/*.jpg"))
    run(paths, out, root=str(photos))
    expected = stored(out)
    (out / "masks/a/0.png").write_bytes(b"damaged")
    (photos / "a/2.jpg").write_text("no image any more")
    rows, rejected = run(paths, out, root=str(photos))
    assert (len(rows), len(rejected)) == (2, 1)
    expected.pop("masks/a/2.png")
    assert stored(out) == expected


@pytest.mark.slow
def test_photos_model_and_output_may_lie_in_a_store(run, photos, tiny_model, tmp_path, memory):
    for folder, below in [(photos, "in"), (Path(tiny_model), "model")]:
        for path in folder.rglob("*"):
            if path.is_file():
                name = path.relative_to(folder).as_posix()
                Files().write(f"memory://bucket/{below}/{name}", path.read_bytes())
    uris = [file.path for file in Files().list("memory://bucket/in")]
    rows, rejected = run(
        uris, "memory://bucket/out/", root="memory://bucket/in", model="memory://bucket/model"
    )
    assert rejected == []
    assert [row["image"] for row in rows] == sorted(uris)
    masks, expected = by_segment(photos, tmp_path / "job", tiny_model)
    assert stored("memory://bucket/out") == masks
    assert [row["pixels"] for row in rows] == [row["pixels"] for row in expected]


@pytest.mark.parametrize(
    ("output", "options", "message"),
    [
        ("file", {}, "file: is a file; --output must be a folder"),
        ("out", {"model": "nowhere"}, "nowhere: not a saved model"),
        ("https://host/out", {}, "cannot write to a web server"),
        ("out", {"storage_options": {"x": "y"}}, "--storage-option x: must be one of"),
    ],
)
def test_what_cannot_serve_is_told_before_any_graph_is_built(
    tmp_path, tiny_model, monkeypatch, output, options, message
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError) as told:
        SegmentImages(output, **{"model": tiny_model} | options)
    assert message in str(told.value)


@pytest.mark.slow
def test_it_may_be_used_twice_in_one_pipeline(photos, tiny_model, tmp_path):
    with beam.Pipeline(runner="FnApiRunner") as pipeline:
        for part in "ab":
            paths = pipeline | f"Paths{part}" >> beam.Create(
                [str(path) for path in photos.glob(f"{part}/*.jpg")]
            )
            _ = paths | f"Segment{part}" >> SegmentImages(
                tmp_path / part, tiny_model, root=str(photos)
            )
    assert len(stored(tmp_path / "a")) == 3
    assert len(stored(tmp_path / "b")) == 2


@pytest.mark.parametrize(
    ("uri", "root", "name"),
    [
        ("/in/x/a.jpg", "/in", "x/a.jpg"),
        ("/in/x/a.jpg", "/in/", "x/a.jpg"),
        ("/in/x/a.jpg", "", "in/x/a.jpg"),
        ("/inn/a.jpg", "/in", "inn/a.jpg"),
        ("gs://b/x/a*.jpg", "gs://b", "x/a*.jpg"),
        ("gs://b/x/a.jpg", "gs://b/x", "a.jpg"),
        ("gs://b/x/a.jpg", "", "gs/b/x/a.jpg"),
        ("https://host/a.jpg?size=2", "", "https/host/a.jpg?size=2"),
    ],
)
def test_names(uri, root, name):
    assert named(uri, root) == ImageRef(uri, name)


@pytest.mark.parametrize("uri", ["gs://b/../a.jpg", "gs://b//a.jpg", "gs://b/./a.jpg", "gs://b/x/"])
def test_a_name_that_is_no_path_below_a_folder_is_a_reject(uri):
    reject = named(uri, "")
    assert (reject.image, reject.stage, reject.error) == (uri, "list", "BadName")
