import datetime

import pytest

from pipeline.storage import Files, puts
from pipeline.storage.puts import version_of
from pipeline.storage.stores import client

FILES = Files()
WHEN = datetime.datetime(2026, 1, 2, 3, 4, 5, 678, datetime.timezone.utc)


@pytest.mark.parametrize(
    ("info", "version"),
    [
        ({"generation": "17", "etag": "x", "mtime": WHEN}, "17"),
        ({"generation": 17}, "17"),
        ({"ETag": '"ab12"', "LastModified": WHEN}, "ab12"),
        ({"etag": '"ab12"', "last_modified": WHEN}, "ab12"),
        ({"LastModified": WHEN}, WHEN.isoformat()),
        ({"Last-Modified": "Wed, 01 Jan 2026"}, "Wed, 01 Jan 2026"),
        ({"created": WHEN}, WHEN.isoformat()),
        ({"ETag": "", "created": WHEN}, WHEN.isoformat()),
        ({"ETag": None}, None),
        ({"size": 3, "name": "a"}, None),
        ({}, None),
    ],
)
def test_a_version_is_the_best_of_what_a_client_tells(info, version):
    assert version_of(info) == version


def test_times_of_writing_that_differ_by_a_microsecond_are_two_versions():
    later = WHEN + datetime.timedelta(microseconds=1)
    assert version_of({"created": WHEN}) != version_of({"created": later})


def test_a_put_tells_the_version_that_a_question_tells(gs):
    key = f"{gs.removeprefix('gs://')}/a [1] é%20#+"
    version = puts.put("gs", client("gs", {}), key, b"data", exclusive=False)
    assert version.isdecimal()
    assert FILES.stat(f"gs://{key}").version == version


def test_an_exclusive_put_creates_once(bucket):
    scheme, _, key = bucket.partition("://")
    first = puts.put(scheme, client(scheme, {}), f"{key}/a", b"first", exclusive=True)
    with pytest.raises(FileExistsError):
        puts.put(scheme, client(scheme, {}), f"{key}/a", b"second", exclusive=True)
    assert FILES.read(f"{bucket}/a") == b"first"
    assert FILES.stat(f"{bucket}/a").version == first


@pytest.mark.parametrize("exclusive", [False, True])
def test_a_file_that_goes_in_several_requests_is_whole_and_has_its_version(
    bucket, monkeypatch, exclusive
):
    monkeypatch.setattr(puts, "ONE_REQUEST", 1000)
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
