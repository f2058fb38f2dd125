"""Precisions of the network's features, and the machines that have them."""

from __future__ import annotations

import functools
import os
import platform
from pathlib import Path
from typing import Any

from model_build.common.errors import UserError
from pipeline.network import PRECISIONS

_, FLOAT32, BFLOAT16 = PRECISIONS
CPUINFO = Path("/proc/cpuinfo")
# Without them bfloat16 is computed by way of float32, slower than float32 itself.
BFLOAT16_FLAGS = ("avx512_bf16", "amx_bf16")


@functools.lru_cache(maxsize=1)
def supports_bfloat16() -> bool:
    """Whether this machine's CPU multiplies bfloat16: it has avx512_bf16 or AMX.

    Told by what Linux says of the CPU; elsewhere the answer is no. oneDNN computes it, so that must
    not be turned off (``TF_ENABLE_ONEDNN_OPTS=0``).
    """
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return False
    if os.environ.get("TF_ENABLE_ONEDNN_OPTS", "1").lower() in ("0", "false"):
        return False
    try:
        flags = set(CPUINFO.read_text(encoding="utf-8", errors="replace").split())
    except OSError:
        return False
    return any(flag in flags for flag in BFLOAT16_FLAGS)


def resolve(precision: str | None, engine: str, local: bool) -> str:
    """Resolves a precision by a fixed rule.

    None is bfloat16 where it is computed faster and all machines are known to do so: in the
    graph of a local run on a CPU that has it (``benchmarks/precision.py`` holds its masks against
    those of float32). Else it is float32, as on accelerators, where the engine is XLA.

    Args:
        engine: as it was resolved.
        local: whether this machine is the one that runs the network.

    Raises:
        UserError: as :func:`check`, where this machine runs the network.
    """
    if precision is None:
        fast = local and engine != "xla" and supports_bfloat16()
        return BFLOAT16 if fast else FLOAT32
    if local:
        check(precision, engine)
    return precision


def check(precision: str, engine: str) -> None:
    """Checks that this machine and an engine have a precision.

    Raises:
        UserError: one of them has not.
    """
    if precision == FLOAT32:
        return
    if engine == "xla":
        raise UserError(
            f"--precision {BFLOAT16}: XLA does not support it on a CPU; add --engine graph, or "
            f"use --precision {FLOAT32}"
        )
    if not supports_bfloat16():
        raise UserError(
            f"--precision {BFLOAT16}: this CPU does not support it (no "
            f"{' or '.join(BFLOAT16_FLAGS)}); use --precision {FLOAT32}"
        )


def optimizer(precision: str) -> Any:
    """The settings of TensorFlow's optimizer for a precision, as a ``ConfigProto``."""
    import tensorflow as tf

    config = tf.compat.v1.ConfigProto(allow_soft_placement=True)
    if precision == BFLOAT16:
        rewrites = config.graph_options.rewrite_options
        rewrites.auto_mixed_precision_onednn_bfloat16 = rewrites.ON
    return config
