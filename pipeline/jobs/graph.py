"""The graph of ``segment``.

::

    list ─► group by mask name ─► windows: read, decode, classify, encode, write ─► rows ─► shards

Only references and rows cross a shuffle, pixels never do: everything from read to write is one
fused stage.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import apache_beam as beam

from model_build.data.labels import LabelSet
from pipeline.images.decode import DecodeOptions
from pipeline.inputs.listing import ListImages, ListOptions
from pipeline.jobs.tasks import KeepMasks, PlanTasks
from pipeline.jobs.windows import SegmentWindows, Windowed
from pipeline.network.handler import EngineOptions
from pipeline.outputs import summary
from pipeline.outputs.folder import HISTOGRAMS, REJECTED, SUMMARY, OutputFolder
from pipeline.outputs.shards import WriteShards, stale_shards


class SegmentArchive(beam.PTransform):
    """Sources (:class:`pipeline.records.Source`) → files in the output folder.

    Args:
        since: see :class:`pipeline.jobs.tasks.PlanTasks`.
        model: fingerprint of the model.
        recorded: options of the run, for ``summary.json``.

    The output is one element, the content of ``summary.json``, once everything has been written.
    """

    def __init__(
        self,
        listing: ListOptions,
        decode: DecodeOptions,
        engine: EngineOptions,
        out: OutputFolder,
        *,
        since: float,
        labels: LabelSet,
        model: str,
        recorded: dict[str, Any],
    ):
        super().__init__()
        self.listing, self.decode, self.engine, self.out = listing, decode, engine, out
        self.since, self.labels, self.model, self.recorded = since, labels, model, recorded

    def expand(self, sources):
        out, labels = self.out, self.labels
        images, passed_over, unlisted = sources | "List" >> ListImages(self.listing, out.files)
        planned = images | "Plan" >> PlanTasks(out, self.since)
        kept = (
            planned.tasks
            | "Window" >> Windowed()
            | "Keep" >> beam.ParDo(KeepMasks(labels, out)).with_outputs("rows", main="tasks")
        )
        made = kept.tasks | "Segment" >> SegmentWindows(self.decode, self.engine, labels, out)
        rows = (kept.rows, made.rows) | "Rows" >> beam.Flatten()
        rejected = (unlisted, planned.rejected, made.rejected) | "Rejects" >> beam.Flatten()
        found = Found(rows, kept.rows, rejected, passed_over)
        return found | "Report" >> Report(out, labels, self.model, self.recorded)


class Found(NamedTuple):
    """PCollections of all rows, of those of kept masks, of rejects, and of files passed over."""

    rows: beam.PCollection
    kept: beam.PCollection
    rejected: beam.PCollection
    passed_over: beam.PCollection


class Report(beam.PTransform):
    """:class:`Found` → shards and ``summary.json``, whose content is the output."""

    def __init__(self, out: OutputFolder, labels: LabelSet, model: str, recorded: dict[str, Any]):
        super().__init__()
        self.out, self.labels, self.model, self.recorded = out, labels, model, recorded

    def expand(self, found):
        shards = (
            found.rows | "Histograms" >> WriteShards(HISTOGRAMS, self.out),
            found.rejected | "Rejected" >> WriteShards(REJECTED, self.out),
        ) | "Shards" >> beam.Flatten()
        tallies = (
            found.rows | "TallyRows" >> beam.Map(summary.tally_row),
            found.kept | "TallyKept" >> beam.Map(summary.tally_kept),
            found.rejected | "TallyRejects" >> beam.Map(summary.tally_reject),
            found.passed_over | "TallyPassedOver" >> beam.Map(summary.tally_passed_over),
        ) | "Tallies" >> beam.Flatten()
        return (
            tallies
            | "Total" >> beam.CombineGlobally(summary.sum_tallies)
            | "Summarise"
            >> beam.Map(
                summary.summarise,
                labels=self.labels.names,
                fingerprint=self.model,
                options=self.recorded,
            )
            | "Finish" >> beam.Map(finish, self.out, beam.pvalue.AsList(shards))
        )


def finish(content: dict[str, Any], out: OutputFolder, shards: list[str]) -> dict[str, Any]:
    """Writes ``summary.json``, then removes what earlier runs have left.

    Args:
        shards: names below OUT of all that this run has written.
    """
    out.write_json(SUMMARY, content)
    for name in stale_shards(out, shards):
        out.delete(name)
    out.clean_up()
    return content
