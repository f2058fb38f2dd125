"""A job on Prism, Beam's runner in Go, whose workers run in the process that submits."""

import pytest

from tests.pipeline.segmentation import reliability
from tests.pipeline.segmentation.reliability import Job


@pytest.mark.slow
def test_a_job_on_prism_makes_the_masks_of_a_local_run(prism, stub_job, stub_model, tmp_path):
    reliability.pictures(tmp_path / "photos", 40)
    photos, out = str(tmp_path / "photos"), str(tmp_path / "out")
    stub_job(photos, tmp_path / "here", precision="float32")  # as it is on other machines
    arguments = ["segment", photos, "--output", out, "--model", stub_model(), "--shared-disk"]
    arguments += ["--runner", "PrismRunner", "--prism_location", prism]
    job = Job(arguments, tmp_path / "logs")
    assert job.wait() == 0, job.errors
    reliability.assert_complete(out, reliability.masks(str(tmp_path / "here")))
