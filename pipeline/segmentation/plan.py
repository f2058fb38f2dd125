"""Turns a user's request into a plan: the options of each subpackage. Writes nothing."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from apache_beam.options.pipeline_options import PipelineOptions

from model_build.artifact import Description
from model_build.common.errors import UserError
from pipeline.images.decode import DecodeOptions
from pipeline.inputs.first_look import check_input
from pipeline.inputs.listing import ListOptions
from pipeline.inputs.sources import common_folder, parse_source, read_list
from pipeline.network import AUTO, models, threads
from pipeline.network import precision as precisions
from pipeline.network.handler import EngineOptions
from pipeline.outputs import products
from pipeline.outputs.folder import OutputFolder, parse_output
from pipeline.outputs.products import MASKS, Product, chosen
from pipeline.outputs.run_json import EarlierRuns, Recipe, check_recipe, read_earlier_runs
from pipeline.records import Source
from pipeline.runners import local, remote
from pipeline.runners.remote_job import RemoteJob
from pipeline.segmentation.mask_options import MaskOptions, check_counts, resolve
from pipeline.segmentation.up_to_date import KeepOptions, check_unrecorded
from pipeline.segmentation.windows import WriteOptions
from pipeline.storage import Files, is_remote, parse_options, printable, secrets


@dataclass(frozen=True)
class Request(MaskOptions):
    """A user's request, see :func:`pipeline.segment`. Plain values only."""

    inputs: Sequence[str]
    output: str
    overlays: bool = False
    all_files: bool = False
    limit: int | None = None
    overwrite: bool = False
    discard_edits: bool = False
    moved: bool = False
    verify: bool = False
    workers: int | None = None
    shared_disk: bool = False
    storage_options: Mapping[str, str] = field(default_factory=dict, repr=False)
    beam_options: Sequence[str] = ()

    @property
    def products(self) -> tuple[Product, ...]:
        """The products beside the masks: each has an option of its name."""
        return chosen(vars(self))


@dataclass(frozen=True)
class Plan:
    """A checked request: the options of each subpackage.

    Attributes:
        recipe: the mask recipe; nothing in it is "auto".
        earlier_runs: what earlier runs have recorded in OUT.
        started: start of the run, in seconds since 1970.
        local: the job runs in this process.
        since: when OUT was taken, by the clock of its disk or store; None for a local run.
        job: what a cluster will know it by, once it has claimed; None if none can be asked for it.
        overwrite, discard_edits, moved, verify, workers, shared_disk: see
            :func:`pipeline.segment`.
    """

    sources: tuple[Source, ...]
    listing: ListOptions
    decode: DecodeOptions
    engine: EngineOptions
    out: OutputFolder
    model: Description
    recipe: Recipe
    earlier_runs: EarlierRuns
    beam_options: PipelineOptions
    started: float
    local: bool
    overwrite: bool
    discard_edits: bool
    moved: bool
    verify: bool
    workers: int | None
    shared_disk: bool
    since: float | None = None
    job: RemoteJob | None = None

    @property
    def keep(self) -> KeepOptions:
        """Which existing masks are up to date."""
        return KeepOptions(self.recipe.id, self.model.labels, self.discard_edits, self.verify)

    @property
    def write(self) -> WriteOptions:
        """How masks are written."""
        return WriteOptions(self.model.labels, self.recipe.id, self.out)

    @property
    def recorded(self) -> dict[str, Any]:
        """The options that decide no mask, as ``summary.json`` keeps them."""
        return {
            "out": self.out.path,
            "root": printable(self.listing.root),
            "model": printable(self.engine.model),
            "max_pixels": self.decode.max_pixels,
            "started": self.started,
            **{one.name: one in self.out.products for one in products.PRODUCTS if one is not MASKS},
            "all_files": self.listing.all_files,
            "limit": self.listing.limit,
        }

    def check_output(self) -> None:
        """Refuses an OUT whose masks are of another kind.

        Raises:
            UserError: see :func:`pipeline.outputs.run_json.check_recipe`; or no run has made its
                masks.
            JobError: OUT cannot be looked at.
        """
        if self.earlier_runs.recipe is None:
            check_unrecorded(self.out, self.overwrite)
            return
        root = self.listing.root
        check_recipe(self.out, self.earlier_runs, self.recipe, root, self.overwrite, self.moved)


def plan(request: Request) -> Plan:
    """Checks a request and plans it; writes nothing.

    Raises:
        UserError: an option, INPUT, OUT or the model is unusable.
        JobError: OUT cannot be read.
    """
    check_counts(limit=request.limit, workers=request.workers)
    beam_options = PipelineOptions(list(request.beam_options))
    is_local = local.is_local(beam_options)
    if not is_local:
        remote.check_options(beam_options)
    files = Files(parse_options(request.storage_options))
    if not request.inputs:
        raise UserError("no INPUT; name a folder, a glob, an image or @LIST")
    model = models.describe(request.model_or_default, files)
    sources = tuple(parse_source(text, files) for text in request.inputs)
    out = OutputFolder(parse_output(request.output, files), files, request.products)
    listing = ListOptions(
        root=common_folder(source.folder for source in sources),
        all_files=request.all_files,
        exclude=out.written(),
        limit=request.limit,
        overlap=len(sources) > 1,
        spread=not is_local,
    )
    if not is_local:
        _check_remote(request, sources, out)
    check_input(sources, listing, files)
    earlier_runs = read_earlier_runs(out)
    if is_local and not request.overwrite and earlier_runs.recipe is not None:
        _check_precision(request, earlier_runs.recipe)
    decode, engine, recipe = resolve(
        request,
        model,
        # The devices of workers elsewhere are not known here.
        threads.has_accelerator if is_local else lambda: False,
        local=is_local,
        earlier=earlier_runs.recipe,
    )
    planned = Plan(
        sources=sources,
        listing=listing,
        decode=decode,
        engine=engine,
        out=out,
        model=model,
        recipe=recipe,
        earlier_runs=earlier_runs,
        beam_options=beam_options,
        started=time.time(),
        local=is_local,
        overwrite=request.overwrite,
        discard_edits=request.discard_edits,
        moved=request.moved,
        verify=request.verify,
        workers=request.workers,
        shared_disk=request.shared_disk,
    )
    planned.check_output()
    return planned


def _check_precision(request: Request, recipe: Recipe) -> None:
    """Refuses to continue masks of a precision that this machine lacks, unless they are redone.

    Raises:
        UserError: OUT's masks were made in bfloat16, and this CPU does not support it.
    """
    wanted = (None, AUTO, precisions.BFLOAT16)
    if recipe.precision != precisions.BFLOAT16 or request.precision not in wanted:
        return
    if request.engine in (None, AUTO, recipe.engine) and not precisions.supports_bfloat16():
        raise UserError(
            f"{request.output}: contains masks made in bfloat16, which this CPU does not support "
            f"(no {' or '.join(precisions.BFLOAT16_FLAGS)}); continue on a machine that does, add "
            "--precision float32 --overwrite to redo them, or choose another --output"
        )


def as_text(name: str, path: str | os.PathLike[str]) -> str:
    """Returns a path or URI given by a program as text.

    Raises:
        UserError: it is neither a string nor a path.
    """
    text = os.fspath(path) if isinstance(path, str | os.PathLike) else path
    if not isinstance(text, str):
        raise UserError(f"{name}={path!r}: must be a string or a path")
    return text


def _check_remote(request: Request, sources: Sequence[Source], out: OutputFolder) -> None:
    """Refuses paths that workers on other machines cannot reach, and secrets."""
    if found := secrets(request.storage_options):
        raise UserError(
            f"--storage-option {found[0]}: secrets are not sent to workers on other machines; "
            "give the workers credentials in their environment"
        )
    if request.shared_disk:
        return
    remedy = "use a bucket, or add --shared-disk if all workers see this disk"
    if not is_remote(out.path):
        raise UserError(
            f"--output {out.path}: workers on other machines cannot write there; {remedy}"
        )
    for source in sources:
        named = read_list(source.where, out.files) if source.kind == "list" else [source.where]
        for path in named:
            if not is_remote(path):
                raise UserError(f"{path}: workers on other machines cannot read it; {remedy}")
