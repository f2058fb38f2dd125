"""The rooms of both packages and what each may import, as ``docs/architecture.md`` states it.

The document's tables are parsed, so that they and the code cannot drift apart.
"""

import ast
import importlib
import re
from pathlib import Path
from typing import NamedTuple

import pytest

from pipeline import _HOMES
from pipeline.cli.main import COMMANDS

ROOT = Path(__file__).parent.parent
DOCUMENT = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
PACKAGES = ("pipeline", "model_build")
MODULES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
# Modules that load a model or score masks, and light ones: none that trains.
SHARED = {
    "common",
    "artifact",
    "scores",
    "program",
    "saved_model",
    "data.decode",
    "data.files",
    "data.folders",
    "data.labels",
    "data.layouts",
    "data.masks",
    "data.unreadable",
}
# Every call that opens, writes or removes a file outside of storage: none is of INPUT, OUT or DATA.
OPENED = {
    "cli/evaluate.py": {".write_text"},  # --json
    "evaluation/scoring.py": {".write_text", ".read_text"},  # the findings, in a folder of its own
    "segmentation/run.py": {".rglob", ".read_bytes"},  # a local model on its way to OUT
    "network/models.py": {".write_bytes"},  # a remote model's local copy
    "network/precision.py": {".read_text"},  # the flags of the CPU
    "network/threads.py": {".read_text"},  # the limits of the container
    "outputs/runs.py": {".read_text"},  # this machine's boot and processes
}
PATH_CALLS = frozenset(
    (".read_text", ".read_bytes", ".write_text", ".write_bytes", ".unlink", ".rename")
    + (".iterdir", ".rglob", ".mkdir", ".rmdir", ".touch", ".open")
)
OS_CALLS = frozenset(
    ("open", "remove", "unlink", "rename", "replace", "link", "symlink", "listdir", "scandir")
    + ("walk", "mkdir", "makedirs", "rmdir", "removedirs", "truncate")
)


class Room(NamedTuple):
    """A row of a table: dotted names below the packages, and the modules that a library is for."""

    rooms: tuple[str, ...]
    shared: tuple[str, ...]
    libraries: dict[str, tuple[str, ...]]


def table_of(head):
    """The cells of each row of the table whose head begins so."""
    lines = DOCUMENT[DOCUMENT.index(f"\n| {head}") + 1 :].splitlines()
    rows = []
    for line in lines:
        if not line.startswith("|"):
            return rows[2:]
        rows.append([cell.strip() for cell in line.strip("|").split("|")])
    return rows[2:]


def names_in(cell):
    return tuple(re.findall(r"`([^`]+)`", cell))


def rooms_of(package):
    rooms = {}
    for first, own, *shared, libraries in table_of(f"`{package}` | of `{package}`"):
        (name,) = names_in(first)
        found = re.findall(r"`([^`]+)`(?: \(([^)]*)\))?", libraries)
        shared_names = names_in(shared[0]) if shared else ()
        rooms[name] = Room(
            names_in(own), shared_names, {library: names_in(only) for library, only in found}
        )
    return rooms


ROOMS = {package: rooms_of(package) for package in PACKAGES}


def imports(source):
    """Dotted names that a module imports, also inside functions; not those only for types."""
    found = []

    def visit(node):
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            for other in node.orelse:
                visit(other)
            return
        if isinstance(node, ast.Import):
            found.extend(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            found.extend(f"{node.module}.{alias.name}" for alias in node.names)
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(ast.parse(source))
    return found


def is_in(name, wholes):
    """Whether a dotted name is one of these, or below one."""
    return any(name == whole or name.startswith(f"{whole}.") for whole in wholes)


def forbidden(package, room, module, source):
    """The imports of a module that its room's row does not allow."""
    row = ROOMS[package].get(room, Room((), (), {}))
    allowed = [f"{package}.{name}" for name in (room, *row.rooms)]
    allowed += [f"model_build.{name}" for name in row.shared]
    for library, only in row.libraries.items():
        if not only or module in only:
            allowed.append(library)
    guarded = [library for other in ROOMS[package].values() for library in other.libraries]
    return [
        name
        for name in imports(source)
        if is_in(name, (*PACKAGES, *guarded)) and not is_in(name, allowed)
    ]


def calls(source):
    """The calls of a module that open, list, write or remove files by themselves."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.module in ("os", "shutil", "glob"):
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func)
        base, dot, name = called.rpartition(".")
        by_os = base == "os" and name in OS_CALLS
        by_glob = base == "glob" and name in ("glob", "iglob")
        if called == "open" or base == "shutil" or by_os or by_glob:
            found.add(called)
        elif dot and base not in ("Image", "os") and f".{name}" in PATH_CALLS:
            found.add(f".{name}")
    return found


def below(path):
    """A module's package, room and name."""
    package, *rest = path.relative_to(ROOT).with_suffix("").parts
    return package, rest[0], rest[-1]


def label(path):
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("path", MODULES, ids=label)
def test_a_module_imports_what_its_room_may(path):
    found = forbidden(*below(path), path.read_text(encoding="utf-8"))
    assert not found, "turn the arrow round, or say so in docs/architecture.md"


@pytest.mark.parametrize("package", PACKAGES)
def test_arrows_point_down_the_table(package):
    order = list(ROOMS[package])
    for index, (room, row) in enumerate(ROOMS[package].items()):
        for name in row.rooms:
            assert name.split(".")[0] in order[index + 1 :], f"{room} → {name}"


@pytest.mark.parametrize("package", PACKAGES)
def test_every_room_has_a_row_and_every_row_a_room(package):
    folder = ROOT / package
    found = {path.relative_to(folder).with_suffix("").parts[0] for path in folder.rglob("*.py")}
    assert set(ROOMS[package]) == found - {"__init__"}


def test_the_pipeline_takes_nothing_of_model_build_that_trains():
    assert {name for row in ROOMS["pipeline"].values() for name in row.shared} <= SHARED
    assert not any(row.shared for row in ROOMS["model_build"].values())


def test_only_storage_imports_store_libraries():
    for library in ("fsspec", "gcsfs", "s3fs", "adlfs", "botocore", "google.auth"):
        assert [room for room, row in ROOMS["pipeline"].items() if library in row.libraries] == [
            "storage"
        ]


@pytest.mark.parametrize("package", PACKAGES)
def test_the_tables_name_modules_that_exist(package):
    for room, row in ROOMS[package].items():
        for name in (*row.rooms, *(f"model_build.{name}" for name in row.shared)):
            where = name if name.startswith("model_build.") else f"{package}.{name}"
            path = ROOT / where.replace(".", "/")
            assert path.is_dir() or path.with_suffix(".py").is_file(), f"{room} → {name}"
        for library, only in row.libraries.items():
            for module in only:
                (path,) = (ROOT / package / room).rglob(f"{module}.py")
                source = path.read_text(encoding="utf-8")
                assert library in source, f"{room}/{module}.py has no {library}"


@pytest.mark.parametrize("package", PACKAGES)
def test_the_document_has_a_line_for_each_module(package):
    after = DOCUMENT[DOCUMENT.index(f"\n`{package}/`:\n") :]
    listed = re.findall(r"^\| `([\w/]+\.py)` \| \S", after.split("\n\n")[1], re.MULTILINE)
    folder = ROOT / package
    found = {path.relative_to(folder).as_posix() for path in folder.rglob("*.py")}
    inits = {name for name in found if name.endswith("__init__.py")} - {"__init__.py"}
    if package == "model_build":
        inits.add("__init__.py")  # holds nothing
    assert sorted(listed) == sorted(found - inits)


def test_names_in_strings_exist():
    for command, module in COMMANDS.items():
        assert is_in(module, ("pipeline.cli", "model_build.cli"))
        assert hasattr(importlib.import_module(module), command)
    for name, module in _HOMES.items():
        assert hasattr(importlib.import_module(module), name)


@pytest.mark.parametrize("path", MODULES, ids=label)
def test_a_module_says_what_it_is_and_stays_small(path):
    source = path.read_text(encoding="utf-8")
    assert ast.get_docstring(ast.parse(source))
    assert len(source.splitlines()) <= 400


OUTSIDE_STORAGE = [
    path for path in MODULES if below(path)[0] == "pipeline" and below(path)[1] != "storage"
]


@pytest.mark.parametrize("path", OUTSIDE_STORAGE, ids=label)
def test_only_storage_opens_files_of_users(path):
    name = path.relative_to(ROOT / "pipeline").as_posix()
    assert calls(path.read_text(encoding="utf-8")) == OPENED.get(name, set())


@pytest.mark.parametrize(
    "source",
    [
        "from pipeline.segmentation import run",
        "import pipeline.segmentation.run as s",
        "def f():\n    from pipeline.storage import Files",
        "import fsspec",
        "class A:\n    def f(self):\n        import apache_beam as beam",
        "from model_build.network.fcn import fcn",
        "import model_build",
        "from pipeline import segment",
        "from model_build.data.labels_of_others import A",
        "if TYPE_CHECKING:\n    pass\nelse:\n    import fsspec",
    ],
)
def test_an_upward_import_is_found_anywhere_in_a_module(source):
    assert forbidden("pipeline", "images", "decode", source)


@pytest.mark.parametrize(
    "source",
    [
        "from pipeline.images.sizes import fitted_size",
        "from pipeline.records import Photo",
        "def f():\n    from PIL import Image",
        "from model_build.data.labels import LabelSet",
        "if TYPE_CHECKING:\n    from pipeline.segmentation.run import Plan",
        "if typing.TYPE_CHECKING:\n    import fsspec",
        "import numpy as np",
    ],
)
def test_imports_that_the_row_allows_are_accepted(source):
    assert not forbidden("pipeline", "images", "decode", source)


def test_a_library_for_one_module_is_not_for_its_neighbours():
    assert not forbidden("pipeline", "storage", "gs", "import google.auth")
    assert forbidden("pipeline", "storage", "local", "import google.auth")


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("with open(path) as file: pass", {"open"}),
        ("Path(path).write_bytes(b'')", {".write_bytes"}),
        ("(folder / name).unlink()", {".unlink"}),
        ("os.remove(path)", {"os.remove"}),
        ("from os import remove", {"os.remove"}),
        ("glob.glob('*')", {"glob.glob"}),
        ("gzip.open(path)", {".open"}),
        ("Image.open(io.BytesIO(data)); files.read(path); text.replace('a', 'b')", set()),
        ("os.path.isdir(path); glob.has_magic(path)", set()),
    ],
)
def test_calls_that_open_files_are_found(source, found):
    assert calls(source) == found
