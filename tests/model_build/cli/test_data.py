import os
import signal
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from model_build.cli.data import data
from model_build.common.errors import UserError
from model_build.data import download
from pipeline.cli.main import fcn_beam
from tests.waiting import wait_until

ROOT = Path(download.__file__).parents[2]


def invoke(*arguments):
    return CliRunner().invoke(data, [str(a) for a in arguments], standalone_mode=False)


def test_voc2012_prints_how_to_train_on_it(serve, voc_tar, make_source, tmp_path, monkeypatch):
    server = serve(voc_tar, cuts=(30_000,))
    monkeypatch.setattr(download, "VOC2012", make_source(server.url, voc_tar))
    dest = tmp_path / "my data"
    result = invoke("voc2012", dest)
    assert (result.exception, result.return_value) == (None, 0)
    assert result.output.splitlines()[-1] == (
        f"next: fcn-beam train '{dest}/VOCdevkit/VOC2012' --output model"
    )
    again = invoke("voc2012", dest)
    assert again.output.splitlines() == [
        f"{dest}/VOCdevkit/VOC2012: already there; nothing to download",
        f"next: fcn-beam train '{dest}/VOCdevkit/VOC2012' --output model",
    ]
    assert len(server.asked) == 2
    assert invoke("check", dest / "VOCdevkit" / "VOC2012").return_value == 0


def test_voc2012_passes_errors_on(serve, voc_tar, make_source, tmp_path, monkeypatch):
    server = serve(voc_tar, statuses=[404])
    monkeypatch.setattr(download, "VOC2012", make_source(server.url, voc_tar))
    result = invoke("voc2012", tmp_path)
    assert isinstance(result.exception, UserError)


def test_an_interrupt_keeps_the_downloaded_part(serve, voc_tar, make_source, tmp_path):
    server = serve(voc_tar, cuts=(50_000,), hang=True)
    source = make_source(server.url, voc_tar)
    code = (
        "import signal, sys\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have it ignored\n"
        "from model_build.data import download\n"
        f"download.VOC2012 = download.{source!r}\n"
        "from pipeline.cli.main import main\n"
        f"sys.argv = ['fcn-beam', 'data', 'voc2012', {str(tmp_path)!r}]\n"
        "main()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stderr=subprocess.PIPE, text=True, env=os.environ
    )
    part = tmp_path / "voc.tar.part"

    def came():
        assert process.poll() is None, process.communicate()
        return part.exists() and part.stat().st_size

    wait_until(came, "a part has come")
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate()
    assert process.returncode == 130
    assert stderr == "fcn-beam: interrupted; run the same command again to continue\n"
    kept = part.read_bytes()
    assert voc_tar.startswith(kept)
    server.released.set()
    download.download_and_unpack(source, tmp_path, lambda line: None)
    assert server.asked == [None, f"bytes={len(kept)}-"]


def test_check_of_a_sound_folder(voc_folder):
    result = invoke("check", voc_folder)
    assert (result.exception, result.return_value) == (None, 0)
    assert "train: 4 pairs, 72–96 × 64–100 pixels" in result.output
    assert "val: 2 pairs" in result.output
    assert result.output.splitlines()[-1] == "no errors"


def test_check_lists_errors_and_returns_1(voc_folder):
    for name in ("train_0", "val_1"):
        (voc_folder / "SegmentationClass" / f"{name}.png").unlink()
    result = invoke("check", voc_folder)
    assert (result.exception, result.return_value) == (None, 1)
    errors = [line for line in result.output.splitlines() if line.startswith("error: ")]
    assert [line.split(": ")[1] for line in errors] == [
        str(voc_folder / "SegmentationClass" / f"{name}.png") for name in ("train_0", "val_1")
    ]


def test_check_of_some_splits(voc_folder):
    (voc_folder / "SegmentationClass" / "val_0.png").unlink()
    result = invoke("check", voc_folder, "--split", "train")
    assert result.return_value == 0
    assert "val:" not in result.output
    assert invoke("check", voc_folder, "--split", "train", "--split", "val").return_value == 1


@pytest.mark.parametrize("command", ["check", "voc2012"])
def test_folders_on_a_store_are_refused_in_one_line(command):
    result = CliRunner().invoke(data, [command, "gs://b/x"])
    assert result.exit_code == 2
    message = " ".join(result.output.split())
    assert f"gs://b/x: data {command} works on local folders only; copy it" in message


@pytest.mark.slow
def test_the_exit_status_is_that_of_the_command(voc_folder):
    def status(*arguments):
        command = [sys.executable, "-m", "pipeline", "data", *arguments]
        return subprocess.run(command, cwd=ROOT, capture_output=True, check=False).returncode

    assert status("check", voc_folder) == 0
    (voc_folder / "SegmentationClass" / "val_0.png").unlink()
    assert status("check", voc_folder) == 1
    assert status("check", voc_folder / "nowhere") == 2
    assert status("check", voc_folder, "--spilt", "train") == 2


@pytest.mark.parametrize(
    ("word", "end"),
    [("chek", "; did you mean check?"), ("voc", "; did you mean voc2012?"), ("xyz", "")],
)
def test_a_mistyped_command_is_suggested(word, end):
    arguments = ["data", word, "somewhere"]
    result = CliRunner().invoke(fcn_beam, arguments, standalone_mode=False)
    assert isinstance(result.exception, click.UsageError)
    assert result.exception.message == f"no such command 'data {word}'{end}"


def test_help_imports_nothing_heavy():
    code = (
        "import sys; from model_build.cli.data import data; "
        "[data([*words, '--help'], standalone_mode=False) for words in ([], ['check'])]; "
        "print([m for m in ('tensorflow', 'numpy', 'PIL', 'rich') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert "voc2012" in done.stdout
    assert done.stdout.splitlines()[-1] == "[]"
