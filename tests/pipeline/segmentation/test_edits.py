"""Nothing that a person made is lost: whole jobs over masks that were edited, or never made."""

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from model_build.common.errors import UserError
from model_build.data.labels import VOC
from pipeline.segmentation import dry_run, plan, run
from tests.pipeline.segmentation.reliability import FILES, contents, masks, pictures, rows, upload

COUNT = 4


@pytest.fixture
def places(tmp_path):
    """INPUT and OUT on local disk."""
    pictures(tmp_path / "in", COUNT)
    return f"{tmp_path}/in", f"{tmp_path}/out"


def as_png(ids, mode, palette=VOC.palette):
    """Class ids as an editor saves them, without the text of the mask."""
    image = Image.fromarray(ids)
    if mode != "L":
        image.putpalette(palette)
        image = image.convert(mode)
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def reordered(ids):
    """The same colours by other indices, as programs that optimise PNGs write them."""
    palette = bytes(VOC.palette[3 * i + c] for i in range(20, -1, -1) for c in range(3))
    return as_png(20 - ids, "P", palette)


SAVED = {
    "0/0.png": lambda ids: as_png(ids, "P"),
    "1/1.png": reordered,
    "2/2.png": lambda ids: as_png(ids, "RGB"),
    "3/3.png": lambda ids: as_png(ids, "L"),
}


def painted(data):
    """The class ids of a mask whose upper half was painted as cat."""
    with Image.open(io.BytesIO(data)) as image:
        ids = np.array(image)
    ids[: len(ids) // 2] = VOC.names.index("cat")
    return ids


def edit(out, name):
    """Paints a mask and saves it in its way of :data:`SAVED`; returns its bytes."""
    data = SAVED[name](painted(FILES.read(f"{out}/masks/{name}")))
    FILES.write(f"{out}/masks/{name}", data)
    return data


@pytest.mark.slow
@pytest.mark.parametrize("place", ["disk", "store"])
def test_edits_are_kept_however_they_were_saved_until_they_are_discarded(
    stub_job, stub_model, places, memory, place
):
    where, out = places
    if place == "store":
        upload(Path(where), "memory://bucket/in")
        where, out = "memory://bucket/in", "memory://bucket/out"
    stub_job(where, out)
    made = masks(out)
    edits = {name: edit(out, name) for name in made}
    # With another model at once: no run with the first one has noted the edits.
    two = stub_model("2" * 64)
    summary = stub_job(where, out, model=two, overwrite=True, verify=True)
    assert (summary.masks, summary.kept, summary.edited) == (COUNT, COUNT, COUNT)
    assert "edited by hand" in summary.table()
    assert masks(out) == edits
    for row in rows(out):
        ids = painted(made[row["mask"].removeprefix("masks/")])
        counts = {VOC.names[index]: int((ids == index).sum()) for index in np.unique(ids)}
        assert (row["recipe"], row["pixels"]) == (None, counts)
    # Their number is printed before anything is written.
    before, noted = contents(out), []

    def say(text):
        noted.append(text)
        assert contents(out) == before

    request = plan.Request([where], out, model=two, discard_edits=True)
    dry_run.dry_run(plan.plan(request), say)
    assert noted[0] == f"edited masks to discard: {COUNT}"
    noted.clear()
    summary = run.segment(request, say)
    assert noted == [f"edited masks to discard: {COUNT}"]
    assert (summary.masks, summary.kept, summary.edited) == (COUNT, 0, 0)
    assert not any(masks(out)[name] in (made[name], edits[name]) for name in made)


def test_the_python_call_prints_the_number_to_standard_error(stub_job, places, capfd):
    stub_job(*places, discard_edits=True)
    assert "edited masks to discard: 0\n" in capfd.readouterr().err


def another(path):
    buffer = io.BytesIO()
    Image.new("RGB", (30, 20), "blue").save(buffer, "PNG")
    FILES.write(path, buffer.getvalue())


@pytest.mark.slow
def test_a_photo_that_changes_under_an_edit_is_a_reject_until_edits_are_discarded(stub_job, places):
    where, out = places
    photo = f"{where}/2/2.png"
    stub_job(where, out)
    data, before = edit(out, "2/2.png"), FILES.read(photo)
    another(photo)
    for options in ({}, {"overwrite": True, "verify": True}):
        summary = stub_job(where, out, **options)
        assert (summary.masks, summary.causes) == (COUNT - 1, {"write: EditedMask": 1})
        (reject,) = rows(out, "rejected")
        assert reject["image"] == photo
        assert reject["detail"].startswith(f"{out}/masks/2/2.png: was edited by hand, but its im")
        assert masks(out)["2/2.png"] == data
    FILES.write(photo, before)
    assert stub_job(where, out).edited == 1
    another(photo)
    summary = stub_job(where, out, discard_edits=True)
    assert (summary.masks, summary.rejected, summary.edited) == (COUNT, 0, 0)
    with Image.open(f"{out}/masks/2/2.png") as mask:
        assert mask.size == (30, 20)


@pytest.mark.slow
def test_an_edit_outlives_its_photo(stub_job, places):
    where, out = places
    photo, listed = f"{where}/2/2.png", f"@{where}.txt"
    FILES.write(f"{where}.txt", "".join(f"{where}/{name}\n" for name in SAVED).encode())
    stub_job(listed, out)
    data, before = edit(out, "2/2.png"), FILES.read(photo)
    FILES.delete(photo)
    for _ in range(2):
        summary = stub_job(listed, out, overwrite=True)
        assert (summary.masks, summary.causes) == (COUNT - 1, {"read: FileNotFoundError": 1})
        assert masks(out)["2/2.png"] == data
    FILES.write(photo, before)
    assert stub_job(listed, out).edited == 1


@pytest.mark.slow
def test_masks_of_other_labels_are_known_as_made_by_a_run(
    stub_job, stub_model, places, monkeypatch
):
    where, out = places
    stub_job(where, out)
    for name in contents(out):  # their rows are lost: the text of each is to prove it
        if name.endswith(".jsonl"):
            FILES.delete(f"{out}/{name}")
    other = replace(VOC, colors=tuple((index, 2, 3) for index in range(len(VOC))))
    monkeypatch.setattr("tests.pipeline.segmentation.reliability.VOC", other)
    summary = stub_job(where, out, model=stub_model("2" * 64), overwrite=True)
    assert (summary.masks, summary.kept, summary.rejected) == (COUNT, 0, 0)


UNUSABLE = {
    "0/0.png": as_png(np.zeros((5, 5), np.uint8), "RGB"),
    "1/1.png": as_png(np.zeros((24, 25), np.uint8), "RGB", bytes((1, 2, 3)) * 256),
    "2/2.png": b"notes on this photo",
    "new.png": as_png(np.full((20, 30), 8, np.uint8), "P"),  # where no run has made a mask
}


@pytest.mark.slow
def test_what_is_no_edit_is_left_alone_by_any_option_and_may_be_corrected(stub_job, places):
    where, out = places
    stub_job(where, out)
    edits = {name: edit(out, name) for name in masks(out)}
    another(f"{where}/new.png")
    for name, data in UNUSABLE.items():
        FILES.write(f"{out}/masks/{name}", data)
    for options in ({}, {"overwrite": True, "discard_edits": True}):
        summary = stub_job(where, out, **options)
        assert (summary.masks, summary.causes) == (1, {"write: ForeignMask": len(UNUSABLE)})
        assert masks(out).items() >= UNUSABLE.items()
        assert all("not overwritten: move it" in row["detail"] for row in rows(out, "rejected"))
    for name in ("0/0.png", "1/1.png", "2/2.png"):
        FILES.write(f"{out}/masks/{name}", edits[name])
    summary = stub_job(where, out)
    assert (summary.edited, summary.rejected) == (3, 1)


@pytest.mark.parametrize(
    "options",
    [{}, {"overwrite": True}, {"overwrite": True, "discard_edits": True, "moved": True}],
    ids=["", "overwrite", "all"],
)
def test_a_data_folder_with_true_masks_is_refused_as_an_output(stub_job, places, options):
    data, _ = places
    FILES.write(f"{data}/masks/2/2.png", as_png(np.zeros((24, 26), np.uint8), "P"))
    before = contents(data)
    with pytest.raises(UserError) as refused:
        stub_job(f"{data}/2", data, **options)
    assert str(refused.value) == (
        f"{data}/masks: contains files, but no run.json of this version says how they were made; "
        "choose another --output"
    )
    assert contents(data) == before
