import json

import numpy as np
import pytest

from model_build.data.labels import LabelSet
from model_build.scores import scores
from pipeline.evaluation.report import complaint, report, shorten, table

LABELS = LabelSet(("ground", "box", "disc", "star"), tuple((9 * n, 0, 0) for n in range(4)))
MATRIX = [[60, 5, 0, 0], [10, 20, 0, 0], [0, 5, 0, 0], [0, 0, 0, 0]]


def fault(name, what="prediction", missing=True, detail="no such file"):
    file = f"{what}s/{name}.png"
    return {"name": name, "what": what, "missing": missing, "file": file, "detail": detail}


def found(*faults, **changes):
    return {
        "images": 3,
        "ignored_pixels": 25,
        "unknown_color_pixels": 0,
        "scaled": {},
        "confusion_matrix": MATRIX,
        "faults": list(faults),
    } | changes


def row(text, name):
    (line,) = [line for line in text.splitlines() if line.startswith(f"{name} ")]
    return line.removeprefix(name).split()


def test_a_report_has_the_scores_by_name_and_the_matrix():
    result = report(found(), LABELS)
    expected = scores(np.array(MATRIX))
    assert result["scores"] == {
        name: getattr(expected, name)
        for name in ("pixel_accuracy", "mean_accuracy", "miou", "frequency_weighted_iou")
    }
    assert [row["name"] for row in result["classes"]] == list(LABELS.names)
    assert [row["iou"] for row in result["classes"]] == list(expected.iou)
    assert [row["true_pixels"] for row in result["classes"]] == [65, 30, 5, 0]
    assert [row["predicted_pixels"] for row in result["classes"]] == [70, 30, 0, 0]
    assert result["absent"] == ["star"]
    assert result["confusion_matrix"] == MATRIX
    assert json.loads(json.dumps(result)) == result


def test_the_table_has_the_same_values():
    text = table(report(found(), LABELS))
    assert row(text, "ground") == [f"{60 / 75:.4f}", "65.00", "%", "70.00", "%"]
    assert row(text, "disc") == ["0.0000", "5.00", "%", "0.00", "%"]
    assert row(text, "star")[0] == "absent"
    assert "in neither true nor predicted masks, so left out of the mean: star\n" in text
    assert row(text, "pixel accuracy") == ["0.8000"]
    assert row(text, "mIoU")[0] == f"{(60 / 75 + 20 / 40 + 0) / 3:.4f}"
    assert "(3 of 4 classes)" in text
    assert row(text, "mean accuracy")[0] == f"{(60 / 65 + 20 / 30 + 0) / 3:.4f}"
    assert row(text, "frequency-weighted IoU")[0] == f"{0.65 * 60 / 75 + 0.3 * 20 / 40:.4f}"
    assert row(text, "images") == ["3"]
    assert row(text, "ignored pixels") == ["25", "(20.00", "%)"]
    assert text.splitlines() == [line.rstrip() for line in text.splitlines()]


def test_classes_without_a_true_pixel_are_named_even_if_all_scores_are_1():
    perfect = [[60, 0, 0, 0], [0, 20, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]]
    result = report(found(confusion_matrix=perfect, void_pixels=25), LABELS)
    assert result["scores"]["miou"] == 1.0
    assert result["not_in_truth"] == ["disc", "star"]
    assert (
        "true masks: no pixel is of 2 of 4 labels (disc, star); 25 pixels have the value 255, "
        "which means void: if it is one of your classes" in table(result)
    )
    # Predicted classes are named too; void of other masks is no value.
    predicted = [[60, 0, 5, 0], [0, 20, 0, 0], [0, 0, 0, 0], [0, 0, 0, 9]]
    text = table(report(found(confusion_matrix=predicted, void_pixels=0), LABELS))
    assert "true masks: no pixel is of 1 of 4 labels (disc)\n" in text


def test_masks_read_by_the_colours_of_their_palettes_are_counted():
    text = table(report(found(reordered_palettes=2), LABELS))
    assert "masks by palette colour   2, as the order is not the labels'" in text


def test_the_table_reports_absence_scaling_and_skipping_only_if_there_is_any():
    whole = np.diag([4, 3, 2, 1]).tolist()
    text = table(report(found(confusion_matrix=whole), LABELS))
    for word in ("absent", "left out", "scaled", "skipped", "no label", "palette", "no pixel"):
        assert word not in text
    scaled = {f"n{index:02}": "8×6 to 4×3" for index in range(12)}
    faults = [fault("gone"), fault("gone", "truth")]
    result = report(found(*faults, scaled=scaled, unknown_color_pixels=7), LABELS, True)
    text = table(result)
    assert row(text, "scaled predictions")[0] == "12,"
    assert "n00: 8×6 to 4×3" in text
    assert "and 2 more" in text
    assert row(text, "skipped as missing") == ["1", "(gone)"]
    assert row(text, "  in an unknown colour") == ["7"]


@pytest.mark.parametrize(
    ("faults", "skip_missing"),
    [
        ([fault("a")], False),
        ([fault("a", missing=False)], True),
        ([fault("a"), fault("a", "truth", missing=False)], True),
    ],
)
def test_with_a_fault_there_are_no_scores(faults, skip_missing):
    result = report(found(*faults), LABELS, skip_missing)
    assert result == {"scores": None, "images": 3, "faults": faults}


def test_a_complaint_names_the_first_files_and_the_remedy():
    faults = [fault(f"n{index:02}") for index in range(11)]
    faults += [fault("n03", "truth", missing=False, detail="cut short")]
    first, *lines = complaint(report(found(*faults), LABELS), 20)
    assert first.startswith("no scores: 11 of 20 images cannot be scored; ")
    assert "--skip-missing" in first
    assert lines[0] == "predictions/n00.png: no prediction: no such file"
    assert lines[-1] == "and 2 more"
    assert len(lines) == 11


def test_a_complaint_after_skipping_is_only_of_the_rest():
    faults = [fault("a"), fault("b", "truth", missing=False, detail="cut short")]
    text = "\n".join(complaint(report(found(*faults), LABELS, True), 5, True))
    assert "1 of 5" in text
    assert "a.png" not in text
    assert "truths/b.png: bad truth: cut short" in text
    assert "--skip-missing" not in text


def test_nothing_to_score_is_no_score():
    nothing = {"images": 0, "confusion_matrix": np.zeros((4, 4), int).tolist()}
    result = report(found(fault("a"), **nothing), LABELS, True)
    assert result["scores"] is None
    assert "predictions/a.png: no prediction" in "\n".join(complaint(result, 1, True))
    void = report(found(**nothing | {"images": 2}), LABELS)
    assert void["scores"] is None
    assert complaint(void, 2) == ["no scores: all pixels of the 2 true masks are void"]


def test_shorten_keeps_short_lists():
    assert shorten(["a"] * 10) == ["a"] * 10
    assert shorten(["a"] * 11) == ["a"] * 10 + ["and 1 more"]
