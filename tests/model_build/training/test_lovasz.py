import numpy as np
import pytest
import tensorflow as tf

from model_build.scores import confusion_matrix, scores
from model_build.training.lovasz import LEVELS, lovasz_softmax

RNG = np.random.default_rng(0)
IDS = RNG.choice(np.array([0, 1, 2, 255], np.uint8), (2, 16, 16), p=(0.5, 0.3, 0.1, 0.1))
LOGITS = RNG.normal(0, 2, (2, 16, 16, 4)).astype(np.float32)  # of class 3 there is no pixel


def sorted_loss(ids, logits):
    """As in the paper: algorithm 1 and equation 11."""
    shares = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    ids, shares = ids[ids != 255], shares[ids != 255]
    losses = []
    for label in np.unique(ids):
        truth = (ids == label).astype(float)
        errors = np.abs(truth - shares[:, label])
        order = np.argsort(-errors)
        truth = truth[order]
        total = truth.sum()
        jaccard = 1 - (total - truth.cumsum()) / (total + (1 - truth).cumsum())
        losses.append(errors[order] @ np.diff(jaccard, prepend=0))
    return np.mean(losses)


def with_gradient(ids, logits):
    logits = tf.Variable(logits)
    with tf.GradientTape() as tape:
        loss = lovasz_softmax(ids, logits)
    return float(loss), np.array(tape.gradient(loss, logits))


def test_the_loss_is_that_of_sorted_errors():
    expected = sorted_loss(IDS, LOGITS)
    assert 0.1 < expected < 0.9
    assert float(lovasz_softmax(IDS, LOGITS)) == pytest.approx(expected, abs=1 / LEVELS)


def test_of_certain_predictions_the_loss_is_one_minus_the_miou():
    predicted = np.where(RNG.random(IDS.shape) < 0.7, np.minimum(IDS, 2), 1)
    logits = np.eye(4, dtype=np.float32)[predicted] * 100
    expected = 1 - scores(confusion_matrix(IDS, predicted, 4)).miou
    assert float(lovasz_softmax(IDS, logits)) == pytest.approx(expected, abs=1e-5)


def test_following_the_gradient_lowers_the_loss():
    logits, losses = LOGITS, []
    for _ in range(5):
        loss, gradient = with_gradient(IDS, logits)
        losses.append(loss)
        logits = logits - 500 * gradient
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < 0.9 * losses[0]


def test_logits_at_void_pixels_change_nothing():
    changed = LOGITS.copy()
    changed[IDS == 255] = (9, -9, 3, 0)
    loss, gradient = with_gradient(IDS, LOGITS)
    assert with_gradient(IDS, changed)[0] == pytest.approx(loss, rel=1e-6)
    assert not gradient[IDS == 255].any()
    assert gradient[IDS != 255].any()


def test_a_batch_of_void_has_no_loss_and_no_gradient():
    loss, gradient = with_gradient(np.full_like(IDS, 255), LOGITS)
    assert loss == 0
    assert not gradient.any()


def test_a_perfect_prediction_has_no_loss():
    certain = np.eye(4, dtype=np.float32)[np.minimum(IDS, 3)] * 100
    assert float(lovasz_softmax(IDS, certain)) < 1e-6


def test_xla_computes_the_same():
    compiled = tf.function(lovasz_softmax, jit_compile=True)
    expected = float(lovasz_softmax(IDS, LOGITS))
    assert float(compiled(tf.constant(IDS), tf.constant(LOGITS))) == pytest.approx(expected, 1e-5)
