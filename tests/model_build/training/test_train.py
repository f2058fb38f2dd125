import dataclasses
import sys

import numpy as np
import pytest
from PIL import Image

from model_build import artifact
from model_build.common.errors import UserError
from model_build.network.fcn import BACKBONE, SCORES, fcn
from model_build.training import checkpoints
from model_build.training.history import read_history
from model_build.training.recipes import RECIPES


@pytest.mark.slow
def test_training_improves_the_loss(long_training):
    rows = read_history(long_training.output)
    assert float(rows[-1]["loss"]) < 0.8 * float(rows[0]["loss"])
    assert float(rows[-1]["val_loss"]) < 0.95 * np.log(3)
    assert long_training.description.training["val_pixel_accuracy"] > 0.5


@pytest.mark.slow
def test_the_saved_folder_describes_the_training(long_training, toy_data, toy_labels, quick):
    description = artifact.describe(str(long_training.output))
    assert description.labels == toy_labels
    assert description.backbone == "tiny"
    assert description.stride == 32
    assert description.long_side == 100
    assert description.normalisation["channels"] == "RGB"
    report = description.training
    assert report["data"] == toy_data.name
    assert report["images"] == 6
    assert report["val_images"] == 2
    recipe = dataclasses.asdict(dataclasses.replace(quick, epochs=6))
    assert report["recipe"] == {**recipe, "scales": [0.75, 1.5]}
    assert report["crop"] == [64, 64]


@pytest.mark.slow
def test_the_report_has_the_keys_that_it_always_had(long_training):
    report = artifact.describe(str(long_training.output)).training
    before = artifact.describe(artifact.DEFAULT_MODEL).training
    assert list(report) == list(before)
    assert list(report["recipe"]) == list(before["recipe"])


@pytest.mark.slow
def test_the_reported_scores_are_those_of_the_best_epoch(long_training):
    report = long_training.description.training
    best = read_history(long_training.output)[report["epoch"] - 1]
    assert report["val_pixel_accuracy"] == pytest.approx(float(best["val_accuracy"]), abs=2e-3)
    assert report["val_miou"] == pytest.approx(float(best["val_miou"]), abs=2e-3)


@pytest.mark.slow
def test_the_reported_scores_are_those_of_the_saved_network(long_training, score_saved):
    score, report = score_saved(long_training.output), long_training
    assert report.description.training["val_miou"] == pytest.approx(score.miou, abs=1e-3)
    assert report.description.training["val_pixel_accuracy"] == pytest.approx(
        score.pixel_accuracy, abs=1e-3
    )


@pytest.mark.slow
def test_the_user_hears_of_the_counts(long_training):
    assert "6 training images (0 dropped" in long_training.lines[0]
    assert "2 validation images, 3 labels" in long_training.lines[0]


@pytest.mark.slow
def test_pictures_are_drawn(long_training):
    for name in ("training.png", "confusion.png", "samples.png"):
        assert (long_training.output / name).read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_a_seed_decides_the_training(run_training, undisturbed, tmp_path, assert_same_history):
    run_training(tmp_path / "same")
    assert_same_history(undisturbed.output, tmp_path / "same")
    run_training(tmp_path / "other", seed=1)
    with pytest.raises(AssertionError):
        assert_same_history(undisturbed.output, tmp_path / "other")


@pytest.mark.slow
def test_half_reports_the_scores_of_the_rounded_network(
    run_training, undisturbed, tmp_path, monkeypatch
):
    saved = []

    def save(root, model, description, half):
        saved.extend(weight for weight in model.get_weights() if weight.ndim > 1)
        return description

    monkeypatch.setattr(artifact, "save", save)
    for name in ("checkpoints", "history.csv"):
        (tmp_path / name).symlink_to(undisturbed.output / name)
    run_training(tmp_path, half=True, resume=True)
    for kernel in saved:
        np.testing.assert_array_equal(kernel, kernel.astype(np.float16).astype(np.float32))
    assert saved


@pytest.mark.slow
def test_a_diverging_training_stops_in_one_line(
    use_tiny_backbone, train_options, tmp_path, monkeypatch, capfd
):
    from pipeline.cli.main import main

    def run(*options):
        arguments = [*train_options, "--output", tmp_path, *options]
        monkeypatch.setattr(sys, "argv", ["fcn-beam", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        return ended.value.code or 0, capfd.readouterr().err

    use_tiny_backbone(monkeypatch)
    assert run("--learning-rate", 1e30) == (
        2,
        f"fcn-beam: {tmp_path}: training diverged: the loss is nan at step 2 of epoch 1; "
        "train again with a lower --learning-rate\n",
    )
    assert run("--epochs", 1) == (0, "")
    # Once an epoch has gone well, its checkpoint stays and is the way out.
    kept = tmp_path / "checkpoints" / "epoch-001.keras"
    assert run("--resume", "--learning-rate", 1e30) == (
        2,
        f"fcn-beam: {tmp_path}: training diverged: the loss is nan at step 2 of epoch 2; "
        f"add --resume and a lower --learning-rate to continue from {kept}\n",
    )
    assert run("--resume") == (0, "")
    assert len(read_history(tmp_path)) == 2


@pytest.mark.slow
def test_an_epoch_whose_last_step_ruins_the_weights_diverges(run_training, quick, tmp_path):
    ruinous = dataclasses.replace(quick, batch_size=6, learning_rate=1e30)
    with pytest.raises(UserError, match=r"the validation loss is .* at step 1 of epoch 1"):
        run_training(tmp_path, recipe=ruinous)
    assert checkpoints.latest(tmp_path)[1] == 0


@pytest.mark.slow
def test_a_frozen_backbone_keeps_its_weights(
    run_training, tiny_backbone, tmp_path, read_checkpoint
):
    initial, _ = fcn(3, "tiny")
    path = tmp_path / "tiny.weights.h5"
    initial.get_layer(BACKBONE).save_weights(path)
    recipe = dataclasses.replace(RECIPES["d2l"], epochs=1, batch_size=2)
    # The photos are smaller than this crop, so they are padded.
    trained = run_training(
        tmp_path / "out",
        recipe=recipe,
        weights=str(path),
        freeze_backbone=True,
        crop=(128, 128),
        pad_small=True,
    )
    assert trained.description.training["images"] == 6
    assert "(0 dropped" in trained.lines[0]
    assert trained.description.training["start"] == path.name
    after = read_checkpoint(tmp_path / "out", 1)
    for old, new in zip(
        initial.get_layer(BACKBONE).get_weights(),
        after.get_layer(BACKBONE).get_weights(),
        strict=True,
    ):
        np.testing.assert_array_equal(old, new)
    bias = after.get_layer(SCORES).get_weights()[1]
    assert np.all(bias != 0)


@pytest.mark.parametrize("crop", [(64, 65), (0, 64), (-32, 64)])
def test_a_crop_that_is_no_multiple_of_32_is_refused(run_training, tmp_path, crop):
    with pytest.raises(UserError, match=r"--crop .*multiples of 32"):
        run_training(tmp_path / "out", crop=crop)
    assert not (tmp_path / "out").exists()


def test_images_that_are_all_smaller_than_the_crop_are_refused(run_training, tmp_path):
    with pytest.raises(UserError, match=r"all 6 training images .*--pad-small"):
        run_training(tmp_path / "out", crop=(128, 128))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("split", ["train", "val"])
def test_a_split_of_only_void_is_refused(run_training, voc_folder, palette_png, tmp_path, split):
    for path in (voc_folder / "SegmentationClass").glob(f"{split}_*.png"):
        with Image.open(path) as mask:
            void = np.full(mask.size[::-1], 255, np.uint8)
        palette_png(path, void)
    with pytest.raises(UserError, match=f"all pixels of the split {split} are void"):
        run_training(tmp_path / "out", data=voc_folder)


@pytest.mark.slow
def test_unknown_mask_colours_are_reported(run_training, voc_folder, tmp_path):
    path = voc_folder / "SegmentationClass" / "train_0.png"
    colours = np.zeros((64, 96, 3), np.uint8)
    colours[0, :7] = (1, 2, 3)
    Image.fromarray(colours).save(path)
    lines = []
    run_training(tmp_path / "out", data=voc_folder, say=lines.append)
    assert any("7 mask pixels have an unknown colour" in line for line in lines)


def test_a_photo_in_both_splits_is_refused(run_training, voc_folder, tmp_path):
    lists = voc_folder / "ImageSets" / "Segmentation"
    (lists / "val.txt").write_text("val_0\ntrain_1\n")
    with pytest.raises(UserError, match=r"train_1\.png: is in both train and val"):
        run_training(tmp_path / "out", data=voc_folder)


def test_a_model_without_checkpoints_is_not_overwritten(run_training, toy_data, tmp_path):
    (tmp_path / "model.json").write_text("{}")
    with pytest.raises(UserError, match="already contains a model"):
        run_training(tmp_path)
    assert (tmp_path / "model.json").read_text() == "{}"
