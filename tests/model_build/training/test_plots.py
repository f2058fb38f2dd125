import itertools
import os
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image

from model_build.data.labels import VOC, VOID, LabelSet
from model_build.training import plots

COLUMNS = ("loss", "accuracy", "miou", "val_loss", "val_accuracy", "val_miou")


@pytest.fixture(autouse=True)
def nothing_is_warned_of():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def history(*val_mious, **columns):
    """Rows as they come out of a history.csv."""
    return [
        dict.fromkeys(COLUMNS, "0.5")
        | {"epoch": str(epoch), "val_miou": miou, "learning_rate": "0.001"}
        | columns
        for epoch, miou in enumerate(val_mious, start=1)
    ]


def line(axes, label):
    (found,) = (found for found in axes.lines if found.get_label() == label)
    return found


def pixels(figure):
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3]


def pixel_at(figure, axes, x, y):
    """The colour drawn at a point given in the axes' data coordinates."""
    image = pixels(figure)
    column, row = axes.transData.transform((x, y))
    return tuple(image[image.shape[0] - 1 - int(row), int(column)].tolist())


def rgb(color):
    return tuple(bytes.fromhex(color[1:]))


def legend_of(figure):
    (legend,) = figure.legends
    return [text.get_text() for text in legend.get_texts()]


# The curves


def test_the_curves_are_those_of_the_rows():
    rows = history("0.1", "0.3", loss="1.5", val_loss="2.5", accuracy="0.7", val_accuracy="0.6")
    figure = plots.history_figure(rows)
    loss, accuracy, miou = figure.axes
    assert [axes.get_xlabel() for axes in figure.axes] == ["epoch"] * 3
    assert line(loss, "training").get_xydata().tolist() == [[1, 1.5], [2, 1.5]]
    assert line(loss, "validation").get_xydata().tolist() == [[1, 2.5], [2, 2.5]]
    assert line(accuracy, "training").get_ydata().tolist() == [0.7, 0.7]
    assert line(accuracy, "validation").get_ydata().tolist() == [0.6, 0.6]
    assert line(miou, "validation").get_ydata().tolist() == [0.1, 0.3]
    assert legend_of(figure) == ["training", "validation", "best validation mIoU"]


@pytest.mark.parametrize(
    ("mious", "best"),
    [(("0.1", "0.3", "0.2"), 2), (("0.3", "0.2", "0.3"), 1), (("nan", "0.1", ""), 2)],
    ids=["middle", "the first of equals", "some unknown"],
)
def test_the_epoch_of_the_best_validation_miou_is_marked_in_each_panel(mious, best):
    figure = plots.history_figure(history(*mious, val_loss="0.25"))
    for axes in figure.axes:
        assert line(axes, "best validation mIoU").get_xdata() == [best, best]
    assert figure.axes[0].get_title() == f"loss: 0.250 in validation, epoch {best}"
    assert figure.axes[2].get_title().startswith(f"mIoU: {mious[best - 1]}")


def test_without_a_validation_miou_nothing_is_marked():
    figure = plots.history_figure(history("nan", ""))
    assert [axes.get_title() for axes in figure.axes] == ["loss", "pixel accuracy", "mIoU"]
    assert legend_of(figure) == ["training", "validation"]


def test_a_single_epoch_is_visible():
    figure = plots.history_figure(history("0.25", miou="0.75"))
    miou = figure.axes[2]
    # The line of the best epoch goes through both dots, but leaves most of them to be seen.
    box = miou.get_window_extent()
    image = pixels(figure)
    inside = image[: image.shape[0] - int(box.y0), int(box.x0) : int(box.x1)]
    seen = {tuple(color) for color in inside.reshape(-1, 3)}
    assert {rgb(plots.TRAINING), rgb(plots.VALIDATION), rgb(plots.BEST)} <= seen
    assert [tick for tick in miou.get_xticks() if 0.5 <= tick <= 1.5] == [1]


def test_epochs_are_whole_numbers_on_the_axis():
    figure = plots.history_figure(history("0.1", "0.2", "0.3"))
    pixels(figure)
    for axes in figure.axes:
        assert all(tick == int(tick) for tick in axes.get_xticks())


def test_the_curves_are_saved_as_a_png(tmp_path):
    plots.draw_history(history("0.1", "0.3"), tmp_path / "training.png")
    assert [path.name for path in tmp_path.iterdir()] == ["training.png"]
    with Image.open(tmp_path / "training.png") as image:
        assert image.format == "PNG"
        assert min(image.size) > 300


# The confusion matrix


def test_rows_of_the_confusion_matrix_are_shares_of_the_true_class():
    figure = plots.confusion_figure(np.array([[30, 10], [0, 5]]), ("sky", "sea"))
    matrix, bar = figure.axes
    (image,) = matrix.images
    assert image.get_array().tolist() == [[0.75, 0.25], [0, 1]]
    assert [text.get_text() for text in matrix.texts] == ["75", "25", "100"]
    assert [text.get_position() for text in matrix.texts] == [(0, 0), (1, 0), (1, 1)]
    assert [text.get_text() for text in matrix.get_yticklabels()] == ["sky", "sea"]
    assert [text.get_text() for text in matrix.get_xticklabels()] == ["sky", "sea"]
    assert matrix.get_ylabel() == "true class"
    assert matrix.get_xlabel() == "predicted class"
    assert bar.get_ylim() == (0, 1)


def test_the_true_class_is_from_top_to_bottom_and_the_colour_is_its_share():
    figure = plots.confusion_figure(np.array([[0, 10], [10, 0]]), ("sky", "sea"))
    (matrix, _) = figure.axes
    corner = {
        (x, y): sum(pixel_at(figure, matrix, x + 0.3, y + 0.3)) for x in (0, 1) for y in (0, 1)
    }
    assert max(corner[1, 0], corner[0, 1]) < 250 < 700 < min(corner[0, 0], corner[1, 1])


@pytest.mark.parametrize("classes", [1, 3, 30])
def test_a_class_without_pixels_is_shown_as_absent(classes):
    matrix = np.eye(classes, dtype=np.int64) * 7
    matrix[-1] = 0
    figure = plots.confusion_figure(matrix, [f"class {index}" for index in range(classes)])
    axes = figure.axes[0]
    shares = axes.images[0].get_array()
    assert shares.mask.all(axis=1).tolist() == [False] * (classes - 1) + [True]
    assert axes.texts[-1].get_text() == "no pixels"
    assert axes.texts[-1].get_position()[1] == classes - 1
    red, green, blue = pixel_at(figure, axes, classes - 0.7, classes - 0.7)
    assert red == green == blue < 240


@pytest.mark.slow
@pytest.mark.parametrize(("classes", "numbers"), [(3, True), (11, True), (21, True), (150, False)])
def test_the_figure_has_room_for_any_number_of_class_names(classes, numbers):
    """No label overlaps the next one, and none leaves the picture."""
    names = [f"a class with a long name, {index}" for index in range(classes)]
    matrix = np.full((classes, classes), 1000 // classes)
    figure = plots.confusion_figure(matrix, names)
    height, width = pixels(figure).shape[:2]
    axes = figure.axes[0]
    boxes = [label.get_window_extent() for label in axes.get_yticklabels()]
    assert all(lower.y1 <= upper.y0 for upper, lower in itertools.pairwise(boxes))
    assert min(box.x0 for box in boxes) >= 0
    columns = [label.get_window_extent() for label in axes.get_xticklabels()]
    assert all(left.x1 <= right.x0 for left, right in itertools.pairwise(columns))
    assert min(box.y0 for box in columns) >= 0
    assert max(height, width) < 3500
    assert bool(axes.texts) == numbers


def test_the_confusion_matrix_is_saved_as_a_png(tmp_path):
    names = ("$broken \\math{", "_hidden", "草地")
    plots.draw_confusion(np.eye(3, dtype=np.int64), names, tmp_path / "confusion.png")
    assert [path.name for path in tmp_path.iterdir()] == ["confusion.png"]
    with Image.open(tmp_path / "confusion.png") as image:
        assert image.format == "PNG"


# The samples


def sample(height, width, *, photo=(10, 20, 30), prediction=1, truth=2):
    return (
        np.full((height, width, 3), photo, np.uint8),
        np.full((height, width), prediction, np.uint8),
        np.full((height, width), truth, np.uint8),
    )


def test_samples_are_columns_of_photo_prediction_and_truth():
    samples = [sample(40, 60), sample(80, 50, photo=(200, 0, 0), prediction=15, truth=VOID)]
    figure = plots.samples_figure(samples, VOC)
    assert [axes.get_ylabel() for axes in figure.axes[::2]] == ["photo", "prediction", "truth"]
    colors = [pixel_at(figure, axes, 20, 20) for axes in figure.axes]
    assert colors == [
        *((10, 20, 30), (200, 0, 0)),
        *(VOC.colors[1], VOC.colors[15]),
        *(VOC.colors[2], (224, 224, 192)),
    ]


def test_each_sample_is_as_tall_as_the_others_and_undistorted():
    shapes = [(40, 60), (80, 50), (33, 66), (90, 90)]
    figure = plots.samples_figure([sample(*shape) for shape in shapes], VOC)
    pixels(figure)
    boxes = [axes.get_window_extent() for axes in figure.axes[:4]]
    assert max(box.height for box in boxes) < 1.1 * min(box.height for box in boxes)
    for (height, width), box in zip(shapes, boxes, strict=True):
        assert box.width / box.height == pytest.approx(width / height, rel=0.01)


@pytest.mark.parametrize("shape", [(20, 400), (400, 20), (1, 1)])
def test_odd_shapes_leave_room_for_the_others(shape):
    figure = plots.samples_figure([sample(*shape), sample(60, 60)], VOC)
    pixels(figure)
    for axes in figure.axes:
        box = axes.get_window_extent()
        assert max(box.width, box.height) > 100


def test_mask_colours_are_not_mixed_where_classes_meet():
    photo, ids, _ = sample(200, 200)
    ids[::2] = 4
    figure = plots.samples_figure([(photo, ids, ids)], VOC)
    axes = figure.axes[1]
    box = axes.get_window_extent()
    image = pixels(figure)
    rows = slice(image.shape[0] - int(box.y1) + 2, image.shape[0] - int(box.y0) - 2)
    drawn = image[rows, int(box.x0) + 2 : int(box.x1) - 2].reshape(-1, 3)
    assert {tuple(color) for color in drawn} == {VOC.colors[1], VOC.colors[4]}


def test_the_legend_names_the_classes_that_occur_in_their_colours():
    samples = [sample(30, 40, prediction=0, truth=15), sample(30, 40, prediction=3, truth=VOID)]
    figure = plots.samples_figure(samples, VOC)
    assert legend_of(figure) == ["background", "bird", "person", "void, not scored"]
    patches = figure.legends[0].get_patches()
    colors = [tuple(round(255 * c) for c in patch.get_facecolor()[:3]) for patch in patches]
    assert colors == [VOC.colors[0], VOC.colors[3], VOC.colors[15], (224, 224, 192)]


def test_a_legend_of_many_classes_stays_inside_the_picture():
    photo, ids, _ = sample(60, 60)
    ids[:] = np.arange(60) % 21
    figure = plots.samples_figure([(photo, ids, ids)], VOC)
    height, width = pixels(figure).shape[:2]
    box = figure.legends[0].get_window_extent()
    assert 0 <= box.x0 <= box.x1 <= width
    assert 0 <= box.y0 <= box.y1 <= figure.axes[2].get_window_extent().y0 < height
    assert figure.axes[2].get_window_extent().height > 150


def test_samples_are_saved_as_a_png_whatever_the_labels_are_called(tmp_path):
    labels = LabelSet(("$broken \\math{", "_hidden", "草地"), ((0, 0, 0), (9, 9, 9), (1, 2, 3)))
    photo, ids, _ = sample(30, 40)
    ids[:] = np.arange(40) % 3
    figure = plots.samples_figure([(photo, ids, ids)], labels)
    assert legend_of(figure) == list(labels.names)
    plots.draw_samples([(photo, ids, ids)], labels, tmp_path / "samples.png")
    assert [path.name for path in tmp_path.iterdir()] == ["samples.png"]
    with Image.open(tmp_path / "samples.png") as image:
        assert image.format == "PNG"
        colors = {tuple(color) for color in np.asarray(image.convert("RGB")).reshape(-1, 3)}
    assert {*labels.colors, (10, 20, 30)} <= colors


# The process


def run(code, tmp_path, **environment):
    root = Path(plots.__file__).parents[2]
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(root)} | environment,
        capture_output=True,
        text=True,
    )


def test_no_word_is_printed_where_matplotlib_can_keep_no_cache(tmp_path):
    (tmp_path / "file").touch()
    code = (
        "import numpy, model_build.training.plots as plots;"
        "plots.draw_confusion(numpy.eye(2, dtype=int), ('a', '草'), 'confusion.png')"
    )
    done = run(code, tmp_path, MPLCONFIGDIR=str(tmp_path / "file" / "none"))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert {path.name for path in tmp_path.iterdir()} == {"file", "confusion.png"}


def test_pyplot_is_not_imported(tmp_path):
    code = (
        "import sys, model_build.training.plots as plots;"
        "assert 'matplotlib' not in sys.modules;"
        "plots.draw_history([], 'training.png');"
        "assert 'matplotlib' in sys.modules and 'matplotlib.pyplot' not in sys.modules"
    )
    done = run(code, tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
