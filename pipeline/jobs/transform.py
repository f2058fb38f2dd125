"""The network as one step of other people's pipelines."""

from __future__ import annotations

import os
from collections.abc import Mapping

import apache_beam as beam

from model_build.artifact import DEFAULT_MODEL
from pipeline.images.decode import MAX_PIXELS, DecodeOptions
from pipeline.inputs.listing import name_below
from pipeline.jobs.segment import network_side
from pipeline.jobs.tasks import PlanTasks
from pipeline.jobs.windows import Segmented, SegmentWindows, Windowed
from pipeline.network import models
from pipeline.network.handler import EngineOptions
from pipeline.outputs.folder import OutputFolder, parse_output
from pipeline.records import ImageRef, Reject, as_json
from pipeline.storage import Files, is_remote, parse_options


class SegmentImages(beam.PTransform):
    """Paths or URIs of images → masks in a folder, and a row each.

    The output has two PCollections of dicts: ``rows``, as in ``histograms-*.jsonl``, and
    ``rejected``, as in ``rejected-*.jsonl``. Every distinct image is in just one of them. There is
    no lock, no resume and no summary: a mask that stands is replaced.

    Args:
        output: the folder, local or remote; masks go to ``OUTPUT/masks``.
        model: a saved-model folder; it and the output must be in reach of the workers.
        root: names of masks are the paths below this folder; by default they are whole paths.
        overlays, long_side, max_pixels, engine, batch_size, storage_options: see
            :func:`pipeline.segment`.

    Raises:
        UserError: the model or the output cannot serve.
    """

    def __init__(
        self,
        output: str | os.PathLike[str],
        model: str | os.PathLike[str] = DEFAULT_MODEL,
        *,
        root: str = "",
        overlays: bool = False,
        long_side: int | str | None = None,
        max_pixels: int = MAX_PIXELS,
        engine: str = "auto",
        batch_size: int | None = None,
        storage_options: Mapping[str, str] | None = None,
    ):
        super().__init__()
        files = Files(parse_options(storage_options or {}))
        description = models.describe(os.fspath(model), files)
        self.root = root if is_remote(root) or not root else os.path.abspath(root)
        self.labels = description.labels
        self.decode = DecodeOptions(network_side(long_side, description), max_pixels)
        self.engine = EngineOptions(os.fspath(model), engine, batch_size)
        self.out = OutputFolder(parse_output(os.fspath(output), files), files, overlays)

    def expand(self, uris):
        found = uris | "Name" >> beam.ParDo(_Name(self.root)).with_outputs(
            "rejected", main="images"
        )
        planned = found.images | "Plan" >> PlanTasks(self.out)
        made = (
            planned.tasks
            | "Window" >> Windowed()
            | "Segment" >> SegmentWindows(self.decode, self.engine, self.labels, self.out)
        )
        rejected = (found.rejected, planned.rejected, made.rejected) | "Rejects" >> beam.Flatten()
        return Segmented(
            made.rows | "Rows" >> beam.Map(as_json),
            rejected | "RejectRows" >> beam.Map(as_json),
        )


def named(uri: str, root: str) -> ImageRef | Reject:
    """The reference of an image given by its path or URI."""
    path = uri if is_remote(uri) else os.path.abspath(uri)
    name = name_below(path, root)
    if not {"", ".", ".."}.isdisjoint(name.split("/")):
        return Reject(path, "list", "NameError", "its name is no path below a folder; rename it")
    return ImageRef(path, name)


class _Name(beam.DoFn):
    def __init__(self, root: str):
        self.root = root

    def process(self, uri):
        found = named(uri, self.root)
        is_reject = isinstance(found, Reject)
        yield beam.pvalue.TaggedOutput("rejected", found) if is_reject else found
