import dataclasses

import keras
import pytest
import tensorflow as tf

from model_build.common.errors import UserError
from model_build.network.fcn import BACKBONE
from model_build.training import checkpoints, devices
from model_build.training.history import read_history
from model_build.training.recipes import RECIPES


@pytest.mark.slow
def test_half_precision_leaves_a_float32_network(run_training, undisturbed, tmp_path, score_saved):
    trained = run_training(tmp_path, precision="mixed_bfloat16", half=True)
    assert keras.config.dtype_policy().name == "float32"
    checkpoint = checkpoints.best(tmp_path)[0]
    computed = keras.models.load_model(checkpoint).get_layer(BACKBONE).get_layer("conv0")
    assert computed.compute_dtype == "bfloat16"

    # It learned what float32 does, though not to the last digit.
    losses = [
        [float(row["loss"]) for row in read_history(output)]
        for output in (undisturbed.output, tmp_path)
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-2)
    assert losses[0] != losses[1]

    nodes = tf.saved_model.load(str(tmp_path / "saved_model")).graph.as_graph_def().node
    types = {value.type for node in nodes for value in node.attr.values()}
    assert tf.bfloat16.as_datatype_enum not in types
    multiplying = [node for node in nodes if node.op in ("Conv2D", "BatchMatMulV2")]
    assert {node.op for node in multiplying} == {"Conv2D", "BatchMatMulV2"}
    assert {node.attr["T"].type for node in multiplying} == {tf.float32.as_datatype_enum}

    score = score_saved(tmp_path)
    assert trained.description.training["val_miou"] == pytest.approx(score.miou, abs=1e-4)


def test_a_failed_training_puts_the_dtype_policy_back(run_training, tmp_path):
    with pytest.raises(UserError, match=r"nowhere\.h5"):
        run_training(tmp_path, precision="mixed_bfloat16", weights="nowhere.h5")
    assert keras.config.dtype_policy().name == "float32"


@pytest.mark.slow
def test_xla_trains_the_same(run_training, undisturbed, tmp_path, assert_same_history):
    run_training(tmp_path, engine="xla")
    assert_same_history(undisturbed.output, tmp_path)


@pytest.mark.parametrize(
    ("choice", "precision", "expected"),
    [
        ("auto", "auto", (False, "float32")),
        ("xla", "auto", (True, "float32")),
        ("graph", "mixed_bfloat16", (False, "mixed_bfloat16")),
    ],
)
def test_engines_of_a_cpu(choice, precision, expected):
    assert devices.resolve_engine(choice, precision) == expected


@pytest.mark.parametrize(
    ("capabilities", "replicas", "expected"),
    [
        ([(8, 0)], 1, (True, "mixed_float16")),
        ([(6, 1)], 1, (True, "float32")),
        ([(8, 0), (6, 1)], 2, (False, "float32")),
        ([(8, 0), (8, 0)], 2, (False, "mixed_float16")),
    ],
)
def test_engines_of_gpus(monkeypatch, capabilities, replicas, expected):
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: capabilities)
    monkeypatch.setattr(
        tf.config.experimental, "get_device_details", lambda gpu: {"compute_capability": gpu}
    )
    assert devices.resolve_engine("auto", "auto", replicas) == expected


def test_xla_is_for_one_gpu():
    with pytest.raises(UserError, match=r"--engine xla: .*CUDA_VISIBLE_DEVICES"):
        devices.resolve_engine("xla", "auto", 2)


def test_a_recipe_that_several_gpus_cannot_share_is_refused(quick):
    devices.check_replicas(dataclasses.replace(quick, batch_size=3, accumulate=2), 6, 1)
    devices.check_replicas(dataclasses.replace(quick, batch_size=4), 6, 2)
    with pytest.raises(UserError, match=r"--batch-size 3: .* a multiple of 2"):
        devices.check_replicas(dataclasses.replace(quick, batch_size=3), 6, 2)
    with pytest.raises(UserError, match="--batch-size 5: "):
        devices.check_replicas(dataclasses.replace(quick, batch_size=8), 5, 2)
    with pytest.raises(UserError, match=r"--accumulate 2: .*--batch-size"):
        devices.check_replicas(dataclasses.replace(quick, accumulate=2), 6, 2)


# Halves of a batch whose pixels all count alike, so that two devices can do just what one does.
ALIKE = {"scales": (1.0, 1.0), "class_balance": 0.0, "freeze_batch_norm": True}
TWO_DEVICES = f"""
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    devices.strategy = lambda: tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    for name, recipe in recipes.RECIPES.items():
        recipes.RECIPES[name] = dataclasses.replace(recipe, **{ALIKE})
    """


@pytest.mark.slow
def test_two_devices_train_like_one(
    start_commands,
    run_training,
    train_options,
    tmp_path,
    read_checkpoint,
    assert_close,
    assert_same_history,
):
    sgd, adamw = tmp_path / "sgd", tmp_path / "adamw"
    command = start_commands(
        (*train_options, "--recipe", "d2l", "--output", sgd),
        (*train_options, "--schedule", "constant", "--epochs", 1, "--output", adamw),
        (*train_options, "--schedule", "constant", "--output", adamw, "--resume"),
        before=TWO_DEVICES,
    )
    for name, output in (("d2l", sgd), ("default", adamw)):
        changes = {"schedule": "constant", "epochs": 2, "batch_size": 2, "learning_rate": 1e-2}
        recipe = dataclasses.replace(RECIPES[name], **ALIKE, **changes)
        run_training(output.with_suffix(".alone"), recipe=recipe)
    stdout, stderr = command.communicate()
    assert command.returncode == 0, stderr
    assert "epoch-001.keras: resuming after epoch 1" in stdout
    for output, tolerance in ((sgd, {"rtol": 1e-5, "atol": 1e-6}), (adamw, {})):
        alone = output.with_suffix(".alone")
        assert_same_history(alone, output)
        assert_close(read_checkpoint(alone, 2), read_checkpoint(output, 2), **tolerance)
