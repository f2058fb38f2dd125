"""Images in, masks and histograms out: one Apache Beam pipeline around one network.

The public names::

    segment(inputs, output, …)        the whole job, as `fcn-beam segment` runs it
    evaluate(data, model=…, …)        scores, as `fcn-beam evaluate` finds them
    SegmentImages(output, model, …)   a PTransform for your own pipelines UserError, JobError
    the exceptions of both calls, with the command's message

Each is imported on first access, so that ``import pipeline`` loads neither Beam nor TensorFlow.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from model_build.common.errors import JobError, UserError
    from pipeline.api import evaluate, segment
    from pipeline.segmentation.transform import SegmentImages

__all__ = ["JobError", "SegmentImages", "UserError", "evaluate", "segment"]

_HOMES = {
    "segment": "pipeline.api",
    "evaluate": "pipeline.api",
    "SegmentImages": "pipeline.segmentation.transform",
    "UserError": "model_build.common.errors",
    "JobError": "model_build.common.errors",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
