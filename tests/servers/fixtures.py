"""The servers as fixtures; a plugin of :mod:`tests.conftest`.

It guards the process that runs the tests, and imports nothing that takes long.
"""

import contextlib
import uuid

import pytest

from tests.servers import guard, stores
from tests.servers import invented as invented_names
from tests.servers.process import program
from tools import flink_cluster as cluster


def pytest_configure(config):
    folder = guard.Guard().folder
    config.add_cleanup(lambda: guard.end(folder))


def _needs(reason):
    """Skips a test for a reason, if there is one; where servers are required it fails."""
    if reason and stores.required():
        pytest.fail(reason)
    if reason:
        pytest.skip(reason)


@pytest.fixture(scope="session")
def moto_address(tmp_path_factory):
    with stores.moto(tmp_path_factory.mktemp("moto")) as address:
        yield address


@pytest.fixture(scope="session")
def fake_gcs_address(tmp_path_factory):
    program = stores.fake_gcs_program()
    _needs(stores.NO_FAKE_GCS if program is None else "")
    with stores.fake_gcs(tmp_path_factory.mktemp("gcs"), program) as address:
        yield address


@pytest.fixture
def s3(moto_address, monkeypatch):
    """An empty bucket on moto, as ``s3://BUCKET``."""
    for name, value in stores.moto_environment(moto_address).items():
        monkeypatch.setenv(name, value)
    bucket = f"b{uuid.uuid4().hex}"
    stores.make_moto_bucket(moto_address, bucket)
    _forget_clients()
    yield f"s3://{bucket}"
    _forget_clients()


@pytest.fixture
def gs(fake_gcs_address, monkeypatch):
    """An empty bucket on fake-gcs-server, as ``gs://BUCKET``."""
    for name, value in stores.fake_gcs_environment(fake_gcs_address).items():
        monkeypatch.setenv(name, value)
    bucket = f"b{uuid.uuid4().hex}"
    stores.make_gcs_bucket(fake_gcs_address, bucket)
    _forget_clients()
    yield f"gs://{bucket}"
    _forget_clients()


@pytest.fixture
def invented(tmp_path, monkeypatch):
    """Starts a store that generates names: ``invented({folder: count}, beside=False)`` → its URI.

    The fixture's ``asked`` records the requests, except those to a store in another process
    (``beside``).
    """

    with contextlib.ExitStack() as running:

        def start(counts, beside=False):
            if beside:
                address = running.enter_context(invented_names.beside(tmp_path, counts))
            else:
                server = running.enter_context(invented_names.here(counts))
                address, start.asked = f"http://127.0.0.1:{server.server_port}", server.asked
            for name, value in stores.fake_gcs_environment(address).items():
                monkeypatch.setenv(name, value)
            _forget_clients()
            return "gs://invented"

        yield start
    _forget_clients()


def _forget_clients():
    """A client keeps the address and the credentials it was made with."""
    from pipeline.storage import stores as clients

    clients._client.cache_clear()


@pytest.fixture(params=["s3", "gs"])
def bucket(request):
    """An empty bucket on either server."""
    return request.getfixturevalue(request.param)


@pytest.fixture(params=["local", "memory", "s3", "gs"])
def folder(request, tmp_path):
    """An empty folder on each kind of disk and store: a path or URI."""
    if request.param == "local":
        return str(tmp_path / "folder")
    if request.param == "memory":
        request.getfixturevalue("memory")
        return "memory://bucket/folder"
    return f"{request.getfixturevalue(request.param)}/folder"


@pytest.fixture(scope="session")
def shared_flink(tmp_path_factory):
    """A Flink cluster as the test before has left it."""
    _needs(cluster.missing())
    from tests.servers import flink

    with flink.running(tmp_path_factory.mktemp("flink")) as running:
        yield running


@pytest.fixture
def flink(shared_flink):
    """A Flink cluster that starts a job again when a task manager is lost: whole, and idle."""
    shared_flink.heal()
    yield shared_flink
    shared_flink.cancel_all()


@pytest.fixture(scope="session")
def prism():
    """The program of Beam's runner Prism."""
    found = program("prism")
    _needs("no prism: `make servers` installs it, which needs Go" if found is None else "")
    return found


@pytest.fixture
def dataflow(gs, fake_gcs_address, prism, tmp_path, monkeypatch):
    """A stub of Dataflow that runs what is submitted; its ``bucket`` is an empty one."""
    from tests.servers import dataflow

    environment = stores.fake_gcs_environment(fake_gcs_address)
    with dataflow.serving(tmp_path, prism, environment) as server:
        dataflow.account(tmp_path / "account.json", server.address)
        monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "account.json"))
        # Google's libraries ask about any account, and no test needs the internet.
        monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:1")
        server.bucket = gs
        yield server
