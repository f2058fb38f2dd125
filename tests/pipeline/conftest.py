"""Fixtures that several test modules share."""

import io
import os
import re
import time
from typing import ClassVar

import numpy as np
import pytest
from apache_beam.io.filesystem import BeamIOError, FileMetadata, FileSystem
from hypothesis import settings
from PIL import Image

settings.register_profile("quick", max_examples=60, deadline=None, database=None)
settings.load_profile("quick")


class MemoryFileSystem(FileSystem):
    """An object store in this process: ``mem://BUCKET/KEY``, as strict about paths as gs:// is."""

    files: ClassVar[dict[str, bytes]] = {}
    times: ClassVar[dict[str, float]] = {}
    listed: ClassVar[list[str]] = []

    @classmethod
    def scheme(cls):
        return "mem"

    def _object(self, path):
        if not re.fullmatch(r"(?s)mem://[^/]+/.+", path):
            raise ValueError(f"path must be in the form mem://<bucket>/<object>, not {path!r}")
        return path

    def has_dirs(self):
        return False

    def _list(self, dir_or_prefix):
        if not re.match(r"mem://[^/]+/", dir_or_prefix):
            raise ValueError(f"path must be in the form mem://<bucket>/, not {dir_or_prefix!r}")
        self.listed.append(dir_or_prefix)
        for path, data in sorted(self.files.items()):
            if path.startswith(dir_or_prefix):
                yield FileMetadata(path, len(data), self.times.get(path, 0.0))

    def create(self, path, mime_type="", compression_type=""):
        return _Upload(self, self._object(path))

    def open(self, path, mime_type="", compression_type=""):
        if self._object(path) not in self.files:
            raise BeamIOError(f"no such object: {path}")
        return io.BytesIO(self.files[path])

    def exists(self, path):
        return self._object(path) in self.files

    def delete(self, paths):
        for path in paths:
            del self.files[path]

    def metadata(self, path):
        return FileMetadata(path, self.size(path), self.last_updated(path))

    def size(self, path):
        return len(self.files[path])

    def last_updated(self, path):
        return self.times.get(path, 0.0)

    def join(self, basepath, *paths):
        return "/".join([basepath.rstrip("/"), *paths])

    def split(self, path):
        head, _, tail = path.rpartition("/")
        return head, tail

    def mkdirs(self, path):
        pass

    def copy(self, source_file_names, destination_file_names):
        for source, target in zip(source_file_names, destination_file_names, strict=True):
            self.files[target] = self.files[source]

    def rename(self, source_file_names, destination_file_names):
        self.copy(source_file_names, destination_file_names)
        self.delete(source_file_names)


class _Upload(io.BytesIO):
    def __init__(self, system, path):
        super().__init__()
        self.system, self.path = system, path

    def close(self):
        if not self.closed:
            self.system.files[self.path] = self.getvalue()
            self.system.times[self.path] = time.time()
        super().close()


@pytest.fixture
def mem():
    """The in-memory object store, empty; ``files`` and ``times`` are dicts by path."""
    MemoryFileSystem.files.clear()
    MemoryFileSystem.times.clear()
    MemoryFileSystem.listed.clear()
    return MemoryFileSystem


@pytest.fixture
def touch():
    """Makes empty files, with their folders: ``touch(folder, name, …, mtime=…)``."""

    def make(folder, *names, mtime=None):
        for name in names:
            path = os.path.join(os.fspath(folder), name)
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with open(path, "wb"):
                pass
            if mtime is not None:
                os.utime(path, (mtime, mtime))

    return make


@pytest.fixture
def image_bytes():
    """An image file of random RGB pixels: ``image_bytes("PNG", width=6, height=4, **save)``."""

    def make(kind, width=6, height=4, **options):
        pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, kind, **options)
        return buffer.getvalue()

    return make
