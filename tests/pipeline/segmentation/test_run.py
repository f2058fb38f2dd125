"""The whole job on real files, in this process; and its steps, one by one."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from model_build.common.errors import JobError, UserError
from model_build.data.labels import VOC
from pipeline.network import models
from pipeline.runners.progress import COUNTS
from pipeline.segmentation import windows
from pipeline.segmentation.plan import Request, plan
from pipeline.segmentation.run import claimed, load, report, run, segment, stage
from pipeline.storage import Files


@pytest.fixture
def ask(photos, tiny_model, tmp_path):
    """A request with the tiny model: of the photos, into ``out``, unless told otherwise."""

    def make(*inputs, out="out", **options):
        return Request(
            inputs=list(map(str, inputs or [photos])),
            output=out if "://" in out else str(tmp_path / out),
            **{"model": tiny_model} | options,
        )

    return make


@pytest.fixture
def go(ask):
    """Runs the job of :func:`ask`; returns its summary and OUT."""

    def do(*inputs, **options):
        summary = segment(ask(*inputs, **options))
        return summary, Path(summary.output)

    return do


def rows(out, kind="histograms"):
    lines = [line for path in sorted(out.glob(f"{kind}-*")) for line in path.open()]
    return sorted(map(json.loads, lines), key=lambda row: row["image"])


def masks(out):
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in all_masks(out)}


def class_maps(out):
    return {path.relative_to(out): class_map(path) for path in all_masks(out)}


def class_map(path):
    with Image.open(path) as mask:
        return np.asarray(mask).tolist()


def all_masks(out):
    return sorted(path for path in out.glob("masks/**/*.png") if path.is_file())


def times(out):
    return {path.name: path.stat().st_mtime_ns for path in all_masks(out)}


def pixels(out):
    """The rows less what disks and stores say, which is another thing with each writing."""
    return [{k: v for k, v in row.items() if k != "versions"} for row in rows(out)]


def picture(path, size=(40, 30), color="gray"):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, color).save(path, "PNG")


def picture_bytes(path):
    picture(path)
    return path.read_bytes()


# What a run leaves behind


def test_every_photo_gets_a_mask_of_its_size_and_a_row_that_adds_up(go, photos):
    summary, out = go()
    names = sorted(path.relative_to(photos).with_suffix(".png") for path in photos.glob("*/*"))
    assert sorted(masks(out)) == [f"masks/{name.as_posix()}" for name in names]
    found = rows(out)
    assert len(found) == len(names) == 5
    for row in found:
        with Image.open(row["image"]) as photo, Image.open(out / row["mask"]) as mask:
            assert mask.mode == "P"
            assert mask.size == photo.size == (row["width"], row["height"])
            assert bytes(mask.getpalette()) == VOC.palette
            counts = np.bincount(np.asarray(mask).ravel(), minlength=len(VOC))
        assert row["pixels"] == {
            name: count for name, count in zip(VOC.names, counts, strict=True) if count
        }
        assert sum(row["pixels"].values()) == row["width"] * row["height"]
    written = json.loads((out / "summary.json").read_text())
    assert (written["images"], written["masks"], written["rejected"]) == (5, 5, 0)
    assert sum(written["pixels"].values()) == sum(row["width"] * row["height"] for row in found)
    assert summary.pixels == written["pixels"]
    assert summary.stages["infer"] > 0
    assert not (out / ".unfinished").exists()


@pytest.mark.slow
def test_mask_equals_the_argmax_of_the_keras_model(go, tiny_model, tmp_path):
    import keras

    from model_build.network import fcn  # noqa: F401

    rng = np.random.default_rng(2)
    pixels = np.kron(rng.integers(0, 255, (8, 12, 3), np.uint8), np.ones((8, 8, 1), np.uint8))
    source = tmp_path / "exact"
    source.mkdir()
    Image.fromarray(pixels).save(source / "photo.png")
    _, out = go(source, precision="float32")
    model = keras.models.load_model(f"{tiny_model}/model.keras")
    expected = np.argmax(model.predict(pixels[None], verbose=0)[0], axis=-1)
    with Image.open(out / "masks/photo.png") as mask:
        np.testing.assert_array_equal(np.asarray(mask), expected)


@pytest.mark.slow
def test_a_local_run_uses_no_network(go, monkeypatch):
    import socket

    def refuse(*arguments, **options):
        raise AssertionError(f"network: {arguments}")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    _, out = go()
    assert len(masks(out)) == 5


@pytest.mark.slow
def test_exif_orientation_decides_the_masks_size(go, tmp_path):
    source = tmp_path / "turned"
    source.mkdir()
    photo = Image.new("RGB", (60, 40), "blue")
    exif = photo.getexif()
    exif[0x0112] = 6
    photo.save(source / "turned.jpg", exif=exif)
    _, out = go(source)
    with Image.open(out / "masks/turned.png") as mask:
        assert mask.size == (40, 60)


def test_broken_files_are_rejected_one_by_one(go, photos):
    whole = next(photos.glob("a/*.jpg")).read_bytes()
    (photos / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (photos / "empty.PNG").write_bytes(b"")
    (photos / "text.gif").write_text("no image")
    (photos / "notes.txt").write_text("no image either")
    (photos / "gone.jpg").symlink_to(photos / "nowhere.jpg")
    Image.new("RGB", (300, 300)).save(photos / "huge.png")
    summary, out = go(max_pixels=80_000)
    rejects = {Path(row["image"]).name: row for row in rows(out, "rejected")}
    assert {name: row["stage"] for name, row in rejects.items()} == {
        "cut.jpg": "decode",
        "empty.PNG": "decode",
        "text.gif": "decode",
        "gone.jpg": "read",
        "huge.png": "decode",
    }
    assert "300×300" in rejects["huge.png"]["detail"]
    assert set(rejects["cut.jpg"]) == {"image", "stage", "error", "detail"}
    assert len(rows(out)) == 5
    written = json.loads((out / "summary.json").read_text())
    assert (written["images"], written["masks"], written["rejected"]) == (10, 5, 5)
    assert written["skipped"] == 1
    assert "decode: TooManyPixels" in summary.table()


@pytest.mark.slow
def test_a_folder_whose_name_is_not_utf_8_rejects_its_photos_one_by_one(go, tmp_path):
    source = os.fsdecode(os.fsencode(tmp_path) + b"/in\xff")
    picture(Path(source, "a.png"))
    for _ in range(2):
        summary, out = go(source)
        assert (summary.images, summary.rejected) == (1, 1)
        assert [row["image"] for row in rows(out, "rejected")] == [f"{tmp_path}/in\\udcff/a.png"]


@pytest.mark.slow
def test_a_folder_where_a_mask_goes_rejects_just_its_photo(go, tmp_path):
    picture(tmp_path / "in/a.jpg")
    picture(tmp_path / "in/b.jpg")
    picture(tmp_path / "in/c.jpg")
    (tmp_path / "out/masks/a.png").mkdir(parents=True)
    summary, out = go(tmp_path / "in")
    assert [row["stage"] for row in rows(out, "rejected")] == ["write"]
    assert rows(out, "rejected")[0]["image"].endswith("in/a.jpg")
    assert sorted(masks(out)) == ["masks/b.png", "masks/c.png"]
    assert (summary.masks, summary.rejected) == (2, 1)


@pytest.mark.slow
def test_progress_counts_every_image(go, photos):
    (photos / "bad.jpg").write_text("bad")
    go()
    assert (COUNTS.listed, COUNTS.done, COUNTS.rejects) == (6, 6, 1)


# Reproducible masks


@pytest.fixture
def many_photos(tmp_path):
    rng = np.random.default_rng(1)
    folder = tmp_path / "many"
    folder.mkdir()
    for index in range(24):
        height, width = rng.integers(20, 200, 2)
        blocks = rng.integers(0, 255, (10, 10, 3), np.uint8)
        pixels = np.kron(blocks, np.ones((20, 20, 1), np.uint8))[:height, :width]
        Image.fromarray(pixels).save(folder / f"{index}.png")
    return folder


@pytest.mark.slow
def test_masks_do_not_depend_on_the_number_of_workers(go, many_photos, monkeypatch):
    _, whole = go(many_photos, out="whole", workers=1)  # one window, one stream
    monkeypatch.setattr(
        windows, "PHOTOS_PER_WINDOW", 2
    )  # many windows, so that all workers have some
    for workers in (1, 3):
        _, out = go(many_photos, out=f"out{workers}", workers=workers)
        assert len(masks(out)) == 24
        assert len(set(masks(out).values())) > 20
        assert masks(out) == masks(whole)
        assert [row["pixels"] for row in rows(out)] == [row["pixels"] for row in rows(whole)]


@pytest.mark.slow
def test_masks_do_not_depend_on_batches(go, photos):
    _, one = go(out="one")
    _, other = go(out="other", batch_size=3)
    assert class_maps(other) == class_maps(one)
    # Which bits a network yields may depend on it, so it is in the recipe, which masks tell.
    assert masks(other) != masks(one)


@pytest.mark.slow
def test_masks_in_a_store_are_those_on_disk(go, ask, memory):
    _, here = go()
    summary = segment(ask(out="memory://bucket/out"))
    assert summary.masks == 5
    stored = {
        path.removeprefix("/bucket/out/"): entry.getvalue()
        for path, entry in memory.store.items()
        if path.startswith("/bucket/out/masks/")
    }
    assert stored == masks(here)
    again = segment(ask(out="memory://bucket/out"))
    assert again.kept == 5


# Going on, and doing again


def test_second_run_does_nothing_and_says_so(go):
    first, out = go()
    before, expected = times(out), rows(out)
    second, _ = go()
    assert "nothing to do" in report(second)[0]
    assert "nothing to do" not in report(first)[0]
    assert times(out) == before
    assert rows(out) == expected
    written = json.loads((out / "summary.json").read_text())
    assert written["kept"] == 5
    assert sorted(path.name for path in out.glob("*.jsonl")) == sorted(written["shards"])
    assert sorted(path.name for path in out.iterdir()) == sorted(
        ["masks", "run.json", "summary.json", *written["shards"]]
    )


@pytest.mark.slow
def test_a_run_cut_off_is_completed_with_the_same_masks(go):
    _, out = go()
    whole, expected = masks(out), pixels(out)
    for path in all_masks(out)[::2]:
        path.unlink()
    damaged = all_masks(out)[0]
    damaged.write_bytes(damaged.read_bytes()[:50])
    summary, _ = go()
    assert summary.kept == 1
    assert masks(out) == whole
    assert pixels(out) == expected


@pytest.mark.slow
def test_masks_whose_rows_are_lost_prove_themselves(go):
    _, out = go()
    before, expected = times(out), rows(out)
    for path in out.glob("*.jsonl"):
        path.unlink()
    summary, _ = go()
    assert summary.kept == 5
    assert times(out) == before
    assert rows(out) == expected


@pytest.mark.slow
def test_another_source_is_done_again_and_a_failing_one_loses_its_mask(go, photos):
    _, out = go(overlays=True)
    changed, broken = photos / "a/0.jpg", photos / "a/2.jpg"
    Image.new("RGB", (40, 40), "red").save(changed)
    broken.write_text("bad")
    summary, _ = go(overlays=True)
    assert (summary.masks, summary.kept, summary.rejected) == (4, 3, 1)
    with Image.open(out / "masks/a/0.png") as mask:
        assert mask.size == (40, 40)
    assert not (out / "masks/a/2.png").exists()
    assert not (out / "overlays/a/2.jpg").exists()
    assert len(list(out.glob("overlays/**/*.jpg"))) == 4
    assert [Path(row["image"]).name for row in rows(out, "rejected")] == ["2.jpg"]
    assert len(rows(out)) == 4


@pytest.mark.slow
def test_another_source_in_a_list_is_done_again(go, photos, tmp_path):
    listing = tmp_path / "list.txt"
    listing.write_text("".join(f"{path}\n" for path in photos.glob("*/*.jpg")))
    go(f"@{listing}")
    assert go(f"@{listing}")[0].kept == 5
    picture(photos / "a/0.jpg")
    os.utime(photos / "a/2.jpg", (7, 7))  # touched, but equal
    summary, out = go(f"@{listing}")
    assert summary.kept == 4
    with Image.open(out / "masks/a/0.png") as mask:
        assert mask.size == (40, 30)


@pytest.mark.slow
@pytest.mark.parametrize("change", [{"long_side": 64}, {"batch_size": 2}])
def test_other_options_for_the_same_output_are_refused_until_overwrite(go, change):
    _, out = go()
    first = masks(out)
    with pytest.raises(UserError, match="--overwrite"):
        go(**change)
    assert masks(out) == first
    summary, _ = go(**change, overwrite=True)
    assert summary.kept == 0
    summary, _ = go(**change)
    assert summary.kept == 5
    assert len({row["recipe"] for row in rows(out)}) == 1


@pytest.mark.slow
def test_overwriting_with_the_same_options_keeps_everything(go):
    _, out = go()
    before = times(out)
    summary, _ = go(overwrite=True)
    assert summary.kept == 5
    assert times(out) == before


@pytest.mark.slow
def test_overwriting_goes_on_where_it_was_cut_off(go, photos):
    go()
    go(photos / "a/*.jpg", photos / "b/1.jpg", long_side=64, overwrite=True)  # not photo 3
    summary, out = go(long_side=64, overwrite=True)
    assert summary.kept == 4
    _, fresh = go(long_side=64, out="fresh")
    assert masks(out) == masks(fresh)


@pytest.mark.slow
def test_overwrite_cut_off_does_not_leave_masks_of_the_old_kind(go, ask):
    _, out = go()
    other = plan(ask(long_side=64, overwrite=True))
    with pytest.raises(KeyboardInterrupt), claimed(other):  # before its first mask
        raise KeyboardInterrupt
    summary, _ = go(long_side=64)
    assert summary.kept == 0
    _, fresh = go(long_side=64, out="fresh")
    assert masks(out) == masks(fresh)


@pytest.mark.slow
def test_shards_of_an_earlier_run_are_replaced_however_many(go):
    _, out = go()
    expected = rows(out)
    (shard,) = out.glob("histograms-*")
    for index in range(3):  # as the version before has named them
        shutil.copy(shard, out / f"histograms-0000{index}-of-00003.jsonl")
    go()
    assert rows(out) == expected
    assert len(list(out.glob("histograms-*"))) == 1


@pytest.mark.slow
def test_a_mask_edited_by_hand_is_kept_and_counted_until_edits_are_discarded(go):
    first, out = go()
    expected = masks(out)
    edited = Image.open(out / "masks/a/0.png")
    edited.paste(VOC.names.index("cat"), (0, 0, *edited.size))
    edited.save(out / "masks/a/0.png")
    by_hand = masks(out)
    for _ in range(2):
        summary, _ = go()
        assert (summary.masks, summary.kept, summary.edited) == (5, 5, 1)
        assert masks(out) == by_hand
    assert summary.pixels != first.pixels
    (row,) = (row for row in rows(out) if row["recipe"] is None)
    assert (row["mask"], [*row["pixels"]]) == ("masks/a/0.png", ["cat"])
    summary, _ = go(long_side=64, overwrite=True)
    assert (summary.kept, summary.edited) == (1, 1)
    assert masks(out)["masks/a/0.png"] == by_hand["masks/a/0.png"]
    summary, _ = go(overwrite=True, discard_edits=True)
    assert (summary.kept, summary.edited) == (0, 0)
    assert masks(out) == expected


@pytest.mark.slow
def test_a_file_of_somebody_elses_in_a_masks_place_is_left_alone_by_all_options(go, photos):
    _, out = go()
    (out / "masks/a/0.png").write_text("notes on this photo")
    foreign = masks(out)
    for options in ({}, {}, {"overwrite": True, "discard_edits": True}):
        summary, _ = go(**options)
        assert (summary.masks, summary.rejected) == (4, 1)
        assert summary.causes == {"write: ForeignMask": 1}
        (reject,) = rows(out, "rejected")
        assert reject["image"] == str(photos / "a/0.jpg")
        assert "not overwritten: move it away" in reject["detail"]
        assert masks(out) == foreign


@pytest.mark.slow
def test_an_archive_that_has_moved_keeps_its_masks(go, photos, tmp_path):
    _, out = go()
    before = times(out)
    shutil.copytree(photos, tmp_path / "elsewhere")
    with pytest.raises(UserError, match="--moved"):
        go(tmp_path / "elsewhere")
    summary, _ = go(tmp_path / "elsewhere", moved=True)
    assert summary.kept == 5
    assert times(out) == before
    assert all(row["image"].startswith(f"{tmp_path}/elsewhere/") for row in rows(out))
    assert go(tmp_path / "elsewhere")[0].kept == 5


@pytest.mark.slow
def test_masks_outside_the_input_stay_and_are_counted(go, photos):
    _, out = go()
    before = times(out)
    (photos / "a/0.jpg").unlink()
    summary, _ = go()
    assert (summary.images, summary.kept, summary.outside) == (4, 4, 1)
    assert times(out) == before
    assert len(rows(out)) == 4


@pytest.mark.slow
def test_masks_are_replaced_and_not_deleted_first(go, monkeypatch):
    _, out = go()
    deleted = []
    delete = Files.delete

    def note(self, path):
        deleted.append(path)
        delete(self, path)

    monkeypatch.setattr(Files, "delete", note)
    summary, _ = go(long_side=64, overwrite=True)
    assert summary.kept == 0
    assert len(masks(out)) == 5
    assert deleted
    assert not [path for path in deleted if "/masks/" in path]


# Names


@pytest.mark.slow
def test_clashing_names_keep_their_extensions_and_resume(go, tmp_path):
    source = tmp_path / "clash"
    for name in ("a.jpg", "a.png", "a.jpg.png", "b.jpg"):
        picture(source / name)
    _, out = go(source)
    assert sorted(masks(out)) == [
        "masks/a.jpg.png",
        "masks/a.jpg.png.png",
        "masks/a.png.png",
        "masks/b.png",
    ]
    summary, _ = go(source)
    assert summary.kept == 4


@pytest.mark.slow
def test_a_mask_name_that_passes_to_another_photo_is_done_again(go, tmp_path):
    source = tmp_path / "clash"
    picture(source / "a.jpg", (40, 30))
    picture(source / "a.jpg.png", (70, 50))
    go(source)
    picture(source / "a.png", (20, 20))
    _, out = go(source)
    sizes = {Path(row["image"]).name: (row["width"], row["height"]) for row in rows(out)}
    assert sizes == {"a.jpg": (40, 30), "a.jpg.png": (70, 50), "a.png": (20, 20)}


ODD = ("*.jpg", "a[1].jpg", "a?.jpg", "[!x].jpg", "%41.jpg", "# é.jpg")
PLAIN = ("a1.jpg", "ab.jpg", "b.jpg", "A.jpg")


def stored(out):
    """The masks of OUT on disk or in a store, and of each its version."""
    files = Files()
    return {
        file.path.rpartition("/")[2]: (files.read(file.path), file.version)
        for file in files.list(f"{out}/masks")
    }


# A store whose keys are no patterns, and a disk whose names are none.
@pytest.mark.slow
@pytest.mark.parametrize(
    ("where", "redone"), [("{}/o[u]t*", ODD[0]), ("memory://bucket/o[u]t*", ODD[1])]
)
def test_doing_a_photo_again_touches_no_other_mask(ask, memory, tmp_path, redone, where):
    for index, name in enumerate((*ODD, *PLAIN)):
        picture(tmp_path / "in" / name, (20 + index, 20))
    request = ask(tmp_path / "in", out=where.format(tmp_path))
    segment(request)
    before = stored(request.output)
    assert len(before) == 10
    mask = redone.replace(".jpg", ".png")

    picture(tmp_path / "in" / redone, (77, 20))
    assert segment(request).kept == 9
    after = stored(request.output)
    assert after.pop(mask) != before[mask]
    assert after == {name: found for name, found in before.items() if name != mask}

    (tmp_path / "in" / redone).write_text("no image any more")
    summary = segment(request)
    assert (summary.kept, summary.rejected) == (9, 1)
    assert stored(request.output) == after


# What is taken and what is written


@pytest.mark.slow
def test_overlays_are_written_and_added_later(go):
    _, out = go()
    before = times(out)
    added, _ = go(overlays=True)
    assert (added.kept, added.added) == (5, {"overlays": 5})
    assert "nothing to do" not in report(added)[0]
    assert times(out) == before
    assert sorted(path.name for path in out.glob("overlays/**/*.jpg")) == [
        f"{index}.jpg" for index in range(5)
    ]
    summary, _ = go(overlays=True)
    assert (summary.kept, summary.added) == (5, {})
    assert "nothing to do" in report(summary)[0]


@pytest.mark.slow
def test_an_overlay_goes_with_its_mask(go):
    _, out = go(overlays=True)
    go(long_side=64, overwrite=True)
    assert not list(out.glob("overlays/**/*.jpg"))
    go(long_side=64, overlays=True)
    assert len(list(out.glob("overlays/**/*.jpg"))) == 5


def test_limit_takes_the_first_by_name(go):
    _, out = go(limit=2)
    assert sorted(masks(out)) == ["masks/a/0.png", "masks/a/2.png"]


@pytest.mark.slow
def test_output_inside_input_is_not_segmented(go):
    for _ in range(3):
        _, out = go(out="photos/out", overlays=True)
    assert len(rows(out)) == 5


def test_all_files_tries_files_without_an_extension(go, photos):
    (photos / "a/0.jpg").rename(photos / "a/zero")
    _, out = go(all_files=True)
    assert "masks/a/zero.png" in masks(out)


@pytest.mark.slow
def test_a_remote_model_makes_the_masks_of_its_local_copy(go, tiny_model, memory):
    for path in Path(tiny_model).rglob("*"):
        if path.is_file():
            name = path.relative_to(tiny_model).as_posix()
            Files().write(f"memory://bucket/model/{name}", path.read_bytes())
    _, here = go(out="here")
    _, out = go(model="memory://bucket/model")
    assert masks(out) == masks(here)


# The steps, as another program would take them


def tree(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
    }


@pytest.mark.slow
def test_the_steps_one_by_one(ask, go, tmp_path):
    planned = plan(ask())
    load(planned)
    assert not (tmp_path / "out").exists()
    assert planned.since is None

    with claimed(planned) as ours:
        assert {path.name for path in (tmp_path / "out").iterdir()} >= {"lock", "run.json"}
        noted = json.loads((tmp_path / "out/run.json").read_text())
        assert (noted["run"], noted["recipe"]) == (ours.out.run, planned.recipe.to_json())
        assert noted["root"] == planned.listing.root
        assert (ours.since, ours.earlier_runs.shards) == (None, ())

        ready = stage(ours)
        assert ready == ours  # a local run copies nothing
        assert not (tmp_path / "out/masks").exists()

        summary = run(ready)
    text, status, reason = report(summary)
    assert (status, reason) == (0, "")
    assert f"results: {tmp_path}/out" in text
    assert summary.run == ours.out.run
    assert summary.options == json.loads(json.dumps(ready.recorded))
    assert summary.recipe == planned.recipe.to_json()
    _, whole = go(out="whole")
    assert masks(tmp_path / "out") == masks(whole)
    assert not (tmp_path / "out/lock").exists()


@pytest.mark.slow
def test_a_claim_of_an_output_that_is_there_takes_its_summary_away_and_keeps_its_rows(go, ask):
    first, out = go()
    before, shards = times(out), sorted(path.name for path in out.glob("*.jsonl"))

    def interrupted():
        with claimed(plan(ask())) as ours:
            assert sorted(ours.earlier_runs.shards) == shards == sorted(first.shards)
            assert not (out / "summary.json").exists()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert times(out) == before
    assert sorted(path.name for path in out.glob("*.jsonl")) == shards
    assert json.loads((out / "run.json").read_text())["shards"] == first.shards
    summary, _ = go()
    assert summary.kept == 5
    assert not (out / "lock").exists()


@pytest.mark.slow
def test_what_has_been_done_since_the_plan_is_looked_at_again(go, ask):
    """Another job may have ended in OUT between a plan and its claim."""
    planned = plan(ask())
    go(long_side=64)
    with pytest.raises(UserError, match="long side 64, not 96"), claimed(planned):
        pass
    again = plan(ask(long_side=64))
    summary, out = go(long_side=64)
    with claimed(again) as ours:
        assert ours.earlier_runs.shards == tuple(summary.shards)
        assert len(run(stage(ours)).shards) == 2
    assert len(list(out.glob("*.jsonl"))) == 2


def test_an_output_that_is_claimed_is_refused(ask):
    planned = plan(ask())
    with claimed(planned):
        with pytest.raises(UserError, match=r"another job is writing there \(process \d+ on"):
            segment(ask())
        assert planned.out.files.exists(f"{planned.out.path}/lock/1")


def test_claiming_an_output_whose_name_cannot_be_is_the_users_error(ask, tmp_path):
    planned = plan(ask(out="file/out"))
    (tmp_path / "file").write_text("in the way")
    message = r"file/out: cannot be written: .*choose another --output"
    with pytest.raises(UserError, match=message), claimed(planned):
        pass


@pytest.mark.slow
def test_what_ends_a_job_is_told_with_how_far_it_has_come(go, tmp_path, monkeypatch):
    monkeypatch.setattr(windows, "PHOTOS_PER_WINDOW", 1)
    write = Files.write
    written = []

    def fill(self, path, data, **options):
        if "/masks/" in path:
            written.append(path)
            if len(written) > 3:
                raise OSError(28, "No space left on device", path)
        return write(self, path, data, **options)

    monkeypatch.setattr(Files, "write", fill)
    with pytest.raises(JobError) as ended:
        go(workers=1)
    message = str(ended.value)
    assert "No space left on device; free some space" in message
    assert message.endswith("; 3 of 5 images are done; run the same command again to continue")
    assert "\n" not in message
    assert not (tmp_path / "out/summary.json").exists()
    monkeypatch.undo()
    summary, _ = go()
    assert (summary.masks, summary.kept, summary.rejected) == (5, 3, 0)


@pytest.mark.slow
def test_a_report_tells_of_too_many_rejects(go, photos):
    (photos / "bad.jpg").write_text("bad")
    summary, out = go()
    for limit, status in [(None, 0), ("1", 0), ("50%", 0), ("0", 3), ("10%", 3)]:
        assert report(summary, limit)[1] == status, limit
    assert report(summary, "10%")[2] == (
        f"more than 10% of the images were rejected; see {out}/rejected-*.jsonl"
    )
    none, out = go(photos / "bad.jpg", out="none")
    assert report(none)[1:] == (3, f"no image got a mask; see {out}/rejected-*.jsonl")


# Runners elsewhere, whose graphs are planned and never run here

FLINK = ("--runner", "FlinkRunner")
OUT = "memory://bucket/out"


@pytest.fixture
def remote(ask, memory, tmp_path):
    """A request whose photos, list and OUT lie in a store, for Flink."""
    Files().write("memory://bucket/in/a.jpg", picture_bytes(tmp_path / "a.jpg"))
    (tmp_path / "list.txt").write_text("memory://bucket/in/a.jpg\n")

    def make(*inputs, out=OUT, **options):
        options = {"beam_options": FLINK} | options
        return ask(*(inputs or ["memory://bucket/in"]), out=out, **options)

    return make


def test_a_local_model_and_list_are_copied_for_a_remote_runner(
    remote, memory, tiny_model, tmp_path
):
    request = remote(f"@{tmp_path}/list.txt", "memory://bucket/in")
    before = set(memory.store)
    planned = plan(request)
    assert set(memory.store) == before
    with claimed(planned) as ours:
        staged = stage(ours)
    copied = staged.engine.model
    assert copied == f"{OUT}/staged/model-{staged.model.fingerprint[:12]}"
    assert Path(tiny_model, "trained.weights.h5").is_file()  # which no worker needs
    names = {file.path.removeprefix(f"{copied}/") for file in Files().list(copied)}
    assert names == {"model.json", "saved_model/saved_model.pb"}
    assert models.load(copied, Files()).description == models.describe(tiny_model, Files())
    (list_source, folder) = staged.sources
    assert list_source == planned.sources[0]._replace(where=f"{OUT}/staged/input-0.txt")
    assert Files().read(list_source.where) == (tmp_path / "list.txt").read_bytes()
    assert folder == planned.sources[1]
    # The same command again finds its own recipe, wherever the model has been copied to.
    assert staged.recipe == planned.recipe == plan(request).earlier_runs.recipe


def test_nothing_is_copied_where_workers_can_read_it(remote, memory, tiny_model, tmp_path):
    shared = plan(remote(f"@{tmp_path}/list.txt", shared_disk=True))
    assert stage(shared) == shared
    Files().write("memory://bucket/list.txt", b"memory://bucket/in/a.jpg\n")
    for path in Path(tiny_model).rglob("*"):
        if path.is_file():
            name = path.relative_to(tiny_model).as_posix()
            Files().write(f"memory://bucket/model/{name}", path.read_bytes())
    before = set(memory.store)
    stored = plan(remote("@memory://bucket/list.txt", model="memory://bucket/model"))
    assert stage(stored) == stored
    assert set(memory.store) == before


def test_a_model_that_cannot_be_copied_is_the_users_error(remote, memory, monkeypatch):
    planned = plan(remote())

    def refuse(self, path, data, **options):
        raise PermissionError(f"{path}: permission denied")

    monkeypatch.setattr(Files, "write", refuse)
    with pytest.raises(UserError, match=r"cannot be copied to memory://bucket/out: .*permission"):
        stage(planned)


SECRETS = ["s3.secret", "s3.key", "gs.token", "az.connection_string", "az.sas_token"]


@pytest.mark.slow
def test_a_secret_is_written_nowhere(ask, tmp_path):
    request = ask(storage_options=dict.fromkeys(SECRETS, "hush-hush"))
    planned = plan(request)
    assert planned.out.files.options  # it does arrive where it is needed
    summary = segment(request)
    for shown in (request, planned, summary, planned.out, planned.out.files):
        assert "hush-hush" not in repr(shown)
    for path in (tmp_path / "out").rglob("*"):
        assert path.is_dir() or b"hush-hush" not in path.read_bytes()
