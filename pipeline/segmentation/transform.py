"""The network as one step of other people's pipelines."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import apache_beam as beam

from pipeline.inputs.listing import misnamed, name_below
from pipeline.network import models, threads
from pipeline.outputs.folder import OutputFolder, parse_output
from pipeline.outputs.products import chosen
from pipeline.records import ImageRef, Reject
from pipeline.segmentation.mask_options import MaskOptions, resolve
from pipeline.segmentation.plan import as_text
from pipeline.segmentation.tasks import PlanTasks, identify
from pipeline.segmentation.windows import Segmented, SegmentWindows, Windowed, WriteOptions
from pipeline.storage import Files, absolute, parse_options


class SegmentImages(beam.PTransform):
    """Paths or URIs of images → masks in a folder, and a row each.

    The output has two PCollections of dicts: ``rows``, as in ``histograms-*.jsonl``, and
    ``rejected``, as in ``rejected-*.jsonl``. Every distinct image is in just one of them. There is
    no lock, no resume and no summary: existing masks are replaced.

    Args:
        output: the folder, local or remote; masks go to ``OUTPUT/masks``.
        model: a saved-model folder; it and the output must be in reach of the workers.
        root: names of masks are the paths below this folder; by default they are whole paths.
        overlays, storage_options: see :func:`pipeline.segment`.
        mask_options: see :class:`pipeline.segmentation.mask_options.MaskOptions`. Engine and batch
            size are by default those for this machine's devices, not the workers'; the precision
            is float32, as the workers' CPUs are not known.

    Raises:
        UserError: the model, the output or an option cannot serve.
    """

    def __init__(
        self,
        output: str | os.PathLike[str],
        model: str | os.PathLike[str] | None = None,
        *,
        root: str | os.PathLike[str] = "",
        overlays: bool = False,
        storage_options: Mapping[str, str] | None = None,
        **mask_options: Any,
    ):
        super().__init__()
        root = as_text("root", root)
        model = None if model is None else as_text("model", model)
        options = MaskOptions(model=model, **mask_options)
        files = Files(parse_options(storage_options or {}))
        description = models.describe(options.model_or_default, files)
        self.root = absolute(root) if root else ""
        self.decode, self.engine, recipe = resolve(
            options, description, threads.has_accelerator, local=False
        )
        path = parse_output(as_text("output", output), files)
        out = OutputFolder(path, files, chosen({"overlays": overlays}))
        self.write = WriteOptions(description.labels, recipe.id, out)

    def expand(self, uris):
        found = uris | "Name" >> beam.Map(_tagged, self.root).with_outputs(
            "rejected", main="images"
        )
        planned = found.images | "Plan" >> PlanTasks(self.write.out)
        made = (
            planned.tasks
            | "Window" >> Windowed()
            | "Identify" >> beam.Map(identify, self.write.out.files)
            | "Segment" >> SegmentWindows(self.decode, self.engine, self.write)
        )
        rejected = (found.rejected, planned.rejected, made.rejected) | "Rejects" >> beam.Flatten()
        return Segmented(
            made.rows | "Rows" >> beam.Map(lambda record: record.to_json()),
            rejected | "RejectRows" >> beam.Map(lambda record: record.to_json()),
        )


def named(uri: str, root: str) -> ImageRef | Reject:
    """The reference of an image given by its path or URI."""
    path = absolute(uri)
    name = name_below(path, root.removesuffix("/"))
    return misnamed(path, name) or ImageRef(path, name)


def _tagged(uri: str, root: str) -> Any:
    found = named(uri, root)
    return beam.pvalue.TaggedOutput("rejected", found) if isinstance(found, Reject) else found
