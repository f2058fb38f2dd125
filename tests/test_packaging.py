"""Tests the Makefile's commands, the Docker image and the source distribution."""

import json
import os
import shlex
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def make(*arguments):
    command = ["make", "--no-print-directory", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def dataflow_command(*arguments):
    where = ["INPUT=gs://bucket/photos", "OUTPUT=gs://bucket/out/", "PROJECT=p", "REGION=r"]
    where.append("IMAGE=registry/fcn-beam:1")
    done = make("run-dataflow", *where, "DRY=1", *arguments)
    assert done.returncode == 0, done.stderr
    return shlex.split(done.stdout)


def test_help_names_every_command():
    listed = make("help").stdout
    for target in ("run-local", "run-dataflow", "test", "lint", "bench"):
        assert f"make {target} " in listed


def test_run_dataflow_builds_a_command_that_the_job_understands():
    from apache_beam.options.pipeline_options import (
        GoogleCloudOptions,
        PipelineOptions,
        SetupOptions,
    )

    from pipeline.cli.arguments import split_arguments
    from pipeline.runners.local import is_local

    program, segment, source, output_flag, output, *rest = dataflow_command()
    assert (Path(program).name, segment, source) == ("fcn-beam", "segment", "gs://bucket/photos")
    assert (output_flag, output) == ("--output", "gs://bucket/out/")
    inputs, flags = split_arguments(rest, [])
    options = PipelineOptions(flags)
    assert inputs == []
    assert not is_local(options)
    assert options.view_as(GoogleCloudOptions).project == "p"
    assert options.view_as(GoogleCloudOptions).region == "r"
    assert options.view_as(GoogleCloudOptions).temp_location == "gs://bucket/out/dataflow-tmp"
    assert options.view_as(SetupOptions).setup_file is None


def test_run_dataflow_runs_workers_of_the_image():
    command = dataflow_command()
    assert "--setup_file" not in command
    assert command[command.index("--sdk_container_image") + 1] == "registry/fcn-beam:1"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run-local"], "INPUT=examples/"),
        (["run-dataflow", "DRY=1", "INPUT=gs://a"], "PROJECT="),
        (["run-dataflow", "DRY=1", "INPUT=gs://a", "PROJECT=p", "REGION=r"], "IMAGE="),
        (
            ["run-dataflow", "DRY=1", "INPUT=gs://a", "PROJECT=p", "REGION=r", "IMAGE=i"],
            "OUTPUT must be gs://",
        ),
    ],
)
def test_a_missing_variable_is_named(arguments, message):
    done = make(*arguments)
    assert done.returncode == 2
    assert message in done.stderr


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A copy of what distributions are made of."""
    folder = tmp_path_factory.mktemp("project")
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    for package in ("pipeline", "model_build"):
        shutil.copytree(
            ROOT / package, folder / package, ignore=shutil.ignore_patterns("__pycache__")
        )
    return folder


def sources():
    """Every module, and the files of the default model."""
    found = [path for name in ("pipeline", "model_build") for path in (ROOT / name).rglob("*.py")]
    model = ROOT / "model_build/default_model"
    assert (model / "trained.weights.h5").is_file()
    found += [path for path in model.rglob("*") if path.is_file()]
    found += [ROOT / "pipeline/py.typed", ROOT / "model_build/py.typed"]
    names = {path.relative_to(ROOT).as_posix() for path in found}
    assert len(names) > 60
    return names


@pytest.mark.slow
def test_setup_py_makes_a_source_distribution_with_all_modules(project, tmp_path):
    command = [sys.executable, "setup.py", "--quiet", "sdist", "--dist-dir", str(tmp_path)]
    done = subprocess.run(command, cwd=project, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (archive,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(archive) as tar:
        assert sources() <= {name.partition("/")[2] for name in tar.getnames()}


@pytest.mark.slow
def test_the_wheel_works_by_itself_with_its_default_model(project, tmp_path):
    make_wheel = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "-w"]
    done = subprocess.run(
        [*make_wheel, str(tmp_path), str(project)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        assert sources() <= set(archive.namelist())
        archive.extractall(tmp_path / "site")
    out = tmp_path / "out"
    command = [sys.executable, "-m", "pipeline", "segment", str(ROOT / "examples")]
    done = subprocess.run(
        [*command, "--output", str(out), "--limit", "1"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(tmp_path / "site")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert len(list(out.glob("masks/*.png"))) == 1
    summary = json.loads((out / "summary.json").read_text())
    assert summary["options"]["model"].startswith(str(tmp_path / "site"))


def test_the_locks_agree():
    def pins(name):
        lines = (ROOT / name).read_text().splitlines()
        # Which Pythons need a package depends on what else is in the lock.
        return {line.split(" ;")[0] for line in lines if line and not line.startswith("#")}

    assert pins("requirements.txt") <= pins("requirements-dev.txt")
    assert pins("requirements-cloud.txt") <= pins("requirements-dev.txt")
    assert not any(line.startswith("gcsfs") for line in pins("requirements.txt"))
    assert not any(line.startswith("matplotlib") for line in pins("requirements-cloud.txt"))


def test_the_docker_image_copies_existing_files():
    lines = (ROOT / "Dockerfile").read_text().splitlines()
    copied = [name for line in lines if line.startswith("COPY ") for name in line.split()[1:-1]]
    assert "pipeline" in copied
    assert [name for name in copied if not (ROOT / name).exists()] == []
    (base,) = [line for line in lines if line.startswith("FROM ")]
    assert (
        f"apache-beam=={base.rpartition(':')[2]}" in (ROOT / "requirements-cloud.txt").read_text()
    )


def test_a_command_for_dataflow_keeps_its_quotes():
    gpu = "worker_accelerator=type:nvidia-tesla-t4;count:1;install-nvidia-driver"
    command = dataflow_command(f"ARGS=--dataflow_service_options '{gpu}'")
    assert command[-1] == gpu
