"""The documents say what is: schemas hold real files, code blocks run, links and tests exist."""

import contextlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest
from PIL import Image

from model_build.artifact import DEFAULT_MODEL
from pipeline.images.decode import MAX_PIXELS, DecodeOptions, decode
from pipeline.images.masks import histogram
from pipeline.network import models
from pipeline.network.handler import classify
from pipeline.network.segmenter import Segmenter
from pipeline.records import STAGES, ImageRef, Task, Window
from pipeline.segmentation.plan import Request
from pipeline.segmentation.run import segment
from pipeline.storage import Files
from tests.servers import stores

ROOT = Path(__file__).parent.parent
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), ROOT / "benchmarks/README.md"])


def schema(name):
    return json.loads((ROOT / f"docs/schema/{name}.schema.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def out(tiny_model, tmp_path_factory):
    """The output of a job that has kept, edited, made, rejected and passed over."""
    folder = tmp_path_factory.mktemp("docs")
    for index, name in enumerate(("a", "b", "c")):
        (folder / "photos").mkdir(exist_ok=True)
        Image.new("RGB", (40 + index, 30), "red").save(folder / f"photos/{name}.jpg")
    request = Request([f"{folder}/photos"], f"{folder}/out", model=tiny_model)
    segment(request)
    Image.open(folder / "out/masks/a.png").point(lambda value: 3).save(folder / "out/masks/a.png")
    (folder / "photos/bad.jpg").write_text("no image")
    (folder / "photos/notes.txt").write_text("no image")
    Image.new("RGB", (20, 20), "blue").save(folder / "photos/new.jpg")
    (folder / "photos/c.jpg").unlink()
    summary = segment(request)
    assert (summary.kept, summary.edited, summary.rejected, summary.outside) == (2, 1, 1, 1)
    return folder / "out"


def test_the_schemas_are_schemas():
    for path in (ROOT / "docs/schema").iterdir():
        jsonschema.Draft202012Validator.check_schema(json.loads(path.read_text(encoding="utf-8")))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["run", "summary"])
def test_a_jobs_json_matches_its_schema(out, name):
    jsonschema.validate(json.loads((out / f"{name}.json").read_text()), schema(name))


@pytest.mark.parametrize(("name", "lines"), [("histograms", 3), ("rejected", 1)])
def test_a_jobs_rows_match_their_schema(out, name, lines):
    found = [
        json.loads(line)
        for path in out.glob(f"{name}-*.jsonl")
        for line in path.read_text().splitlines()
    ]
    assert len(found) == lines
    for row in found:
        jsonschema.validate(row, schema(name))


def test_fields_may_be_added_but_to_the_recipe_of_run_json(out):
    found = {name: json.loads((out / f"{name}.json").read_text()) for name in ("run", "summary")}
    for name, content in found.items():
        jsonschema.validate(content | {"surprise": 1}, schema(name))
        content["recipe"]["surprise"] = 1
    jsonschema.validate(found["summary"], schema("summary"))
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(found["run"], schema("run"))


@pytest.mark.parametrize("name", ["histograms", "rejected"])
def test_fields_may_be_added_to_rows_and_none_may_be_missing(out, name):
    line = next(line for path in out.glob(f"{name}-*.jsonl") for line in path.open())
    found = json.loads(line) | {"surprise": 1}
    for versions in found.get("versions", {}).values():
        versions["surprise"] = 1
    jsonschema.validate(found, schema(name))
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"surprise": 1}, schema(name))


def test_the_stages_of_the_schema_are_those_of_the_code():
    assert tuple(schema("rejected")["properties"]["stage"]["enum"]) == STAGES


def anchors(document):
    """The anchors that GitHub makes of a document's headings."""
    headings = re.findall(r"^#+ (.+)$", document.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_link_leads_to_a_file_and_a_heading(document):
    links = re.findall(r"\]\(([^)#:]*)(?:#([^):]+))?\)", document.read_text(encoding="utf-8"))
    for target, anchor in links:
        linked = document.parent / target if target else document
        assert linked.exists(), target
        assert not anchor or anchor in anchors(linked), f"{target}#{anchor}"


def test_the_index_of_benchmarks_lists_every_script():
    index = (ROOT / "benchmarks/README.md").read_text(encoding="utf-8")
    scripts = {
        str(path.relative_to(ROOT / "benchmarks")) for path in ROOT.glob("benchmarks/**/*.py")
    }
    assert scripts == set(re.findall(r"`((?:peers/)?\w+\.py)`", index))


def test_the_tests_that_the_reliability_page_names_exist():
    text = (ROOT / "docs/reliability.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`([a-z]+/test_\w+\.py)`", text))
    assert named
    packages = (ROOT / "tests/pipeline", ROOT / "tests/model_build")
    assert not [one for one in named if not any((package / one).exists() for package in packages)]


def blocks(document):
    """The indented blocks of Python in a document."""
    text = (ROOT / document).read_text(encoding="utf-8")
    found = re.findall(r"(?:^(?: {4}.*)?\n)+", text, re.MULTILINE)
    code = [re.sub(r"^ {4}", "", block, flags=re.MULTILINE).strip() for block in found]
    return [block for block in code if block.startswith(("import ", "from "))]


@pytest.mark.slow
def test_the_python_of_the_output_page_runs(out, tmp_path):
    (tmp_path / "out").symlink_to(out)
    (tmp_path / "out/masks/chelsea.png").write_bytes((out / "masks/b.png").read_bytes())
    code = "\n".join(blocks("docs/output.md"))
    assert code.count("import json") == 2
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    (out / "masks/chelsea.png").unlink()
    assert done.returncode == 0, done.stderr
    assert "(30, 41)" in done.stdout
    assert '"image": "b.jpg"' in done.stdout or "'image': 'b.jpg'" in done.stdout
    assert "rejected at decode" in done.stdout


# Every command in README


def commands(document):
    """The shell commands in a document's indented blocks, each on one line."""
    text = (ROOT / document).read_text(encoding="utf-8").replace("\\\n", " ")
    found = re.findall(r"^ {4}((?:fcn-beam|make|pip|python|docker) .+)$", text, re.MULTILINE)
    return [re.sub(r"\s+", " ", command.partition("  #")[0]).strip() for command in found]


# Not run here: the first runs this test, the second is run in tests/test_packaging.py.
ELSEWHERE = {"make test", "pip install ."}
SMALL = {
    "fcn-beam segment": "--model {model}",
    "fcn-beam train": "--epochs 1 --crop 64x64 --pad-small --batch-size 1",
    "make run-local": "OUTPUT={folder}/out/ MODEL={model}",
    "make bench": "INPUT={folder}/my-photos/images/ MODEL={model} ARGS='--limit 5 --rounds 1'",
}


@pytest.fixture
def workplace(tmp_path, photos):
    """A folder in which README's commands find what they name."""
    (tmp_path / "my-photos/images").mkdir(parents=True)
    (tmp_path / "my-photos/masks").mkdir()
    for index, photo in enumerate(sorted(photos.glob("*/*.jpg"))):
        (tmp_path / f"my-photos/images/{index}.jpg").write_bytes(photo.read_bytes())
        with Image.open(photo) as image:
            Image.new("L", image.size, index % 2).save(tmp_path / f"my-photos/masks/{index}.png")
    labels = [{"name": name, "color": [index, 0, 0]} for index, name in enumerate(("no", "yes"))]
    (tmp_path / "my-photos/labels.json").write_text(json.dumps({"labels": labels}))
    return tmp_path


UPLOAD = """
import sys
from pipeline.storage import Files
Files().write(sys.argv[2], open(sys.argv[1], "rb").read())
"""


@pytest.fixture
def environment(workplace, request):
    """The environment of a command; the bucket that it names is an emulator's."""

    def make(command):
        found = os.environ | {
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
        }
        photo = next(workplace.glob("photos/*/*.jpg"))
        for scheme, server, make_bucket in (
            ("gs", "fake_gcs", stores.make_gcs_bucket),
            ("s3", "moto", stores.make_moto_bucket),
        ):
            if f"{scheme}://" in command and "DRY=1" not in command:
                address = request.getfixturevalue(f"{server}_address")
                found |= getattr(stores, f"{server}_environment")(address)
                with contextlib.suppress(OSError):  # it is there
                    make_bucket(address, "bucket")
                upload = [sys.executable, "-c", UPLOAD, photo, f"{scheme}://bucket/photos/a.jpg"]
                subprocess.run(upload, env=found, check=True)
        return found

    return make


@pytest.mark.slow
@pytest.mark.parametrize("command", [one for one in commands("README.md") if one not in ELSEWHERE])
def test_a_command_of_the_readme_runs(command, workplace, environment, tiny_model):
    small = next((more for start, more in SMALL.items() if command.startswith(start)), "")
    if "--model my-model" in command:
        small = ""
        shutil.copytree(tiny_model, workplace / "my-model")
    done = subprocess.run(
        shlex.split(f"{command} {small.format(model=tiny_model, folder=workplace)}"),
        cwd=ROOT if command.startswith("make") else workplace,
        env=environment(command),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
def test_the_row_of_the_readme_is_what_the_default_model_gives():
    row = json.loads(re.search(r'"pixels": ({.*?})', (ROOT / "README.md").read_text())[1])
    network = models.load(DEFAULT_MODEL, Files())
    options = DecodeOptions(network.description.long_side, MAX_PIXELS)
    photo = decode((ROOT / "examples/chelsea.jpg").read_bytes(), options)
    window = Window((Task(ImageRef("chelsea.jpg", "chelsea.jpg"), "chelsea.png"),), (photo,))
    (class_map,) = classify(window, Segmenter(network))
    found = histogram(class_map, network.description.labels, (photo.height, photo.width))
    assert row.keys() == found.keys()
    for label, count in row.items():  # which differs a little between machines
        assert abs(count - found[label]) < 0.01 * photo.height * photo.width


def test_the_readme_names_the_commands_that_it_should():
    found = " ".join(commands("README.md"))
    for wanted in ("make run-local", "make test", "fcn-beam segment", "fcn-beam train", "gs://"):
        assert wanted in found
