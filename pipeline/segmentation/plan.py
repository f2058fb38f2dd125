"""From a user's request to a plan: what each room gets. Nothing is written."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from apache_beam.options.pipeline_options import PipelineOptions

from model_build.artifact import DEFAULT_MODEL, Description
from model_build.common.errors import UserError
from pipeline.images.decode import MAX_PIXELS, DecodeOptions
from pipeline.inputs.first_look import check_input
from pipeline.inputs.listing import ListOptions
from pipeline.inputs.sources import common_folder, parse_source, read_list
from pipeline.network import ENGINES, models, threads
from pipeline.network import precision as precisions
from pipeline.network.handler import EngineOptions, resolve
from pipeline.outputs import claims, products
from pipeline.outputs.claims import Noted
from pipeline.outputs.ending import Claimed
from pipeline.outputs.folder import OutputFolder, parse_output
from pipeline.outputs.products import MASKS, chosen
from pipeline.outputs.recipe import Recipe
from pipeline.records import Source
from pipeline.runners import local, remote
from pipeline.runners.remote_job import RemoteJob
from pipeline.segmentation.up_to_date import KeepOptions, check_unrecorded
from pipeline.segmentation.windows import WriteOptions
from pipeline.storage import Files, is_remote, parse_options, printable, secrets


@dataclass(frozen=True)
class Request:
    """What a user asks for; see :func:`pipeline.segment`. Plain values only."""

    inputs: Sequence[str]
    output: str
    model: str = DEFAULT_MODEL
    overlays: bool = False
    long_side: int | str | None = None
    tile: bool = False
    all_files: bool = False
    limit: int | None = None
    overwrite: bool = False
    discard_edits: bool = False
    moved: bool = False
    verify: bool = False
    max_pixels: int = MAX_PIXELS
    engine: str = "auto"
    precision: str = "auto"
    batch_size: int | None = None
    workers: int | None = None
    shared_disk: bool = False
    storage_options: Mapping[str, str] = field(default_factory=dict, repr=False)
    beam_options: Sequence[str] = ()


@dataclass(frozen=True)
class Plan:
    """A request that has been looked into: what each room gets.

    Attributes:
        recipe: what the masks will be made by; nothing in it is "auto".
        noted: what earlier runs have noted in OUT.
        claimed: what the run has claimed; None before it has.
        started: when the run began, in seconds since 1970.
        local: the job runs in this process.
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
    noted: Noted
    beam_options: PipelineOptions
    started: float
    local: bool
    overwrite: bool
    discard_edits: bool
    moved: bool
    verify: bool
    workers: int | None
    shared_disk: bool
    claimed: Claimed | None = None
    job: RemoteJob | None = None

    @property
    def keep(self) -> KeepOptions:
        """Which masks that stand hold."""
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
            UserError: see :func:`pipeline.outputs.claims.check`; or no run has made its masks.
            JobError: OUT cannot be looked at.
        """
        if self.noted.recipe is None:
            check_unrecorded(self.out, self.overwrite)
            return
        claims.check(
            self.out,
            self.noted,
            self.recipe,
            self.listing.root,
            overwrite=self.overwrite,
            moved=self.moved,
        )


def plan(request: Request) -> Plan:
    """Looks into a request; writes nothing.

    Raises:
        UserError: anything in it cannot serve.
        JobError: OUT cannot be looked at.
    """
    check_counts(
        limit=request.limit,
        max_pixels=request.max_pixels,
        batch_size=request.batch_size,
        workers=request.workers,
    )
    beam_options = PipelineOptions(list(request.beam_options))
    is_local = local.is_local(beam_options)
    if not is_local:
        remote.check_options(beam_options)
    files = Files(parse_options(request.storage_options))
    if not request.inputs:
        raise UserError("no INPUT; name a folder, a glob, an image or @LIST")
    model = models.describe(request.model, files)
    sources = tuple(parse_source(text, files) for text in request.inputs)
    out = OutputFolder(
        parse_output(request.output, files), files, chosen(overlays=request.overlays)
    )
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
    noted = claims.look(out)
    decode = DecodeOptions(network_side(request.long_side, model, request.tile), request.max_pixels)
    engine = _engine(request, model, decode.long_side, noted, is_local)
    planned = Plan(
        sources=sources,
        listing=listing,
        decode=decode,
        engine=engine,
        out=out,
        model=model,
        recipe=recipe_of(model, decode, engine),
        noted=noted,
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


def recipe_of(model: Description, decode: DecodeOptions, engine: EngineOptions) -> Recipe:
    """What masks are made by."""
    return Recipe(
        model=model.fingerprint,
        long_side=decode.long_side,
        engine=engine.engine,
        precision=engine.precision,
        batch_size=engine.batch_size,
        tile=engine.tile,
    )


def _engine(
    request: Request, model: Description, long_side: int | None, noted: Noted, local: bool
) -> EngineOptions:
    """The engine that is asked for; what is left open is as OUT's masks were made."""
    engine, precision, batch_size = request.engine, request.precision, request.batch_size
    if noted.recipe is not None:
        if local and not request.overwrite:
            _check_precision(request, noted.recipe)
        if engine == "auto" and noted.recipe.engine in ENGINES:  # earlier versions had another
            engine = noted.recipe.engine
        # Not every engine has every precision.
        if precision == "auto" and engine == noted.recipe.engine:
            precision = noted.recipe.precision
        batch_size = batch_size or noted.recipe.batch_size
    # What workers elsewhere have is not known here.
    accelerator = threads.has_accelerator if local else lambda: False
    return resolve(
        request.model,
        engine,
        precision,
        batch_size,
        accelerator,
        local,
        tile=tile_side(model) if request.tile else None,
        long_side=long_side,
    )


def _check_precision(request: Request, recipe: Recipe) -> None:
    """Refuses to go on with masks of a precision that this machine lacks, unless they are redone.

    Raises:
        UserError: OUT's masks were made in bfloat16, and this CPU does not support it.
    """
    wanted = (precisions.AUTO, precisions.BFLOAT16)
    if recipe.precision != precisions.BFLOAT16 or request.precision not in wanted:
        return
    if request.engine in ("auto", recipe.engine) and not precisions.supports_bfloat16():
        raise UserError(
            f"{request.output}: contains masks made in bfloat16, which this CPU does not support "
            f"(no {' or '.join(precisions.BFLOAT16_FLAGS)}); continue on a machine that does, add "
            "--precision float32 --overwrite to redo them, or choose another --output"
        )


def network_side(long_side: int | str | None, model: Description, tile: bool) -> int | None:
    """What ``--long-side`` means: the longest side in pixels that a model sees, None for any.

    Args:
        long_side: the option: pixels, ``"native"``, or None for the side it was trained at.
        tile: whether it sees images in tiles, where None is native.

    Raises:
        UserError: it is none of these.
    """
    if long_side is None:
        return None if tile else model.long_side
    if long_side == "native":
        return None
    if str(long_side).isdecimal() and int(long_side) > 0:
        return int(long_side)
    raise UserError(f"long_side={long_side!r}: must be a number of pixels or 'native'")


def tile_side(model: Description) -> int:
    """The longest side in pixels of a model's tiles: about twice what it was trained at.

    Smaller ones agree less with the whole, larger ones take more memory (``benchmarks/tiles.py``).
    """
    step = 8 * model.stride  # so that what tiles share is a multiple of the stride
    return -(-2 * model.long_side // step) * step


def check_counts(**counts: int | None) -> None:
    """Looks at options that are numbers, by their names; None is one that is left open.

    Raises:
        UserError: one of them is no whole number of 1 or more.
    """
    for name, count in counts.items():
        if count is not None and not (isinstance(count, int) and count > 0):
            raise UserError(f"{name}={count!r}: must be a whole number of 1 or more")


def as_text(name: str, path: str | os.PathLike[str]) -> str:
    """A path or URI that a program names, as text.

    Raises:
        UserError: it is none.
    """
    text = os.fspath(path) if isinstance(path, str | os.PathLike) else path
    if not isinstance(text, str):
        raise UserError(f"{name}={path!r}: must be a string or a path")
    return text


def _check_remote(request: Request, sources: Sequence[Source], out: OutputFolder) -> None:
    """Refuses what workers on other machines cannot reach, or must not get."""
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
