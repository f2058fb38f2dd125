"""Folders of local disk: training and the job list the same files."""

import contextlib
import os
import uuid

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from model_build.data.layouts import list_local
from pipeline.storage import File, Files

FILES = Files()
PARTS = ["a", "b", "c.jpg", "d.jpg"]
PATHS = st.lists(st.sampled_from(PARTS), min_size=1, max_size=4).map("/".join)


def of_job(folder):
    """Returns the files that the job finds and can read."""
    found = [file.path for file in FILES.list(folder) if isinstance(file, File)]
    return sorted(filter(os.path.isfile, found))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(st.lists(PATHS, max_size=6), st.lists(st.tuples(PATHS, PATHS), max_size=4))
def test_training_and_the_job_list_the_same_files_whatever_the_links(tmp_path, names, links):
    root = f"{tmp_path}/{uuid.uuid4().hex}"
    os.mkdir(root)
    for name in names:
        with contextlib.suppress(OSError):  # a file has the name of a folder
            FILES.write(f"{root}/in/{name}", b"")
            FILES.write(f"{root}/out/{name}", b"")
    for index, (path, target) in enumerate(links):
        with contextlib.suppress(OSError):  # the path exists
            os.makedirs(os.path.dirname(f"{root}/in/{path}"), exist_ok=True)
            os.symlink(f"{root}/{'in' if index % 2 else 'out'}/{target}", f"{root}/in/{path}")
    for folder in (f"{root}/in", root):
        assert sorted(list_local(folder)) == of_job(folder)


@pytest.mark.parametrize("outside", [False, True], ids=["linked inside", "linked twice"])
def test_a_folder_that_is_reached_twice_is_listed_once(tmp_path, touch, outside):
    touch(tmp_path, "elsewhere/1.jpg" if outside else "photos/b/1.jpg")
    target = tmp_path / ("elsewhere" if outside else "photos/b")
    os.makedirs(tmp_path / "photos", exist_ok=True)
    for name in ("a", "c"):
        (tmp_path / f"photos/{name}").symlink_to(target)
    folder = f"{tmp_path}/photos"
    expected = [f"{folder}/{'a' if outside else 'b'}/1.jpg"]
    assert sorted(list_local(folder)) == of_job(folder) == expected
