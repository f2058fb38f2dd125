import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from model_build.common.errors import UserError
from model_build.data.labels import (
    VOC,
    VOID,
    LabelSet,
    image2label,
    label2image,
    parse_labels,
    voc_palette,
)

VOC_COLORS = {
    "background": (0, 0, 0),
    "aeroplane": (128, 0, 0),
    "bicycle": (0, 128, 0),
    "bird": (128, 128, 0),
    "boat": (0, 0, 128),
    "bottle": (128, 0, 128),
    "bus": (0, 128, 128),
    "car": (128, 128, 128),
    "cat": (64, 0, 0),
    "chair": (192, 0, 0),
    "cow": (64, 128, 0),
    "diningtable": (192, 128, 0),
    "dog": (64, 0, 128),
    "horse": (192, 0, 128),
    "motorbike": (64, 128, 128),
    "person": (192, 128, 128),
    "pottedplant": (0, 64, 0),
    "sheep": (128, 64, 0),
    "sofa": (0, 192, 0),
    "train": (128, 192, 0),
    "tvmonitor": (0, 64, 128),
}
VOID_COLOR = (224, 224, 192)

colors = st.tuples(*[st.integers(0, 255)] * 3).filter(lambda color: color != VOID_COLOR)
label_sets = st.lists(colors, min_size=1, max_size=255, unique=True).map(
    lambda chosen: LabelSet(tuple(f"label {i}" for i in range(len(chosen))), tuple(chosen))
)


@st.composite
def label_sets_and_ids(draw):
    labels = draw(label_sets)
    shape = hnp.array_shapes(min_dims=2, max_dims=3, max_side=6)
    ids = st.integers(0, len(labels) - 1) | st.just(VOID)
    return labels, draw(hnp.arrays(np.uint8, shape, elements=ids))


def one_label(name="sky", color=(1, 2, 3)):
    return {"name": name, "color": list(color)}


def test_voc_has_its_21_names_and_colours():
    assert dict(zip(VOC.names, VOC.colors, strict=True)) == VOC_COLORS
    assert VOC.names == tuple(VOC_COLORS)
    assert len(VOC) == 21


def test_voc_palette_gives_void_its_colour_and_256_colours_without_repetition():
    palette = voc_palette()
    assert palette[VOID] == VOID_COLOR
    assert len(set(palette)) == 256


def test_palette_bytes_are_the_labels_colours_then_voc_colours():
    labels = LabelSet(("a", "b"), ((9, 8, 7), (6, 5, 4)))
    assert len(labels.palette) == 768
    assert labels.palette[:6] == bytes([9, 8, 7, 6, 5, 4])
    assert labels.palette[6:9] == bytes(VOC_COLORS["bicycle"])
    assert labels.palette[-3:] == bytes(VOID_COLOR)


def test_labels_json_is_parsed():
    rows = [one_label("sky", (1, 2, 3)), one_label("Straße", (4, 5, 6))]
    text = json.dumps({"ignore_index": 255, "labels": rows}, ensure_ascii=False)
    expected = LabelSet(("sky", "Straße"), ((1, 2, 3), (4, 5, 6)))
    assert parse_labels(text.encode("utf-8")) == expected


def test_labels_json_needs_no_ignore_index():
    assert parse_labels(json.dumps({"labels": [one_label()]}).encode()).ignore_index == 255


@given(label_sets)
@settings(max_examples=20, deadline=None)
def test_to_json_is_read_back(labels):
    assert LabelSet.from_json(json.loads(json.dumps(labels.to_json()))) == labels


@pytest.mark.parametrize(
    ("content", "cause"),
    [
        ({"labels": [one_label("a"), one_label("b")]}, "share the colour [1, 2, 3]"),
        ({"labels": [one_label("a"), one_label("a", (4, 5, 6))]}, "'a' is used twice"),
        ({"labels": [one_label(f"{i}", (i, i // 256, 1)) for i in range(256)]}, "1 to 255 labels"),
        ({"labels": []}, "1 to 255 labels"),
        ({"labels": [one_label("")]}, "printable text"),
        ({"labels": [one_label("  ")]}, "printable text"),
        ({"labels": [one_label("a\nb")]}, "printable text"),
        ({"labels": [one_label(7)]}, "printable text"),
        ({"labels": [one_label(["a"])]}, "printable text"),
        ({"labels": [one_label(color=(1, 2))]}, "three integers"),
        ({"labels": [one_label(color=(1, 2, 256))]}, "three integers"),
        ({"labels": [one_label(color=(1, 2, -1))]}, "three integers"),
        ({"labels": [one_label(color=(1, 2, 0.5))]}, "three integers"),
        ({"labels": [one_label(color=(1, 2, True))]}, "three integers"),
        ({"labels": [one_label(color="#ff")]}, "three integers"),
        ({"labels": [one_label(color=([1], [2], [3]))]}, "three integers"),
        ({"labels": [{"name": "sky"}]}, "not a label set"),
        ({"labels": [{"name": "sky", "color": 5}]}, "but is 5"),
        ({"labels": ["sky"]}, "not a label set"),
        ({"labels": 5}, "not a label set"),
        ({"classes": [one_label()]}, "not a label set"),
        ([one_label()], "not a label set"),
        (None, "not a label set"),
        ({"labels": [one_label()], "ignore_index": 0}, "ignore_index must be 255"),
        ({"labels": [one_label()], "ignore_index": "255"}, "ignore_index must be 255"),
    ],
)
def test_wrong_labels_json_is_refused_in_one_line_with_its_name(content, cause):
    with pytest.raises(UserError) as caught:
        parse_labels(json.dumps(content).encode(), "gs://b/labels.json")
    message = str(caught.value)
    assert message.startswith("gs://b/labels.json: ")
    assert cause in message
    assert "\n" not in message


@pytest.mark.parametrize("content", [b"{", b"", b"\xff\xfe\x00"])
def test_invalid_json_is_refused_with_its_name(content):
    with pytest.raises(UserError, match="not valid JSON") as caught:
        parse_labels(content, "my.json")
    assert str(caught.value).startswith("my.json: ")


def test_names_and_colours_must_be_equally_many():
    with pytest.raises(UserError, match="2 label names but 1 colours"):
        LabelSet(("a", "b"), ((1, 2, 3),))


def test_255_labels_are_allowed():
    palette = tuple(voc_palette(255))
    labels = LabelSet(tuple(str(i) for i in range(255)), palette)
    assert len(labels) == 255


@given(label_sets_and_ids())
@settings(max_examples=60, deadline=None)
def test_ids_survive_the_way_to_colours_and_back(case):
    labels, ids = case
    image = label2image(ids, labels)
    assert image.dtype == np.uint8
    assert image.shape == (*ids.shape, 3)
    back, unknown = image2label(image, labels)
    assert back.dtype == np.uint8
    np.testing.assert_array_equal(back, ids)
    assert unknown == 0


@given(label_sets, hnp.arrays(np.uint8, (5, 4, 3), elements=st.sampled_from([0, 1, 128, 255])))
@settings(max_examples=60, deadline=None)
def test_colours_become_the_ids_a_dictionary_gives(labels, image):
    id_of = {VOID_COLOR: VOID} | {color: i for i, color in enumerate(labels.colors)}
    pixels = [tuple(int(channel) for channel in pixel) for pixel in image.reshape(-1, 3)]
    ids, unknown = image2label(image, labels)
    assert ids.ravel().tolist() == [id_of.get(pixel, VOID) for pixel in pixels]
    assert unknown == sum(pixel not in id_of for pixel in pixels)


def test_label2image_paints_with_literal_colours():
    image = label2image(np.array([[0, 15, 255]], np.uint8))
    assert image.tolist() == [[[0, 0, 0], [192, 128, 128], [224, 224, 192]]]


def test_unknown_colours_become_void_and_are_counted_but_void_is_not():
    image = np.array([[(192, 128, 128), (192, 128, 129), (1, 1, 1), VOID_COLOR]], np.uint8)
    ids, unknown = image2label(image)
    assert ids.tolist() == [[15, 255, 255, 255]]
    assert unknown == 2


def test_a_label_that_owns_the_void_colour_keeps_it():
    labels = LabelSet(("sand", "sea"), (VOID_COLOR, (0, 0, 1)))
    ids, unknown = image2label(np.array([[VOID_COLOR, (0, 0, 1)]], np.uint8), labels)
    assert ids.tolist() == [[0, 1]]
    assert unknown == 0


def parsed(*rows):
    return parse_labels(json.dumps({"labels": rows}).encode())


def test_ids_order_the_labels():
    rows = [one_label("ground", (0, 0, 0)), one_label("fox", (0, 0, 2)), one_label("deer")]
    for row, number in zip(rows, (0, 2, 1), strict=True):
        row["id"] = number
    assert parsed(*rows) == LabelSet(("ground", "deer", "fox"), ((0, 0, 0), (1, 2, 3), (0, 0, 2)))
    assert parsed(*rows).values == ()


def test_ids_that_are_not_positions_are_values_in_masks():
    labels = parsed(one_label("ground", (0, 0, 0)), one_label("deer") | {"id": 255})
    assert labels.names == ("ground", "deer")
    assert labels.values == (0, 255)
    # A network depends only on the label set.
    assert labels == LabelSet(labels.names, labels.colors)
    assert "id" not in json.dumps(labels.to_json())


@pytest.mark.parametrize("number", [-1, 256, 1.0, "1", True, None])
def test_an_id_that_is_no_mask_value_is_refused_with_its_label(number):
    with pytest.raises(UserError, match=r"labels\.json: label 'sky': an id is an integer 0\.\.255"):
        parsed(one_label() | {"id": number})


def test_two_labels_of_one_id_are_refused():
    # The second one's id is its position.
    with pytest.raises(UserError, match="labels 'sky' and 'sea' share the id 1"):
        parsed(one_label("sky") | {"id": 1}, one_label("sea", (0, 0, 9)))


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_labels_may_come_from_windows(encoding):
    text = json.dumps({"labels": [one_label("Bär")]}, ensure_ascii=False)
    assert parse_labels(text.encode(encoding)).names == ("Bär",)


@pytest.mark.parametrize("color", ["#c85000", "red", 7, None, [1, 2], {"r": 1}])
def test_an_invalid_colour_is_quoted_literally(color):
    with pytest.raises(UserError) as caught:
        parsed({"name": "deer", "color": color})
    assert str(caught.value).endswith(f"such as [200, 80, 0], but is {color!r}")
