import os
import subprocess
import sys

import pytest

from pipeline.network import threads
from pipeline.network.threads import container_cores, set_threads, threads_differ, usable_cores


def run(code):
    """Runs code in a new Python process and returns what it prints."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


# Cores


@pytest.mark.parametrize(
    ("quota", "cores"),
    [
        ("200000 100000\n", 2.0),
        ("150000 100000\n", 1.5),
        ("5000 50000\n", 0.1),
        ("max 100000\n", None),
        ("", None),
        ("nonsense\n", None),
    ],
)
def test_the_quota_of_a_container_of_version_2(tmp_path, quota, cores):
    (tmp_path / "cpu.max").write_text(quota)
    assert container_cores(tmp_path) == cores


@pytest.mark.parametrize(
    ("quota", "period", "cores"),
    [("400000\n", "100000\n", 4.0), ("50000\n", "100000\n", 0.5), ("-1\n", "100000\n", None)],
)
def test_the_quota_of_a_container_of_version_1(tmp_path, quota, period, cores):
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu/cpu.cfs_quota_us").write_text(quota)
    (tmp_path / "cpu/cpu.cfs_period_us").write_text(period)
    assert container_cores(tmp_path) == cores


def test_without_control_groups_there_is_no_quota(tmp_path):
    assert container_cores(tmp_path) is None
    assert container_cores(tmp_path / "nowhere") is None
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu/cpu.cfs_quota_us").write_text("100000\n")
    assert container_cores(tmp_path) is None  # a quota, but of what?


@pytest.mark.parametrize(("quota", "at_most"), [("1000", 1), ("100000", 1), ("110000", 2)])
def test_a_container_bounds_the_cores_and_leaves_one(tmp_path, monkeypatch, quota, at_most):
    monkeypatch.setattr(threads, "CGROUP", tmp_path)
    without = usable_cores()
    (tmp_path / "cpu.max").write_text(f"{quota} 100000\n")
    assert usable_cores() == min(without, at_most)


def test_a_generous_quota_does_not_add_cores(tmp_path, monkeypatch):
    monkeypatch.setattr(threads, "CGROUP", tmp_path)
    without = usable_cores()
    (tmp_path / "cpu.max").write_text("100000000 100000\n")
    assert usable_cores() == without


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no affinity on this system")
def test_no_more_cores_are_used_than_the_process_may_run_on():
    cores = sorted(os.sched_getaffinity(0))
    assert 1 <= usable_cores() <= len(cores)
    code = (
        f"import os; os.sched_setaffinity(0, [{cores[-1]}])\n"
        "from pipeline.network.threads import usable_cores; print(usable_cores())"
    )
    assert run(code) == ["1"]


# TensorFlow's threads


def test_threads_are_set_for_jobs_in_this_process():
    import tensorflow as tf

    assert set_threads()
    assert not threads_differ()
    assert tf.config.threading.get_intra_op_parallelism_threads() == 1
    assert tf.config.threading.get_inter_op_parallelism_threads() == usable_cores()


TELL = """
from pipeline.network.threads import threads_differ, set_threads, usable_cores
def tell():
    threading = tf.config.threading
    print(set_threads(), threads_differ(), threading.get_intra_op_parallelism_threads(),
          threading.get_inter_op_parallelism_threads() == usable_cores())
"""


def test_asking_does_not_import_tensorflow():
    code = (
        "import sys; from pipeline.network.threads import threads_differ\n"
        "print(threads_differ(), 'tensorflow' in sys.modules)"
    )
    assert run(code) == ["False", "False"]


@pytest.mark.slow
def test_threads_can_be_set_until_tensorflow_runs_and_then_stay():
    code = f"import tensorflow as tf{TELL}tell(); tf.ones(3).numpy(); tell()"
    assert run(code) == ["True", "False", "1", "True"] * 2


@pytest.mark.slow
@pytest.mark.parametrize("threads", [0, 2])
def test_a_tensorflow_that_runs_with_other_threads_keeps_them(threads):
    before = f"tf.config.threading.set_intra_op_parallelism_threads({threads}); tf.ones(3).numpy()"
    found = run(f"import tensorflow as tf\n{before}{TELL}tell()")
    assert found[:3] == ["False", "True", str(threads)]


@pytest.mark.slow
def test_a_wrong_number_in_either_place_is_reported():
    before = (
        "tf.config.threading.set_intra_op_parallelism_threads(1)\n"
        "tf.config.threading.set_inter_op_parallelism_threads(99); tf.ones(3).numpy()"
    )
    found = run(f"import tensorflow as tf\n{before}{TELL}tell()")
    assert found == ["False", "True", "1", "False"]
