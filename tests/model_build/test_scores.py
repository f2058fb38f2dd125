import numpy as np
import pytest
import sklearn.metrics
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from model_build.data.labels import VOID
from model_build.scores import confusion_matrix, scores

unhurried = settings(deadline=None)


@st.composite
def pairs(draw):
    """Truth (with void), prediction and number of classes."""
    classes = draw(st.integers(1, 6))
    shape = draw(hnp.array_shapes(min_dims=2, max_dims=2, max_side=7))
    ids = st.integers(0, classes - 1)
    truth = draw(hnp.arrays(np.uint8, shape, elements=ids | st.just(VOID)))
    return truth, draw(hnp.arrays(np.uint8, shape, elements=ids)), classes


def by_hand(truth, prediction, classes):
    """Everything again, pixel by pixel and class by class."""
    pixels = [
        (int(t), int(p)) for t, p in zip(truth.flat, prediction.flat, strict=True) if t != VOID
    ]
    matrix = [[0] * classes for _ in range(classes)]
    for t, p in pixels:
        matrix[t][p] += 1
    iou, recalls, weighted = [], [], 0.0
    for label in range(classes):
        union = [pair for pair in pixels if label in pair]
        true = [pair for pair in pixels if pair[0] == label]
        both = [pair for pair in pixels if pair == (label, label)]
        iou.append(len(both) / len(union) if union else None)
        recalls += [len(both) / len(true)] if true else []
        weighted += len(true) / len(pixels) * (iou[-1] or 0)
    present = [value for value in iou if value is not None]
    right = sum(t == p for t, p in pixels)
    return matrix, {
        "pixel_accuracy": right / len(pixels),
        "mean_accuracy": sum(recalls) / len(recalls),
        "miou": sum(present) / len(present),
        "frequency_weighted_iou": weighted,
        "iou": iou,
    }


@unhurried
@given(pairs())
def test_scores_equal_those_counted_pixel_by_pixel(pair):
    truth, prediction, classes = pair
    assume((truth != VOID).any())
    matrix, expected = by_hand(truth, prediction, classes)
    found = confusion_matrix(truth, prediction, classes)
    assert found.dtype == np.int64
    assert found.tolist() == matrix
    for name, value in expected.items():
        assert list(np.atleast_1d(getattr(scores(found), name))) == pytest.approx(
            list(np.atleast_1d(value))
        ), name


@pytest.mark.filterwarnings("ignore:A single label was found")
@unhurried
@given(pairs())
def test_scores_equal_those_of_scikit_learn(pair):
    truth, prediction, classes = pair
    known = truth != VOID
    assume(known.any())
    true, predicted = truth[known], prediction[known]
    matrix = confusion_matrix(truth, prediction, classes)
    np.testing.assert_array_equal(
        matrix, sklearn.metrics.confusion_matrix(true, predicted, labels=range(classes))
    )
    found = scores(matrix)
    present, in_truth = np.unique([true, predicted]), np.unique(true)

    def jaccard(average):
        return sklearn.metrics.jaccard_score(true, predicted, labels=present, average=average)

    assert [found.iou[label] for label in present] == pytest.approx(list(jaccard(None)))
    assert found.miou == pytest.approx(jaccard("macro"))
    assert found.frequency_weighted_iou == pytest.approx(jaccard("weighted"))
    assert found.pixel_accuracy == pytest.approx(sklearn.metrics.accuracy_score(true, predicted))
    assert found.mean_accuracy == pytest.approx(
        sklearn.metrics.recall_score(true, predicted, labels=in_truth, average="macro")
    )


@unhurried
@given(pairs())
def test_a_perfect_prediction_scores_one(pair):
    truth, _, classes = pair
    assume((truth != VOID).any())
    found = scores(confusion_matrix(truth, truth, classes))
    assert found.pixel_accuracy == found.mean_accuracy == found.miou == 1
    assert found.frequency_weighted_iou == pytest.approx(1)
    assert [value is not None for value in found.iou] == [
        (truth == c).any() for c in range(classes)
    ]


@unhurried
@given(pairs(), st.integers(0, 2**32 - 1))
def test_predictions_on_void_do_not_count(pair, seed):
    truth, prediction, classes = pair
    noise = np.random.default_rng(seed).integers(0, 256, truth.shape, np.uint8)
    elsewhere = np.where(truth == VOID, noise, prediction)
    np.testing.assert_array_equal(
        confusion_matrix(truth, elsewhere, classes), confusion_matrix(truth, prediction, classes)
    )


def test_a_class_in_neither_mask_is_left_out_of_the_mean():
    found = scores(np.array([[6, 0, 0, 2], [0, 0, 0, 0], [1, 0, 1, 0], [0, 0, 0, 0]]))
    assert found.iou == pytest.approx((6 / 9, None, 1 / 2, 0))
    assert found.miou == pytest.approx((6 / 9 + 1 / 2 + 0) / 3)
    assert found.mean_accuracy == pytest.approx((6 / 8 + 1 / 2) / 2)
    assert found.frequency_weighted_iou == pytest.approx(8 / 10 * 6 / 9 + 2 / 10 * 1 / 2)


def test_a_network_that_predicts_only_background_scores_badly():
    truth = np.zeros((10, 100), np.uint8)
    truth[:, 80:] = np.arange(1, 21)
    found = scores(confusion_matrix(truth, np.zeros_like(truth), 21))
    assert found.pixel_accuracy == pytest.approx(0.8)
    assert found.miou == pytest.approx(0.8 / 21)
    assert found.mean_accuracy == pytest.approx(1 / 21)


@pytest.mark.parametrize(
    ("truth", "prediction", "message"),
    [
        ([[0, 3]], [[0, 0]], "class id 3 is outside the 3 classes"),
        ([[0, 1]], [[0, 255]], "class id 255"),
        ([[0, 1]], [[0, -1]], "class id -1"),
        ([[0, 1]], [[0], [1]], "shape"),
    ],
)
def test_an_invalid_class_is_refused(truth, prediction, message):
    with pytest.raises(ValueError, match=message):
        confusion_matrix(np.array(truth), np.array(prediction), 3)


def test_only_void_has_no_scores():
    void = np.full((2, 2), VOID, np.uint8)
    with pytest.raises(ValueError, match="all are void"):
        scores(confusion_matrix(void, void, 3))
