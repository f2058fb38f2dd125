import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from model_build.data.layouts import DataFolder
from model_build.data.pairs import read_split
from model_build.network.fcn import fcn
from model_build.scores import confusion_matrix, scores
from model_build.training import objective

RNG = np.random.default_rng(0)
IDS = RNG.choice(np.array([0, 1, 2, 255], np.uint8), (2, 32, 32), p=(0.5, 0.2, 0.1, 0.2))
LOGITS = RNG.normal(size=(2, 32, 32, 3)).astype(np.float32)


@pytest.fixture
def compiled(tiny_backbone, quick):
    model, _ = fcn(3, "tiny")
    objective.compile_model(model, quick, 3)
    return model


@pytest.fixture(scope="module")
def pairs(toy_data, toy_labels):
    return read_split(DataFolder(str(toy_data)), "train", toy_labels)


def entropies(ids, logits):
    """Cross-entropy by pixel, 0 where it is void."""
    chosen = np.take_along_axis(logits, np.where(ids == 255, 0, ids)[..., None], -1)[..., 0]
    return np.where(ids == 255, 0, np.log(np.exp(logits).sum(-1)) - chosen)


def metrics(model, ids, logits):
    model.reset_metrics()
    values = model.compute_metrics(np.zeros((*ids.shape, 3), np.uint8), ids, logits)
    return {name: float(value) for name, value in values.items()}


def test_the_loss_is_the_weighted_mean_over_the_pixels_that_are_not_void():
    weights = np.array([0.5, 2.0, 3.0])
    by_pixel = np.append(weights, np.zeros(253))[IDS]
    expected = (by_pixel * entropies(IDS, LOGITS)).sum() / by_pixel.sum()
    loss = objective.CrossEntropy(weights)
    assert float(loss(IDS, LOGITS)) == pytest.approx(expected, rel=1e-5)


def test_the_loss_without_weights_is_keras_own():
    keras_own = keras.losses.SparseCategoricalCrossentropy(
        from_logits=True, ignore_class=255, reduction="sum"
    )
    expected = float(keras_own(IDS, LOGITS)) / np.sum(IDS != 255)
    assert float(objective.CrossEntropy([1, 1, 1])(IDS, LOGITS)) == pytest.approx(
        expected, rel=1e-5
    )


def test_logits_at_void_pixels_change_neither_loss_nor_metrics(compiled):
    loss = objective.CrossEntropy([1, 2, 3])
    changed = LOGITS.copy()
    changed[IDS == 255] = (9, -9, 3)
    assert float(loss(IDS, changed)) == pytest.approx(float(loss(IDS, LOGITS)), rel=1e-6)
    assert metrics(compiled, IDS, changed) == metrics(compiled, IDS, LOGITS)
    changed[IDS == 1] = (9, -9, 3)
    assert float(loss(IDS, changed)) > float(loss(IDS, LOGITS))
    assert metrics(compiled, IDS, changed) != metrics(compiled, IDS, LOGITS)


def test_a_batch_of_void_has_no_loss_and_no_gradient():
    logits, void = tf.Variable(LOGITS), np.full_like(IDS, 255)
    with tf.GradientTape() as tape:
        loss = objective.CrossEntropy([1, 2, 3])(void, logits)
    assert float(loss) == 0
    assert not np.any(tape.gradient(loss, logits))


def test_the_loss_of_half_precision_logits_is_computed_in_float32():
    loss = objective.CrossEntropy([1, 1, 1])(IDS, tf.cast(LOGITS, tf.bfloat16))
    assert loss.dtype == tf.float32
    assert float(loss) == pytest.approx(float(objective.CrossEntropy([1, 1, 1])(IDS, LOGITS)), 1e-2)


def test_the_loss_survives_saving():
    saved = keras.saving.serialize_keras_object(objective.CrossEntropy([0.5, 2.0, 3.0]))
    again = keras.saving.deserialize_keras_object(saved)
    assert isinstance(again, objective.CrossEntropy)
    assert again.weights == (0.5, 2.0, 3.0)


@pytest.mark.parametrize("absent", [(), (2,)], ids=["all classes", "a class missing"])
def test_metrics_equal_the_scores_of_the_confusion_matrix(compiled, absent):
    ids, logits = IDS.copy(), LOGITS.copy()
    for label in absent:
        ids[ids == label] = 255
        logits[..., label] = -99
    expected = scores(confusion_matrix(ids, logits.argmax(-1), 3))
    values = metrics(compiled, ids, logits)
    assert values["accuracy"] == pytest.approx(expected.pixel_accuracy, rel=1e-5)
    assert values["miou"] == pytest.approx(expected.miou, rel=1e-5)


def test_pixel_accuracy_counts_pixels_and_not_batches():
    accuracy = objective.PixelAccuracy(num_classes=2, ignore_class=255)
    accuracy.update_state([[0, 0, 0, 0, 0, 0, 0, 0, 0]], [[0, 0, 0, 0, 0, 0, 0, 0, 0]])
    accuracy.update_state([[1, 255, 255]], [[0, 1, 0]])
    assert float(accuracy.result()) == pytest.approx(0.9)


def test_pixel_accuracy_of_only_void_is_zero():
    accuracy = objective.PixelAccuracy(num_classes=2, ignore_class=255)
    accuracy.update_state([[255, 255]], [[0, 1]])
    assert float(accuracy.result()) == 0


class Mask:
    """The part of a pair that :func:`objective.class_weights` uses."""

    def __init__(self, counts):
        self.counts = counts

    def read_ids(self):
        return np.repeat(np.arange(256, dtype=np.uint8), self.counts)[None]


@given(
    counts=st.lists(st.integers(0, 500), min_size=1, max_size=6),
    void=st.integers(0, 500),
    balance=st.floats(0, 1),
)
@settings(max_examples=200, deadline=None)
def test_class_weights(counts, void, balance):
    masks = [Mask([*counts, *[0] * (255 - len(counts)), void]), Mask([0] * 256)]
    weights = objective.class_weights(masks, len(counts), balance)
    assert len(weights) == len(counts)
    seen = [(count, weight) for count, weight in zip(counts, weights, strict=True) if count]
    if seen:
        total = sum(count for count, _ in seen)
        assert sum(count * weight for count, weight in seen) / total == pytest.approx(1)
    assert all(weight == 1 for count, weight in zip(counts, weights, strict=True) if not count)
    for count, weight in seen:
        for more, lighter in seen:
            if balance == 0:
                assert weight == pytest.approx(1)
            # The weights are to each other as the shares to the power of -balance.
            assert weight / lighter == pytest.approx((more / count) ** balance)


def test_class_weights_of_real_masks_follow_their_pixels(pairs):
    counts = np.bincount(np.concatenate([pair.read_ids().ravel() for pair in pairs]), minlength=3)
    weights = objective.class_weights(pairs, 4, 1.0)
    assert weights[:3] == pytest.approx(counts.sum() / counts / 3)
    assert weights[3] == 1
