import csv
import dataclasses
import os
from pathlib import Path
from types import SimpleNamespace

import keras
import numpy as np
import pytest

from model_build import artifact, training, voc
from model_build.errors import UserError
from model_build.fcn import BACKBONE, LOGITS, SCORES, fcn
from model_build.training import RECIPES

QUICK = dataclasses.replace(RECIPES["default"], epochs=2, batch_size=2, learning_rate=1e-2)
LONGER = dataclasses.replace(QUICK, epochs=6)


def run(data, output, **options):
    lines = []
    options = {
        "recipe": QUICK,
        "backbone_name": "tiny",
        "backbone_weights": "none",
        "crop": (64, 64),
        "say": lines.append,
        **options,
    }
    description = training.train(str(data), str(output), **options)
    return SimpleNamespace(description=description, lines=lines)


def history(output):
    with open(output / "history.csv", newline="") as file:
        return list(csv.DictReader(file))


def checkpoint(output, epochs):
    return keras.models.load_model(output / "checkpoints" / f"epoch-{epochs:03d}.keras")


def close(first, second, **tolerance):
    return all(
        np.allclose(a, b, **tolerance)
        for a, b in zip(first.get_weights(), second.get_weights(), strict=True)
    )


def interrupt(patch, *, epoch, step=None):
    """Ctrl-C when ``epoch`` (from 0) begins, or after its ``step``-th step (from 0)."""
    current = []

    def on_epoch_begin(self, index, logs=None):
        current.append(index)
        if index == epoch and step is None:
            raise KeyboardInterrupt

    def on_train_batch_end(self, index, logs=None):
        if current[-1] == epoch and index == step:
            raise KeyboardInterrupt

    patch.setattr(training._EpochEnd, "on_epoch_begin", on_epoch_begin)
    patch.setattr(training._EpochEnd, "on_train_batch_end", on_train_batch_end)


@pytest.fixture(scope="module", autouse=True)
def tiny_backbone(use_tiny_backbone):
    with pytest.MonkeyPatch.context() as patch:
        use_tiny_backbone(patch)
        yield


@pytest.fixture(scope="module")
def data(make_voc, tmp_path_factory):
    return make_voc(tmp_path_factory.mktemp("training") / "data", train=6, val=2)


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    output = tmp_path_factory.mktemp("trained") / "deep" / "model"
    return SimpleNamespace(output=output, **vars(run(data, output, recipe=LONGER)))


@pytest.fixture(scope="module")
def uninterrupted(data, tmp_path_factory):
    output = tmp_path_factory.mktemp("uninterrupted")
    return SimpleNamespace(output=output, **vars(run(data, output)))


@pytest.fixture
def compiled():
    model, _ = fcn(3, "tiny")
    training.compile_model(model, QUICK, 3)
    return model


@pytest.fixture
def scored():
    """Labels with void, and handmade logits."""
    rng = np.random.default_rng(0)
    ids = rng.choice(np.array([0, 1, 2, 255], np.uint8), (2, 32, 32), p=(0.5, 0.2, 0.1, 0.2))
    logits = rng.normal(size=(2, 32, 32, 3)).astype(np.float32)
    return SimpleNamespace(images=np.zeros((2, 32, 32, 3), np.uint8), ids=ids, logits=logits)


def loss(model, scored, logits=None):
    logits = scored.logits if logits is None else logits
    return float(model.compute_loss(scored.images, scored.ids, logits))


def metrics(model, scored, logits=None):
    logits = scored.logits if logits is None else logits
    model.reset_metrics()
    values = model.compute_metrics(scored.images, scored.ids, logits)
    return {name: float(value) for name, value in values.items()}


def test_training_improves_the_loss(trained):
    rows = history(trained.output)
    assert float(rows[-1]["loss"]) < 0.8 * float(rows[0]["loss"])
    assert float(rows[-1]["val_loss"]) < 0.8 * np.log(3)
    assert trained.description.training["val_pixel_accuracy"] > 0.5


def test_history_has_a_row_an_epoch(trained):
    rows = history(trained.output)
    assert [row["epoch"] for row in rows] == ["1", "2", "3", "4", "5", "6"]
    assert set(rows[0]) >= {"loss", "accuracy", "miou", "val_loss", "val_accuracy", "val_miou"}


def test_only_the_last_checkpoint_is_kept(trained):
    names = [path.name for path in (trained.output / "checkpoints").iterdir()]
    assert names == ["epoch-006.keras"]


def test_the_saved_folder_describes_the_training(trained, data, toy_labels):
    description = artifact.describe(str(trained.output))
    assert description.labels == toy_labels
    assert description.backbone == "tiny"
    assert description.stride == 32
    assert description.long_side == 100
    assert description.normalisation["channels"] == "RGB"
    report = description.training
    assert report["data"] == data.name
    assert report["images"] == 6
    assert report["val_images"] == 2
    assert report["recipe"] == {**dataclasses.asdict(LONGER), "scales": [0.75, 1.5]}
    assert report["crop"] == [64, 64]


def test_the_saved_network_is_the_trained_one(trained):
    network = artifact.load(str(trained.output))
    image = np.random.default_rng(0).integers(0, 256, (1, 64, 96, 3), dtype=np.uint8)
    logits = network.head(network.body(image))
    np.testing.assert_allclose(logits, checkpoint(trained.output, 6)(image), atol=1e-4)


def test_the_reported_scores_are_those_of_the_last_epoch(trained):
    report, last = trained.description.training, history(trained.output)[-1]
    assert report["val_loss"] == pytest.approx(float(last["val_loss"]), abs=2e-3)
    assert report["val_pixel_accuracy"] == pytest.approx(float(last["val_accuracy"]), abs=2e-3)
    assert report["val_miou"] == pytest.approx(float(last["val_miou"]), abs=2e-3)


def test_the_reported_miou_is_that_of_the_saved_network(trained, data, toy_labels):
    network = artifact.load(str(trained.output))
    pairs = voc.read_split(data, "val", toy_labels)
    confusion = np.zeros((3, 3))
    for images, ids in voc.whole_images(pairs, toy_labels):
        found = np.argmax(network.head(network.body(images)), axis=-1)
        kept = ids.numpy() != 255
        np.add.at(confusion, (ids.numpy()[kept], found[kept]), 1)
    union = confusion.sum(0) + confusion.sum(1) - np.diag(confusion)
    report = trained.description.training
    assert report["val_miou"] == pytest.approx(np.mean(np.diag(confusion) / union), abs=1e-3)
    assert report["val_pixel_accuracy"] == pytest.approx(
        np.trace(confusion) / confusion.sum(), abs=1e-3
    )


def test_the_user_hears_of_the_counts(trained):
    assert "6 training images (0 dropped" in trained.lines[0]
    assert "2 validation images, 3 labels" in trained.lines[0]


def test_void_pixels_are_ignored_in_the_loss(compiled, scored):
    valid = scored.ids != 255
    chosen = np.take_along_axis(scored.logits, np.where(valid, scored.ids, 0)[..., None], -1)
    entropy = np.log(np.exp(scored.logits).sum(-1)) - chosen[..., 0]
    assert loss(compiled, scored) == pytest.approx(entropy[valid].mean(), rel=1e-4)


def test_logits_at_void_pixels_change_neither_loss_nor_metrics(compiled, scored):
    changed = scored.logits.copy()
    changed[scored.ids == 255] = (9, -9, 3)
    assert loss(compiled, scored, changed) == pytest.approx(loss(compiled, scored), rel=1e-6)
    assert metrics(compiled, scored, changed) == metrics(compiled, scored)
    changed[scored.ids == 1] = (9, -9, 3)
    assert loss(compiled, scored, changed) > loss(compiled, scored)
    assert metrics(compiled, scored, changed) != metrics(compiled, scored)


def test_a_batch_of_void_has_no_loss(compiled, scored):
    scored.ids[:] = 255
    assert loss(compiled, scored) == 0


@pytest.mark.parametrize("absent", [(), (2,)], ids=["all classes", "a class missing"])
def test_metrics_equal_numpy(compiled, scored, absent):
    for label in absent:
        scored.ids[scored.ids == label] = 255
        scored.logits[..., label] = -99
    valid = scored.ids != 255
    truth, guess = scored.ids[valid], scored.logits.argmax(-1)[valid]
    ious = [
        np.sum((truth == c) & (guess == c)) / np.sum((truth == c) | (guess == c))
        for c in range(3)
        if c not in absent
    ]
    values = metrics(compiled, scored)
    assert values["accuracy"] == pytest.approx(np.mean(truth == guess), rel=1e-5)
    assert values["miou"] == pytest.approx(np.mean(ious), rel=1e-5)


def test_pixel_accuracy_counts_pixels_and_not_batches():
    accuracy = training.PixelAccuracy(num_classes=2, ignore_class=255)
    accuracy.update_state([[0, 0, 0, 0, 0, 0, 0, 0, 0]], [[0, 0, 0, 0, 0, 0, 0, 0, 0]])
    accuracy.update_state([[1, 255, 255]], [[0, 1, 0]])
    assert float(accuracy.result()) == pytest.approx(0.9)


def test_pixel_accuracy_of_void_alone_is_zero():
    accuracy = training.PixelAccuracy(num_classes=2, ignore_class=255)
    accuracy.update_state([[255, 255]], [[0, 1]])
    assert float(accuracy.result()) == 0


@pytest.mark.parametrize("name", ["tiny", "mobilenet_v2"])
def test_backbone_and_upsampling_take_smaller_steps(monkeypatch, name):
    if name != "tiny":
        monkeypatch.undo()
    recipe = dataclasses.replace(QUICK, schedule="constant", weight_decay=0.0, backbone_rate=0.25)
    model, _ = fcn(3, name)
    training.compile_model(model, recipe, 3)
    variables = model.trainable_variables
    before = [np.array(variable) for variable in variables]
    model.optimizer.apply([keras.ops.ones_like(v) for v in variables], variables)
    quick = {variable.path for variable in model.get_layer(SCORES).trainable_variables}
    assert len(quick) == 2
    for variable, old in zip(variables, before, strict=True):
        expected = 1e-2 if variable.path in quick else 0.25e-2
        np.testing.assert_allclose(old - variable, expected, rtol=2e-2, err_msg=variable.path)


def test_slow_layers_survive_saving_the_optimizer(compiled):
    config = compiled.optimizer.get_config()
    again = training.AdamW.from_config(config)
    assert again.slow_rate == 0.1
    assert tuple(again.slow) == tuple(compiled.optimizer.slow)
    assert {"conv0", "conv1", LOGITS} <= set(again.slow)
    assert SCORES not in again.slow


def test_the_cosine_schedule_warms_up_and_ends_at_zero(compiled):
    training.compile_model(compiled, dataclasses.replace(QUICK, epochs=10), steps=10)
    rate = compiled.optimizer._learning_rate
    assert float(rate(0)) == pytest.approx(1e-4, rel=1e-3)
    assert float(rate(5)) == pytest.approx(1e-2, rel=1e-3)
    assert float(rate(52)) == pytest.approx(0.5e-2, rel=0.05)
    assert float(rate(100)) == pytest.approx(0, abs=1e-6)


def test_the_d2l_recipe_is_that_of_the_book(compiled):
    recipe = RECIPES["d2l"]
    assert (recipe.epochs, recipe.batch_size) == (5, 32)
    assert (recipe.scales, recipe.flip) == ((1.0, 1.0), False)
    training.compile_model(compiled, recipe, steps=3)
    optimizer = compiled.optimizer
    assert type(optimizer) is keras.optimizers.SGD
    assert (optimizer.momentum, optimizer.nesterov) == (0, False)
    assert optimizer._learning_rate.numpy() == pytest.approx(1e-3)
    assert optimizer.weight_decay == pytest.approx(1e-3)
    features = compiled.get_layer(BACKBONE)
    assert features.get_layer("bn0").trainable


def test_the_default_recipe_freezes_the_statistics_of_batch_norm(compiled):
    features = compiled.get_layer(BACKBONE)
    assert features.get_layer("conv0").trainable
    assert not features.get_layer("bn0").trainable


def test_a_frozen_backbone_keeps_its_weights(data, tmp_path):
    initial, _ = training.fcn(3, "tiny")
    path = tmp_path / "tiny.weights.h5"
    initial.get_layer(BACKBONE).save_weights(path)
    recipe = dataclasses.replace(RECIPES["d2l"], epochs=1, batch_size=2)
    run(data, tmp_path / "out", recipe=recipe, backbone_weights=str(path), freeze_backbone=True)
    after = checkpoint(tmp_path / "out", 1)
    for old, new in zip(
        initial.get_layer(BACKBONE).get_weights(),
        after.get_layer(BACKBONE).get_weights(),
        strict=True,
    ):
        np.testing.assert_array_equal(old, new)
    fresh, _ = fcn(3, "tiny")
    assert not np.array_equal(
        after.get_layer(LOGITS).get_weights()[0], fresh.get_layer(LOGITS).get_weights()[0]
    )


def test_an_interrupted_training_is_saved_and_resumed_to_the_same_weights(
    data, tmp_path, uninterrupted
):
    lines = []
    with pytest.MonkeyPatch.context() as patch:
        interrupt(patch, epoch=1)
        with pytest.raises(KeyboardInterrupt):
            run(data, tmp_path, say=lines.append)
    path, epochs = training.latest_checkpoint(tmp_path)
    assert epochs == 1
    assert lines[-1].startswith(f"{path}: saved")
    assert "--resume" in lines[-1]
    assert len(history(tmp_path)) == 1
    assert not (tmp_path / "model.json").exists()
    halfway = checkpoint(tmp_path, 1)

    resumed = run(data, tmp_path, resume=True)
    assert any("resumed after 1 epochs" in line for line in resumed.lines)
    straight, final = checkpoint(uninterrupted.output, 2), checkpoint(tmp_path, 2)
    assert not close(straight, halfway, rtol=1e-3, atol=1e-4)
    assert close(straight, final, rtol=1e-3, atol=1e-4)
    assert int(final.optimizer.iterations) == int(straight.optimizer.iterations) == 6
    first, second = history(uninterrupted.output), history(tmp_path)
    assert [row["epoch"] for row in second] == ["1", "2"]
    assert second[0]["loss"] == pytest.approx(first[0]["loss"])
    assert float(second[1]["loss"]) == pytest.approx(float(first[1]["loss"]), rel=1e-3)


def test_an_interruption_within_an_epoch_does_not_run_its_steps_twice(
    data, tmp_path, uninterrupted
):
    with pytest.MonkeyPatch.context() as patch:
        interrupt(patch, epoch=1, step=1)
        with pytest.raises(KeyboardInterrupt):
            run(data, tmp_path)
    run(data, tmp_path, resume=True)
    final = checkpoint(tmp_path, 2)
    assert int(final.optimizer.iterations) == 6
    assert close(checkpoint(uninterrupted.output, 2), final, rtol=1e-3, atol=1e-4)


def test_an_interruption_before_the_first_step_can_be_resumed(data, tmp_path, monkeypatch):
    def fit(*args, **kwargs):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(keras.Model, "fit", fit)
        with pytest.raises(KeyboardInterrupt):
            run(data, tmp_path)
    assert training.latest_checkpoint(tmp_path)[1] == 0
    run(data, tmp_path, resume=True)
    assert training.latest_checkpoint(tmp_path)[1] == 2


def test_a_training_that_only_lacks_its_saved_model_can_be_resumed(data, tmp_path, monkeypatch):
    def save(*args, **kwargs):
        raise OSError("no space left on device")

    once = dataclasses.replace(QUICK, epochs=1)
    with monkeypatch.context() as patch:
        patch.setattr(artifact, "save", save)
        with pytest.raises(OSError, match="no space"):
            run(data, tmp_path, recipe=once)
    trained = checkpoint(tmp_path, 1)
    run(data, tmp_path, recipe=once, resume=True)
    assert close(trained, checkpoint(tmp_path, 1), atol=0)
    assert len(history(tmp_path)) == 1
    assert artifact.describe(str(tmp_path)).training["val_images"] == 2


def test_output_that_holds_a_training_needs_resume(data, uninterrupted):
    with pytest.raises(UserError) as caught:
        run(data, uninterrupted.output)
    assert str(caught.value).startswith(f"{uninterrupted.output}: holds a training")
    assert "--resume" in str(caught.value)


def test_resume_needs_a_checkpoint(data, tmp_path):
    with pytest.raises(UserError, match="holds no checkpoint to resume") as caught:
        run(data, tmp_path, resume=True)
    assert str(tmp_path) in str(caught.value)


def test_resume_with_other_options_is_refused_in_one_line(data, uninterrupted):
    longer = dataclasses.replace(QUICK, epochs=3)
    with pytest.raises(UserError, match="does not fit this command") as caught:
        run(data, uninterrupted.output, resume=True, freeze_backbone=True, recipe=longer)
    assert "epoch-002.keras" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_unfinished_checkpoint_is_ignored(tmp_path):
    def save(content, fails=False):
        def write(path):
            Path(path).write_text(content)
            if fails:
                raise OSError("no space left on device")

        return SimpleNamespace(save=write)

    first = training.save_checkpoint(save("first"), tmp_path, 1)
    with pytest.raises(OSError, match="no space"):
        training.save_checkpoint(save("half", fails=True), tmp_path, 2)
    assert training.latest_checkpoint(tmp_path) == (first, 1)
    assert first.read_text() == "first"
    second = training.save_checkpoint(save("second"), tmp_path, 2)
    assert training.latest_checkpoint(tmp_path) == (second, 2)
    assert os.listdir(tmp_path / "checkpoints") == ["epoch-002.keras"]


def test_the_latest_checkpoint_is_the_one_with_most_epochs(tmp_path):
    assert training.latest_checkpoint(tmp_path) is None
    (tmp_path / "checkpoints").mkdir()
    for name in ("epoch-009.keras", "epoch-1000.keras", "epoch-010.keras", "epoch-x.keras"):
        (tmp_path / "checkpoints" / name).touch()
    path, epochs = training.latest_checkpoint(tmp_path)
    assert (path.name, epochs) == ("epoch-1000.keras", 1000)


@pytest.mark.parametrize("crop", [(64, 65), (0, 64), (-32, 64)])
def test_a_crop_that_is_no_multiple_of_32_is_refused(data, tmp_path, crop):
    with pytest.raises(UserError, match=r"--crop .*multiples of 32"):
        run(data, tmp_path / "out", crop=crop)
    assert not (tmp_path / "out").exists()


def test_images_smaller_than_the_crop_are_dropped_or_padded(data, tmp_path):
    with pytest.raises(UserError, match=r"all 6 training images .*--pad-small"):
        run(data, tmp_path, crop=(128, 128))
    once = dataclasses.replace(QUICK, epochs=1)
    padded = run(data, tmp_path, crop=(128, 128), pad_small=True, recipe=once)
    assert padded.description.training["images"] == 6
    assert "(0 dropped" in padded.lines[0]


def test_half_reports_the_scores_of_the_rounded_network(data, tmp_path, monkeypatch):
    seen = {}

    def save(root, model, description, half):
        seen["kernels"] = [w for w in model.get_weights() if w.ndim > 1]
        return description

    monkeypatch.setattr(artifact, "save", save)
    once = dataclasses.replace(QUICK, epochs=1)
    run(data, tmp_path, half=True, recipe=once)
    for kernel in seen["kernels"]:
        np.testing.assert_array_equal(kernel, kernel.astype(np.float16).astype(np.float32))


def test_unknown_mask_colours_are_reported(voc_folder, tmp_path):
    from PIL import Image

    path = voc_folder / "SegmentationClass" / "train_0.png"
    colours = np.zeros((64, 96, 3), np.uint8)
    colours[0, :7] = (1, 2, 3)
    Image.fromarray(colours).save(path)
    lines = []
    with pytest.raises(UserError):
        run(voc_folder, tmp_path / "out", backbone_weights="nowhere.h5", say=lines.append)
    assert any("7 mask pixels have a colour that is no label's" in line for line in lines)
