"""The command ``fcn-beam evaluate``. Nothing heavy is imported up here."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from model_build.errors import UserError
from pipeline.cli import complain, network_side, segment, set_up_logging, telling_interrupts

if TYPE_CHECKING:
    from model_build.dataset import Layout
    from model_build.labels import LabelSet

# What decides a model's masks is said as to `segment`, and means the same.
OF_MODELS = ("long_side", "max_pixels", "engine", "batch_size")


def _options_of_segment(*names: str) -> Callable[[click.Command], click.Command]:
    """Gives a command options that ``segment`` has."""

    def add(command: click.Command) -> click.Command:
        command.params += [option for option in segment.params if option.name in names]
        return command

    return add


@_options_of_segment(*OF_MODELS, "workers", "log_level")
@click.command(
    context_settings={"ignore_unknown_options": True},
    epilog="Apache Beam's own options pass through, such as those for a model on s3://.",
)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED, metavar="")
@click.option("--model", metavar="DIR", help="Score the masks this saved model makes.")
@click.option("--masks", metavar="DIR", help="Score the masks in this folder, such as OUT/masks.")
@click.option("--data", required=True, metavar="DIR", help="The photos and true masks.")
@click.option("--split", default="val", show_default=True, metavar="NAME")
@click.option(
    "--json",
    "json_file",
    type=click.Path(dir_okay=False, writable=True, allow_dash=True),
    metavar="FILE",
    help="Write the scores there, too. - prints them instead of the table.",
)
@click.option("--skip-missing", is_flag=True, help="Score what is there.")
@click.pass_context
def evaluate(
    context: click.Context,
    arguments: tuple[str, ...],
    model: str | None,
    masks: str | None,
    data: str,
    split: str,
    json_file: str | None,
    skip_missing: bool,
    workers: int,
    log_level: str,
    **of_models: Any,
) -> int:
    """Score predicted masks against a split's true ones.

    The masks are those that --model makes, as `segment` would with the same options, or stand in
    --masks. The data folder is in PASCAL VOC layout or holds the folders images and masks.
    """
    set_up_logging(log_level)
    if (model is None) == (masks is None):
        raise click.UsageError("name what to score: either --model or --masks")
    for name in OF_MODELS if masks is not None else ():
        if context.get_parameter_source(name) == ParameterSource.COMMANDLINE:
            raise click.UsageError(f"--{name.replace('_', '-')} goes with --model, not --masks")
    for option, folder in (("--data", data), ("--masks", masks or "")):
        if "://" in folder:
            raise click.UsageError(f"{option} {folder}: must be a local folder; copy it here first")
    if json_file not in (None, "-") and not Path(json_file).absolute().parent.is_dir():
        raise click.UsageError(f"--json {json_file}: its folder does not exist")
    from apache_beam.io.filesystems import FileSystems

    from model_build import dataset
    from pipeline import evaluation
    from pipeline.beam_options import choose_runner, split_arguments
    from pipeline.predictions import ReadMasks, check_folder
    from pipeline.report import complaint, report, table

    own = [name for parameter in context.command.params for name in parameter.opts]
    unexpected, beam_options = split_arguments(arguments, own)
    if unexpected:
        raise click.UsageError(f"unexpected argument {unexpected[0]!r}: every input is an option")
    if not choose_runner(beam_options, workers):
        raise click.UsageError("--runner: evaluate reads local folders, so it runs in this process")
    FileSystems.set_options(beam_options)  # credentials and endpoints count before the job, too
    names = _names(data, split)
    where, labels = dataset.layout(data), dataset.read_label_set(data)
    if model is not None:
        predict, source = _prediction(model, where, labels, **of_models)
    else:
        assert masks is not None
        check_folder(masks, names)
        source = {"masks": masks} | _origin(masks, where, labels)
        predict = ReadMasks(masks, labels)
    with telling_interrupts():
        found = evaluation.evaluate(names, predict, where, labels, beam_options)
    result = {"data": data, "split": split, "source": source}
    result |= report(found, labels, skip_missing)
    text = json.dumps(result, indent=1)
    if json_file == "-":
        click.echo(text)
    elif result["scores"]:
        click.echo(table(result))
    if json_file not in (None, "-"):
        try:
            Path(json_file).write_text(text + "\n")
        except OSError as error:
            raise UserError(f"{json_file}: cannot be written: {error.strerror}") from None
    if result["scores"]:
        return 0
    return complain(complaint(result, len(names), skip_missing), 1)


def _names(data: str, split: str) -> list[str]:
    from model_build import dataset

    names = dataset.names(data, split)
    ((name, times),) = Counter(names).most_common(1)
    if times > 1:
        raise UserError(
            f"{data}: {name} is {times} times in the split {split}; an image counts once: "
            "remove the others"
        )
    return names


def _prediction(
    model: str,
    where: Layout,
    labels: LabelSet,
    *,
    long_side: int | str | None,
    max_pixels: int,
    engine: str,
    batch_size: int | None,
) -> tuple[Any, dict[str, Any]]:
    """What predicts with a model, and what the report says of it."""
    from model_build.artifact import describe, load
    from model_build.quiet import import_tensorflow
    from pipeline.inference import SegmentationHandler
    from pipeline.predictions import PredictMasks

    description = describe(model)
    _check_labels(model, description.labels.names, where, labels)
    # A damaged model is to be told in one line, not by a worker in thirty.
    import_tensorflow()
    load(model)
    pixels = network_side(long_side, description)
    handler = SegmentationHandler(model, engine, batch_size)
    return PredictMasks(where, handler, pixels, max_pixels), {
        "model": model,
        "fingerprint": description.fingerprint,
        "long_side": pixels or "native",
        "engine": engine,
        "batch_size": batch_size,
    }


def _origin(masks: str, where: Layout, labels: LabelSet) -> dict[str, Any]:
    """What is known of masks that ``segment`` wrote: the model, whose labels are checked."""
    from pipeline.outputs import SUMMARY, read_json

    try:
        summary = read_json(str(Path(masks).absolute().parent / SUMMARY))
        names, fingerprint = tuple(summary["pixels"]), summary["model"]
    except (KeyError, TypeError):  # masks of another origin
        return {}
    _check_labels(masks, names, where, labels)
    return {"fingerprint": fingerprint}


def _check_labels(source: str, names: tuple[str, ...], where: Layout, labels: LabelSet) -> None:
    if names == labels.names:
        return
    difference = f"{len(names)} labels, not {len(labels)}"
    for index, (ours, theirs) in enumerate(zip(names, labels.names, strict=False)):
        if ours != theirs:
            difference = f"label {index} is {ours!r}, not {theirs!r}"
            break
    raise UserError(
        f"{source}: has other labels than {where.root}: {difference}; score it on data of its own "
        f"labels, or mend {where.root / 'labels.json'}"
    )
