"""The whole job: one Beam graph, and the run around it.

::

    list ─► group by mask name ─► read + decode ─► RunInference ─► encode + write ─► shards

Only paths and histogram rows cross a shuffle, pixels never do: everything from read to write is one
fused stage.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

import apache_beam as beam
from apache_beam.io.filesystems import FileSystems
from apache_beam.ml.inference.base import RunInference
from apache_beam.options.pipeline_options import PipelineOptions

from model_build.artifact import Description
from model_build.labels import LabelSet
from pipeline import outputs, progress, summary
from pipeline.images import decode
from pipeline.inference import Photo, SegmentationHandler
from pipeline.listing import MASKS, OVERLAYS, UNFINISHED, ListImages, Source
from pipeline.masks import decode_mask, encode_mask, encode_overlay, histogram
from pipeline.progress import COUNTS, stage_timer
from pipeline.rejects import Reject, rejected
from pipeline.tasks import (
    Task,
    key_image,
    keyed_masks,
    keyed_overlays,
    overlay_name,
    plan_tasks,
)

MAX_BYTES = 1 << 30  # nothing that large is a photo; reading it could end the worker


@dataclass(frozen=True)
class Settings:
    """What a job does; plain values, as they travel to the workers.

    Attributes:
        out: the output folder, without a slash at its end.
        root: see :mod:`pipeline.listing`.
        model: the saved-model folder.
        long_side: in pixels; None for native size.
        max_pixels: larger images are rejected.
        started: when the run began, in seconds since 1970.
        engine: see :class:`pipeline.segmenter.Segmenter`.
        batch_size: likewise.
        overlays: write overlays too.
        all_files: try files without a known extension.
        limit: only the first so many images, by name.
        since: masks older than this are done again.
    """

    out: str
    root: str
    model: str
    long_side: int | None
    max_pixels: int
    started: float
    engine: str = "auto"
    batch_size: int | None = None
    overlays: bool = False
    all_files: bool = False
    limit: int | None = None
    since: float = 0.0

    def deciding(self, fingerprint: str) -> dict[str, Any]:
        """The options that decide what a mask is, as ``run.json`` keeps them."""
        return {
            "model": fingerprint,
            "long side": self.long_side or "native",
            "engine": self.engine,
            "batch size": self.batch_size or "auto",
            "input folder": self.root,
        }


class SegmentImages(beam.PTransform):
    """Sources (:class:`pipeline.listing.Source`) → files in the output folder.

    The output is one element, the summary, once everything has been written.
    """

    def __init__(self, settings: Settings, model: Description):
        super().__init__()
        self.settings, self.model = settings, model

    def expand(self, sources):
        settings, labels = self.settings, self.model.labels
        listed = sources | "List" >> ListImages(settings.root, settings.all_files, settings.out)
        images = listed.images
        if settings.limit is not None:
            images |= "Limit" >> FirstImages(settings.limit)
        out = sources.pipeline | "OutputFolder" >> beam.Create([settings.out])
        overlays = out if settings.overlays else out | "NoOverlays" >> beam.Filter(lambda _: False)
        tasks = (
            {
                "images": images | "KeyImages" >> beam.Map(key_image),
                "masks": out | "KeyMasks" >> beam.FlatMap(keyed_masks),
                "overlays": overlays | "KeyOverlays" >> beam.FlatMap(keyed_overlays),
            }
            | "GroupByMaskName" >> beam.CoGroupByKey()
            | "Groups" >> beam.Values()
            | "Plan" >> beam.FlatMap(plan_tasks, since=settings.since, overlays=settings.overlays)
        )
        read = tasks | "ReadAndDecode" >> beam.ParDo(ReadAndDecode(settings, labels)).with_outputs(
            "kept", "rejected", main="photos"
        )
        handler = SegmentationHandler(settings.model, settings.engine, settings.batch_size)
        wrote = (
            read.photos
            | "Segment" >> RunInference(handler)
            | "WriteMasks"
            >> beam.ParDo(WriteMask(settings, labels)).with_outputs("rejected", main="rows")
        )
        rows = (wrote.rows, read.kept) | "AllRows" >> beam.Flatten()
        rejects = (listed.rejected, read.rejected, wrote.rejected) | "AllRejects" >> beam.Flatten()
        shards = (
            rows | "WriteHistograms" >> WriteJsonLines(f"{settings.out}/{outputs.HISTOGRAMS}"),
            rejects
            | "RejectRows" >> beam.Map(lambda reject: reject._asdict())
            | "WriteRejects" >> WriteJsonLines(f"{settings.out}/{outputs.REJECTED}"),
        ) | "AllShards" >> beam.Flatten()
        tallies = (
            rows | "TallyRows" >> beam.Map(summary.tally_row),
            read.kept | "TallyKept" >> beam.Map(summary.tally_kept),
            rejects | "TallyRejects" >> beam.Map(summary.tally_reject),
            listed.passed_over | "TallyPassedOver" >> beam.Map(summary.tally_passed_over),
        ) | "AllTallies" >> beam.Flatten()
        return (
            tallies
            | "Total" >> beam.CombineGlobally(summary.sum_tallies)
            | "Summarise"
            >> beam.Map(
                summary.summarise,
                labels=labels.names,
                fingerprint=self.model.fingerprint,
                options=asdict(settings),
            )
            | "Finish" >> beam.Map(_finish, settings.out, beam.pvalue.AsIter(shards))
        )


def _finish(summarised: dict[str, Any], out: str, shards) -> dict[str, Any]:
    outputs.finish(out, summarised, shards)
    return summarised


class FirstImages(beam.PTransform):
    """The first ``count`` images by name."""

    def __init__(self, count: int):
        super().__init__()
        self.count = count

    def expand(self, images):
        first = beam.combiners.Top.Smallest(self.count, key=lambda image: (image.name, image.path))
        return images | first | beam.FlatMap(lambda found: found)


class WriteJsonLines(beam.PTransform):
    """Dicts → ``PREFIX-00000-of-00001.jsonl`` and so on; the output is the paths."""

    def __init__(self, prefix: str):
        super().__init__()
        self.prefix = prefix

    def expand(self, rows):
        write = beam.io.WriteToText(self.prefix, ".jsonl")
        return rows | "ToJson" >> beam.Map(json.dumps) | "Write" >> write


def read_photo(
    path: str, name: str, mask_name: str, *, long_side: int | None, max_pixels: int
) -> Photo | Reject:
    """Reads and decodes one image; see :func:`pipeline.images.decode`. Never raises."""
    stage = "read"
    try:
        with stage_timer("read"):
            data = outputs.read_file(path, MAX_BYTES + 1)
        if len(data) > MAX_BYTES:
            raise ValueError(f"the file is larger than {MAX_BYTES:,} bytes")
        stage = "decode"
        with stage_timer("decode"):
            image = decode(data, long_side=long_side, max_pixels=max_pixels)
    except Exception as error:
        return rejected(path, stage, error)
    return Photo(path, name, mask_name, image)


class ReadAndDecode(beam.DoFn):
    """Tasks → :class:`Photo`; histogram rows of masks that still hold; rejects."""

    def __init__(self, settings: Settings, labels: LabelSet):
        self.settings, self.labels = settings, labels

    def process(self, task):
        if task.done and (row := self.recount(task)):
            COUNTS.add(kept=1)
            yield beam.pvalue.TaggedOutput("kept", row)
            return
        path = task.image.path
        try:
            if task.mask_mtime is not None:
                self.discard(task.mask_name)
            photo = read_photo(
                path,
                task.image.name,
                task.mask_name,
                long_side=self.settings.long_side,
                max_pixels=self.settings.max_pixels,
            )
        except Exception as error:
            photo = rejected(path, "read", error)
        if isinstance(photo, Reject):
            COUNTS.add(rejects=1)
            yield beam.pvalue.TaggedOutput("rejected", photo)
            return
        yield photo

    def discard(self, mask_name: str) -> None:
        """Removes a mask that holds no longer, and its overlay.

        Should its image fail this time, no mask must stand beside the reject; and an overlay must
        not outlive its mask, as where it stands it counts as done.
        """
        overlay = f"{self.settings.out}/{OVERLAYS}/{overlay_name(mask_name)}"
        if FileSystems.exists(overlay):
            FileSystems.delete([overlay])
        FileSystems.delete([mask_path(self.settings.out, mask_name)])

    def recount(self, task: Task) -> dict[str, Any] | None:
        """The row of a mask that an earlier run has written, or None if it holds no longer."""
        try:
            if task.image.mtime is None and task.mask_mtime is not None:
                system = FileSystems.get_filesystem(task.image.path)
                if system.last_updated(task.image.path) > task.mask_mtime:
                    return None
            data = outputs.read_file(mask_path(self.settings.out, task.mask_name))
            class_map = decode_mask(data, self.labels, task.image.name)
            return mask_row(task.image.path, task.mask_name, class_map, self.labels)
        except Exception:  # whatever is wrong with the mask, doing it again mends it
            return None


class WriteMask(beam.DoFn):
    """Segmented photos → files and histogram rows; rejects."""

    def __init__(self, settings: Settings, labels: LabelSet):
        self.settings, self.labels = settings, labels

    def process(self, segmented):
        if isinstance(segmented, Reject):
            COUNTS.add(rejects=1)
            yield beam.pvalue.TaggedOutput("rejected", segmented)
            return
        photo, class_map = segmented
        out, scratch = self.settings.out, f"{self.settings.out}/{UNFINISHED}"
        try:
            with stage_timer("write"):
                if self.settings.overlays:
                    overlay = encode_overlay(photo.image.pixels, class_map, self.labels)
                    path = f"{out}/{OVERLAYS}/{overlay_name(photo.mask_name)}"
                    outputs.write_file(path, overlay, scratch)
                # The mask comes last: where it stands, everything of its image does.
                mask = encode_mask(class_map, self.labels, photo.name)
                outputs.write_file(mask_path(out, photo.mask_name), mask, scratch)
                row = mask_row(photo.path, photo.mask_name, class_map, self.labels)
        except Exception as error:
            COUNTS.add(rejects=1)
            yield beam.pvalue.TaggedOutput("rejected", rejected(photo.path, "write", error))
            return
        COUNTS.add(masks=1)
        yield row


def mask_path(out: str, mask_name: str) -> str:
    """Where the mask is."""
    return f"{out}/{MASKS}/{mask_name}"


def mask_row(image: str, mask_name: str, class_map: Any, labels: LabelSet) -> dict[str, Any]:
    """A row of the histogram shards; ``class_map`` is uint8 ``[h, w]``."""
    height, width = class_map.shape
    return {
        "image": image,
        "mask": f"{MASKS}/{mask_name}",
        "width": width,
        "height": height,
        "pixels": histogram(class_map, labels),
    }


def run(
    sources: list[Source], settings: Settings, model: Description, options: PipelineOptions
) -> tuple[dict[str, Any], dict[str, float]]:
    """Runs the job and waits for it.

    Args:
        sources: what to segment.
        settings: how.
        model: description of ``settings.model``.
        options: Beam's, with the runner among them.

    Returns:
        The content of ``summary.json``, and the seconds each stage took over all workers.

    Raises:
        Exception: what ended the job.
    """
    pipeline = beam.Pipeline(options=options)
    pipeline | "Sources" >> beam.Create(sources) | "SegmentImages" >> SegmentImages(settings, model)
    with progress.shown():
        result = pipeline.run()
        result.wait_until_finish()
    return (
        json.loads(outputs.read_file(f"{settings.out}/{outputs.SUMMARY}")),
        progress.stage_seconds(result),
    )
