"""fsspec's store in the memory of this process, for tests and trials."""

from __future__ import annotations

from pipeline.storage.listed import File
from pipeline.storage.stores.object_store import ObjectStore


class Memory(ObjectStore):
    """``memory://``."""

    scheme, versions = "memory", ("created",)

    def key(self, uri):
        return f"/{super().key(uri)}"  # the client omits the slash where a name has ``::``

    def page(self, bucket, prefix, after, token, limit):
        root, start = f"/{bucket}/", token or after
        paths = [path for path in list(self.client.store) if path.startswith(root + prefix)]
        found = []
        for path in sorted(path for path in paths if path > root + start)[:limit]:
            info = self.client.info(path)
            key, written = path[len(root) :], info["created"].timestamp()
            found.append(File(key, info["size"], self.version_of(info), True, written))
        return found, found[-1].path if len(found) == limit else None

    def put(self, key, data, exclusive):
        super().put(key, data, exclusive)
        return self.version_of(self.client.info(key))
