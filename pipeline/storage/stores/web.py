"""Web servers, by fsspec's own client."""

from __future__ import annotations

import urllib.parse

from pipeline.storage.stores.object_store import ObjectStore


class Web(ObjectStore):
    """``https://`` and ``http://``: files are read where a list names them."""

    scheme = "https"
    versions = ("ETag", "Last-Modified")
    read_only = True

    def connect(self, options):
        return super().connect({"encoded": True} | options)

    def key(self, uri):
        # A URL may be written with or without its escapes.
        return urllib.parse.quote(uri, safe="%/:?#[]@!$&'()*+,;=~")
