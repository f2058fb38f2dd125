"""Azure Blob Storage differs from other stores; tested without a server."""

import datetime
import types

import pytest

from pipeline.storage.stores.az import Azure

paging = pytest.importorskip("azure.core.async_paging", reason="the extra azure is not installed")
WHEN = datetime.datetime(2026, 1, 2, tzinfo=datetime.timezone.utc)


class Container:
    """A container of the Azure SDK, which lists two blobs a page by the SDK's own pages."""

    def __init__(self, names):
        self.names = names

    def list_blobs(self, name_starts_with):
        names = [name for name in self.names if name.startswith(name_starts_with)]

        async def get_next(token):
            return int(token or 0)

        async def extract_data(start):
            blobs = [
                types.SimpleNamespace(name=name, size=3, etag='"0x1"', last_modified=WHEN)
                for name in names[start : start + 2]
            ]
            token = str(start + 2) if len(names) > start + 2 else None
            return token, paging.AsyncList(blobs)

        return paging.AsyncItemPaged(get_next, extract_data)


@pytest.mark.parametrize("count", [0, 1, 2, 5])
def test_a_listing_continues_over_its_pages(count):
    from fsspec.asyn import get_loop

    names = [f"p/{number}" for number in range(count)]
    container = Container([*names, "q"])
    store = Azure({})
    store.client = types.SimpleNamespace(
        loop=get_loop(),
        service_client=types.SimpleNamespace(get_container_client=lambda bucket: container),
    )
    found = list(store.objects("az://bucket/p/"))
    assert [file.path for file in found] == [f"az://bucket/{name}" for name in names]
    assert {(file.size, file.version, file.written) for file in found} <= {
        (3, "0x1", WHEN.timestamp())
    }
