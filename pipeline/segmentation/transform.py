"""The network as one step of other people's pipelines."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import apache_beam as beam

from model_build.artifact import DEFAULT_MODEL
from pipeline.images.decode import MAX_PIXELS, DecodeOptions
from pipeline.inputs.listing import misnamed, name_below
from pipeline.network import models, threads
from pipeline.network.handler import resolve
from pipeline.outputs.folder import OutputFolder, parse_output
from pipeline.outputs.products import chosen
from pipeline.records import ImageRef, Reject
from pipeline.segmentation.plan import as_text, check_counts, network_side, recipe_of, tile_side
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
        engine, batch_size: by default as this machine's devices have it, not the workers'.
        precision: ``"float32"`` by default, as the CPUs of the workers are unknown.
        overlays, long_side, tile, max_pixels, storage_options: see :func:`pipeline.segment`.

    Raises:
        UserError: the model, the output or an option cannot serve.
    """

    def __init__(
        self,
        output: str | os.PathLike[str],
        model: str | os.PathLike[str] = DEFAULT_MODEL,
        *,
        root: str | os.PathLike[str] = "",
        overlays: bool = False,
        long_side: int | str | None = None,
        tile: bool = False,
        max_pixels: int = MAX_PIXELS,
        engine: str = "auto",
        precision: str = "auto",
        batch_size: int | None = None,
        storage_options: Mapping[str, str] | None = None,
    ):
        super().__init__()
        check_counts(max_pixels=max_pixels, batch_size=batch_size)
        root, model = as_text("root", root), as_text("model", model)
        files = Files(parse_options(storage_options or {}))
        description = models.describe(model, files)
        self.root = absolute(root) if root else ""
        self.decode = DecodeOptions(network_side(long_side, description, tile), max_pixels)
        self.engine = resolve(
            model,
            engine,
            precision,
            batch_size,
            threads.has_accelerator,
            local=False,
            tile=tile_side(description) if tile else None,
            long_side=self.decode.long_side,
        )
        recipe = recipe_of(description, self.decode, self.engine)
        path = parse_output(as_text("output", output), files)
        out = OutputFolder(path, files, chosen(overlays=overlays))
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
