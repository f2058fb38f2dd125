"""What is not Python code: the Makefile's commands and the source distribution."""

import os
import shlex
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def make(*arguments):
    command = ["make", "--no-print-directory", *arguments]
    # `make test ARGS=…` hands its own variables down; they are not this make's.
    clean = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    return subprocess.run(command, cwd=ROOT, env=clean, capture_output=True, text=True, check=False)


def dataflow_command(*arguments):
    where = ["INPUT=gs://bucket/photos", "OUTPUT=gs://bucket/out/", "PROJECT=p", "REGION=r"]
    done = make("run-dataflow", *where, "DRY=1", *arguments)
    assert done.returncode == 0, done.stderr
    return shlex.split(done.stdout)


def test_help_names_every_command():
    listed = make("help").stdout
    for target in ("run-local", "run-dataflow", "test", "lint", "bench"):
        assert f"make {target} " in listed


def test_run_dataflow_builds_a_command_that_the_job_understands():
    from apache_beam.options.pipeline_options import GoogleCloudOptions, SetupOptions

    from pipeline.beam_options import choose_runner, split_arguments

    program, segment, source, output_flag, output, *rest = dataflow_command()
    assert (Path(program).name, segment, source) == ("fcn-beam", "segment", "gs://bucket/photos")
    assert (output_flag, output) == ("--output", "gs://bucket/out/")
    inputs, options = split_arguments(rest, [])
    assert inputs == []
    assert not choose_runner(options, workers=1)
    assert options.view_as(GoogleCloudOptions).project == "p"
    assert options.view_as(GoogleCloudOptions).region == "r"
    assert options.view_as(GoogleCloudOptions).temp_location == "gs://bucket/out/dataflow-tmp"
    assert options.view_as(SetupOptions).setup_file == "./setup.py"


def test_run_dataflow_with_an_image_installs_nothing_on_workers():
    command = dataflow_command("IMAGE=registry/fcn-beam:1")
    assert "--setup_file" not in command
    assert command[command.index("--sdk_container_image") + 1] == "registry/fcn-beam:1"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run-local"], "INPUT=examples/"),
        (["run-dataflow", "DRY=1", "INPUT=gs://a"], "PROJECT="),
        (
            ["run-dataflow", "DRY=1", "INPUT=gs://a", "PROJECT=p", "REGION=r"],
            "OUTPUT must be gs://",
        ),
    ],
)
def test_a_missing_variable_is_named(arguments, message):
    done = make(*arguments)
    assert done.returncode == 2
    assert message in done.stderr


def test_setup_py_makes_a_source_distribution_with_all_modules(tmp_path):
    project = tmp_path / "project"
    project.mkdir()
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, project)
    modules = [path.relative_to(ROOT) for path in ROOT.glob("[mp]*/*.py")]
    for module in modules:
        (project / module).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / module, project / module)
    command = [sys.executable, "setup.py", "--quiet", "sdist", "--dist-dir", str(tmp_path)]
    done = subprocess.run(command, cwd=project, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (archive,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(archive) as tar:
        names = {name.partition("/")[2] for name in tar.getnames()}
    assert {module.as_posix() for module in modules} <= names
    assert len(modules) > 20
