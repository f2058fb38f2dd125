"""Object stores behave alike, and each gives a file a version."""

import datetime

import pytest

from pipeline.storage import Files
from pipeline.storage.stores import gs as google
from pipeline.storage.stores.az import Azure
from pipeline.storage.stores.gs import Google
from pipeline.storage.stores.memory import Memory
from pipeline.storage.stores.s3 import Amazon
from pipeline.storage.stores.table import store_of
from pipeline.storage.stores.web import Web

FILES = Files()
WHEN = datetime.datetime(2026, 1, 2, 3, 4, 5, 678, datetime.timezone.utc)


@pytest.mark.parametrize(
    ("store", "info", "version"),
    [
        (Google, {"generation": "17", "etag": "x", "mtime": WHEN}, "17"),
        (Google, {"generation": 17}, "17"),
        (Amazon, {"ETag": '"ab12"', "LastModified": WHEN}, "ab12"),
        (Amazon, {"ETag": "", "LastModified": WHEN}, WHEN.isoformat()),
        (Amazon, {"ETag": None}, None),
        (Azure, {"etag": '"ab12"', "last_modified": WHEN}, "ab12"),
        (Web, {"ETag": '"ab12"', "Last-Modified": "Wed, 01 Jan 2026"}, "ab12"),
        (Web, {"Last-Modified": "Wed, 01 Jan 2026"}, "Wed, 01 Jan 2026"),
        (Memory, {"created": WHEN}, WHEN.isoformat()),
        (Memory, {"size": 3, "name": "a"}, None),
        (Google, {}, None),
    ],
)
def test_a_version_is_the_best_that_a_client_reports(store, info, version):
    assert store({}).version_of(info) == version


def test_times_of_writing_that_differ_by_a_microsecond_are_two_versions():
    later = WHEN + datetime.timedelta(microseconds=1)
    store = Memory({})
    assert store.version_of({"created": WHEN}) != store.version_of({"created": later})


def test_a_put_tells_the_version_that_a_question_tells(gs):
    key = f"{gs.removeprefix('gs://')}/a [1] é%20#+"
    version = store_of(gs).put(key, b"data", exclusive=False)
    assert version.isdecimal()
    assert FILES.stat(f"gs://{key}").version == version


def test_an_exclusive_put_creates_once(bucket):
    key = f"{bucket.partition('://')[2]}/a"
    first = store_of(bucket).put(key, b"first", exclusive=True)
    with pytest.raises(FileExistsError):
        store_of(bucket).put(key, b"second", exclusive=True)
    assert FILES.read(f"{bucket}/a") == b"first"
    assert FILES.stat(f"{bucket}/a").version == first


@pytest.mark.parametrize("exclusive", [False, True])
def test_a_file_that_goes_in_several_requests_is_whole_and_has_its_version(
    bucket, monkeypatch, exclusive
):
    monkeypatch.setattr(google, "MAX_SINGLE_REQUEST", 1000)
    data = bytes(range(256)) * 5
    written = FILES.write(f"{bucket}/large", data, exclusive=exclusive)
    assert FILES.read(f"{bucket}/large") == data
    assert written == FILES.stat(f"{bucket}/large")
    assert written.version


def test_an_empty_file_is_put(bucket):
    written = FILES.write(f"{bucket}/empty", b"")
    assert written.size == 0
    assert written == FILES.stat(f"{bucket}/empty")


def test_equal_bytes_that_are_put_again_are_another_generation(gs):
    first, second = (FILES.write(f"{gs}/a", b"same").version for _ in range(2))
    assert first != second
