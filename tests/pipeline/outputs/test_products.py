import inspect
from dataclasses import fields
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.outputs import products
from pipeline.outputs.products import MASKS, OVERLAYS, PRODUCTS, Product, chosen

NAMES = st.lists(st.sampled_from(["a", ".jpg", ".png", "_", "/"]), min_size=1, max_size=8).map(
    lambda parts: f"x{''.join(parts)}y.png".replace("//", "/")
)


def test_a_run_writes_the_products_that_it_is_asked_for():
    assert chosen({"overlays": False}) == chosen({}) == ()
    assert chosen({"overlays": True, "limit": 3}) == (OVERLAYS,)


def test_each_product_has_a_folder_of_its_own():
    assert len({product.name for product in PRODUCTS}) == len(PRODUCTS)


def test_only_the_option_and_the_encoder_know_a_product_by_name():
    package = Path(products.__file__).parent.parent
    knowing = {
        path.relative_to(package).as_posix()
        for path in package.rglob("*.py")
        if "overlay" in path.read_text(encoding="utf-8")
    }
    options = {"api.py", "cli/segment.py", "segmentation/plan.py", "segmentation/transform.py"}
    encoder = {"images/__init__.py", "images/masks.py"}
    assert knowing == {"outputs/products.py"} | options | encoder


@given(NAMES, st.sampled_from([*PRODUCTS, Product("grey", ".png", (), bytes)]))
def test_the_file_of_a_product_names_its_mask(mask_name, product):
    assert product.mask_name(product.file(mask_name)) == mask_name
    assert product.file(mask_name).startswith(f"{product.name}/")


@given(NAMES, NAMES, st.sampled_from(PRODUCTS))
def test_no_two_masks_share_the_file_of_a_product(one, other, product):
    assert (product.file(one) == product.file(other)) == (one == other)


@pytest.mark.parametrize("file", ["masks/a.jpg", "overlays/a.png", "a.png", "masks2/a.png"])
def test_other_files_are_none_of_a_product(file):
    assert MASKS.mask_name(file) is OVERLAYS.mask_name(file) is None


def test_a_product_is_made_of_what_it_needs():
    shout = Product("loud", ".txt", ("text",), lambda text: text.upper().encode())
    assert shout.make({"text": "a", "other": 1}) == b"A"


@pytest.mark.parametrize("product", [one for one in PRODUCTS if one is not MASKS])
def test_every_product_has_its_option_everywhere(product):
    from pipeline import SegmentImages, segment
    from pipeline.cli.segment import segment as command
    from pipeline.segmentation.plan import Request

    assert product.name in {option.name for option in command.params}
    assert product.name in {field.name for field in fields(Request)}
    assert product.name in inspect.signature(segment).parameters
    assert product.name in inspect.signature(SegmentImages.__init__).parameters
    assert Request(["in"], "out", **{product.name: True}).products == (product,)
