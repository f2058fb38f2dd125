"""Threads of TensorFlow and of the job on one machine.

On a CPU, many single-threaded streams beat one with many threads (``benchmarks/streams.py``): each
processes its photos from start to end, and no core waits for another within an operation. So
TensorFlow gets one thread per operation and the job one stream per core. A GPU gets one stream with
batches.
"""

from __future__ import annotations

import math
import os
import sys
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")
GPU_DEVICES = ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg")  # CUDA, ROCm, either under WSL


def usable_cores() -> int:
    """Returns the cores this process may use, by its affinity and its container's limits."""
    affinity = getattr(os, "sched_getaffinity", None)
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    quota = container_cores(CGROUP)
    return max(1, cores if quota is None else min(cores, math.ceil(quota)))


def container_cores(cgroup: Path) -> float | None:
    """Returns the CPU quota of a container in cores; None if there is no limit.

    Args:
        cgroup: where the control groups are mounted; version 2 has ``cpu.max`` there, version 1
            ``cpu/cpu.cfs_quota_us`` (Linux, Documentation/admin-guide/cgroup-v2.rst and
            scheduler/sched-bwc.rst).
    """
    try:
        try:
            quota, period = (cgroup / "cpu.max").read_text().split()
        except OSError:
            quota = (cgroup / "cpu/cpu.cfs_quota_us").read_text()
            period = (cgroup / "cpu/cpu.cfs_period_us").read_text()
        return int(quota) / int(period) if int(quota) > 0 else None
    except (OSError, ValueError):  # "max", or no such file
        return None


def has_accelerator() -> bool:
    """Whether TensorFlow sees a GPU; it is imported only if there may be one."""
    if sys.platform == "linux" and not any(os.path.exists(device) for device in GPU_DEVICES):
        return False
    import tensorflow as tf

    return bool(tf.config.list_physical_devices("GPU"))


def set_threads() -> bool:
    """Gives TensorFlow one thread per operation, and runs one operation per core.

    Returns:
        False if TensorFlow already runs in this process with other settings, which can no longer be
        changed.
    """
    import tensorflow as tf

    if has_accelerator():
        return True
    try:
        tf.config.threading.set_intra_op_parallelism_threads(1)
        tf.config.threading.set_inter_op_parallelism_threads(usable_cores())
    except RuntimeError:
        return False
    return True


def threads_differ() -> bool:
    """Whether TensorFlow already runs with other threads than :func:`set_threads` sets."""
    return "tensorflow" in sys.modules and not set_threads()
