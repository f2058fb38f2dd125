"""The table of stores: a toy store, with buckets and versions, is one class and one line."""

from itertools import starmap

import pytest

from model_build.common.errors import UserError
from pipeline.storage import File, Files, affects_all_files, describe_error, parse_options, secrets
from pipeline.storage.faults import Unauthenticated, as_os_error
from pipeline.storage.stores import object_store, table
from pipeline.storage.stores.object_store import ObjectStore, _parsed
from pipeline.storage.stores.table import store_of


class Expired(Exception):
    """The toy client's error for expired credentials."""


class Busy(Exception):
    """The toy client's error for a transient failure."""


class Client:
    """The toy's client, with the calls of a file system of fsspec."""

    def __init__(self, password=None):
        self.password, self.objects, self.errors = password, {}, []

    def _check(self, key):
        if self.errors:
            raise self.errors.pop()
        if key not in self.objects:
            raise FileNotFoundError(key)

    def cat_file(self, key, start=None, end=None):
        self._check(key)
        return self.objects[key][0][start:end]

    def pipe_file(self, key, data, mode="overwrite"):
        if mode == "create" and key in self.objects:
            raise FileExistsError(key)
        version = self.objects.get(key, (b"", 0))[1] + 1
        self.objects[key] = data, version
        return {"revision": version}

    def rm_file(self, key):
        self._check(key)
        del self.objects[key]

    def info(self, key):
        self._check(key)
        data, version = self.objects[key]
        return {"size": len(data), "revision": version}


class Toy(ObjectStore):
    """``toy://``."""

    login = "set TOY_PASSWORD"
    versions = ("revision",)
    not_secret = ("public",)
    transient_errors = ("Busy",)
    credential_errors = ("Expired",)

    def connect(self, options):
        return Client(**options)

    def missing_credentials(self):
        return "" if "password" in self.options else "no password given"

    def page(self, bucket, prefix, after, token, limit):
        keys = (key.removeprefix(f"{bucket}/") for key in self.client.objects)
        keys = sorted(key for key in keys if key.startswith(prefix) and key > (token or after))
        found = []
        for key in keys[:limit]:
            data, version = self.client.objects[f"{bucket}/{key}"]
            found.append(File(key, len(data), str(version), written=1.0))
        return found, keys[limit - 1] if len(keys) > limit else None


FILES = Files(parse_options({"s3.secret": "x"}) + (("toy", "password", "public"),))


@pytest.fixture(autouse=True)
def toy(monkeypatch):
    """The toy's client, in the one line of the table that the toy needs."""
    monkeypatch.setitem(table.STORES, "toy", Toy)
    yield table.store_of("toy://b/x", FILES.options).client
    table._open.cache_clear()


def test_files_are_written_read_listed_and_deleted():
    written = FILES.write("toy://b/p/a", b"0123")
    assert written == FILES.stat("toy://b/p/a") == File("toy://b/p/a", 4, "1")
    assert FILES.write("toy://b/p/a", b"01234").version == "2"
    with pytest.raises(FileExistsError, match="toy://b/p/a: already exists"):
        FILES.write("toy://b/p/a", b"", exclusive=True)
    assert (FILES.read("toy://b/p/a"), FILES.read("toy://b/p/a", 2, 1)) == (b"01234", b"12")
    FILES.write("toy://b/q", b"")
    assert [file.path for file in FILES.list("toy://b")] == ["toy://b/p/a", "toy://b/q"]
    assert [file.path for file in FILES.glob("toy://b/*/a")] == ["toy://b/p/a"]
    FILES.delete("toy://b/p/a")
    assert not FILES.exists("toy://b/p/a")
    assert not FILES.has_any("toy://b/p")


def test_a_listing_has_several_pages_and_parts(monkeypatch):
    monkeypatch.setattr(object_store, "PAGE_SIZE", 2)
    monkeypatch.setattr(object_store, "OBJECTS_PER_PART", 3)
    for number in range(7):
        FILES.write(f"toy://b/{number}", b"")
    uris = [f"toy://b/{number}" for number in range(7)]
    assert [file.path for file in FILES.list("toy://b")] == uris
    (whole,) = FILES.whole("toy://b")
    found = list(FILES.list_part(whole))
    assert [one.path for one in found[:3]] == uris[:3]
    assert [part.where for part in found[3:]] == uris[3:]


def test_missing_credentials_are_reported_with_the_remedy():
    FILES.check("toy://b/x")
    message = r"^toy://b/x: no credentials for toy:// \(no password given\); set TOY_PASSWORD$"
    with pytest.raises(UserError, match=message):
        Files().check("toy://b/x")


def test_its_own_errors_are_credentials_or_retried(toy):
    FILES.write("toy://b/a", b"1")
    toy.errors = [Expired("yesterday")]
    with pytest.raises(Unauthenticated) as caught:
        FILES.read("toy://b/a")
    assert (
        describe_error(caught.value) == "toy://b/a: the credentials were not accepted (yesterday)"
    )
    assert affects_all_files(caught.value)
    toy.errors = [Busy()]
    assert FILES.read("toy://b/a") == b"1"


def test_its_options_are_known():
    assert parse_options({"toy.password": "x"}) == (("toy", "password", "x"),)
    assert secrets({"toy.password": "hush", "toy.region": "x"}) == ["toy.password"]
    assert secrets({"toy.password": "public"}) == []
    with pytest.raises(UserError, match=r"unknown scheme toys://; did you mean toy\?"):
        Files().check("toys://b/x")


def test_an_extra_that_is_not_installed_is_named(monkeypatch):
    monkeypatch.setattr(Toy, "package", "toy_client_that_is_missing")
    monkeypatch.setattr(Toy, "extra", "toys")
    with pytest.raises(UserError, match=r"pip install 'fcn-beam\[toys\]'"):
        Files().check("toy://b/x")


def test_numbers_in_options_are_parsed_but_not_in_names_and_secrets():
    options = {"port": "21", "secure": "true", "password": "007", "account_name": "123"}
    assert dict(starmap(_parsed, options.items())) == {
        "port": 21,
        "secure": True,
        "password": "007",
        "account_name": "123",
    }


def test_an_error_of_the_network_names_the_file():
    error = as_os_error(OSError(113, "No route to host"), "toy://b/a", store_of("toy://b/a"))
    assert describe_error(error) == "toy://b/a: No route to host"
    assert error.errno == 113
