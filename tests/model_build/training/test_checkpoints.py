import contextlib
import dataclasses
import os
import random
import shutil
import signal
from types import SimpleNamespace

import keras
import numpy as np
import pytest
import tensorflow as tf

from model_build import artifact
from model_build.common.errors import UserError
from model_build.network.fcn import fcn
from model_build.training import checkpoints
from model_build.training.checkpoints import CheckpointEachEpoch
from model_build.training.history import read_history
from model_build.training.objective import compile_model
from tests import networks


def kept(output):
    return sorted(path.name for path in (output / "checkpoints").iterdir())


def epochs_of(output):
    return [row["epoch"] for row in read_history(output)]


@pytest.fixture(scope="module")
def impatient(run_training, quick, tmp_path_factory):
    """A training that ends by its patience, where it is decided how the epochs score."""
    scores = (0.3, 0.5, 0.4, 0.5, 0.9, 0.9)
    output = tmp_path_factory.mktemp("impatient")
    recipe = dataclasses.replace(quick, epochs=6)

    class Scored(CheckpointEachEpoch):
        def on_epoch_end(self, epoch, logs=None):
            super().on_epoch_end(epoch, {**logs, "val_miou": scores[epoch]})

    def run(**options):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(checkpoints, "CheckpointEachEpoch", Scored)
            return run_training(output, recipe=recipe, **options)

    return SimpleNamespace(run=run, **vars(run(patience=2)))


@contextlib.contextmanager
def interrupted(epoch, step=None):
    """Ctrl-C when ``epoch`` (from 0) begins, or after its ``step``-th step (from 0)."""
    current = []

    class Interrupted(CheckpointEachEpoch):
        def on_epoch_begin(self, index, logs=None):
            current.append(index)
            if index == epoch and step is None:
                os.kill(os.getpid(), signal.SIGINT)

        def on_train_batch_end(self, index, logs=None):
            if current[-1] == epoch and index == step:
                os.kill(os.getpid(), signal.SIGINT)

    # A shell's background jobs, and what they start, ignore Ctrl-C.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(checkpoints, "CheckpointEachEpoch", Interrupted)
            with pytest.raises(KeyboardInterrupt):
                yield
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.slow
def test_history_has_a_row_an_epoch(long_training):
    rows = read_history(long_training.output)
    assert [row["epoch"] for row in rows] == ["1", "2", "3", "4", "5", "6"]
    assert set(rows[0]) >= {"loss", "accuracy", "miou", "val_loss", "val_accuracy", "val_miou"}


@pytest.mark.slow
def test_tensorboard_events_equal_the_history(long_training):
    found = {}
    for path in (long_training.output / "tensorboard").rglob("events.*"):
        for record in tf.data.TFRecordDataset(str(path)):
            event = tf.compat.v1.Event.FromString(record.numpy())
            for value in event.summary.value:
                if value.tag.startswith("epoch_"):
                    number = float(tf.make_ndarray(value.tensor))
                    found[path.parent.name, value.tag, event.step] = number
    expected = {
        (
            "validation" if name.startswith("val_") else "train",
            f"epoch_{name.removeprefix('val_')}",
            epoch,
        ): pytest.approx(float(value), rel=1e-5)
        for epoch, row in enumerate(read_history(long_training.output))
        for name, value in row.items()
        if name != "epoch"
    }
    assert len(expected) == 36
    assert found.items() >= expected.items()


@pytest.mark.slow
def test_patience_ends_a_training_that_no_longer_improves(impatient):
    assert epochs_of(impatient.output) == ["1", "2", "3", "4"]


@pytest.mark.slow
def test_checkpoints_of_the_last_and_of_the_first_of_the_best_epochs_are_kept(impatient):
    assert kept(impatient.output) == ["epoch-002.keras", "epoch-004.keras"]
    folder = impatient.output / "checkpoints"
    assert checkpoints.best(impatient.output) == (folder / "epoch-002.keras", 2)
    assert checkpoints.latest(impatient.output) == (folder / "epoch-004.keras", 4)
    assert artifact.describe(str(impatient.output)).training["epoch"] == 2


@pytest.mark.slow
def test_the_best_epochs_network_is_saved(impatient, read_checkpoint):
    image = np.random.default_rng(0).integers(0, 256, (1, 64, 96, 3), np.uint8)
    logits = networks.serve(impatient.output)(image)
    np.testing.assert_allclose(logits, read_checkpoint(impatient.output, 2)(image), atol=1e-4)
    assert not np.allclose(logits, read_checkpoint(impatient.output, 4)(image), atol=1e-2)


@pytest.mark.slow
def test_a_training_that_ended_by_patience_does_not_resume(impatient):
    (impatient.output / "model.json").unlink()
    again = impatient.run(patience=2, resume=True)
    assert again.description.training == impatient.description.training
    assert epochs_of(impatient.output) == ["1", "2", "3", "4"]
    assert kept(impatient.output) == ["epoch-002.keras", "epoch-004.keras"]
    assert (impatient.output / "model.json").exists()


@pytest.mark.slow
def test_a_training_resumes_from_its_last_epoch_not_its_best(impatient, read_checkpoint):
    resumed = impatient.run(resume=True)
    assert any("epoch-004.keras: resuming after epoch 4" in line for line in resumed.lines)
    assert epochs_of(impatient.output) == ["1", "2", "3", "4", "5", "6"]
    assert kept(impatient.output) == ["epoch-005.keras", "epoch-006.keras"]
    assert resumed.description.training["epoch"] == 5
    assert int(read_checkpoint(impatient.output, 6).optimizer.iterations) == 18


@pytest.mark.parametrize(
    ("scores", "patience", "expected"),
    [
        ((), 1, True),
        ((0.5,), 1, True),
        ((0.5, 0.5), 1, False),
        ((0.5, 0.4), 2, True),
        ((0.5, 0.4, 0.6), 2, True),
        ((0.5, 0.4, 0.3), 2, False),
        ((0.5, 0.4, 0.3), None, True),
    ],
)
def test_whether_to_go_on(tmp_path, scores, patience, expected):
    rows = [f"{epoch},{score}\n" for epoch, score in enumerate(scores, start=1)]
    (tmp_path / "history.csv").write_text("epoch,val_miou\n" + "".join(rows))
    assert CheckpointEachEpoch(tmp_path, len(scores), patience).has_patience() == expected


@pytest.mark.slow
@pytest.mark.parametrize(
    ("moment", "epochs"),
    [({"epoch": 1, "step": 1}, 1), ({"epoch": 0, "step": 1}, 0)],
    ids=["within an epoch", "within the first epoch"],
)
def test_an_interrupted_training_is_resumed_to_the_same_weights(
    run_training,
    undisturbed,
    tmp_path,
    read_checkpoint,
    assert_close,
    assert_same_history,
    moment,
    epochs,
):
    lines = []
    with interrupted(**moment):
        run_training(tmp_path, say=lines.append)
    path, done = checkpoints.latest(tmp_path)
    assert done == epochs
    assert lines[-1].startswith(f"{path}: saved")
    assert "--resume" in lines[-1]
    assert not (tmp_path / "model.json").exists()
    halfway = read_checkpoint(tmp_path, epochs)

    resumed = run_training(tmp_path, resume=True)
    assert any(f"resuming after epoch {epochs}" in line for line in resumed.lines)
    final, straight = read_checkpoint(tmp_path, 2), read_checkpoint(undisturbed.output, 2)
    assert_close(straight, final)
    with pytest.raises(AssertionError):
        assert_close(halfway, final)
    assert int(final.optimizer.iterations) == int(straight.optimizer.iterations) == 6
    assert_same_history(undisturbed.output, tmp_path)
    assert kept(tmp_path) == ["epoch-002.keras"]


@pytest.mark.slow
def test_a_resumed_training_restores_schedule_and_accumulated_gradients(
    run_training, quick, tmp_path, read_checkpoint, assert_close, assert_same_history
):
    # Of three steps an epoch, the last one's gradients are still to be applied.
    recipe = dataclasses.replace(quick, schedule="poly", accumulate=2)
    run_training(tmp_path / "straight", recipe=recipe)
    with interrupted(epoch=1):
        run_training(tmp_path / "halved", recipe=recipe)
    run_training(tmp_path / "halved", recipe=recipe, resume=True)
    outputs = tmp_path / "straight", tmp_path / "halved"
    assert_same_history(*outputs)
    assert_close(*(read_checkpoint(output, 2) for output in outputs))


def test_a_resumed_training_takes_the_learning_rate_of_the_command(tmp_path, quick, tiny_backbone):
    from model_build.network.fcn import fcn

    recipe = dataclasses.replace(quick, schedule="constant")
    models = [fcn(3, "tiny")[0] for _ in range(2)]
    compile_model(models[0], recipe, 3)
    compile_model(models[1], dataclasses.replace(recipe, learning_rate=1e-4), 3)
    checkpoints.restore(models[1], checkpoints.save(models[0], tmp_path, 1))
    assert float(models[1].optimizer.learning_rate) == pytest.approx(1e-4)


@pytest.mark.slow
def test_a_training_that_only_lacks_its_saved_model_can_be_resumed(
    run_training, undisturbed, tmp_path, read_checkpoint, assert_close
):
    shutil.copytree(undisturbed.output / "checkpoints", tmp_path / "checkpoints")
    shutil.copy(undisturbed.output / "history.csv", tmp_path)
    again = run_training(tmp_path, resume=True)
    assert again.description.training == undisturbed.description.training
    assert epochs_of(tmp_path) == ["1", "2"]
    trained = read_checkpoint(undisturbed.output, 2)
    assert_close(trained, read_checkpoint(tmp_path, 2), rtol=0, atol=0)
    assert artifact.describe(str(tmp_path)).fingerprint == again.description.fingerprint


@pytest.mark.slow
def test_a_training_killed_at_any_moment_is_resumed_to_the_same_history(
    start_commands, train_options, run_training, long_training, tmp_path, quick, assert_same_history
):
    moment = random.randrange(4, 18)  # of its steps; an epoch has three
    before = f"""
        import os, signal
        steps, on_train_batch_end = [], checkpoints.CheckpointEachEpoch.on_train_batch_end

        def die_after_step(self, index, logs=None):
            on_train_batch_end(self, index, logs)
            steps.append(index)
            if len(steps) == {moment}:
                os.kill(os.getpid(), signal.SIGKILL)

        checkpoints.CheckpointEachEpoch.on_train_batch_end = die_after_step
        """
    command = start_commands((*train_options, "--epochs", 6, "--output", tmp_path), before=before)
    _, stderr = command.communicate()
    assert command.returncode == -signal.SIGKILL, stderr
    path, epochs = checkpoints.latest(tmp_path)
    keras.models.load_model(path)
    assert epochs >= 1
    run_training(tmp_path, recipe=dataclasses.replace(quick, epochs=6), resume=True)
    assert_same_history(long_training.output, tmp_path)
    assert (tmp_path / "model.json").exists()


@pytest.mark.slow
def test_a_training_killed_while_it_writes_a_checkpoint_is_resumed(
    start_commands, train_options, run_training, undisturbed, tmp_path, assert_same_history
):
    before = """
        import os, signal
        import keras
        save = keras.Model.save

        def save_and_die(model, path):
            save(model, path)
            if (path.parent / "epoch-001.keras").exists():
                os.truncate(path, path.stat().st_size // 2)
                os.kill(os.getpid(), signal.SIGKILL)

        keras.Model.save = save_and_die
        """
    command = start_commands((*train_options, "--output", tmp_path), before=before)
    command.communicate()
    assert command.returncode == -signal.SIGKILL
    assert kept(tmp_path) == ["epoch-001.keras", "unfinished.keras"]
    run_training(tmp_path, resume=True)
    assert_same_history(undisturbed.output, tmp_path)
    assert kept(tmp_path) == ["epoch-002.keras"]


@pytest.mark.slow
def test_a_full_disk_leaves_the_last_checkpoint(
    start_commands, train_options, tmp_path, read_checkpoint
):
    before = """
        import resource

        def fill_disk(self, epoch, logs=None):
            if epoch == 1:
                resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))

        checkpoints.CheckpointEachEpoch.on_epoch_begin = fill_disk
        """
    command = start_commands((*train_options, "--output", tmp_path), before=before)
    _, stderr = command.communicate()
    assert command.returncode == 2
    unwritten, whole = (tmp_path / "checkpoints" / f"epoch-00{n}.keras" for n in (2, 1))
    assert stderr.startswith(f"fcn-beam: {unwritten}: cannot be written: File too large; ")
    assert stderr.endswith(f"run the same command with --resume ({whole} is complete)\n")
    assert stderr.count("\n") == 1
    assert kept(tmp_path) == ["epoch-001.keras"]
    assert int(read_checkpoint(tmp_path, 1).optimizer.iterations) == 3
    assert not list(tmp_path.glob("unfinished*"))


def test_an_output_that_cannot_be_written_is_found_before_the_first_epoch(run_training, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"epoch-000\.keras: cannot be written: ") as caught:
        run_training(tmp_path / "file")
    assert str(caught.value).startswith(str(tmp_path / "file"))


@pytest.mark.slow
def test_output_with_a_training_needs_resume(run_training, undisturbed):
    with pytest.raises(UserError) as caught:
        run_training(undisturbed.output)
    assert str(caught.value).startswith(f"{undisturbed.output}: has a training run")
    assert "--resume" in str(caught.value)


def test_resume_needs_a_checkpoint(run_training, tmp_path):
    with pytest.raises(UserError, match="no checkpoint to resume from") as caught:
        run_training(tmp_path, resume=True)
    assert str(tmp_path) in str(caught.value)


@pytest.mark.slow
def test_resume_with_other_options_is_refused_in_one_line(run_training, undisturbed, quick):
    longer = dataclasses.replace(quick, epochs=3)
    with pytest.raises(UserError, match="does not fit this command") as caught:
        run_training(undisturbed.output, resume=True, freeze_backbone=True, recipe=longer)
    assert "epoch-002.keras" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_resume_with_another_dilation_is_refused(quick, tmp_path):
    plain, _ = fcn(3, "mobilenet_v2")
    compile_model(plain, quick, 3)
    path = checkpoints.save(plain, tmp_path, 1)
    dilated, _ = fcn(3, "mobilenet_v2", output_stride=16)
    compile_model(dilated, quick, 3)
    with pytest.raises(UserError, match="it is for fcn32s_os32_mobilenet_v2, not fcn16s_os16"):
        checkpoints.restore(dilated, path)


def test_a_damaged_checkpoint_is_named(tmp_path):
    path = tmp_path / "epoch-001.keras"
    path.write_bytes(b"PK")
    with pytest.raises(UserError, match=f"{path}: cannot be loaded"):
        checkpoints.restore(None, path)


def test_a_best_checkpoint_that_is_gone_is_named(tmp_path):
    (tmp_path / "history.csv").write_text("epoch,val_miou\n1,0.5\n2,0.4\n")
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "epoch-002.keras").touch()
    with pytest.raises(UserError, match=r"no checkpoint of epoch 1, the best one"):
        checkpoints.best(tmp_path)


def test_an_unfinished_checkpoint_is_ignored(tmp_path):
    def save(content, fails=False):
        def write(path):
            path.write_text(content)
            if fails:
                raise OSError("no space left on device")

        return SimpleNamespace(save=write)

    first = checkpoints.save(save("first"), tmp_path, 1)
    with pytest.raises(UserError, match=r"epoch-002\.keras: cannot be written: no space"):
        checkpoints.save(save("half", fails=True), tmp_path, 2)
    assert checkpoints.latest(tmp_path) == (first, 1)
    assert first.read_text() == "first"
    second = checkpoints.save(save("second"), tmp_path, 2)
    assert checkpoints.latest(tmp_path) == (second, 2)
    assert kept(tmp_path) == ["epoch-002.keras"]


def test_the_latest_checkpoint_is_the_one_with_most_epochs(tmp_path):
    assert checkpoints.latest(tmp_path) is None
    (tmp_path / "checkpoints").mkdir()
    for name in ("epoch-009.keras", "epoch-1000.keras", "epoch-010.keras", "epoch-x.keras"):
        (tmp_path / "checkpoints" / name).touch()
    path, epochs = checkpoints.latest(tmp_path)
    assert (path.name, epochs) == ("epoch-1000.keras", 1000)


@pytest.mark.parametrize("loss", [float("nan"), float("inf")])
def test_weights_ruined_by_the_last_step_are_not_saved(tmp_path, loss):
    keeper = CheckpointEachEpoch(tmp_path, 4)
    keeper.set_params({"steps": 3})
    message = f"training diverged: the validation loss is {loss} at step 3 of epoch 5"
    with pytest.raises(UserError, match=message):
        keeper.on_epoch_end(4, {"loss": 0.5, "val_loss": loss, "val_miou": 0.5})
    assert not list(tmp_path.iterdir())
