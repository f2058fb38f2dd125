"""Counting and summing, on masks in real files."""

import numpy as np
import pytest
import sklearn.metrics
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from model_build.dataset import layout
from model_build.errors import UserError
from model_build.labels import VOID, LabelSet, label2image
from model_build.scores import confusion_matrix
from pipeline.beam_options import choose_runner, split_arguments
from pipeline.evaluation import ConfusionMatrixFn, count, evaluate, findings
from pipeline.predictions import Fault, Prediction, ReadMasks, check_folder, read_prediction

LABELS = LabelSet(("ground", "box", "disc", "star"), ((0, 0, 0), (9, 0, 0), (0, 9, 0), (0, 0, 9)))


def write_mask(path, ids, mode="P"):
    path.parent.mkdir(parents=True, exist_ok=True)
    if mode == "RGB":
        image = Image.fromarray(label2image(ids, LABELS))
    else:
        image = Image.fromarray(ids)
        if mode == "P":
            image.putpalette(LABELS.palette)
    image.save(path)


def random_ids(seed, shape=(6, 8), *extra):
    return np.random.default_rng(seed).choice(np.array([0, 1, 2, *extra], np.uint8), shape)


@pytest.fixture
def data(tmp_path):
    """A data folder of five true masks of several sizes and modes."""
    folder = tmp_path / "data"
    (folder / "images").mkdir(parents=True)
    sizes = ((6, 8), (5, 5), (1, 9), (12, 3), (7, 7))
    for index, (size, mode) in enumerate(zip(sizes, ("P", "L", "RGB", "P", "P"), strict=True)):
        write_mask(folder / f"masks/n{index}.png", random_ids(index, size, VOID), mode)
    return folder


@pytest.fixture
def predicted(data, tmp_path):
    """A folder of as many predicted masks."""
    folder = tmp_path / "predicted"
    for path in (data / "masks").iterdir():
        with Image.open(path) as truth:
            ids = random_ids(path.name.encode()[1] + 50, truth.size[::-1])
        write_mask(folder / path.name, ids)
    return folder


def run(data, predicted, names=("n0", "n1", "n2", "n3", "n4"), workers=1):
    _, options = split_arguments([], [])
    choose_runner(options, workers)
    return evaluate(list(names), ReadMasks(str(predicted), LABELS), layout(data), LABELS, options)


def as_ids(path):
    with Image.open(path) as image:
        ids = np.asarray(image)
    if ids.ndim == 2:
        return ids
    known = (ids[..., None, :] == np.array(LABELS.colors)).all(-1)
    return np.where(known.any(-1), known.argmax(-1), VOID).astype(np.uint8)


matrices = st.lists(
    st.lists(st.integers(0, 2**40), min_size=9, max_size=9).map(
        lambda counts: np.array(counts, np.int64).reshape(3, 3)
    ),
    max_size=6,
)


@given(matrices, st.randoms(use_true_random=False))
def test_sums_do_not_depend_on_order_or_parts(inputs, random):
    combine = ConfusionMatrixFn(3)
    before = [matrix.copy() for matrix in inputs]
    shuffled = random.sample(inputs, len(inputs))
    parts = [combine.create_accumulator() for _ in range(4)]  # some of them stay empty
    for matrix in shuffled:
        index = random.randrange(4)
        parts[index] = combine.add_input(parts[index], matrix)
    random.shuffle(parts)
    first = combine.merge_accumulators(iter(parts[:2]))
    total = combine.extract_output(combine.merge_accumulators([combine.compact(first), *parts[2:]]))
    assert total.dtype == np.int64
    assert total.tolist() == sum(inputs, np.zeros((3, 3), np.int64)).tolist()
    assert all((a == b).all() for a, b in zip(inputs, before, strict=True))


def test_nothing_sums_to_zeros():
    combine = ConfusionMatrixFn(2)
    for empty in (combine.create_accumulator(), combine.merge_accumulators([])):
        assert combine.extract_output(empty).tolist() == [[0, 0], [0, 0]]


@pytest.mark.parametrize("workers", [1, 2])
def test_the_sum_is_that_of_all_pixels_at_once(data, predicted, workers):
    found = run(data, predicted, workers=workers)
    paths = sorted((data / "masks").iterdir())
    truth = np.concatenate([as_ids(path).ravel() for path in paths])
    prediction = np.concatenate([as_ids(predicted / path.name).ravel() for path in paths])
    known = truth != VOID
    by_hand = np.zeros((4, 4), int)
    np.add.at(by_hand, (truth[known], prediction[known]), 1)
    assert found["confusion_matrix"] == by_hand.tolist()
    assert found["confusion_matrix"] == (
        sklearn.metrics.confusion_matrix(truth[known], prediction[known], labels=range(4)).tolist()
    )
    assert found["images"] == 5
    assert found["ignored_pixels"] == (~known).sum() > 0
    assert (found["faults"], found["scaled"], found["unknown_color_pixels"]) == ([], {}, 0)


def test_the_truth_itself_is_a_perfect_prediction(data):
    found = np.array(run(data, data / "masks")["confusion_matrix"])
    assert found.sum() > 0
    assert (found == np.diag(np.diag(found))).all()


def test_whatever_is_wrong_is_listed_and_the_rest_is_counted(data, predicted):
    names = ["n0", "n1", "n2", "n3", "n4", "gone"]
    (predicted / "n0.png").unlink()
    whole = (predicted / "n1.png").read_bytes()
    (predicted / "n1.png").write_bytes(whole[: len(whole) // 2])
    write_mask(predicted / "n2.png", np.full((1, 9), 7, np.uint8))
    (data / "masks/n2.png").write_text("no image")
    (data / "masks/n3.png").unlink()
    found = run(data, predicted, names)
    assert [(fault["name"], fault["what"], fault["missing"]) for fault in found["faults"]] == [
        ("gone", "prediction", True),
        ("gone", "truth", True),
        ("n0", "prediction", True),
        ("n1", "prediction", False),
        ("n2", "prediction", False),
        ("n2", "truth", False),
        ("n3", "truth", True),
    ]
    details = {fault["file"]: fault["detail"] for fault in found["faults"]}
    assert "label value 7" in details[str(predicted / "n2.png")]
    assert "cannot be read" in details[str(data / "masks/n2.png")]
    assert not any(detail.startswith(file) for file, detail in details.items())
    assert found["images"] == 1
    expected = confusion_matrix(as_ids(data / "masks/n4.png"), as_ids(predicted / "n4.png"), 4)
    assert found["confusion_matrix"] == expected.tolist()


def test_a_prediction_of_another_size_is_counted_at_the_truths(data, predicted):
    small = random_ids(9, (3, 4))
    write_mask(predicted / "n0.png", small)
    found = run(data, predicted, ["n0", "n1"])
    assert found["scaled"] == {"n0": "4×3 to 8×6"}
    doubled = small.repeat(2, axis=0).repeat(2, axis=1)
    expected = confusion_matrix(as_ids(data / "masks/n0.png"), doubled, 4)
    expected += confusion_matrix(as_ids(data / "masks/n1.png"), as_ids(predicted / "n1.png"), 4)
    assert found["confusion_matrix"] == expected.tolist()


def test_void_is_no_prediction_where_the_truth_has_a_label(data):
    where = layout(data)
    truth = as_ids(where.mask("n0"))
    on_void = np.where(truth == VOID, VOID, 1).astype(np.uint8)
    (counted,) = count(Prediction("n0", "p.png", on_void), where, LABELS)
    assert counted.matrix[:, 1].sum() == (truth != VOID).sum() == counted.matrix.sum()
    everywhere = np.full_like(truth, VOID)
    (fault,) = count(Prediction("n0", "p.png", everywhere), where, LABELS)
    assert (fault.what, fault.file, fault.missing) == ("prediction", "p.png", False)
    assert "holds void" in fault.detail


def test_a_true_colour_of_no_label_is_ignored_and_counted(data):
    pixels = label2image(np.zeros((2, 3), np.uint8), LABELS).copy()
    pixels[0, :2] = 1, 2, 3
    Image.fromarray(pixels).save(data / "masks/n0.png")
    prediction = Prediction("n0", "p.png", np.zeros((2, 3), np.uint8))
    (counted,) = count(prediction, layout(data), LABELS)
    assert (counted.unknown, counted.ignored, counted.matrix.sum()) == (2, 2, 4)


@pytest.mark.parametrize("mode", ["P", "L", "RGB"])
def test_predictions_may_be_palette_grey_or_rgb(tmp_path, mode):
    ids = random_ids(3, (4, 5), 3)
    write_mask(tmp_path / "sub/n.png", ids, mode)
    found = read_prediction("sub/n", str(tmp_path), LABELS)
    assert isinstance(found, Prediction)
    np.testing.assert_array_equal(found.class_map, ids)


def test_a_prediction_in_a_format_of_no_mask_is_a_fault(tmp_path):
    Image.fromarray(np.zeros((3, 3), np.uint16)).save(tmp_path / "n.png")
    found = read_prediction("n", str(tmp_path), LABELS)
    assert isinstance(found, Fault)
    assert "palette, grey or RGB" in found.detail


def test_findings_do_not_depend_on_order():
    notes = [
        {"name": name, "matrix": None, "ignored": 2, "unknown": 1, "scaled": "4×3 to 8×6"}
        for name in "abc"
    ]
    faults = [
        Fault(name, what, True, "", "")._asdict()
        for name in "de"
        for what in ("prediction", "truth")
    ]
    matrix = np.eye(2, dtype=np.int64)
    one, other = findings(matrix, notes, faults), findings(matrix, notes[::-1], faults[::-1])
    assert one == other
    assert list(one["scaled"]) == list(other["scaled"]) == ["a", "b", "c"]
    assert (one["images"], one["ignored_pixels"], one["unknown_color_pixels"]) == (3, 6, 3)


@pytest.mark.parametrize("below", ["masks", "masks/photos"])
def test_a_folder_above_the_masks_is_told(tmp_path, below):
    write_mask(tmp_path / below / "sub/a[1].png", np.zeros((2, 2), np.uint8))
    with pytest.raises(UserError, match=f"did you mean .*/{below}\\?"):
        check_folder(str(tmp_path), ["sub/a[1]", "b"])
    check_folder(str(tmp_path / below), ["b", "sub/a[1]"])


def test_a_folder_of_other_files_is_left_to_the_list_of_faults(tmp_path):
    check_folder(str(tmp_path), ["a"])
    with pytest.raises(UserError, match="no such folder"):
        check_folder(str(tmp_path / "none"), ["a"])
