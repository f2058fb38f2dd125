import csv
import dataclasses
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import keras
import pytest
from click.testing import CliRunner

from model_build import artifact
from model_build.cli.train import train
from model_build.common.errors import UserError
from model_build.network import backbones
from model_build.network.fcn import Architecture
from model_build.training import train as training
from model_build.training.recipes import RECIPES


def invoke(command, *arguments):
    return CliRunner().invoke(command, [str(a) for a in arguments], standalone_mode=False)


def five_strides(include_top, weights, input_shape):
    """A backbone that has cells of each size that skips and output strides ask for, and no more."""
    inputs = x = keras.Input(input_shape)
    for index in range(5):
        x = keras.layers.Conv2D(4, 3, 2, padding="same", name=f"conv{index}")(x)
        x = keras.layers.ReLU()(keras.layers.BatchNormalization(name=f"bn{index}")(x))
    return keras.Model(inputs, x, name="five_strides")


@pytest.fixture(scope="module")
def trained(make_voc, tmp_path_factory):
    root = tmp_path_factory.mktemp("cli")
    data, output = make_voc(root / "data", val=1, sizes=((64, 96),)), root / "model"
    normalisation = backbones.Normalisation("RGB", (1 / 128,) * 3, (-1.0,) * 3)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(backbones, "_find", lambda name: (five_strides, normalisation))
        patch.setattr(training, "draw", lambda *arguments: None)  # takes as long as the training
        result = invoke(
            train, data, "--output", output, "--backbone", "five_strides",
            "--backbone-weights", "none", "--crop", "64x64", "--epochs", 1, "--batch-size", 2,
            "--learning-rate", 0.002, "--seed", 3, "--skips", "8s", "--output-stride", 16,
            "--learn-upsampling", "--context", "--schedule", "poly", "--accumulate", 2,
            "--class-balance", 0.25, "--scales", "0.9-1.25", "--backbone-rate", 0.2,
            "--patience", 1, "--engine", "graph", "--precision", "float32",
        )  # fmt: skip
    return SimpleNamespace(data=data, output=output, result=result)


@pytest.fixture
def passed_on(monkeypatch):
    """A function: options → the arguments that the command passes on to the training."""

    def call(*options):
        class Seen(Exception):
            pass

        def see(data, output, **arguments):
            raise Seen(arguments)

        monkeypatch.setattr(training, "train", see)
        result = invoke(train, ".", "--output", "out", *options)
        assert isinstance(result.exception, Seen), result.exception
        return result.exception.args[0]

    return call


@pytest.mark.slow
def test_train_writes_a_saved_model_and_reports_its_scores(trained):
    assert trained.result.exception is None
    assert trained.result.exit_code == 0
    last = trained.result.output.strip().splitlines()[-1]
    report = artifact.describe(str(trained.output)).training
    assert last == (
        f"{trained.output}: saved; 1 validation images: pixel accuracy "
        f"{report['val_pixel_accuracy']:.3f}, mIoU {report['val_miou']:.3f}"
    )


def test_the_last_line_names_what_was_not_scored(monkeypatch):
    report = {"val_images": 3, "val_pixel_accuracy": 1.0, "val_miou": 1.0, "val_absent": ["a", "b"]}
    monkeypatch.setattr(training, "train", lambda *_, **__: SimpleNamespace(training=report))
    assert invoke(train, ".", "--output", "out").output == (
        "out: saved; 3 validation images: pixel accuracy 1.000, mIoU 1.000; no true pixel of a, b\n"
    )


@pytest.mark.slow
def test_options_replace_those_of_the_recipe(trained):
    report = artifact.describe(str(trained.output)).training
    recipe = report["recipe"]
    assert (recipe["epochs"], recipe["batch_size"]) == (1, 2)
    assert recipe["learning_rate"] == 0.002
    assert (recipe["optimizer"], recipe["weight_decay"]) == ("adamw", 0.01)
    assert (recipe["schedule"], recipe["accumulate"]) == ("poly", 2)
    assert (recipe["class_balance"], recipe["backbone_rate"]) == (0.25, 0.2)
    assert recipe["scales"] == [0.9, 1.25]
    assert report["start"] == "none"
    assert artifact.describe(str(trained.output)).architecture == {
        "backbone_name": "five_strides",
        "skips": 8,
        "output_stride": 16,
        "learn_upsampling": True,
        "context": True,
    }
    assert report["crop"] == [64, 64]
    assert report["seed"] == 3
    with open(trained.output / "history.csv", newline="") as file:
        assert len(list(csv.DictReader(file))) == 1


@pytest.mark.slow
def test_training_twice_needs_resume(trained):
    result = invoke(train, trained.data, "--output", trained.output, "--crop", "64x64")
    assert isinstance(result.exception, UserError)
    assert "--resume" in str(result.exception)


@pytest.mark.parametrize("crop", ["64", "64x", "axb", "64x64x64", "64,64", ""])
def test_a_crop_that_is_no_size_is_a_usage_error(tmp_path, crop):
    result = CliRunner().invoke(
        train, [str(tmp_path), "--output", str(tmp_path / "out"), "--crop", crop]
    )
    assert result.exit_code == 2
    assert "is not HEIGHTxWIDTH, such as 320x480" in " ".join(result.output.split())


@pytest.mark.parametrize("crop", ["65x64", "0x64", "-32x64"])
def test_a_crop_that_is_no_multiple_of_32_is_refused(voc_folder, tmp_path, crop):
    result = invoke(train, voc_folder, "--output", tmp_path / "out", f"--crop={crop}")
    assert isinstance(result.exception, UserError)
    assert str(result.exception).startswith(f"--crop {crop}: ")


@pytest.mark.parametrize(
    "options",
    [
        ("--epochs", "-1"),
        ("--batch-size", "0"),
        ("--learning-rate", "0"),
        ("--weight-decay", "-1"),
        ("--backbone-rate", "-0.1"),
        ("--schedule", "linear"),
        ("--accumulate", "0"),
        ("--class-balance", "1.5"),
        ("--scales", "0.5"),
        ("--scales", "1.5-0.5"),
        ("--scales", "0-1"),
        ("--scales", "1-inf"),
        ("--skips", "8"),
        ("--output-stride", "4"),
        ("--patience", "0"),
        ("--engine", "fast"),
        ("--precision", "int8"),
        ("--recipe", "best"),
        ("--seed", "x"),
    ],
)
def test_values_out_of_range_are_usage_errors(tmp_path, options):
    result = CliRunner().invoke(train, [str(tmp_path), "--output", str(tmp_path / "out"), *options])
    assert result.exit_code == 2
    assert options[0] in result.output


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ((), {}),
        (("--skips", "16s", "--output-stride", "8"), {"skips": 16, "output_stride": 8}),
        (("--learn-upsampling", "--context"), {"learn_upsampling": True, "context": True}),
        (("--fixed-upsampling",), {"learn_upsampling": False}),
    ],
)
def test_options_of_the_architecture(passed_on, options, expected):
    passed = passed_on("--backbone", "tiny", *options)
    assert passed["architecture"] == Architecture("tiny", "imagenet", **expected)
    assert passed["start"] is None


def test_without_options_a_training_starts_from_the_default_model(passed_on):
    passed = passed_on()
    assert passed["start"].path == artifact.DEFAULT_MODEL
    assert passed["recipe"] == RECIPES["start"]
    assert passed_on("--epochs", 0)["recipe"] == dataclasses.replace(RECIPES["start"], epochs=0)


@pytest.mark.parametrize(
    "options",
    [
        ("--backbone", "resnet50"),
        ("--backbone-weights", "none"),
        ("--skips", "32s"),
        ("--output-stride", "32"),
        ("--fixed-upsampling",),
        ("--no-context",),
        ("--recipe", "d2l"),
    ],
)
def test_any_option_of_the_architecture_means_a_new_network(passed_on, options):
    passed = passed_on(*options)
    assert passed["start"] is None
    assert passed["architecture"].backbone_name == "resnet50"
    assert not passed["options"].pad_small
    assert passed["recipe"] == RECIPES["d2l" if "d2l" in options else "default"]


def test_a_start_may_be_named_with_any_recipe(passed_on):
    for options, recipe in (((), "start"), (("--recipe", "d2l"), "d2l")):
        passed = passed_on("--start", artifact.DEFAULT_MODEL, *options)
        assert passed["start"].path == artifact.DEFAULT_MODEL
        assert passed["recipe"] == RECIPES[recipe]
        assert passed["options"].pad_small
    passed = passed_on("--start", artifact.DEFAULT_MODEL, "--drop-small")
    assert not passed["options"].pad_small


def test_options_that_contradict_the_start_are_reported_before_data_are_read(tmp_path):
    options = ("--start", artifact.DEFAULT_MODEL, "--output-stride", 32)
    result = invoke(train, tmp_path, "--output", tmp_path / "out", *options)
    assert isinstance(result.exception, UserError)
    assert str(result.exception).startswith("--output-stride 32: contradicts ")


@pytest.mark.slow
def test_pairs_of_new_labels_are_learnt_from_the_default_model(make_paired, tmp_path, monkeypatch):
    monkeypatch.setattr(training, "draw", lambda *arguments: None)  # takes as long as the training
    data = make_paired(tmp_path / "data", [f"photo{index}" for index in range(3)])
    options = ("--crop", "64x64", "--epochs", 1, "--batch-size", 1)
    result = invoke(train, data, "--output", tmp_path / "out", *options)
    assert result.exception is None
    description = artifact.describe(str(tmp_path / "out"))
    assert description.architecture == artifact.describe(artifact.DEFAULT_MODEL).architecture
    assert description.labels.names == ("ground", "box", "disc")
    assert (description.training["images"], description.training["val_images"]) == (2, 1)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ((), {}),
        (("--drop-small",), {"pad_small": False}),
        (("--engine", "xla", "--patience", "3"), {"engine": "xla", "patience": 3}),
        (("--train-split", "a", "--val-split", "b"), {"splits": ("a", "b")}),
        (("--crop", "64x96", "--pad-small"), {"crop": (64, 96), "pad_small": True}),
        (("--half", "--freeze-backbone"), {"half": True, "freeze_backbone": True}),
        (("--seed", "3"), {"seed": 3}),
        (("--precision", "mixed_bfloat16"), {"precision": "mixed_bfloat16"}),
        (("--resume",), {"resume": True}),
    ],
)
def test_options_of_the_training(passed_on, options, expected):
    passed = passed_on("--backbone", "tiny", *options)
    assert passed["options"] == training.Options(**expected)


@pytest.mark.parametrize("name", ["default", "d2l"])
def test_without_options_a_recipe_is_unchanged(passed_on, name):
    assert passed_on("--recipe", name, "--backbone", "tiny")["recipe"] == RECIPES[name]


@pytest.mark.slow
def test_a_backbone_rate_without_effect_is_refused(voc_folder, tmp_path):
    options = ("--recipe", "d2l", "--backbone-rate", 0.5, "--crop", "64x64")
    architecture = ("--backbone", "mobilenet_v2", "--backbone-weights", "none")
    result = invoke(train, voc_folder, "--output", tmp_path / "out", *options, *architecture)
    assert isinstance(result.exception, UserError)
    assert str(result.exception).startswith("--backbone-rate 0.5: ")


def test_output_is_required(tmp_path):
    result = CliRunner().invoke(train, [str(tmp_path)])
    assert result.exit_code == 2
    assert "--output" in result.output


def test_a_missing_folder_is_reported_at_once(tmp_path):
    result = invoke(train, tmp_path / "none", "--output", tmp_path / "out")
    assert str(result.exception) == f"{tmp_path}/none: no such folder; check the path"


def test_a_folder_that_is_not_voc_is_refused_by_name(tmp_path):
    result = invoke(train, tmp_path, "--output", tmp_path / "out")
    assert isinstance(result.exception, UserError)
    assert str(result.exception).startswith(f"{tmp_path}: has neither the folders")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("option", "remedy"),
    [
        ("DATA", "copy it here first"),
        ("--output", "copy it there afterwards"),
        ("--start", "copy it here first"),
    ],
)
def test_folders_on_a_store_are_refused_in_one_line(option, remedy):
    options = {"--output": "out", option: "gs://b/x"}
    data = options.pop("DATA", ".")
    result = CliRunner().invoke(train, [data, *(word for pair in options.items() for word in pair)])
    assert result.exit_code == 2
    message = " ".join(result.output.split())
    assert f"'{option}': gs://b/x: training works on local folders only; {remedy}" in message


def test_missing_training_packages_are_reported_first(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboard", None)  # as if it were not installed
    result = invoke(train, ".", "--output", "out")
    assert isinstance(result.exception, UserError)
    assert str(result.exception) == (
        "training needs tensorboard, which is not installed; pip install 'fcn-beam[train]'"
    )


def test_help_imports_nothing_heavy():
    code = (
        "import sys; from model_build.cli.train import train; "
        "train(['--help'], standalone_mode=False); "
        "print([m for m in ('tensorflow', 'keras', 'apache_beam', 'numpy') if m in sys.modules])"
    )
    root = Path(artifact.__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True
    )
    assert "--crop" in done.stdout
    assert done.stdout.splitlines()[-1] == "[]"
