import json
import math
import time
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.outputs import summary as module
from pipeline.outputs.summary import (
    Summary,
    allowed_rejects,
    sum_tallies,
    summarise,
    tally_added,
    tally_kept,
    tally_outside,
    tally_passed_over,
    tally_reject,
    tally_row,
    versions,
)
from pipeline.records import PassedOver, Reject, Row, Stamp


def row(**pixels):
    return Row(
        "a.jpg", "masks/a.png", 1, 1, pixels, Stamp(9, "1"), "ab12", Stamp(5, "2"), recipe="c0ffee"
    )


ROWS = [row(sky=30, sea=10), row(sky=60), row()]
REJECTS = [
    Reject("b.jpg", "decode", "OSError", "cut short"),
    Reject("c.jpg", "decode", "OSError", "cut short"),
    Reject("d.jpg", "read", "OSError", "gone"),
]


PASSED_OVER = [PassedOver("e.txt"), PassedOver("@eaDir/a.jpg", never_photo=True)]
RECIPE = {"model": "f00", "long_side": None, "engine": "graph"}


def total():
    tallies = [tally_row(one) for one in ROWS] + [tally_reject(one) for one in REJECTS]
    tallies += [tally_kept(ROWS[0]), *map(tally_passed_over, PASSED_OVER)]
    return sum_tallies([*tallies, tally_outside(None), tally_outside(None)])


def summary(**changes):
    options = {"started": time.time() - 10, "limit": None}
    return (
        summarise(total(), labels=["sky", "sea", "sand"], recipe=RECIPE, options=options)
        | {"run": "r1", "shards": ["histograms-r1-00000-of-00001.jsonl"]}
        | changes
    )


def table(content, stages):
    return Summary.from_json("/out", content, stages).table()


def test_a_row_is_tallied_by_label():
    assert tally_row(row(sky=2, masks=3)) == {
        ("pixels", "sky"): 2,
        ("pixels", "masks"): 3,
        ("masks",): 1,
    }


def test_a_reject_is_tallied_by_cause():
    assert tally_reject(REJECTS[0]) == {("rejected",): 1, ("cause", "decode", "OSError"): 1}


def test_a_kept_mask_is_tallied_by_what_is_known_of_it():
    assert tally_kept(row(sky=2)) == {("kept",): 1}
    edited = row(sky=2)._replace(recipe=None)
    assert tally_kept(edited) == {("kept",): 1, ("edited",): 1}
    unversioned = row(sky=2)._replace(source=Stamp(9, None))
    assert tally_kept(unversioned) == {("kept",): 1, ("unversioned",): 1}
    both = edited._replace(source=Stamp())
    assert tally_kept(both) == {("kept",): 1, ("edited",): 1, ("unversioned",): 1}


def test_products_added_to_existing_masks_are_counted_and_shown():
    assert tally_added("overlays") == {("added", "overlays"): 1}
    names = ["sums", "overlays", "overlays"]
    total = sum_tallies([*(tally_kept(row()) for _ in range(9)), *map(tally_added, names)])
    total[("masks",)] = 9
    found = summarise(total, labels=[], recipe=RECIPE, options={"started": time.time() - 1})
    assert list(found["added"].items()) == [("overlays", 2), ("sums", 1)]
    assert found["images_per_second"] > 0
    shown = [line.split() for line in table(found, {}).splitlines()]
    assert ["overlays", "added", "2"] in shown


tallies = st.lists(
    st.dictionaries(st.tuples(st.sampled_from("abc")), st.integers(1, 99), max_size=3).map(Counter),
    max_size=6,
)


@given(tallies, tallies)
def test_sums_can_be_taken_in_parts(first, second):
    before = [Counter(tally) for tally in first]
    parts = sum_tallies([sum_tallies(first), sum_tallies(second)])
    assert parts == sum_tallies([*second, *first])
    assert sum(parts.values()) == sum(sum(tally.values()) for tally in first + second)
    assert first == before


def test_files_are_counted_by_extension_and_apart_from_those_that_are_never_photos():
    found = summary()
    assert (found["extensions"], found["look_like_images"]) == ({".txt": 1}, 0)
    shown = table(found | {"extensions": {".heic": 120, ".mov": 4}, "look_like_images": 12}, {})
    assert ".heic 120, .mov 4" in shown
    assert "HEIC is not read" in shown
    assert "12 files look like images: add --all-files" in shown


def test_many_odd_extensions_stay_few():
    files = [PassedOver(f"a.x{number}") for number in range(3000)] + [PassedOver("a.txt")] * 2
    total = Counter()
    for start in range(0, len(files), 500):
        total = sum_tallies([total, *map(tally_passed_over, files[start : start + 500])])
    assert len(total) < 1100
    options = {"started": time.time()}
    found = summarise(total, labels=[], recipe=RECIPE, options=options)
    assert found["skipped"] == sum(found["extensions"].values()) == 3002
    assert len(found["extensions"]) == 21
    assert next(iter(found["extensions"])) == ".txt"


def test_a_summary_of_another_version_is_read():
    found = summary()
    del found["extensions"], found["look_like_images"], found["never_photos"], found["outside"]
    shown = table(found | {"surprise": 1, "stages": {"x": 1}}, {})
    assert "images" in shown
    assert "by extension" not in shown
    assert table({}, {}).startswith("images")


def test_names_of_labels_are_harmless_to_a_terminal():
    assert "a\\x1b[2J" in table(summary(pixels={"a\x1b[2J": 1}), {})


def test_a_summary_adds_up():
    found = summary()
    counts = {
        "images": 6,
        "masks": 3,
        "rejected": 3,
        "skipped": 2,
        "never_photos": 1,
        "kept": 1,
        "edited": 0,
        "unversioned": 0,
        "outside": 2,
    }
    assert {key: found[key] for key in counts} == counts
    assert found["causes"] == {"decode: OSError": 2, "read: OSError": 1}
    assert found["pixels"] == {"sky": 90, "sea": 10, "sand": 0}
    assert (found["model"], found["recipe"]) == ("f00", RECIPE)
    assert found["options"]["limit"] is None
    assert 10 <= found["seconds"] < 12
    assert found["images_per_second"] == pytest.approx(5 / found["seconds"], abs=0.02)
    assert json.loads(json.dumps(found)) == found


def test_a_summary_of_nothing():
    found = summarise(
        sum_tallies([]), labels=["sky"], recipe=RECIPE, options={"started": time.time() + 60}
    )
    assert (found["images"], found["causes"], found["pixels"]) == (0, {}, {"sky": 0})
    assert found["seconds"] >= 0
    assert found["images_per_second"] == 0
    assert "images" in table(found | {"run": "r1", "shards": []}, {})


def test_versions_name_what_decides_the_result():
    found = versions()
    assert set(found) == {
        *("python", "fcn-beam", "apache-beam", "tensorflow", "keras", "pillow", "numpy")
    }
    assert found["numpy"][0].isdigit()


def test_a_package_that_is_missing_is_told(monkeypatch):
    def missing(name):
        raise module.PackageNotFoundError(name)

    monkeypatch.setattr(module, "version", missing)
    assert versions()["keras"] == "not installed"


def test_the_table_tells_causes_times_and_shares():
    lines = table(summary(seconds=10.04, images_per_second=0.5), {"read": 1.25, "infer": 8.0})
    rows = [line.split(maxsplit=1) for line in lines.splitlines()]
    assert ["images", "6"] in rows
    assert ["masks", "3 (1 kept from an earlier run)"] in rows
    assert ["decode:", "OSError" + lines.split("decode: OSError")[1].splitlines()[0]] in rows
    assert lines.split("decode: OSError")[1].split()[0] == "2"
    assert "10.0 s, 0.50 images/s" in lines
    assert "read 1.2 s, infer 8.0 s" in lines
    assert ["skipped", "files" + lines.split("skipped files")[1].splitlines()[0]] in rows
    assert [row for row in rows if row[0] in ("sky", "sea", "sand")] == [
        ["sky", "90.00 %"],
        ["sea", "10.00 %"],
    ]


def test_the_table_lines_up_and_has_no_trailing_blanks():
    lines = table(summary(), {"read": 1.0}).splitlines()
    assert lines == [line.rstrip() for line in lines]
    values = [line for line in lines if line.startswith(("images", "masks  ", "rejected", "time"))]
    assert len({len(line) - len(line.split(maxsplit=1)[1]) for line in values}) == 1


def test_the_table_does_not_tell_of_kept_masks_where_there_are_none():
    assert "kept" not in table(summary(kept=0), {})


def test_the_table_tells_of_masks_that_are_odd_where_there_are_any():
    lines = table(summary(edited=3, unversioned=4, outside=5), {}).splitlines()
    names = [line.split("  ")[0] or line.strip().split("  ")[0] for line in lines]
    counts = dict(zip(names, (line.split()[-1] for line in lines), strict=True))
    assert (counts["edited by hand"], counts["kept unchecked"]) == ("3", "4")
    assert counts["masks outside INPUT"] == "5"
    assert names.index("masks") < names.index("edited by hand") < names.index("rejected")
    plain = table(summary(edited=0, unversioned=0, outside=0, never_photos=0), {})
    assert not any(word in plain for word in ("edited", "unchecked", "outside", "caches"))


def test_a_summary_has_every_field_of_its_file():
    content = summary()
    found = Summary.from_json("/out", content, {"read": 1.5})
    assert (found.output, found.stages) == ("/out", {"read": 1.5})
    assert {name: getattr(found, name) for name in content} == content


def test_a_summary_of_a_later_version_is_read():
    content = summary()
    found = Summary.from_json("/out", content | {"new": 1, "output": "/else", "stages": 1}, {})
    assert found == Summary.from_json("/out", content, {})


# Too many rejects


@pytest.mark.parametrize(
    ("limit", "images", "allowed"),
    [
        (None, 10, math.inf),
        ("0", 10, 0),
        ("20", 10, 20),
        ("0%", 10, 0),
        ("1.5%", 200, 3),
        ("100%", 7, 7),
        ("50%", 0, 0),
    ],
)
def test_allowed_rejects(limit, images, allowed):
    assert allowed_rejects(limit, images) == allowed


@pytest.mark.parametrize(
    "limit", ["", "%", "-1", "-1%", "100.1%", "1.5", "many", "nan%", "inf%", "5%%", "%5"]
)
def test_other_forms_of_the_limit_are_refused(limit):
    with pytest.raises(ValueError):  # noqa: PT011  (its message is the caller's business)
        allowed_rejects(limit, 10)
