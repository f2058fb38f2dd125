import subprocess
import sys
from pathlib import Path

import pytest

from model_build.common import errors
from model_build.common.errors import UserError, cause, require


def hide(monkeypatch, *modules):
    for module in modules:
        monkeypatch.setitem(sys.modules, module, None)


def test_installed_modules_raise_no_error():
    require("train", "json", "importlib.util", purpose="training")


def test_a_missing_module_is_reported_with_the_extra_that_installs_it(monkeypatch):
    hide(monkeypatch, "matplotlib")
    with pytest.raises(UserError) as caught:
        require("train", "matplotlib", "json", purpose="training")
    assert str(caught.value) == (
        "training needs matplotlib, which is not installed; pip install 'fcn-beam[train]'"
    )


def test_all_missing_modules_are_reported(monkeypatch):
    hide(monkeypatch, "s3fs", "botocore")
    with pytest.raises(UserError) as caught:
        require("aws", "s3fs", "botocore", purpose="s3://")
    assert str(caught.value) == (
        "s3:// needs s3fs and botocore, which are not installed; pip install 'fcn-beam[aws]'"
    )


def test_a_module_of_a_missing_package_is_missing():
    with pytest.raises(UserError, match=r"^gs:// needs no_such_package\.storage, which is not"):
        require("gcp", "no_such_package.storage", purpose="gs://")


def test_nothing_is_imported_to_find_out():
    code = (
        "import sys; from model_build.common.errors import require; "
        "require('train', 'matplotlib', 'tensorboard', purpose='training'); "
        "print([m for m in ('matplotlib', 'tensorboard') if m in sys.modules])"
    )
    root = Path(errors.__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (FileNotFoundError(2, "No such file or directory", "a"), "No such file or directory"),
        (PermissionError("403 Forbidden\nmore"), "403 Forbidden"),
        (OSError(), "OSError"),
    ],
)
def test_the_cause_of_an_os_error(error, expected):
    assert cause(error) == expected
