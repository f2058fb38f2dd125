"""The options that decide a mask: as a user gives them, and as they are resolved."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from model_build.artifact import DEFAULT_MODEL, Description
from model_build.common.errors import UserError
from pipeline.images.decode import MAX_PIXELS, DecodeOptions
from pipeline.network import AUTO, ENGINES, precision
from pipeline.network.handler import EngineOptions
from pipeline.outputs.run_json import Recipe


@dataclass(frozen=True, kw_only=True)
class MaskOptions:
    """The options that decide a mask, as a user gives them; None is "not given" for all of them.

    Attributes:
        model: str, a saved-model folder, local or remote; by default the included one.
        long_side: int, or ``"native"``: scales larger images down to this many pixels; ``"native"``
            does not. By default the side the model was trained at; with ``tile``, ``"native"``.
        tile: bool: takes images larger than a tile of the network in overlapping tiles, which
            bounds the memory an image takes.
        max_pixels: int: rejects larger images.
        engine: ``"xla"``, ``"graph"``, or ``"auto"``, which is "not given": XLA on an accelerator.
        precision: ``"float32"``, ``"bfloat16"``, or ``"auto"``, which is "not given": bfloat16 in a
            local run on a CPU that computes it, else float32.
        batch_size: int, images a batch; by default 8 on an accelerator, 1 on a CPU.
    """

    model: str | None = None
    long_side: int | str | None = None
    tile: bool | None = None
    max_pixels: int | None = None
    engine: str | None = None
    precision: str | None = None
    batch_size: int | None = None

    @property
    def model_or_default(self) -> str:
        """The saved-model folder."""
        return self.model or DEFAULT_MODEL


class Resolved(NamedTuple):
    """Mask options with nothing left open: what reads images, what runs, and the mask recipe."""

    decode: DecodeOptions
    engine: EngineOptions
    recipe: Recipe


def resolve(
    options: MaskOptions,
    model: Description,
    has_accelerator: Callable[[], bool],
    *,
    local: bool,
    earlier: Recipe | None = None,
) -> Resolved:
    """Resolves mask options by fixed rules, so that all workers of a job agree.

    Engine, precision and batch size that are not given are those of the masks that exist. Without
    any, the engine is XLA on an accelerator; on a CPU, graph mode, where convolutions are faster
    (``benchmarks/canvases.py``). A batch is 8 images on an accelerator and one on a CPU, where
    larger ones gain little and the last of each shape must be filled up. For precisions see
    :func:`pipeline.network.precision.resolve`.

    Args:
        has_accelerator: whether the workers have one; called only where it matters.
        local: this machine runs the network.
        earlier: the mask recipe of the masks that exist.

    Raises:
        UserError: an option is of another form, or this machine does not support it.
    """
    check_counts(max_pixels=options.max_pixels, batch_size=options.batch_size)
    for name, value, known in (
        ("engine", options.engine, ENGINES),
        ("precision", options.precision, precision.PRECISIONS),
    ):
        if value not in (None, *known):
            raise UserError(f"--{name} {value}: must be one of {', '.join(known)}")
    engine = None if options.engine == AUTO else options.engine
    number_format = None if options.precision == AUTO else options.precision
    batch_size = options.batch_size
    if earlier is not None:
        if earlier.engine in ENGINES:  # earlier versions had another
            engine = engine or earlier.engine
        if engine == earlier.engine:  # not every engine supports every precision
            number_format = number_format or earlier.precision
        batch_size = batch_size or earlier.batch_size
    engine = engine or ("xla" if has_accelerator() else "graph")
    batch_size = batch_size or (8 if has_accelerator() else 1)
    number_format = precision.resolve(number_format, engine, local)
    tile = tile_side(model) if options.tile else None
    long_side = network_side(options.long_side, model, tile is not None)
    return Resolved(
        DecodeOptions(long_side, options.max_pixels or MAX_PIXELS),
        EngineOptions(options.model_or_default, engine, batch_size, number_format, tile, long_side),
        Recipe(model.fingerprint, long_side, engine, number_format, batch_size, tile=tile),
    )


def network_side(long_side: int | str | None, model: Description, tile: bool) -> int | None:
    """Returns the longest side in pixels that the network sees, None for any.

    Args:
        long_side: see :class:`MaskOptions`.
        tile: the network sees images in tiles.

    Raises:
        UserError: ``long_side`` is of another form.
    """
    if long_side is None:
        return None if tile else model.long_side
    if long_side == "native":
        return None
    if str(long_side).isdecimal() and int(long_side) > 0:
        return int(long_side)
    raise UserError(f"long_side={long_side!r}: must be a number of pixels or 'native'")


def tile_side(model: Description) -> int:
    """Returns the longest side in pixels of a model's tiles: about twice its training size.

    Smaller ones agree less with the whole, larger ones take more memory (``benchmarks/tiles.py``).
    """
    step = 8 * model.stride  # so that the overlap of tiles is a multiple of the stride
    return -(-2 * model.long_side // step) * step


def check_counts(**counts: int | None) -> None:
    """Checks options that are counts, given by their names; None is "not given".

    Raises:
        UserError: one of them is not a whole number of 1 or more.
    """
    for name, count in counts.items():
        if count is not None and not (isinstance(count, int) and count > 0):
            raise UserError(f"{name}={count!r}: must be a whole number of 1 or more")
