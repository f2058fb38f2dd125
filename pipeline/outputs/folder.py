"""The output folder: where a run puts what, and what an earlier run has left there.

::

    OUT/run.json                      the recipe of its masks, and the root of their names
    OUT/masks/NAME.png                palette PNGs, written whole or not at all
    OUT/PRODUCT/NAME.*                on request, see :mod:`pipeline.outputs.products`
    OUT/histograms-*-of-*.jsonl       a row per mask
    OUT/rejected-*-of-*.jsonl         a row per image without one
    OUT/summary.json                  totals, and the names of the shards; written last
    OUT/journal/*.jsonl               rows of a run that has not ended yet
    OUT/lock/N                        the run that writes here
    OUT/staged/                       a local model and local lists, for workers elsewhere
    OUT/.unfinished/RUN/              on local disk, what is being written
"""

from __future__ import annotations

import errno
import itertools
import json
import os
import unicodedata
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any

from model_build.common.errors import UserError
from pipeline.outputs import products, runs
from pipeline.outputs.products import MASKS, Product
from pipeline.records import ProductFile, Source, Stamp
from pipeline.storage import (
    File,
    Files,
    Unlisted,
    absolute,
    is_name_error,
    is_read_only,
    is_remote,
    printable,
)

RUN, SUMMARY = "run.json", "summary.json"
HISTOGRAMS, REJECTED = "histograms", "rejected"
UNFINISHED, JOURNAL, LOCK, STAGED = ".unfinished", "journal", "lock", "staged"
_on_other_disks: set[str] = set()  # folders in OUT that this process found to be links to others
LONGEST_PART, LONGEST_KEY = 255, 1024  # bytes: of a file's name on disk, of an object's in a store


@dataclass(frozen=True)
class OutputFolder:
    """OUT, and what a run writes there.

    Attributes:
        path: absolute path or URI, without a slash at its end.
        files: reads and writes it.
        products: that a run writes beside the masks.
        run: the run that has claimed it; ``""`` where none has, and OUT need not be there yet.
    """

    path: str
    files: Files
    products: tuple[Product, ...] = ()
    run: str = ""

    def write(self, name: str, data: bytes) -> Stamp:
        """Writes a file below OUT whole or not at all.

        Returns:
            What the disk or store says of it.

        Raises:
            OSError: it cannot be written, or OUT has been removed since it was claimed.
            Stopped: the run has been stopped.
        """
        folder = f"{self.path}/{name.partition('/')[0]}"
        inside = f"{folder}/{UNFINISHED}/{self.run}".rstrip("/")
        scratch = inside if folder in _on_other_disks else self.scratch
        with runs.writing(self.run):
            try:
                written = self._write(name, data, scratch)
            except OSError as error:
                if error.errno != errno.EXDEV or scratch == inside:
                    raise
                # OUT/masks, say, is a link to another disk: further files are begun there.
                written = self._write(name, data, inside)
                _on_other_disks.add(folder)
        return Stamp(written.size, written.version)

    def _write(self, name: str, data: bytes, scratch: str) -> File:
        root = self.path if self.run else ""
        return self.files.write(f"{self.path}/{name}", data, scratch=scratch, root=root)

    @property
    def scratch(self) -> str:
        """The folder of the run's unfinished files; unused in a store."""
        return f"{self.path}/{UNFINISHED}/{self.run}".rstrip("/")

    def write_json(self, name: str, value: Any) -> None:
        """Writes a JSON file below OUT; raises as :meth:`write` does."""
        self.write(name, utf8(json.dumps(value, indent=1, ensure_ascii=False) + "\n"))

    def read_json(self, name: str) -> Any:
        """A JSON file's value, or None where there is no such file or no JSON in it."""
        try:
            return parse_json(self.files.read(f"{self.path}/{name}"))
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError, ValueError):
            return None

    def delete(self, name: str) -> None:
        """Deletes just that file below OUT, if it is there; raises as :meth:`write` does."""
        with runs.writing(self.run):
            self.files.delete(f"{self.path}/{name}")

    def existing(self, *some: Product) -> Iterator[ProductFile]:
        """Lists the files of products; a name that is not UTF-8, as no image has, is escaped."""
        listed = itertools.chain.from_iterable(self._list(product.name) for product in some)
        return itertools.chain.from_iterable(map(self.product_file, listed))

    def product_file(self, found: File | Unlisted) -> Iterator[ProductFile]:
        """Yields what a listed file is, if it is a product.

        Raises:
            OSError: it is a folder that cannot be listed, so its files may well exist.
        """
        if file := _regular_file(found):
            name, stamp = file.path.removeprefix(f"{self.path}/"), Stamp(file.size, file.version)
            for product in products.PRODUCTS:
                if mask_name := product.mask_name(printable(name)):
                    yield ProductFile(product.name, mask_name, stamp, file.written)

    def delete_products(self, mask_name: str, names: Collection[str] | None = None) -> None:
        """Deletes an image's products, its mask among them, if they exist.

        Args:
            mask_name: path of its mask below ``OUT/masks``.
            names: of the products to delete; None: all.

        Raises:
            OSError, Stopped: as :meth:`write` does.
        """
        for product in products.PRODUCTS:
            if names is None or product.name in names:
                try:
                    self.delete(product.file(mask_name))
                except OSError as error:
                    if not is_name_error(error):  # no file can have that name
                        raise

    def other_products(self) -> list[Product]:
        """Returns the products that this run does not write, its masks apart."""
        return [one for one in products.PRODUCTS if one not in (MASKS, *self.products)]

    def product_folders(self) -> list[Source]:
        """Returns the folders of all products, to be listed by many workers."""
        folders = [f"{self.path}/{product.name}" for product in products.PRODUCTS]
        return [Source("folder", folder, folder) for folder in folders]

    def holds(self, folder: str) -> bool:
        """Whether a folder in OUT contains any file."""
        return any(map(_regular_file, self._list(folder)))

    def obstacles(self) -> Iterator[str]:
        """Yields what is no folder on local disk, but has the name of one that a run needs."""
        for folder in (f"{self.path}/{name}" for name in _folders()):
            if not is_remote(folder) and os.path.lexists(folder) and not os.path.isdir(folder):
                yield folder

    def written(self) -> tuple[str, ...]:
        """Returns what runs write, which must not be taken for their input.

        Returns:
            Globs, of which only the last part is a pattern: ``**`` matches everything below.
        """
        names = (RUN, SUMMARY, f"{HISTOGRAMS}-*.jsonl", f"{REJECTED}-*.jsonl")
        written = (*(f"{folder}/**" for folder in _folders()), *names)
        return tuple(f"{self.path}/{name}" for name in written)

    def _list(self, folder: str) -> Iterator[File | Unlisted]:
        return self.files.list(f"{self.path}/{folder}")

    def clean_up(self, names: Collection[str]) -> None:
        """Removes what runs have left unfinished, and folders that are empty then."""
        for folder in self._unfinished():
            for run in names:
                self.files.delete_all(f"{folder}/{run}")
            self.files.prune(folder)
        for name in (JOURNAL, LOCK):
            self.files.prune(f"{self.path}/{name}")

    def unfinished(self) -> set[str]:
        """The runs that have left anything unfinished."""
        return {
            file.path[len(folder) + 1 :].partition("/")[0]
            for folder in self._unfinished()
            for file in self.files.list(folder)
        }

    def _unfinished(self) -> Iterator[str]:
        """Folders where runs may have unfinished files: see :meth:`write`."""
        yield f"{self.path}/{UNFINISHED}"
        if not is_remote(self.path):
            for name in (*(product.name for product in products.PRODUCTS), JOURNAL):
                yield f"{self.path}/{name}/{UNFINISHED}"


def parse_output(text: str, files: Files) -> str:
    """``--output`` as an absolute path or URI without a slash at its end.

    Raises:
        UserError: it cannot be a folder, or a store that cannot be written to.
    """
    if not text:
        raise UserError("--output is empty; name a folder or URI")
    if is_remote(text):
        files.check(text)
        if is_read_only(text):
            raise UserError(f"{text}: cannot write to a web server; name a folder or a bucket")
        return text.rstrip("/")
    path = absolute(text)
    if printable(path) != path or "\0" in path:
        raise UserError(
            f"{printable(path)}: its name is not UTF-8 or contains a NUL; choose another --output"
        )
    if os.path.exists(path) and not os.path.isdir(path):
        raise UserError(f"{text}: is a file; --output must be a folder")
    return path


def _regular_file(found: File | Unlisted) -> File | None:
    """Returns what was listed if it is a regular file; raises OSError for an unlisted folder."""
    if isinstance(found, Unlisted):
        raise OSError(f"{printable(found.path)}: cannot be listed: {found.detail}")
    return found if found.regular else None


def _folders() -> tuple[str, ...]:
    """Returns the folders in OUT that a run puts files into."""
    return (*(product.name for product in products.PRODUCTS), UNFINISHED, JOURNAL, LOCK, STAGED)


def unsupported_name(mask_name: str, out: str) -> str | None:
    """Why OUT can hold no mask of that name, or None where it can.

    A disk takes any byte but ``/`` and NUL, and 255 of them between two slashes; stores take 1,024
    in all, and Google's refuses line ends (https://cloud.google.com/storage/docs/objects#naming).
    """
    parts = mask_name.split("/")
    if not is_remote(out):
        if any(len(os.fsencode(part)) > LONGEST_PART for part in parts):
            return f"its mask's name would have over {LONGEST_PART} bytes; shorten its name"
        return "its name contains a NUL; rename it" if "\0" in mask_name else None
    if any(unicodedata.category(character) == "Cc" for character in mask_name):
        return "its name contains a control character, which stores do not allow; rename it"
    key = f"{out.partition('://')[2].partition('/')[2]}/{MASKS.file(mask_name)}".lstrip("/")
    if len(key.encode()) > LONGEST_KEY:
        return (
            f"its mask's path in the bucket would have over {LONGEST_KEY} bytes; shorten its name"
        )
    return None


def utf8(text: str) -> bytes:
    """Text as UTF-8; of a local path that is not, the escape that JSON knows."""
    return text.encode("utf-8", "backslashreplace")


def parse_json(data: bytes) -> Any:
    """The value of JSON text.

    Raises:
        ValueError: it is none, or nested more deeply than any that is written here.
    """
    try:
        return json.loads(data)
    except RecursionError:
        raise ValueError("nested too deeply") from None
