"""The graph of ``segment``.

::

    list ─► group by mask name ─► windows: read, decode, classify, encode, write ─► rows ─► shards

Only small records cross a shuffle: references to images, files of products, and packed rows and
rejects. Pixels never do: everything from read to write is one fused stage.
"""

from __future__ import annotations

from typing import NamedTuple

import apache_beam as beam

from pipeline.inputs import skipped
from pipeline.inputs.listing import ListImages
from pipeline.outputs import summary
from pipeline.outputs.shards import KEPT, LISTED, REJECTS, ROWS, UNLISTED, WriteShards
from pipeline.outputs.summary import finish
from pipeline.segmentation.additions import AddProducts
from pipeline.segmentation.plan import Plan
from pipeline.segmentation.tasks import KeepMasks, PlanTasks, identify
from pipeline.segmentation.windows import SegmentWindows, Windowed


class SegmentArchive(beam.PTransform):
    """Sources (:class:`pipeline.records.Source`) → files in the output folder.

    The output is one element, the content of ``summary.json``, once everything has been written.

    Args:
        plan: of a run that has claimed its output folder.
    """

    def __init__(self, plan: Plan):
        super().__init__()
        self.plan = plan

    def expand(self, sources):
        plan, out = self.plan, self.plan.out
        images, passed_over, unlisted = sources | "List" >> ListImages(plan.listing, out.files)
        planned = images | "Plan" >> PlanTasks(
            out, plan.earlier_runs.rows(out), plan.since, plan.listing.spread
        )
        kept = (
            planned.tasks
            | "Window" >> Windowed()
            | "Identify" >> beam.Map(identify, out.files)
            | "Keep"
            >> beam.ParDo(KeepMasks(plan.keep, out)).with_outputs(
                "rows", "made_by_this_run", "incomplete", "rejected", main="tasks"
            )
        )
        added = kept.incomplete | "AddProducts" >> beam.ParDo(
            AddProducts(plan.decode, plan.write)
        ).with_outputs("rejected", "added", main="rows")
        made = kept.tasks | "Segment" >> SegmentWindows(plan.decode, plan.engine, plan.write)
        found = Found(
            listed=images | "Listed" >> beam.Map(lambda image: image.path),
            rows=(kept.made_by_this_run, made.rows),
            kept=(kept.rows, added.rows),
            rejects=(planned.rejected, kept.rejected, added.rejected, made.rejected),
            added=added.added,
            unlisted=unlisted,
            passed_over=passed_over,
            outside=planned.outside,
        )
        return found | "Report" >> Report(plan)


class Found(NamedTuple):
    """PCollections.

    Attributes:
        listed: paths of all images.
        rows: of masks that this run has made, from each step that has some.
        kept: rows of masks that earlier runs made, likewise.
        rejects: of images, likewise.
        added: names of products, once for each that was added to an existing mask.
        unlisted: rejects of what could not be listed.
        passed_over: files that are no images.
        outside: masks that are no image's.
    """

    listed: beam.PCollection
    rows: tuple[beam.PCollection, ...]
    kept: tuple[beam.PCollection, ...]
    rejects: tuple[beam.PCollection, ...]
    added: beam.PCollection
    unlisted: beam.PCollection
    passed_over: beam.PCollection
    outside: beam.PCollection


class Report(beam.PTransform):
    """:class:`Found` → shards and ``summary.json``, whose content is the output."""

    def __init__(self, plan: Plan):
        super().__init__()
        self.plan = plan

    def expand(self, found):
        shards = {
            LISTED: (found.listed,),
            ROWS: found.rows,
            KEPT: found.kept,
            REJECTS: found.rejects,
            UNLISTED: (found.unlisted,),
        } | "Shards" >> WriteShards(self.plan.out)
        names = shards | "Names" >> beam.FlatMap(lambda shard: shard.names)
        tallies = (
            shards | "TallyShards" >> beam.Map(lambda shard: shard.tally),
            found.passed_over | "TallyPassedOver" >> beam.Map(summary.tally_passed_over),
            found.passed_over
            | "Sample" >> beam.CombineGlobally(SampleFn())
            | "TallyLookalikes" >> beam.Map(skipped.tally_lookalikes, self.plan.out.files),
            found.outside | "TallyOutside" >> beam.Map(summary.tally_outside),
            found.added | "TallyAdded" >> beam.Map(summary.tally_added),
        ) | "Tallies" >> beam.Flatten()
        return (
            tallies
            | "Total" >> beam.CombineGlobally(summary.sum_tallies)
            | "Summarise"
            >> beam.Map(
                summary.summarise,
                labels=self.plan.model.labels.names,
                recipe=self.plan.recipe.to_json(),
                options=self.plan.recorded,
            )
            | "Finish" >> beam.Map(finish, self.plan.out, beam.pvalue.AsList(names))
        )


class SampleFn(beam.CombineFn):
    """:class:`PassedOver` → the :func:`pipeline.inputs.skipped.sample_of` all of them."""

    def create_accumulator(self):
        return {}

    def add_input(self, sample, file):
        return skipped.add_file(sample, file)

    def merge_accumulators(self, samples):
        return skipped.merged(samples)

    def extract_output(self, sample):
        return sample
