"""The documents say what is: schemas hold real files, code blocks run, links and tests exist."""

import json
import re
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest

from pipeline.jobs.plan import Request
from pipeline.jobs.segment import segment
from pipeline.records import STAGES

ROOT = Path(__file__).parent.parent
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])


def schema(name):
    return json.loads((ROOT / f"docs/schema/{name}.schema.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def out(tiny_model, tmp_path_factory):
    """The output of a job that has kept, edited, made, rejected and passed over."""
    from PIL import Image

    folder = tmp_path_factory.mktemp("docs")
    for index, name in enumerate(("a", "b", "c")):
        (folder / "photos").mkdir(exist_ok=True)
        Image.new("RGB", (40 + index, 30), "red").save(folder / f"photos/{name}.jpg")
    request = Request([f"{folder}/photos"], f"{folder}/out", tiny_model)
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


@pytest.mark.parametrize("name", ["run", "summary"])
def test_a_jobs_json_is_as_its_schema_says(out, name):
    jsonschema.validate(json.loads((out / f"{name}.json").read_text()), schema(name))


@pytest.mark.parametrize(("name", "lines"), [("histograms", 3), ("rejected", 1)])
def test_a_jobs_rows_are_as_their_schema_says(out, name, lines):
    found = [
        json.loads(line)
        for path in out.glob(f"{name}-*.jsonl")
        for line in path.read_text().splitlines()
    ]
    assert len(found) == lines
    for row in found:
        jsonschema.validate(row, schema(name))


@pytest.mark.parametrize("name", ["histograms", "rejected", "run", "summary"])
def test_a_schema_refuses_what_it_does_not_know(name):
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"surprise": 1}, schema(name))


def test_the_stages_of_the_schema_are_those_of_the_code():
    assert tuple(schema("rejected")["properties"]["stage"]["enum"]) == STAGES


def test_every_link_leads_somewhere():
    for document in DOCUMENTS:
        for target in re.findall(r"\]\(([^)#:]+)\)", document.read_text(encoding="utf-8")):
            assert (document.parent / target).exists(), f"{document.name}: {target}"


def test_the_tests_that_the_reliability_page_names_exist():
    text = (ROOT / "docs/reliability.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`([a-z]+/test_\w+\.py)`", text))
    assert named
    assert not [name for name in named if not (ROOT / "tests/pipeline" / name).exists()]


def blocks(document):
    """The indented blocks of Python in a document."""
    text = (ROOT / document).read_text(encoding="utf-8")
    found = re.findall(r"(?:^(?: {4}.*)?\n)+", text, re.MULTILINE)
    code = [re.sub(r"^ {4}", "", block, flags=re.MULTILINE).strip() for block in found]
    return [block for block in code if block.startswith(("import ", "from "))]


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
