"""``fcn-beam evaluate`` on real files; ``segment`` is run for real beside it."""

import json
import shutil
import signal
import socket
import subprocess
import sys

import apache_beam as beam
import numpy as np
import pytest
from PIL import Image

from model_build.data.labels import VOC, VOID
from model_build.scores import confusion_matrix
from pipeline.cli import main
from pipeline.network.handler import SegmentationHandler


@pytest.fixture
def fcn_beam(monkeypatch, capsys):
    """Runs a command in this process; returns its status and what it printed."""

    def run(*arguments):
        monkeypatch.setattr("sys.argv", ["fcn-beam", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            main.main()
        printed = capsys.readouterr()
        return stop.value.code, printed.out, printed.err

    return run


@pytest.fixture
def data(photos, tmp_path):
    """The photos in VOC layout with random true masks; those of one photo are all void."""
    folder = tmp_path / "data"
    for part in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (folder / part).mkdir(parents=True)
    rng = np.random.default_rng(1)
    names = []
    for photo in sorted(photos.glob("*/*.jpg")):
        shutil.copy(photo, folder / "JPEGImages")
        with Image.open(photo) as image:
            width, height = image.size
        blocks = rng.choice(np.array([0, 0, 2, 7, 15, 20, VOID], np.uint8), (20, 20))
        ids = np.kron(blocks, np.ones((10, 10), np.uint8))[:height, :width]
        mask = Image.fromarray(ids if photo.stem != "4" else np.full_like(ids, VOID))
        mask.putpalette(VOC.palette)
        mask.save(folder / "SegmentationClass" / f"{photo.stem}.png")
        names.append(photo.stem)
    (folder / "ImageSets/Segmentation/val.txt").write_text("".join(f"{n}\n" for n in names))
    return folder


@pytest.fixture
def masks(data, tmp_path):
    """A folder of predictions: the truths, and background where those are void."""
    folder = tmp_path / "predicted"
    folder.mkdir()
    for path in (data / "SegmentationClass").iterdir():
        ids = as_ids(path)
        Image.fromarray(np.where(ids == VOID, 0, ids).astype(np.uint8)).save(folder / path.name)
    return folder


def as_ids(path):
    with Image.open(path) as image:
        return np.array(image)


def by_hand(data, masks):
    pairs = [(as_ids(path), as_ids(masks / path.name)) for path in data.glob("Segm*/*.png")]
    return sum(confusion_matrix(truth, prediction, 21) for truth, prediction in pairs).tolist()


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        [],
        ["--long-side", "64", "--engine", "graph", "--batch-size", "2", "--workers", "2"],
    ],
)
def test_a_model_is_scored_by_the_masks_that_segment_writes(
    fcn_beam, data, tiny_model, tmp_path, monkeypatch, options
):
    ran, load = [], SegmentationHandler.load_model
    monkeypatch.setattr(
        SegmentationHandler, "load_model", lambda self: ran.append(self.options) or load(self)
    )
    out = tmp_path / "out"
    model = ["--model", tiny_model]
    status, _, err = fcn_beam("segment", data / "JPEGImages", "--output", out, *model, *options)
    assert status == 0, err
    reports = []
    for source in ([*model, *options], ["--masks", out / "masks"]):
        status, printed, err = fcn_beam("evaluate", *source, "--data", data, "--json", "-")
        assert status == 0, err
        reports.append(json.loads(printed))
    of_model, of_masks = reports
    assert of_model["confusion_matrix"] == by_hand(data, out / "masks")
    sources = [report.pop("source") for report in reports]
    assert of_model == of_masks
    assert sources[0]["fingerprint"] == sources[1]["fingerprint"]
    assert sources[1]["masks"] == str(out / "masks")
    assert of_model["images"] == 5
    assert len(ran) > 1
    assert len(set(ran)) == 1  # both runs ran the network alike


def test_the_table_and_the_file_say_the_same(fcn_beam, data, masks, tmp_path):
    file = tmp_path / "scores.json"
    status, printed, _ = fcn_beam("evaluate", "--masks", masks, "--data", data, "--json", file)
    assert status == 0
    report = json.loads(file.read_text())
    assert report["scores"] == dict.fromkeys(report["scores"], 1.0)
    assert len(report["scores"]) == 4
    assert report["confusion_matrix"] == by_hand(data, masks)
    assert (report["split"], report["data"]) == ("val", str(data))
    ignored = sum((as_ids(path) == VOID).sum() for path in data.glob("Segm*/*.png"))
    assert report["ignored_pixels"] == ignored > 0
    assert set(report["absent"]) == set(VOC.names) - {VOC.names[n] for n in (0, 2, 7, 15, 20)}
    assert f"left out of the mean: {', '.join(report['absent'])}" in printed
    assert "1.0000 (5 of 21 classes)" in printed


def test_a_network_that_predicts_only_background_scores_badly(fcn_beam, data, masks):
    for path in masks.iterdir():
        Image.fromarray(np.zeros_like(as_ids(path))).save(path)
        truth = as_ids(data / "SegmentationClass" / path.name)
        truth[truth.shape[0] // 8 :] = 0
        Image.fromarray(truth).save(data / "SegmentationClass" / path.name)
    _, printed, _ = fcn_beam("evaluate", "--masks", masks, "--data", data, "--json", "-")
    report = json.loads(printed)
    classes = 21 - len(report["absent"])
    accuracy = report["scores"]["pixel_accuracy"]
    assert classes > 3
    assert accuracy > 0.85
    assert report["scores"]["miou"] == pytest.approx(accuracy / classes)
    assert report["scores"]["mean_accuracy"] == pytest.approx(1 / classes)


def test_missing_predictions_are_an_error_that_names_them(fcn_beam, data, masks, tmp_path):
    (masks / "0.png").unlink()
    (masks / "3.png").unlink()
    file = tmp_path / "scores.json"
    command = ["evaluate", "--masks", masks, "--data", data, "--json", file]
    status, printed, err = fcn_beam(*command)
    assert (status, printed) == (1, "")
    assert "2 of 5 images" in err
    for name in ("0", "3"):
        assert f"{masks / name}.png: no prediction: no such file" in err
    report = json.loads(file.read_text())
    assert report["scores"] is None
    assert "confusion_matrix" not in report
    assert [fault["name"] for fault in report["faults"]] == ["0", "3"]

    status, printed, _ = fcn_beam(*command, "--skip-missing")
    assert status == 0
    assert "2 (0, 3)" in printed
    report = json.loads(file.read_text())
    assert (report["images"], report["skipped"]) == (3, ["0", "3"])
    for name in ("0", "3"):
        (data / f"SegmentationClass/{name}.png").unlink()
    assert report["confusion_matrix"] == by_hand(data, masks)


@pytest.mark.parametrize(
    ("broken", "skip"), [("prediction", []), ("prediction", ["--skip-missing"]), ("truth", [])]
)
def test_an_unreadable_file_is_an_error_even_if_missing_ones_are_skipped(
    fcn_beam, data, masks, broken, skip
):
    path = {"prediction": masks, "truth": data / "SegmentationClass"}[broken] / "1.png"
    path.write_bytes(path.read_bytes()[:60])
    status, printed, err = fcn_beam("evaluate", "--masks", masks, "--data", data, *skip)
    assert (status, printed) == (1, "")
    assert f"{path}: bad {broken}: cannot be read" in err
    assert "Traceback" not in err


def test_ids_beyond_the_labels_are_an_error_that_names_the_file(fcn_beam, data, masks):
    ids = as_ids(masks / "2.png")
    ids[0, 0] = 21
    Image.fromarray(ids).save(masks / "2.png")
    status, _, err = fcn_beam("evaluate", "--masks", masks, "--data", data)
    assert status == 1
    assert f"{masks / '2.png'}: bad prediction: has class id 21, but" in err


@pytest.mark.slow
def test_a_photo_that_segment_rejects_has_no_prediction(fcn_beam, data, tiny_model):
    (data / "JPEGImages/0.jpg").write_bytes((data / "JPEGImages/0.jpg").read_bytes()[:200])
    (data / "JPEGImages/1.jpg").unlink()
    (data / "SegmentationClass/1.png").write_text("bad")
    command = ["evaluate", "--model", tiny_model, "--data", data]
    status, _, err = fcn_beam(*command)
    assert status == 1
    assert f"{data / 'JPEGImages/0.jpg'}: no prediction: decode: " in err
    assert f"{data / 'JPEGImages/1.jpg'}: no prediction: no such file" in err
    assert f"{data / 'SegmentationClass/1.png'}: bad truth: " in err
    assert "2 of 5 images" in err
    (data / "SegmentationClass/1.png").unlink()
    status, printed, _ = fcn_beam(*command, "--skip-missing", "--json", "-")
    assert status == 0
    assert json.loads(printed)["skipped"] == ["0", "1"]


def test_different_sizes_are_reported(fcn_beam, data, masks):
    half = Image.open(masks / "4.png").resize((100, 60), Image.Resampling.NEAREST)
    half.save(masks / "4.png")
    status, printed, _ = fcn_beam("evaluate", "--masks", masks, "--data", data)
    assert status == 0
    assert "1, to the true mask's size (4: 100×60 to 200×120)" in printed


def test_paired_folders_with_labels_of_their_own(fcn_beam, tmp_path):
    for name in ("images", "masks"):
        (tmp_path / "pairs" / name / "val").mkdir(parents=True)
    labels = [{"name": "sky", "color": [0, 0, 9]}, {"name": "sea", "color": [0, 9, 0]}]
    (tmp_path / "pairs/labels.json").write_text(json.dumps({"labels": labels}))
    Image.new("RGB", (4, 2)).save(tmp_path / "pairs/images/val/a.png")
    Image.new("RGB", (4, 2), (0, 9, 0)).save(tmp_path / "pairs/masks/val/a.png")
    (tmp_path / "out/val").mkdir(parents=True)
    Image.new("L", (4, 2), 1).save(tmp_path / "out/val/a.png")
    arguments = ["--masks", tmp_path / "out", "--data", tmp_path / "pairs", "--json", "-"]
    status, printed, _ = fcn_beam("evaluate", *arguments)
    assert status == 0
    report = json.loads(printed)
    assert report["confusion_matrix"] == [[0, 0], [0, 8]]
    assert report["absent"] == ["sky"]


@pytest.mark.slow
@pytest.mark.parametrize("source", ["model", "masks"])
def test_a_model_of_other_labels_is_refused(fcn_beam, data, tiny_model, tmp_path, source):
    out = tmp_path / "out"
    fcn_beam("segment", data / "JPEGImages", "--output", out, "--model", tiny_model)
    labels = VOC.to_json()
    labels["labels"][3]["name"] = "parrot"
    (data / "labels.json").write_text(json.dumps(labels))
    where = {"model": tiny_model, "masks": out / "masks"}[source]
    status, _, err = fcn_beam("evaluate", f"--{source}", where, "--data", data)
    assert status == 2
    assert "label 3 is 'bird', not 'parrot'" in err
    assert err.count("\n") == 1
    labels["labels"].pop()
    labels["labels"][3]["name"] = "bird"
    (data / "labels.json").write_text(json.dumps(labels))
    status, _, err = fcn_beam("evaluate", f"--{source}", where, "--data", data)
    assert status == 2
    assert "21 labels, not 20" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "either --model or --masks"),
        (["--masks", "predicted", "--model", "m"], "either --model or --masks"),
        (["--masks", "predicted", "--engine", "xla"], "--engine goes with --model"),
        (["--masks", "predicted", "--long-side", "9"], "--long-side goes with --model"),
        (["--masks", "predicted", "--tile"], "--tile goes with --model"),
        (["--masks", "predicted", "--splitt", "val"], "did you mean --split?"),
        (["--masks", "predicted", "--regoin", "x"], "did you mean --region?"),
        (["--masks", "predicted", "photos"], "unexpected argument 'photos'"),
        (["--masks", "predicted", "--runner", "DataflowRunner"], "runs on this machine"),
        (["--masks", "predicted", "--split", "test"], "test.txt: cannot be read"),
        (["--masks", "predicted", "--split", "twice"], "1 is 2 times in the split twice"),
        (["--masks", "predicted", "--json", "none/a.json"], "its folder does not exist"),
        (["--masks", "nowhere"], "nowhere: no such folder"),
        (["--masks", "."], "did you mean ./predicted?"),
        (["--masks", "gss://bucket/masks"], "unknown scheme gss://; did you mean gs?"),
        (["--masks", "memory://bucket/masks"], "memory://bucket/masks: no such folder"),
        (["--data", "memory://bucket/data", "--masks", "predicted"], "has neither the folders im"),
        (
            ["--masks", "predicted", "--storage-option", "x.y=1"],
            "--storage-option x.y: must be one of",
        ),
        (["--model", "predicted"], "not a saved model"),
    ],
)
def test_a_user_error_is_one_line_and_status_2(
    fcn_beam, data, masks, memory, monkeypatch, arguments, message
):
    monkeypatch.chdir(data.parent)
    (data / "ImageSets/Segmentation/twice.txt").write_text("0\n1\n1\n")
    if arguments == ["--masks", "."]:
        shutil.rmtree(data / "SegmentationClass")  # the truths would be found as well
    status, printed, err = fcn_beam("evaluate", "--data", "data", *arguments)
    assert (status, printed) == (2, "")
    assert message in err
    assert err.count("\n") == 1


def test_an_all_void_split_has_no_scores(fcn_beam, data, masks):
    (data / "ImageSets/Segmentation/void.txt").write_text("4\n")
    arguments = ["--masks", masks, "--data", data, "--split", "void"]
    status, printed, err = fcn_beam("evaluate", *arguments)
    assert (status, printed) == (1, "")
    assert "all pixels of the 1 true masks are void" in err


def test_an_interrupt_is_one_line_and_status_130(fcn_beam, data, masks, monkeypatch):
    def interrupted(*arguments):
        try:
            signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt:
            raise RuntimeError("as Beam passes it on") from None

    monkeypatch.setattr(beam.Pipeline, "run", interrupted)
    status, _, err = fcn_beam("evaluate", "--masks", masks, "--data", data)
    assert (status, err.strip()) == (130, "fcn-beam: interrupted")


@pytest.mark.slow
def test_no_network_is_used(fcn_beam, data, tiny_model, monkeypatch):
    def refuse(*arguments, **options):
        raise AssertionError(f"network: {arguments}")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    arguments = ["--model", tiny_model, "--data", data, "--runner", "DirectRunner"]
    status, _, err = fcn_beam("evaluate", *arguments)
    assert status == 0, err


def test_help_imports_nothing_heavy():
    code = (
        "import sys\n"
        "from pipeline.cli.main import fcn_beam\n"
        "fcn_beam.main(['evaluate', '--help'], standalone_mode=False)\n"
        "heavy = {'tensorflow', 'keras', 'apache_beam', 'numpy', 'PIL'} & set(sys.modules)\n"
        "sys.exit(f'imported: {heavy}' if heavy else 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for option in ("--model", "--masks", "--data", "--split", "--json", "--engine", "--long-side"):
        assert option in done.stdout
