"""Many workers list a source: nothing twice, nothing missing, no worker with all the work."""

import contextlib
import os
import uuid

import apache_beam as beam
import pytest
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.testing.util import assert_that, equal_to
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.inputs import sources
from pipeline.inputs.listing import ListImages, ListOptions, list_source
from pipeline.inputs.parallel_listing import (
    MAX_SPLITS,
    Found,
    ListFiles,
    ListingUnit,
    first_units,
    list_links,
    list_serially,
    list_unit,
)
from pipeline.inputs.sources import parse_source, read_list
from pipeline.records import ImageRef, Source
from pipeline.storage import File, Files, Link
from pipeline.storage.names import prefixes_beyond
from pipeline.storage.stores import object_store

FILES = Files()


def by_levels(source):
    """Lists a source by levels as the graph does; returns files, and files per unit by level."""
    found, links, sizes = [], [], []
    shares = list(first_units(source, FILES))
    for level in range(MAX_SPLITS + 1):
        left, of_shares = [], []
        for share in shares:
            listed = list(list_unit(share, FILES, to_the_end=level == MAX_SPLITS))
            mine = [one for one in listed if isinstance(one, Found)]
            found += mine
            left += [one for one in listed if isinstance(one, ListingUnit)]
            links += [one.path for one in listed if isinstance(one, Link)]
            of_shares.append(len(mine))
        sizes.append(of_shares)
        shares = left
    assert not shares
    found += list_links(source.where, links, FILES)
    return found, sizes


def everything(source):
    """Lists a source on one worker."""
    return list(list_serially(source, FILES))


def folder(where):
    return Source("folder", where, where)


# Folders of local disk

PARTS = ["a", "b", "c.jpg", "d.jpg"]
PATHS = st.lists(st.sampled_from(PARTS), min_size=1, max_size=6).map("/".join)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=100)
@given(st.lists(PATHS, max_size=8), st.lists(st.tuples(PATHS, PATHS), max_size=4))
def test_many_workers_list_links_like_one(tmp_path, names, links):
    root = f"{tmp_path}/{uuid.uuid4().hex}"
    os.mkdir(root)
    for name in names:
        with contextlib.suppress(OSError):  # a file has the name of a folder
            FILES.write(f"{root}/in/{name}", b"")
            FILES.write(f"{root}/out/{name}", b"")
    for index, (path, target) in enumerate(links):
        with contextlib.suppress(OSError):  # there is something
            os.makedirs(os.path.dirname(f"{root}/in/{path}"), exist_ok=True)
            os.symlink(f"{root}/{'in' if index % 2 else 'out'}/{target}", f"{root}/in/{path}")
    for where in (f"{root}/in", root):
        found, _ = by_levels(folder(where))
        paths = [one.file.path for one in found]
        assert len(set(paths)) == len(paths)
        assert sorted(found) == sorted(everything(folder(where)))


def test_a_folder_is_listed_by_its_own_path_whatever_the_names_of_links_to_it(tmp_path, touch):
    touch(tmp_path, "p/m/1.jpg", "else/2.jpg")
    for link in ("a", "z", "m/up"):
        (tmp_path / f"p/{link}").symlink_to(tmp_path / "p/m")
    for link in ("y", "x"):
        (tmp_path / f"p/{link}").symlink_to(tmp_path / "else")
    paths = [one.file.path for one in by_levels(folder(f"{tmp_path}/p"))[0]]
    assert paths == [f"{tmp_path}/p/m/1.jpg", f"{tmp_path}/p/x/2.jpg"]


def test_each_folder_is_a_unit_and_deep_ones_are_listed_by_one_worker(tmp_path, touch):
    touch(tmp_path, *(f"{above}{name}.jpg" for above in ("a/", "b/", "a/c/") for name in "123"))
    touch(tmp_path, "0.jpg", "d/e/f/g/h/1.jpg", "d/e/f/g/2.jpg", "d/e/f/3.jpg")
    _, sizes = by_levels(folder(str(tmp_path)))
    assert [sorted(of_level) for of_level in sizes] == [[1], [0, 3, 3], [0, 3], [3]]


# Stores: prefixes

KEYS = st.text("ab/\u00e9\U0010ffff", min_size=1, max_size=6)


@given(st.sets(KEYS, min_size=1, max_size=30), st.data())
def test_each_key_beyond_another_has_exactly_one_prefix(keys, data):
    last = data.draw(st.sampled_from(sorted(keys)))

    def key_beyond(after):
        return min((key for key in keys if key > after), default=None)

    found = list(prefixes_beyond(key_beyond, last))
    for key in keys:
        assert sum(key.startswith(prefix) for prefix in found) == (key > last)


def test_prefixes_grow_by_a_character_where_keys_differ():
    keys = [f"a/{number:04}" for number in range(0, 10_000, 7)] + ["a/0099x", "b", "b/1"]

    def key_beyond(after):
        return min((key for key in keys if key > after), default=None)

    found = list(prefixes_beyond(key_beyond, "a/0098"))
    assert found[:3] == ["a/0099", "a/01", "a/02"]
    assert found[-2:] == ["a/9", "b"]
    assert len(found) == 1 + 9 + 9 + 1


NAMES = st.text("ab\u00e9\U0010ffff", min_size=1, max_size=4)


@given(st.sets(st.tuples(st.sampled_from(["a", "aé", "b"]), NAMES).map("/".join), max_size=40))
def test_many_workers_list_a_store_like_one(keys):
    bucket = f"b{uuid.uuid4().hex}"
    for key in keys:
        FILES.write(f"memory://{bucket}/{key}", b"")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(object_store, "OBJECTS_PER_PART", 2)
        for where in ("", "/a", "/c"):
            source = folder(f"memory://{bucket}{where}")
            found, sizes = by_levels(source)
            assert sorted(found) == sorted(everything(source))
            assert all(size <= 2 for of_level in sizes[:MAX_SPLITS] for size in of_level)


@pytest.mark.slow
def test_many_workers_list_a_bucket(bucket, monkeypatch):
    keys = [f"{name}/{number:02}" for name in ("p", "p [1]", "q/é") for number in range(15)]
    FILES.run_each([lambda key=key: FILES.write(f"{bucket}/{key}", b"1") for key in keys])
    monkeypatch.setattr(object_store, "OBJECTS_PER_PART", 4)
    monkeypatch.setattr(object_store, "PAGE_SIZE", 3)
    for where, count in (("", 45), ("/p", 15), ("/q", 15)):
        found, sizes = by_levels(folder(f"{bucket}{where}"))
        assert sorted(found) == sorted(everything(folder(f"{bucket}{where}")))
        assert sum(map(sum, sizes)) == count
        assert len(sizes[1]) > 1


def test_a_glob_in_a_store_is_listed_by_many_workers(memory, monkeypatch):
    for number in range(40):
        FILES.write(f"memory://b/p{number % 2}/{number:02}.{('jpg', 'txt')[number % 3 % 2]}", b"")
    monkeypatch.setattr(object_store, "OBJECTS_PER_PART", 5)
    source = parse_source("memory://b/p1/*.jpg", FILES)
    found, sizes = by_levels(source)
    assert sorted(found) == sorted(everything(source)) != []
    assert len(sizes[1]) > 1


# Lists

LINES = st.lists(
    st.sampled_from([b"", b"\r", b"a.jpg", b"b/c.jpg\r", b"\xff.jpg", "ü.jpg".encode(), b"x" * 20])
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(LINES, st.booleans(), st.booleans(), st.integers(1, 40), st.integers(1, 9))
def test_a_list_in_ranges_has_the_lines_of_the_whole(tmp_path, lines, mark, end, size, more):
    data = (b"\xef\xbb\xbf" if mark else b"") + b"\n".join(lines) + (b"\n" if end else b"")
    for where in (f"{tmp_path}/list.txt", "memory://lists/list.txt"):
        FILES.write(where, data)
        expected = list(read_list(where, FILES))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sources, "BYTES_PER_RANGE", size)
            patch.setattr(sources, "_MAX_LINE_BYTES", more)
            assert list(read_list(where, FILES)) == expected
            found, sizes = by_levels(Source("list", where, ""))
        assert found == [Found("list", File(path)) for path in expected]
        assert len(sizes[0]) == max(-(-len(data) // size), 1)


def test_a_list_in_a_bucket_is_read_in_ranges(bucket, monkeypatch):
    lines = [f"{bucket}/photos/{number}.jpg" for number in range(100)]
    FILES.write(f"{bucket}/list.txt", "\n".join(lines).encode())
    monkeypatch.setattr(sources, "BYTES_PER_RANGE", 1000)
    found, sizes = by_levels(parse_source(f"@{bucket}/list.txt", FILES))
    assert [one.file.path for one in found] == lines
    assert len(sizes[0]) > 3


# A store that invents names


def test_a_large_folder_beside_a_small_one_is_work_for_many(invented):
    bucket = invented({"large": 100_000, "small": 1_000})
    found, sizes = by_levels(folder(bucket))
    assert len(found) == len({one.file.path for one in found}) == 101_000
    assert max(size for of_level in sizes for size in of_level) == object_store.OBJECTS_PER_PART
    assert len([size for of_level in sizes for size in of_level if size]) >= 11
    # No page of names is asked for in vain, but the one that shows that there are more.
    pages = [most for _, most in invented.asked if most > 1]
    assert len(pages) <= 101 + len([share for of_level in sizes for share in of_level]) + 1


def test_a_first_look_at_a_large_folder_requests_one_page(invented):
    bucket = invented({"large": 10_000_000})
    source = folder(bucket)
    assert isinstance(next(list_source(source, ListOptions(bucket), FILES)), ImageRef)
    assert len(invented.asked) == 1


@pytest.mark.slow
def test_a_million_objects_are_listed_once_each(invented):
    count = 1_000_000
    bucket = invented({"photos": count}, beside=True)
    found = total = 0
    shares = list(first_units(folder(bucket), FILES))
    for level in range(MAX_SPLITS + 1):
        left = []
        for share in shares:
            before = found
            for one in list_unit(share, FILES, to_the_end=level == MAX_SPLITS):
                if isinstance(one, ListingUnit):
                    left.append(one)
                else:
                    found += 1
                    total += int(one.file.path[-13:-4])
            assert found - before <= object_store.OBJECTS_PER_PART
        shares = left
    assert (found, total) == (count, count * (count - 1) // 2)


def _number(image):
    return 1, int(image.name[-13:-4])


@pytest.mark.slow
def test_the_graph_lists_each_object_once(invented):
    count = 100_000
    bucket = invented({"photos": count}, beside=True)
    with beam.Pipeline(runner=FnApiRunner()) as pipeline:
        images, passed_over, rejected = (
            pipeline | beam.Create([folder(bucket)]) | ListImages(ListOptions(bucket), FILES)
        )
        totals = images | beam.Map(_number) | beam.CombineGlobally(_sums)
        assert_that(totals, equal_to([(count, count * (count - 1) // 2)]), "Images")
        assert_that(passed_over, equal_to([]), "PassedOver")
        assert_that(rejected, equal_to([]), "Rejected")


def _sums(pairs):
    return tuple(map(sum, zip(*pairs, strict=True))) or (0, 0)


# The graph


@pytest.fixture
def stages(monkeypatch):
    """The stages of the graphs that run, optimised: of each the names of its steps."""
    found = []
    create_stages = FnApiRunner.create_stages

    def note(self, graph):
        context, stages = create_stages(self, graph)
        found.extend({step.unique_name for step in stage.transforms} for stage in stages)
        return context, stages

    monkeypatch.setattr(FnApiRunner, "create_stages", note)
    return found


def test_units_are_shuffled_between_any_two_levels(tmp_path, touch, stages):
    touch(tmp_path, "0.jpg", "a/1.jpg", "a/b/2.jpg", "a/b/c/d/e/3.jpg", "a/b/c/4.jpg")
    (tmp_path / "a/up").symlink_to(tmp_path)
    where = str(tmp_path)
    with beam.Pipeline(runner=FnApiRunner()) as pipeline:
        found = pipeline | beam.Create([folder(where)]) | "Files" >> ListFiles(FILES)
        assert_that(found, equal_to(everything(folder(where))))
    steps = ["Begin", *(f"List{level}" for level in range(MAX_SPLITS + 1)), "ListLinks"]
    homes = [
        number
        for step in steps
        for number, names in enumerate(stages)
        if any(name.startswith(f"Files/{step}") for name in names)
    ]
    assert len(homes) == len(set(homes)) == len(steps)
    shuffles = [
        step
        for step in pipeline.to_runner_api().components.transforms.values()
        if step.spec.urn == "beam:transform:reshuffle:v1" and "Spread" in step.unique_name
    ]
    assert len(shuffles) == MAX_SPLITS + 1
