"""The whole job on real files, in this process; and its steps, one by one."""

import json
import os
import shutil
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from model_build.data.labels import VOC
from model_build.errors import UserError
from pipeline.jobs import windows
from pipeline.jobs.progress import COUNTS
from pipeline.jobs.segment import Request, claim, network_side, plan, report, run, segment, stage
from pipeline.network import models
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


def all_masks(out):
    return sorted(path for path in out.glob("masks/**/*.png") if path.is_file())


def times(out):
    return {path.name: path.stat().st_mtime_ns for path in all_masks(out)}


def later(path):
    """Makes a source newer than any mask."""
    os.utime(path, (time.time() + 100,) * 2)


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


def test_mask_equals_the_argmax_of_the_keras_model(go, tiny_model, tmp_path):
    import keras

    from model_build.network import fcn  # noqa: F401

    rng = np.random.default_rng(2)
    pixels = np.kron(rng.integers(0, 255, (8, 12, 3), np.uint8), np.ones((8, 8, 1), np.uint8))
    source = tmp_path / "exact"
    source.mkdir()
    Image.fromarray(pixels).save(source / "photo.png")
    _, out = go(source)
    model = keras.models.load_model(f"{tiny_model}/model.keras")
    expected = np.argmax(model.predict(pixels[None], verbose=0)[0], axis=-1)
    with Image.open(out / "masks/photo.png") as mask:
        np.testing.assert_array_equal(np.asarray(mask), expected)


def test_a_local_run_uses_no_network(go, monkeypatch):
    import socket

    def refuse(*arguments, **options):
        raise AssertionError(f"network: {arguments}")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    _, out = go()
    assert len(masks(out)) == 5


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


def test_a_folder_where_a_mask_goes_rejects_just_its_photo(go, tmp_path):
    picture(tmp_path / "in/a.jpg")
    picture(tmp_path / "in/a.png/b.jpg")  # its mask lies in a folder named as the other's mask
    picture(tmp_path / "in/c.jpg")
    (tmp_path / "out/masks/a.png").mkdir(parents=True)
    summary, out = go(tmp_path / "in", overwrite=True)
    assert [row["stage"] for row in rows(out, "rejected")] == ["write"]
    assert rows(out, "rejected")[0]["image"].endswith("in/a.jpg")
    assert sorted(masks(out)) == ["masks/a.png/b.png", "masks/c.png"]
    assert (summary.masks, summary.rejected) == (2, 1)


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


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_masks_do_not_depend_on_the_number_of_workers(go, many_photos, monkeypatch, workers):
    _, whole = go(many_photos, out="whole", workers=1)  # one window, one stream
    monkeypatch.setattr(windows, "PHOTOS", 2)  # many windows, so that all workers have some
    _, out = go(many_photos, workers=workers)
    assert len(masks(out)) == 24
    assert len(set(masks(out).values())) > 20
    assert masks(out) == masks(whole)
    assert [row["pixels"] for row in rows(out)] == [row["pixels"] for row in rows(whole)]


def test_masks_do_not_depend_on_batches(go, photos):
    _, one = go(out="one")
    _, other = go(out="other", batch_size=3)
    assert masks(other) == masks(one)


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
    assert json.loads((out / "summary.json").read_text())["kept"] == 5
    assert [path.name for path in out.glob("rejected-*")] == ["rejected-00000-of-00001.jsonl"]


def test_a_run_cut_off_is_completed_with_the_same_masks(go):
    _, out = go()
    whole, expected = masks(out), rows(out)
    for path in all_masks(out)[::2]:
        path.unlink()
    (out / "summary.json").unlink()
    (out / ".unfinished").mkdir()
    (out / ".unfinished/mask").write_text("half")
    damaged = all_masks(out)[0]
    damaged.write_bytes(damaged.read_bytes()[:50])
    summary, _ = go()
    assert summary.kept == 1
    assert masks(out) == whole
    assert rows(out) == expected
    assert not (out / ".unfinished").exists()


def test_a_newer_source_is_done_again_and_a_failing_one_loses_its_mask(go, photos):
    _, out = go(overlays=True)
    changed, broken = photos / "a/0.jpg", photos / "a/2.jpg"
    Image.new("RGB", (40, 40), "red").save(changed)
    broken.write_text("bad")
    for path in (changed, broken):
        later(path)
    go(overlays=True)
    with Image.open(out / "masks/a/0.png") as mask:
        assert mask.size == (40, 40)
    assert not (out / "masks/a/2.png").exists()
    assert not (out / "overlays/a/2.jpg").exists()
    assert len(list(out.glob("overlays/**/*.jpg"))) == 4
    assert [Path(row["image"]).name for row in rows(out, "rejected")] == ["2.jpg"]
    assert len(rows(out)) == 4


def test_a_newer_source_in_a_list_is_done_again(go, photos, tmp_path):
    listing = tmp_path / "list.txt"
    listing.write_text("".join(f"{path}\n" for path in photos.glob("*/*.jpg")))
    go(f"@{listing}")
    later(photos / "a/0.jpg")
    summary, _ = go(f"@{listing}")
    assert summary.kept == 4


@pytest.mark.parametrize("change", [{"long_side": 64}, {"engine": "graph"}])
def test_other_options_for_the_same_output_are_refused_until_overwrite(go, change):
    _, out = go()
    first = masks(out)
    with pytest.raises(UserError, match="--overwrite"):
        go(**change)
    assert masks(out) == first
    go(**change, overwrite=True)
    summary, _ = go(**change)
    assert summary.kept == 5


def test_overwrite_cut_off_does_not_leave_masks_of_the_old_kind(go, ask):
    _, out = go()
    claim(plan(ask(long_side=64, overwrite=True)))  # killed before its first mask
    summary, _ = go(long_side=64)
    assert summary.kept == 0
    _, fresh = go(long_side=64, out="fresh")
    assert masks(out) == masks(fresh)


def test_shards_of_an_earlier_run_are_replaced_however_many(go):
    _, out = go()
    expected = rows(out)
    (shard,) = out.glob("histograms-*")
    for index in range(3):
        shutil.copy(shard, out / f"histograms-0000{index}-of-00003.jsonl")
    go()
    assert rows(out) == expected


def test_a_foreign_mask_is_done_again(go):
    _, out = go()
    expected = masks(out)
    Image.new("P", (10, 10)).save(out / "masks/a/0.png")
    go()
    assert masks(out) == expected


def test_masks_are_replaced_and_not_deleted_first(go, monkeypatch):
    _, out = go()
    expected = masks(out)
    deleted = []
    delete = Files.delete

    def note(self, path):
        deleted.append(path)
        delete(self, path)

    monkeypatch.setattr(Files, "delete", note)
    summary, _ = go(overwrite=True)
    assert summary.kept == 0
    assert masks(out) == expected
    assert not [path for path in deleted if "/masks/" in path]


# Names


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
    """The masks of OUT on disk or in a store, and of each when it was written."""
    files = Files()
    return {
        file.path.rpartition("/")[2]: (files.read(file.path), file.mtime)
        for file in files.list(f"{out}/masks")
    }


@pytest.mark.parametrize("where", ["{}/o[u]t*", "memory://bucket/o[u]t*"])
@pytest.mark.parametrize("redone", ODD[:2])
def test_doing_a_photo_again_touches_no_other_mask(ask, memory, tmp_path, redone, where):
    for index, name in enumerate((*ODD, *PLAIN)):
        picture(tmp_path / "in" / name, (20 + index, 20))
    request = ask(tmp_path / "in", out=where.format(tmp_path))
    segment(request)
    before = stored(request.output)
    assert len(before) == 10
    mask = redone.replace(".jpg", ".png")

    picture(tmp_path / "in" / redone, (77, 20))
    later(tmp_path / "in" / redone)
    assert segment(request).kept == 9
    after = stored(request.output)
    assert after.pop(mask) != before[mask]
    assert after == {name: found for name, found in before.items() if name != mask}

    (tmp_path / "in" / redone).write_text("no image any more")
    later(tmp_path / "in" / redone)
    summary = segment(request)
    assert (summary.kept, summary.rejected) == (9, 1)
    assert stored(request.output) == after


# What is taken and what is written


def test_overlays_are_written_and_added_later(go):
    _, out = go()
    go(overlays=True)
    assert sorted(path.name for path in out.glob("overlays/**/*.jpg")) == [
        f"{index}.jpg" for index in range(5)
    ]
    summary, _ = go(overlays=True)
    assert summary.kept == 5


def test_an_overlay_goes_with_its_mask(go):
    _, out = go(overlays=True)
    go(long_side=64, overwrite=True)
    assert not list(out.glob("overlays/**/*.jpg"))
    go(long_side=64, overlays=True)
    assert len(list(out.glob("overlays/**/*.jpg"))) == 5


def test_limit_takes_the_first_by_name(go):
    _, out = go(limit=2)
    assert sorted(masks(out)) == ["masks/a/0.png", "masks/a/2.png"]


def test_output_inside_input_is_not_segmented(go):
    for _ in range(3):
        _, out = go(out="photos/out", overlays=True)
    assert len(rows(out)) == 5


def test_all_files_tries_files_without_an_extension(go, photos):
    (photos / "a/0.jpg").rename(photos / "a/zero")
    _, out = go(all_files=True)
    assert "masks/a/zero.png" in masks(out)


def test_a_remote_model_makes_the_masks_of_its_local_copy(go, tiny_model, memory):
    for path in Path(tiny_model).rglob("*"):
        if path.is_file():
            name = path.relative_to(tiny_model).as_posix()
            Files().write(f"memory://bucket/model/{name}", path.read_bytes())
    _, here = go(out="here")
    _, out = go(model="memory://bucket/model")
    assert masks(out) == masks(here)


@pytest.mark.parametrize(("option", "side"), [(None, 96), ("native", None), (64, 64), ("64", 64)])
def test_what_long_side_means(tiny_model, option, side):
    assert network_side(option, models.describe(tiny_model, Files())) == side


# The steps, as another program would take them


def tree(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
    }


def test_the_steps_one_by_one(ask, go, tmp_path):
    before = tree(tmp_path)
    planned = plan(ask())
    assert tree(tmp_path) == before
    assert planned.local
    assert planned.since is None

    claimed = claim(planned)
    assert tree(tmp_path).keys() - before.keys() == {"out", "out/.unfinished", "out/run.json"}
    assert claimed.since == claimed.started == planned.started
    noted = json.loads((tmp_path / "out/run.json").read_text())
    assert noted == {"options": claimed.deciding, "started": claimed.started}

    ready = stage(claimed)
    assert ready == claimed  # a local run copies nothing
    assert not (tmp_path / "out/masks").exists()

    summary = run(ready)
    text, status, reason = report(summary)
    assert (status, reason) == (0, "")
    assert f"results: {tmp_path}/out" in text
    assert summary.options == json.loads(json.dumps(ready.recorded))
    _, whole = go(out="whole")
    assert masks(tmp_path / "out") == masks(whole)


def test_a_plan_of_an_output_that_is_there_writes_nothing_either(go, ask, tmp_path):
    _, out = go()
    before, written = tree(tmp_path), times(out)
    planned = plan(ask())
    assert claim(planned) is planned  # its masks stand
    assert planned.since is not None
    assert (tree(tmp_path), times(out)) == (before, written)


def test_a_plan_needs_an_input(ask):
    with pytest.raises(UserError, match="no INPUT; name a folder"):
        plan(replace(ask(), inputs=[]))


def test_claiming_an_output_that_cannot_be_written_is_the_users_error(ask, tmp_path):
    planned = plan(ask(out="file/out"))
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match=r"file/out: cannot be written: .*choose another --output"):
        claim(planned)


def test_a_report_tells_of_too_many_rejects(go, photos):
    (photos / "bad.jpg").write_text("bad")
    summary, out = go()
    for limit, status in [(None, 0), ("1", 0), ("50%", 0), ("0", 3), ("10%", 3)]:
        assert report(summary, limit)[1] == status, limit
    assert report(summary, "10%")[2] == "more than 10% images were rejected"
    none, out = go(photos / "bad.jpg", out="none")
    assert report(none)[1:] == (3, f"no image got a mask; {out}/rejected-*.jsonl tells why")


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


def test_a_remote_run_keeps_its_runner(remote):
    planned = plan(remote())
    assert not planned.local
    assert planned.beam_options.get_all_options(drop_default=True) == {"runner": "FlinkRunner"}


def test_local_files_are_refused_for_a_remote_runner(remote, photos, tmp_path):
    mixed = tmp_path / "mixed.txt"
    mixed.write_text(f"memory://bucket/in/a.jpg\n{photos}/a/0.jpg\n")
    cases = [
        (remote(photos), f"{photos}: workers elsewhere cannot read it"),
        (remote(f"{photos}/*/*.jpg"), "workers elsewhere cannot read it"),
        (remote(f"{photos}/a/0.jpg"), "a/0.jpg: workers elsewhere cannot read it"),
        (remote("memory://bucket/in", photos), f"{photos}: workers elsewhere cannot read it"),
        (remote(f"@{mixed}"), f"{photos}/a/0.jpg: workers elsewhere cannot read it"),
        (remote(out="out"), f"--output {tmp_path}/out: workers elsewhere cannot write there"),
    ]
    for request, message in cases:
        with pytest.raises(UserError) as refused:
            plan(request)
        assert message in str(refused.value)
        assert "copy it to a store, or add --shared-disk" in str(refused.value)
        assert "\n" not in str(refused.value)
        assert not plan(replace(request, shared_disk=True)).local
        assert plan(replace(request, beam_options=())).local
    assert not (tmp_path / "out").exists()


def test_a_local_model_and_list_are_copied_for_a_remote_runner(
    remote, memory, tiny_model, tmp_path
):
    request = remote(f"@{tmp_path}/list.txt", "memory://bucket/in")
    before = set(memory.store)
    planned = plan(request)
    assert set(memory.store) == before
    staged = stage(claim(planned))
    copied = staged.engine.model
    assert copied == f"{OUT}/model-{staged.model.fingerprint[:12]}"
    assert models.load(copied, Files()).description == models.describe(tiny_model, Files())
    (list_source, folder) = staged.sources
    assert list_source == planned.sources[0]._replace(where=f"{OUT}/input-0.txt")
    assert Files().read(list_source.where) == (tmp_path / "list.txt").read_bytes()
    assert folder == planned.sources[1]
    assert staged.deciding == planned.deciding
    # The same command again finds its own masks' maker, wherever the model has been copied to.
    assert plan(request).since == staged.since


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
        raise PermissionError(f"{path}: no permission")

    monkeypatch.setattr(Files, "write", refuse)
    with pytest.raises(UserError, match=r"cannot be copied to memory://bucket/out: .*permission"):
        stage(planned)


SECRETS = ["s3.secret", "s3.key", "gs.token", "az.connection_string", "az.sas_token"]


@pytest.mark.parametrize("name", SECRETS)
@pytest.mark.parametrize("shared_disk", [False, True])
def test_a_secret_is_not_sent_to_workers_elsewhere(remote, name, shared_disk):
    request = remote(storage_options={name: "hush"}, shared_disk=shared_disk)
    with pytest.raises(UserError, match=rf"--storage-option {name}: a secret is not sent") as told:
        plan(request)
    assert "hush" not in str(told.value)
    plan(remote(storage_options={"s3.anon": "true", "gs.token": "anon"}))


@pytest.mark.parametrize("name", SECRETS)
def test_a_secret_is_written_nowhere(ask, tmp_path, name):
    request = ask(storage_options={name: "hush-hush"})
    planned = plan(request)
    assert planned.out.files.options  # it does arrive where it is needed
    summary = segment(request)
    for shown in (request, planned, summary, planned.out, planned.out.files):
        assert "hush-hush" not in repr(shown)
    for path in (tmp_path / "out").rglob("*"):
        assert path.is_dir() or b"hush-hush" not in path.read_bytes()
