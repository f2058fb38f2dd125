"""The run around the graph of ``segment``: plan → claim → stage → run → report."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions

from model_build.artifact import DEFAULT_MODEL, Description
from model_build.errors import UserError, first_line
from model_build.quiet import import_tensorflow
from pipeline.images.decode import MAX_PIXELS, DecodeOptions
from pipeline.inputs.listing import ListOptions
from pipeline.inputs.sources import common_folder, parse_source, read_list
from pipeline.jobs import preview, progress, runners
from pipeline.jobs.graph import SegmentArchive
from pipeline.network import models, threads
from pipeline.network.handler import EngineOptions
from pipeline.outputs.claims import claim as claim_folder
from pipeline.outputs.claims import standing_since
from pipeline.outputs.folder import SUMMARY, OutputFolder, parse_output
from pipeline.outputs.summary import Summary, allowed_rejects
from pipeline.records import Source
from pipeline.storage import Files, is_remote, parse_options, secrets


@dataclass(frozen=True)
class Request:
    """What a user asks for; see :func:`pipeline.segment`. Plain values only."""

    inputs: Sequence[str]
    output: str
    model: str = DEFAULT_MODEL
    overlays: bool = False
    long_side: int | str | None = None
    all_files: bool = False
    limit: int | None = None
    overwrite: bool = False
    max_pixels: int = MAX_PIXELS
    engine: str = "auto"
    batch_size: int | None = None
    workers: int | None = None
    shared_disk: bool = False
    storage_options: Mapping[str, str] = field(default_factory=dict, repr=False)
    beam_options: Sequence[str] = ()


@dataclass(frozen=True)
class Plan:
    """A request that has been looked into: what each room gets.

    Attributes:
        since: since when OUT has been holding masks that may stand, in seconds since 1970; None
            where none does.
        started: when the run began, likewise.
        local: the job runs in this process.
        workers, shared_disk: see :class:`Request`.
    """

    sources: tuple[Source, ...]
    listing: ListOptions
    decode: DecodeOptions
    engine: EngineOptions
    out: OutputFolder
    model: Description
    beam_options: PipelineOptions
    started: float
    since: float | None
    local: bool
    workers: int | None
    shared_disk: bool

    @property
    def deciding(self) -> dict[str, Any]:
        """The options that decide what a mask is, as ``run.json`` keeps them."""
        return _deciding(self.model, self.decode, self.engine, self.listing)

    @property
    def recorded(self) -> dict[str, Any]:
        """All options, as ``summary.json`` keeps them."""
        return {
            "out": self.out.path,
            "root": self.listing.root,
            "model": self.engine.model,
            "long_side": self.decode.long_side,
            "max_pixels": self.decode.max_pixels,
            "started": self.started,
            "engine": self.engine.engine,
            "batch_size": self.engine.batch_size,
            "overlays": self.out.overlays,
            "all_files": self.listing.all_files,
            "limit": self.listing.limit,
            "since": self.since,
        }


def _deciding(
    model: Description, decode: DecodeOptions, engine: EngineOptions, listing: ListOptions
) -> dict[str, Any]:
    return {
        "model": model.fingerprint,
        "long side": decode.long_side or "native",
        "engine": engine.engine,
        "batch size": engine.batch_size or "auto",
        "input folder": listing.root,
    }


def segment(request: Request) -> Summary:
    """Runs the whole job.

    Raises:
        UserError: what the user can fix: bad options, a missing INPUT, another model's OUT.
        JobError: what ended the job.
        KeyboardInterrupt: on Ctrl-C.
    """
    return run(stage(claim(plan(request))))


def plan(request: Request) -> Plan:
    """Looks into a request; writes nothing.

    Raises:
        UserError: anything in it cannot serve.
    """
    beam_options = PipelineOptions(list(request.beam_options))
    local = runners.is_local(beam_options)
    files = Files(parse_options(request.storage_options))
    if not request.inputs:
        raise UserError("no INPUT; name a folder, a glob, an image or @LIST")
    model = models.describe(request.model, files)
    sources = tuple(parse_source(text, files) for text in request.inputs)
    out = OutputFolder(parse_output(request.output, files), files, request.overlays)
    listing = ListOptions(
        root=common_folder(source.folder for source in sources),
        all_files=request.all_files,
        exclude=out.written(),
        limit=request.limit,
    )
    if not local:
        _check_remote(request, sources, out)
    preview.check_input(sources, listing, files)
    decode = DecodeOptions(network_side(request.long_side, model), request.max_pixels)
    engine = EngineOptions(request.model, request.engine, request.batch_size)
    deciding = _deciding(model, decode, engine, listing)
    return Plan(
        sources=sources,
        listing=listing,
        decode=decode,
        engine=engine,
        out=out,
        model=model,
        beam_options=beam_options,
        started=time.time(),
        since=standing_since(out, deciding, request.overwrite),
        local=local,
        workers=request.workers,
        shared_disk=request.shared_disk,
    )


def network_side(long_side: int | str | None, model: Description) -> int | None:
    """What ``--long-side`` means: the longest side in pixels that a model sees, None for any.

    Args:
        long_side: the option: pixels, ``"native"``, or None for the side it was trained at.
    """
    if long_side is None:
        return model.long_side
    return None if long_side == "native" else int(long_side)


def _check_remote(request: Request, sources: Sequence[Source], out: OutputFolder) -> None:
    """Refuses what workers on other machines cannot reach, or must not get."""
    if found := secrets(request.storage_options):
        raise UserError(
            f"--storage-option {found[0]}: a secret is not sent to the workers of another runner; "
            "give them credentials of their own, by their environment"
        )
    if request.shared_disk:
        return
    remedy = "copy it to a store, or add --shared-disk if every worker sees this disk"
    if not is_remote(out.path):
        raise UserError(f"--output {out.path}: workers elsewhere cannot write there; {remedy}")
    for source in sources:
        named = read_list(source.where, out.files) if source.kind == "list" else [source.where]
        for path in named:
            if not is_remote(path):
                raise UserError(f"{path}: workers elsewhere cannot read it; {remedy}")


def claim(plan: Plan) -> Plan:
    """Makes OUT this run's: notes what its masks are made with from now on.

    Raises:
        UserError: OUT cannot be written.
    """
    if plan.since is not None:
        return plan
    claim_folder(plan.out, plan.deciding, plan.started)
    return replace(plan, since=plan.started)


def stage(plan: Plan) -> Plan:
    """Brings the model to where it runs.

    A local run gets the network into this process, with its threads set: a damaged model is to be
    told in one line, not by a worker in thirty. Workers elsewhere cannot read this machine's disk:
    a local model and local lists are copied to OUT.

    Raises:
        UserError: the model cannot be loaded, or a file cannot be copied.
    """
    if plan.local:
        import_tensorflow()
        threads.set_threads()
        models.load(plan.engine.model, plan.out.files)
        return plan
    if plan.shared_disk:
        return plan
    copy = f"model-{plan.model.fingerprint[:12]}"
    model = _copied(plan.engine.model, copy, plan.out)
    sources = tuple(
        source._replace(where=_copied(source.where, f"input-{index}.txt", plan.out))
        if source.kind == "list"
        else source
        for index, source in enumerate(plan.sources)
    )
    return replace(plan, sources=sources, engine=replace(plan.engine, model=model))


def _copied(path: str, name: str, out: OutputFolder) -> str:
    """Where a local file or folder is once it has been copied below OUT; remote ones stay."""
    if is_remote(path):
        return path
    root = Path(path)
    try:
        for file in [root] if root.is_file() else filter(Path.is_file, root.rglob("*")):
            below = "" if file == root else f"/{file.relative_to(root).as_posix()}"
            out.write(name + below, file.read_bytes())
    except OSError as error:
        raise UserError(f"{path}: cannot be copied to {out.path}: {first_line(error)}") from None
    return f"{out.path}/{name}"


def run(plan: Plan) -> Summary:
    """Runs the job and waits for it.

    Raises:
        JobError: what ended the job.
        KeyboardInterrupt: on Ctrl-C.
    """
    if plan.local:
        runners.run_here(plan.beam_options, plan.workers)
    pipeline = beam.Pipeline(options=plan.beam_options)
    (
        pipeline
        | "Sources" >> beam.Create(plan.sources)
        | "SegmentArchive"
        >> SegmentArchive(
            plan.listing,
            plan.decode,
            plan.engine,
            plan.out,
            since=plan.since or plan.started,
            labels=plan.model.labels,
            model=plan.model.fingerprint,
            recorded=plan.recorded,
        )
    )
    result = runners.run(pipeline)
    stages = progress.stage_seconds(result)
    return Summary.from_json(plan.out.path, plan.out.read_json(SUMMARY), stages)


def report(summary: Summary, max_rejected: str | None = None) -> tuple[str, int, str]:
    """What a finished run comes to.

    Args:
        max_rejected: see :func:`pipeline.outputs.summary.allowed_rejects`.

    Returns:
        The text to print, the exit status, and why it is not 0.
    """
    lines = [summary.table()]
    if 0 < summary.masks == summary.kept:
        lines.append("nothing to do: every mask was there already")
    text = "\n".join([*lines, f"results: {summary.output}"])
    if not summary.masks:
        return text, 3, f"no image got a mask; {summary.output}/rejected-*.jsonl tells why"
    if summary.rejected > allowed_rejects(max_rejected, summary.images):
        return text, 3, f"more than {max_rejected} images were rejected"
    return text, 0, ""
