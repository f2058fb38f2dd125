"""Shared by tests of earlier masks: a photo, its mask as runs and people leave it, and its row."""

import io
from dataclasses import replace

import numpy as np
from PIL import Image, PngImagePlugin

from model_build.data.labels import VOC
from pipeline.images.masks import Origin, encode_mask, histogram
from pipeline.outputs.folder import OutputFolder
from pipeline.records import ImageRef, Row, Stamp, Task, hash_of
from pipeline.segmentation.up_to_date import (
    KeepOptions,
    check,
)
from pipeline.storage import Files

FILES = Files()
RECIPE, OTHER_RECIPE = "r" * 32, "o" * 32
OPTIONS = KeepOptions(RECIPE, VOC)
DISCARD = replace(OPTIONS, discard_edits=True)
VERIFY = replace(OPTIONS, verify=True)


def photo(color, size=(6, 4)):
    """A photo of one colour."""
    buffer = io.BytesIO()
    Image.new("RGB", size, color).save(buffer, "PNG")
    return buffer.getvalue()


PHOTO, OTHER_PHOTO = photo("red"), photo("blue")
SOURCE, MASK = Stamp(20, "source 1"), Stamp(99, "mask 1")
NOWHERE = OutputFolder("/nowhere", FILES)


def row_of(**changes):
    """The row of the mask of ``a.jpg``, as a run with :data:`RECIPE` has left it."""
    fields = {
        "image": "/in/a.jpg",
        "mask": "masks/a.png",
        "width": 6,
        "height": 4,
        "pixels": {"person": 24},
        "source": SOURCE,
        "hash": hash_of(PHOTO),
        "written": MASK,
        "recipe": RECIPE,
    }
    return Row(**fields | changes)


def task_of(*, source=SOURCE, mask=MASK, row=None, products=frozenset(), earlier=()):
    return Task(ImageRef("/in/a.jpg", "a.jpg", source), "a.png", mask, row, products, earlier)


NEW_SOURCE, NEW_MASK = Stamp(20, "source 2"), Stamp(99, "mask 2")


def class_map(class_id, size=(4, 6)):
    return np.full(size, class_id, np.uint8)


def mask_bytes(class_id=15, **changes):
    """A mask whose text tells that it is of ``a.jpg``, but for what changes."""
    pixels = histogram(class_map(class_id), VOC)
    origin = Origin("a.jpg", hash_of(PHOTO), RECIPE, pixels)._replace(**changes)
    return encode_mask(class_map(class_id), VOC, origin)


def saved(class_map, mode="P", kind="PNG", labels=VOC):
    """A mask as an editor saves it, without any text: palette, RGB or grey ids."""
    image = Image.fromarray(class_map)
    if mode in ("P", "RGB", "RGBA"):
        image.putpalette(labels.palette)
        image = image.convert(mode)
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return buffer.getvalue()


def edited(mask, class_map):
    """Another class map in the place of a mask's, by an editor that keeps its text."""
    with Image.open(io.BytesIO(mask)) as image:
        text = PngImagePlugin.PngInfo()
        for key, value in image.text.items():
            text.add_text(key, value)
        other = Image.fromarray(class_map)
        other.putpalette(image.getpalette())
    buffer = io.BytesIO()
    other.save(buffer, "PNG", pnginfo=text)
    return buffer.getvalue()


def checked(task, mask=None, image=None, options=OPTIONS, out=NOWHERE):
    return check(task, mask, image, options, out)


BEFORE = row_of(written=Stamp(99, "mask 1"))  # of what a run has written in a mask's place
ROWLESS = task_of(source=NEW_SOURCE, mask=NEW_MASK)
KNOWN = ROWLESS._replace(earlier=(BEFORE,))
TOUCHED = task_of(source=NEW_SOURCE, row=row_of())
OURS = hash_of(mask_bytes())
KEPT = row_of(source=NEW_SOURCE, written=NEW_MASK, mask_hash=OURS)


EDITS = {
    "palette": saved(class_map(8)),
    "RGB": saved(class_map(8), "RGB"),
    "RGBA": saved(class_map(8), "RGBA"),
    "grey ids": saved(class_map(8), "L"),
    "another format": saved(class_map(8), "L", "TIFF"),
    "with the text": edited(mask_bytes(), class_map(8)),
}


def written(mask):
    """An output folder whose mask ``a.png`` is this."""
    FILES.write("memory://edits/masks/a.png", mask)
    return OutputFolder("memory://edits", FILES)


def foreign(mode="RGB"):
    """The pixels of nobody's labels."""
    buffer = io.BytesIO()
    Image.new(mode, (6, 4), 77 if mode == "L" else (1, 2, 3)).save(buffer, "PNG")
    return buffer.getvalue()
