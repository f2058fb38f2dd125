"""Counting and summing, on masks in real files."""

import numpy as np
import pytest
import sklearn.metrics
from apache_beam.options.pipeline_options import PipelineOptions
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from model_build.data.labels import VOID, LabelSet, label2image
from model_build.scores import confusion_matrix
from pipeline.evaluation.predictions import Example, Fault, Prediction, ReadMasks
from pipeline.evaluation.scoring import (
    ConfusionMatrixFn,
    PixelCounts,
    count_window,
    findings,
    score,
)
from pipeline.runners import local
from pipeline.storage import Files

FILES = Files()
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
    options = PipelineOptions([])
    local.run_here(options, workers)
    examples = [
        Example(name, f"{data}/images/{name}.jpg", f"{data}/masks/{name}.png") for name in names
    ]
    return score(examples, ReadMasks(str(predicted), LABELS, FILES), LABELS, FILES, options)


def count(data, class_map, size=None):
    """Counts one prediction of ``n0``."""
    truth = str(data / "masks/n0.png")
    prediction = Prediction("n0", "p.png", truth, class_map, size or class_map.shape)
    (found,) = count_window([prediction], LABELS, FILES)
    return found


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
    assert "class id 7" in details[str(predicted / "n2.png")]
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


def test_a_class_map_is_counted_at_the_size_of_its_photo(data):
    """The network's class map is smaller than the mask that ``segment`` makes of it."""
    small = random_ids(9, (3, 4))
    found = count(data, small, (6, 8))
    doubled = small.repeat(2, axis=0).repeat(2, axis=1)
    truth = as_ids(data / "masks/n0.png")
    assert found.matrix.tolist() == confusion_matrix(truth, doubled, 4).tolist()
    assert found.scaled == ""
    assert count(data, small, (12, 16)).scaled == "16×12 to 8×6"


def test_void_is_not_a_valid_prediction_for_a_label(data):
    truth = as_ids(data / "masks/n0.png")
    on_void = np.where(truth == VOID, VOID, 1).astype(np.uint8)
    counted = count(data, on_void)
    assert counted.matrix[:, 1].sum() == (truth != VOID).sum() == counted.matrix.sum()
    fault = count(data, np.full_like(truth, VOID))
    assert (fault.what, fault.file, fault.missing) == ("prediction", "p.png", False)
    assert "has void" in fault.detail


def test_a_true_colour_of_no_label_is_ignored_and_counted(data):
    pixels = label2image(np.zeros((2, 3), np.uint8), LABELS).copy()
    pixels[0, :2] = 1, 2, 3
    Image.fromarray(pixels).save(data / "masks/n0.png")
    counted = count(data, np.zeros((2, 3), np.uint8))
    assert (counted.unknown, counted.ignored, counted.matrix.sum()) == (2, 2, 4)


def test_void_and_reordered_palettes_are_counted(data):
    (data / "masks/n0.png").unlink()
    Image.fromarray(np.array([[0, VOID, VOID]], np.uint8)).save(data / "masks/n0.png")
    counted = count(data, np.zeros((1, 3), np.uint8))
    assert (counted.void, counted.ignored, counted.reordered) == (2, 2, 0)
    mask = Image.fromarray(np.array([[0, 1, 2]], np.uint8), "P")
    order = [1, 0]
    colors = [LABELS.colors[index] for index in order]
    mask.putpalette([channel for color in [*colors, (224, 224, 192)] for channel in color])
    mask.save(data / "masks/n0.png")
    counted = count(data, np.array([[1, 0, 0]], np.uint8))
    assert (counted.void, counted.ignored, counted.reordered) == (0, 1, 1)
    assert counted.matrix.trace() == 2
    assert findings(counted.matrix, [counted._asdict()] * 2, [])["reordered_palettes"] == 2


def test_the_truth_is_checked_even_without_a_prediction(data):
    gone = Fault("n0", "prediction", True, "p.png", "no such file")
    (data / "masks/n1.png").write_text("no image")
    predictions = [
        Prediction(name, "p.png", str(data / f"masks/{name}.png"), gone._replace(name=name))
        for name in ("n0", "n1", "none")
    ]
    fine = Prediction("n2", "p.png", str(data / "masks/n2.png"), np.zeros((1, 9), np.uint8), (1, 9))
    *faults, counted = count_window([*predictions, fine], LABELS, FILES)
    assert [(fault.name, fault.what, fault.missing) for fault in faults] == [
        ("n0", "prediction", True),
        ("n1", "prediction", True),
        ("n1", "truth", False),
        ("none", "prediction", True),
        ("none", "truth", True),
    ]
    assert isinstance(counted, PixelCounts)
    assert counted.name == "n2"


@pytest.mark.slow
def test_faults_in_every_window_are_all_listed_and_the_rest_is_counted(tmp_path):
    """100 examples make four windows; with two workers they need not come in order."""
    names = [f"n{index:02}" for index in range(100)]
    for index, name in enumerate(names):
        write_mask(tmp_path / f"masks/{name}.png", random_ids(index, (2, 3)))
        if index % 4:
            write_mask(tmp_path / f"predicted/{name}.png", random_ids(index + 100, (2, 3)))
        if index % 5 == 0:
            (tmp_path / f"masks/{name}.png").write_text("no image")
    found = run(tmp_path, tmp_path / "predicted", names, workers=2)
    expected = [
        (name, what)
        for index, name in enumerate(names)
        for what, step in (("prediction", 4), ("truth", 5))
        if index % step == 0
    ]
    assert [(fault["name"], fault["what"]) for fault in found["faults"]] == expected
    counted = [name for index, name in enumerate(names) if index % 4 and index % 5]
    assert found["images"] == len(counted) == 60
    assert (
        found["confusion_matrix"]
        == sum(
            confusion_matrix(
                as_ids(tmp_path / f"masks/{name}.png"),
                as_ids(tmp_path / f"predicted/{name}.png"),
                4,
            )
            for name in counted
        ).tolist()
    )


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
