import dataclasses
import hashlib
import json
import shutil

import keras
import numpy as np
import pytest

from model_build import artifact, export, program, saved_model
from model_build.common.errors import UserError
from model_build.data.labels import LabelSet
from model_build.network.fcn import BACKBONE, SCORES, Architecture, fcn
from model_build.training import checkpoints
from model_build.training.start import load_start_weights, resolve_start
from tests.networks import save_earlier, serve

RED, GREEN, BLUE, GREY = (250, 0, 0), (0, 250, 0), (0, 0, 250), (9, 9, 9)


def labels_of(*names):
    return LabelSet(names, (GREY, RED, GREEN, BLUE)[: len(names)])


@pytest.fixture
def saved(tiny_backbone, tmp_path):
    """A function that saves a network with random weights: its folder and the Keras model."""

    def save(labels, half=False, write=artifact.save, **options):
        keras.utils.set_random_seed(len(labels))
        architecture = Architecture("tiny", **options)
        model, normalisation = fcn(len(labels), **dataclasses.asdict(architecture))
        rng = np.random.default_rng(1)
        values = [rng.uniform(0.1, 1, w.shape).astype(np.float32) for w in model.get_weights()]
        if half:
            values = [w.astype(np.float16) if w.ndim > 1 else w for w in values]
        model.set_weights(values)
        description = artifact.Description(
            backbone="tiny",
            labels=labels,
            normalisation=normalisation.to_json(),
            stride=32,
            long_side=96,
            parameters=0,
            architecture=architecture.to_json(),
        )
        write(tmp_path / "model", model, description, half=half)
        return tmp_path / "model", model

    return save


def edit(folder, **changes):
    path = folder / "model.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def inherited(path, labels, given=()):
    start = resolve_start(str(path), dict(given))
    keras.utils.set_random_seed(7)
    model, _ = fcn(len(labels), **dataclasses.asdict(start.architecture))
    return model, load_start_weights(model, start, labels)


def refused(path, labels, given=()):
    with pytest.raises(UserError) as caught:
        inherited(path, labels, given)
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.slow
def test_a_network_of_the_same_labels_is_the_start_again(saved, toy_labels, assert_close):
    folder, model = saved(toy_labels, context=True)
    again, has = inherited(folder, toy_labels)
    assert_close(model, again, rtol=0, atol=0)
    assert has.new == ()
    assert set(has.layers) == {
        *(BACKBONE, "local", "context", "from_local", "from_context", SCORES)
    }


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("write", [artifact.save, save_earlier])
def test_each_format_gives_all_weights_bit_by_bit(saved, toy_labels, write, half):
    folder, model = saved(toy_labels, half, write, context=True, learn_upsampling=True)
    again, has = inherited(folder, toy_labels)
    assert has.new == ()
    for value, expected in zip(again.weights, model.weights, strict=True):
        assert (value.path, value.dtype) == (expected.path, "float32")
        np.testing.assert_array_equal(value, expected)


@pytest.mark.parametrize(
    ("names", "new"),
    [
        (("sky", "tree"), ("sky", "tree")),
        (("box", "sky", "ground"), ("sky",)),
        (("disc", "ground"), ()),
        (("disc", "box", "ground"), ()),
        (("ground", "box", "disc", "sky"), ("sky",)),
    ],
)
def test_labels_with_known_names_keep_their_weights(saved, toy_labels, names, new):
    folder, model = saved(toy_labels, context=True, learn_upsampling=True)
    again, has = inherited(folder, labels_of(*names))
    assert has.new == new
    assert (SCORES in has.layers) == ("logits" in has.layers) == (not new)
    for layer in model.layers:
        if layer.weights and layer.name not in (SCORES, "logits"):
            for a, b in zip(layer.weights, again.get_layer(layer.name).weights, strict=True):
                np.testing.assert_array_equal(a, b)
    (kernel, bias), (enlarging,) = (
        [w.numpy() for w in again.get_layer(name).weights] for name in (SCORES, "logits")
    )
    old_kernel, old_bias = (w.numpy() for w in model.get_layer(SCORES).weights)
    old_enlarging = model.get_layer("logits").weights[0].numpy()
    for index, name in enumerate(names):
        if name in new:
            assert bias[index] == 0
            assert not np.isin(kernel[..., index], old_kernel).any()
            continue
        there = toy_labels.names.index(name)
        np.testing.assert_array_equal(kernel[..., index], old_kernel[..., there])
        assert bias[index] == old_bias[there]
        np.testing.assert_array_equal(
            enlarging[..., index, index], old_enlarging[..., there, there]
        )


def test_a_weights_file_with_equally_many_labels_is_taken_in_their_order(
    saved, toy_labels, tmp_path, assert_close
):
    _, model = saved(toy_labels, context=True)
    path = tmp_path / "a.weights.h5"
    model.save_weights(path)
    architecture = {**Architecture("tiny", context=True).to_json()}
    again, has = inherited(path, labels_of("a", "b", "c"), architecture)
    assert_close(model, again, rtol=0, atol=0)
    assert has.new == ()


@pytest.mark.parametrize("learn_upsampling", [False, True])
def test_a_weights_file_of_other_labels_gives_all_but_the_scores(
    saved, toy_labels, tmp_path, learn_upsampling
):
    _, model = saved(toy_labels, context=True, learn_upsampling=learn_upsampling)
    path = tmp_path / "a.weights.h5"
    model.save_weights(path)
    given = Architecture("tiny", context=True, learn_upsampling=learn_upsampling).to_json()
    again, has = inherited(path, labels_of("a", "b"), given)
    assert has.new == ("a", "b")
    assert SCORES not in has.layers
    np.testing.assert_array_equal(
        again.get_layer("local").get_weights()[0], model.get_layer("local").get_weights()[0]
    )


def test_options_replace_the_default_models_architecture_for_a_weights_file(tmp_path):
    path = tmp_path / "a.weights.h5"
    path.touch()
    default = artifact.describe(artifact.DEFAULT_MODEL).architecture
    assert resolve_start(str(path), {}).architecture.to_json() == default
    given = {"output_stride": 8, "skips": 32}
    assert resolve_start(str(path), given).architecture.to_json() == {**default, **given}


def test_a_file_of_another_network_is_refused(saved, toy_labels, tmp_path):
    _, model = saved(toy_labels)
    path = tmp_path / "a.weights.h5"
    model.save_weights(path)
    given = Architecture("tiny", context=True).to_json()
    message = refused(path, toy_labels, given)
    assert message.startswith(f"{path}: has ")
    assert "name the file's architecture with --backbone" in message


def test_a_file_with_the_same_number_of_other_weights_is_refused(saved, toy_labels, tmp_path):
    import h5py

    _, model = saved(toy_labels)
    path = tmp_path / "a.weights.h5"
    model.save_weights(path)
    with h5py.File(path, "a") as file:
        (name,) = (name for name in file["layers"] if name.startswith("conv2d"))
        file.move(f"layers/{name}", "layers/elsewhere")
    given = Architecture("tiny").to_json()
    assert f"{path}: cannot be loaded as weights of fcn32s" in refused(path, toy_labels, given)


@pytest.mark.parametrize("content", [b"", b"\x89HDF\r\n\x1a\n", b"text"])
def test_a_file_that_is_no_weights_file_is_refused(tiny_backbone, toy_labels, tmp_path, content):
    path = tmp_path / "a.weights.h5"
    path.write_bytes(content)
    message = refused(path, toy_labels, Architecture("tiny").to_json())
    assert message.startswith(f"{path}: cannot be read as a Keras weights file")


def test_a_folder_that_is_not_a_model_is_refused(toy_labels, tmp_path):
    assert "no such file" in refused(tmp_path / "a.weights.h5", toy_labels)
    assert "not a saved model" in refused(tmp_path / "nowhere", toy_labels)
    (tmp_path / "a.h5").touch()
    assert "neither a saved-model folder nor a weights file" in refused(
        tmp_path / "a.h5", toy_labels
    )


@pytest.mark.parametrize("given", [{"skips": 32}, {"backbone_name": "Ti-ny", "context": False}])
def test_options_that_agree_with_the_start_are_accepted(saved, toy_labels, given):
    folder, _ = saved(toy_labels)
    assert resolve_start(str(folder), given).architecture == Architecture("tiny")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"skips": 16}, "--skips 16s: contradicts {}, whose network has --skips 32s"),
        (
            {"output_stride": 8},
            "--output-stride 8: contradicts {}, whose network has --output-stride 32",
        ),
        ({"backbone_name": "b"}, "--backbone b: contradicts {}, whose network has --backbone tiny"),
        ({"context": True}, "--context: contradicts {}, whose network has --no-context"),
        (
            {"backbone_weights": "none"},
            "--backbone-weights none: --start {} already has all weights",
        ),
    ],
)
def test_options_that_contradict_the_start_are_refused(saved, toy_labels, given, said):
    folder, _ = saved(toy_labels)
    assert refused(folder, toy_labels, given).startswith(said.format(folder))


def test_a_model_of_an_earlier_version_is_refused(saved, toy_labels):
    folder, _ = saved(toy_labels)
    edit(folder, architecture={})
    message = refused(folder, toy_labels)
    assert message.startswith(f"{folder}/model.json: has no architecture")


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        ({"skips": 10**12}, "skips is 1000000000000"),
        ({"skips": True}, "skips is True"),
        ({"output_stride": 16.0}, "output_stride is 16.0"),
        ({"output_stride": None}, "output_stride is None"),
        ({"context": 1}, "context is 1"),
        ({"backbone_name": ""}, "backbone_name is ''"),
        ({"backbone_name": "x" * 10**6}, "backbone_name is 'xxx"),
        ({"backbone_name": ["tiny"]}, "backbone_name is ['tiny']"),
        ({"width": 3}, "'width' is unknown"),
    ],
)
def test_an_architecture_of_nonsense_is_refused(saved, toy_labels, change, cause):
    folder, _ = saved(toy_labels)
    edit(folder, architecture={**Architecture("tiny").to_json(), **change})
    message = refused(folder, toy_labels)
    assert message.startswith(f"{folder}/model.json: this version cannot build its architecture: ")
    assert cause in message
    assert len(message) < 300 + len(str(folder))


def test_an_architecture_that_lacks_a_part_is_refused(saved, toy_labels):
    folder, _ = saved(toy_labels)
    edit(folder, architecture={"backbone_name": "tiny"})
    assert "'context' is missing" in refused(folder, toy_labels)


def test_a_backbone_that_does_not_exist_is_named(saved, toy_labels, monkeypatch):
    folder, _ = saved(toy_labels)
    monkeypatch.undo()
    edit(folder, architecture=Architecture("tiny").to_json())
    assert "backbone tiny: no such network" in refused(folder, toy_labels)


@pytest.mark.parametrize("other", [{"context": True}, {"learn_upsampling": True}])
def test_an_architecture_of_another_network_is_refused(saved, toy_labels, other):
    folder, _ = saved(toy_labels)
    edit(folder, architecture=Architecture("tiny", **other).to_json())
    message = refused(folder, toy_labels)
    assert message.startswith(f"{folder}/trained.weights.h5: cannot be loaded as weights of fcn32s")
    assert message.endswith("; copy or train the model again")


def test_labels_that_are_not_the_networks_are_refused(saved, toy_labels):
    folder, _ = saved(toy_labels)
    edit(folder, labels=labels_of("ground", "box").to_json()["labels"])
    assert f"{folder}/saved_model: does not match model.json" in refused(folder, toy_labels)
    artifact.write_description(folder, artifact.describe(folder))
    assert f"{folder}/trained.weights.h5: cannot be loaded as" in refused(folder, toy_labels)


@pytest.mark.parametrize("kept", [0, 100, 0.5, -1])
def test_truncated_weights_are_refused(saved, toy_labels, kept):
    folder, _ = saved(toy_labels)
    content = (folder / artifact.WEIGHTS).read_bytes()
    kept = int(kept * len(content)) if isinstance(kept, float) else kept
    (folder / artifact.WEIGHTS).write_bytes(content[:kept])
    message = refused(folder, toy_labels)
    assert message == (
        f"{folder}/trained.weights.h5: is not the file that model.json was written for: it is "
        "truncated or changed; copy or train the model again"
    )


def test_missing_weights_are_refused(saved, toy_labels):
    folder, _ = saved(toy_labels)
    (folder / artifact.WEIGHTS).unlink()
    message = refused(folder, toy_labels)
    assert message.startswith(f"{folder}/trained.weights.h5: cannot be read (No such file")
    assert message.endswith("; copy the model again")


def test_weights_of_another_network_are_refused(saved, toy_labels, tmp_path):
    folder, _ = saved(toy_labels)
    fcn(3, "tiny", context=True)[0].save_weights(folder / artifact.WEIGHTS)
    assert "is not the file that model.json was written for" in refused(folder, toy_labels)
    found = hashlib.sha256((folder / artifact.WEIGHTS).read_bytes()).hexdigest()
    edit(folder, weights=found)
    message = refused(folder, toy_labels)
    assert message.startswith(f"{folder}/trained.weights.h5: cannot be loaded as weights of fcn32s")
    assert message.endswith("; copy or train the model again")


VARIABLES = "saved_model/variables/variables"


def fingerprinted(folder):
    """Makes a folder of the earlier format look as if it had been saved as it is."""
    edit(folder, fingerprint=artifact.fingerprint(folder, artifact.describe(folder)))


@pytest.mark.parametrize("name", [f"{VARIABLES}.index", f"{VARIABLES}.data-00000-of-00001"])
@pytest.mark.parametrize("known", [False, True], ids=["by accident", "on purpose"])
def test_truncated_variables_of_the_earlier_format_are_refused(saved, toy_labels, name, known):
    folder, _ = saved(toy_labels, write=save_earlier)
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[: len(content) // 2])
    if known:
        fingerprinted(folder)
    assert refused(folder, toy_labels).startswith(f"{folder}/saved_model: ")


def test_a_folder_of_the_earlier_format_without_variables_is_refused(saved, toy_labels):
    folder, _ = saved(toy_labels, write=save_earlier)
    shutil.rmtree(folder / "saved_model" / "variables")
    fingerprinted(folder)
    message = refused(folder, toy_labels)
    assert message.startswith(f"{folder}/saved_model: its variables cannot be read (")


@pytest.mark.parametrize("other", [{"context": True}, {"learn_upsampling": True}])
def test_variables_of_another_network_are_refused(saved, toy_labels, other):
    folder, _ = saved(toy_labels, write=save_earlier)
    edit(folder, architecture=Architecture("tiny", **other).to_json())
    message = refused(folder, toy_labels)
    assert message.startswith(f"{folder}/saved_model: is not the network that model.json describes")
    assert "use the model.json it was saved with" in message


def test_anybodys_network_is_run_but_not_trained_further(saved, toy_labels):
    folder, _ = saved(toy_labels, write=save_earlier)
    foreign = dataclasses.replace(artifact.describe(folder), format=artifact.FORMAT)
    artifact.write_description(folder, foreign)
    assert refused(folder, toy_labels) == (
        f"{folder}: its network was not made by `fcn-beam train`, which cannot train it further; "
        "name another folder for --start"
    )


@pytest.mark.parametrize("write", [artifact.save, save_earlier])
def test_the_graph_of_a_start_is_not_loaded(saved, toy_labels, monkeypatch, write):
    import tensorflow as tf

    folder, _ = saved(toy_labels, write=write)
    (folder / "saved_model" / "saved_model.pb").write_bytes(b"no graph")
    if write is save_earlier:
        fingerprinted(folder)
    else:
        artifact.write_description(folder, artifact.describe(folder))
    monkeypatch.setattr(tf.saved_model, "load", None)
    inherited(folder, toy_labels)


@pytest.mark.slow
def test_the_default_model_is_a_start():
    start = resolve_start(artifact.DEFAULT_MODEL, {})
    labels = start.labels
    model, _ = fcn(len(labels), **dataclasses.asdict(start.architecture))
    assert load_start_weights(model, start, labels).new == ()
    graph = saved_model.read(f"{artifact.DEFAULT_MODEL}/saved_model").graph_def
    averages = artifact.describe(artifact.DEFAULT_MODEL).scores.averages
    export.check(program.Program(graph, averages), model)


# Trainings


@pytest.fixture
def begun(undisturbed):
    """The start that the quick training's model is."""
    return resolve_start(str(undisturbed.output), {})


@pytest.mark.slow
def test_zero_epochs_save_the_start_unchanged(run_training, undisturbed, begun, quick, tmp_path):
    none = dataclasses.replace(quick, epochs=0)
    same = run_training(tmp_path / "out", start=begun, recipe=none, pictures=True)
    image = np.random.default_rng(0).integers(0, 256, (1, 64, 96, 3), np.uint8)
    before, after = (serve(folder)(image) for folder in (undisturbed.output, tmp_path / "out"))
    np.testing.assert_array_equal(before, after)
    assert same.description.long_side == undisturbed.description.long_side
    report = same.description.training
    assert (report["epoch"], report["start"]) == (0, undisturbed.output.name)
    assert report["images"] == 0
    assert report["val_miou"] == undisturbed.description.training["val_miou"]
    assert (tmp_path / "out" / "samples.png").exists()
    assert not (tmp_path / "out" / "training.png").exists()


@pytest.mark.slow
def test_zero_epochs_of_a_new_network_are_refused(run_training, begun, quick, voc_folder, tmp_path):
    none = dataclasses.replace(quick, epochs=0)
    with pytest.raises(
        UserError, match="--epochs 0: there is no trained network to save, as this one is"
    ):
        run_training(tmp_path / "out", recipe=none)
    names = [{"name": name, "color": [i, 0, 0]} for i, name in enumerate(("ground", "box", "b"))]
    (voc_folder / "labels.json").write_text(json.dumps({"labels": names}))
    with pytest.raises(UserError, match=r"does not know the label 'b' \(1 new labels in all\)"):
        run_training(tmp_path / "out", start=begun, recipe=none, data=voc_folder)
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_training_continues_from_the_weights_of_the_start(
    run_training, undisturbed, begun, tmp_path, quick, read_checkpoint, assert_close
):
    slow = dataclasses.replace(quick, epochs=1, learning_rate=1e-9)
    told = run_training(tmp_path / "out", start=begun, recipe=slow)
    assert told.lines[0] == (
        f"{undisturbed.output}: starting from this network, which has all 3 labels"
    )
    best = checkpoints.best(undisturbed.output)[1]
    started, ended = read_checkpoint(undisturbed.output, best), read_checkpoint(tmp_path / "out", 1)
    assert_close(started, ended)


@pytest.mark.slow
def test_a_resumed_training_does_not_start_over(
    run_training, begun, quick, tmp_path, read_checkpoint
):
    run_training(tmp_path / "straight", start=begun)
    run_training(tmp_path / "halves", start=begun, recipe=dataclasses.replace(quick, epochs=1))
    (tmp_path / "halves" / "model.json").unlink()
    lines = []
    run_training(tmp_path / "halves", start=begun, resume=True, say=lines.append)
    assert not any("starting from" in line for line in lines)
    assert any("resuming after epoch 1" in line for line in lines)
    assert int(read_checkpoint(tmp_path / "halves", 2).optimizer.iterations) == 6


@pytest.mark.slow
def test_layers_from_a_start_learn_slowly(run_training, begun, quick, voc_folder, tmp_path):
    from model_build.training import recipes

    slow = []

    def seen(recipe, steps, names):
        slow.append(names)
        return optimizer(recipe, steps, names)

    optimizer = recipes.optimizer
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("model_build.training.objective.optimizer", seen)
        once = dataclasses.replace(quick, epochs=1)
        run_training(tmp_path / "same", start=begun, recipe=once)
        names = [{"name": name, "color": [i, 0, 0]} for i, name in enumerate("abc")]
        (voc_folder / "labels.json").write_text(json.dumps({"labels": names}))
        run_training(tmp_path / "other", start=begun, recipe=once, data=voc_folder)
    assert SCORES in slow[0]
    assert SCORES not in slow[1]
    assert "conv1" in slow[1]
