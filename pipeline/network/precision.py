"""Precision of the network's features, and which machines support it."""

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
# Without these, bfloat16 is emulated by float32, which is slower than float32 itself.
BFLOAT16_FLAGS = ("avx512_bf16", "amx_bf16")


@functools.lru_cache(maxsize=1)
def supports_bfloat16() -> bool:
    """Whether this machine's CPU multiplies bfloat16: it has avx512_bf16 or AMX.

    Read from Linux's ``/proc/cpuinfo``; False on other systems. It also needs oneDNN, which
    ``TF_ENABLE_ONEDNN_OPTS=0`` turns off.
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

    None means bfloat16 if it is known to be faster on all machines: in graph mode in a local run on
    a CPU that supports it (``benchmarks/precision.py`` compares its masks with those of float32).
    Otherwise, as on accelerators with XLA, it means float32.

    Args:
        engine: ``"xla"`` or ``"graph"``.
        local: whether this machine runs the network.

    Raises:
        UserError: as :func:`check`, if this machine runs the network.
    """
    if precision is None:
        fast = local and engine != "xla" and supports_bfloat16()
        return BFLOAT16 if fast else FLOAT32
    if local:
        check(precision, engine)
    return precision


def check(precision: str, engine: str) -> None:
    """Checks that this machine and an engine support a precision.

    Raises:
        UserError: one of them does not.
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


def optimizer_config(precision: str) -> Any:
    """Returns TensorFlow's optimizer settings for a precision, as a ``ConfigProto``."""
    import tensorflow as tf

    config = tf.compat.v1.ConfigProto(allow_soft_placement=True)
    if precision == BFLOAT16:
        rewrites = config.graph_options.rewrite_options
        rewrites.auto_mixed_precision_onednn_bfloat16 = rewrites.ON
    return config
