"""Runs ``evaluate``: checks the request, builds and runs the graph, makes the report."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions

from model_build.common.errors import UserError, first_line
from model_build.common.quiet_imports import import_tensorflow
from model_build.data.labels import LabelSet
from model_build.data.layouts import DataFolder, list_local
from pipeline.evaluation import report, scoring
from pipeline.evaluation.predictions import Example, PredictMasks, ReadMasks, check_folder
from pipeline.network import models, threads
from pipeline.outputs.folder import SUMMARY, OutputFolder
from pipeline.runners import local
from pipeline.segmentation.mask_options import MaskOptions, check_counts, resolve
from pipeline.storage import File, Files, absolute, folder_of, is_remote, parse_options


@dataclass(frozen=True)
class Request(MaskOptions):
    """A user's request, see :func:`pipeline.evaluate`. Plain values only."""

    data: str
    masks: str | None = None
    split: str = "val"
    skip_missing: bool = False
    workers: int | None = None
    storage_options: Mapping[str, str] = field(default_factory=dict, repr=False)
    beam_options: Sequence[str] = ()


@dataclass(frozen=True)
class Evaluation:
    """The result of an evaluation.

    Attributes:
        report: the form of ``--json``, see :func:`pipeline.evaluation.report.report`.
        images: number of images in the split.
        skip_missing: whether images without a prediction or a truth were left out.
    """

    report: dict[str, Any]
    images: int
    skip_missing: bool

    @property
    def scores(self) -> dict[str, float] | None:
        """``pixel_accuracy``, ``mean_accuracy``, ``miou`` and ``frequency_weighted_iou``, 0 to 1.

        None if there are no scores; :meth:`complaint` says why.
        """
        return self.report["scores"]

    def table(self) -> str:
        """Returns the scores as a table."""
        return report.table(self.report)

    def complaint(self) -> list[str]:
        """Returns why there are no scores, see :func:`pipeline.evaluation.report.complaint`."""
        return report.complaint(self.report, self.images, self.skip_missing)


def evaluate(request: Request) -> Evaluation:
    """Scores predicted masks against a split's true ones.

    Raises:
        UserError: the request, the data or the model is invalid.
        JobError: the job failed.
        KeyboardInterrupt: on Ctrl-C.
    """
    options = _check(request)
    files = Files(parse_options(request.storage_options))
    files.check(request.data)
    try:
        data = data_folder(request.data, files)
        labels, names = data.labels(), _names(data, request)
        examples = [
            Example(name, data.photo(name) or data.expected(name), data.mask(name))
            for name in names
        ]
    except OSError as error:
        raise UserError(f"{request.data}: cannot be read: {first_line(error)}") from None
    if request.model is not None:
        predict, source = _by_model(request, request.model, labels, files)
        workers = request.workers
    else:
        assert request.masks is not None
        predict, source = _by_masks(request, request.masks, names, labels, files)
        # No network runs, so there is no need to import TensorFlow and look for accelerators.
        workers = request.workers or threads.usable_cores()
    local.check_memory(workers)
    local.run_here(options, workers)
    found = scoring.score(examples, predict, labels, files, options)
    header = {"data": request.data, "split": request.split, "source": source}
    content = header | report.report(found, labels, request.skip_missing)
    return Evaluation(content, len(names), request.skip_missing)


def _check(request: Request) -> PipelineOptions:
    if (request.model is None) == (request.masks is None):
        raise UserError("say what to score, with either --model or --masks")
    for option in fields(MaskOptions) if request.masks is not None else ():
        if getattr(request, option.name) not in (None, False):
            raise UserError(f"--{option.name.replace('_', '-')} goes with --model, not --masks")
    check_counts(workers=request.workers)
    options = PipelineOptions(list(request.beam_options))
    if not local.is_local(options):
        raise UserError("--runner: evaluate always runs on this machine; leave --runner out")
    return options


def data_folder(data: str, files: Files) -> DataFolder:
    """Opens a data folder on any disk or store."""

    def paths(folder: str) -> Iterator[str]:
        return (file.path for file in files.list(folder) if isinstance(file, File))

    return DataFolder(data.rstrip("/") or "/", paths if is_remote(data) else list_local, files.read)


def _names(data: DataFolder, request: Request) -> list[str]:
    names = data.names(request.split)
    ((name, times),) = Counter(names).most_common(1)
    if times > 1:
        raise UserError(
            f"{request.data}: {name} is {times} times in the split {request.split}; an image "
            "counts once: remove the others"
        )
    return names


def _by_model(
    request: Request, model: str, labels: LabelSet, files: Files
) -> tuple[beam.PTransform, dict[str, Any]]:
    """Returns a transform that predicts with a model, and the model's part of the report."""
    description = models.describe(model, files)
    _check_labels(model, description.labels.names, data_folder(request.data, files), labels)
    import_tensorflow()
    threads.set_threads()
    models.load_ahead(model, files)
    decode, engine, recipe = resolve(request, description, threads.has_accelerator, local=True)
    return PredictMasks(decode, engine, files), {
        "model": model,
        "fingerprint": recipe.model,
        "long_side": recipe.long_side or "native",
        "tile": recipe.tile,
        "engine": recipe.engine,
        "precision": recipe.precision,
        "batch_size": recipe.batch_size,
    }


def _by_masks(
    request: Request, masks: str, names: list[str], labels: LabelSet, files: Files
) -> tuple[beam.PTransform, dict[str, Any]]:
    """Returns a transform that reads masks, and their part of the report."""
    check_folder(masks, names, files)
    source = {"masks": masks}
    # For masks that `segment` wrote, the model is known, so its labels can be checked.
    out = OutputFolder(folder_of(absolute(masks).rstrip("/")), files)
    try:
        summary = out.read_json(SUMMARY)
        made_with, fingerprint = tuple(summary["pixels"]), summary["model"]
    except (KeyError, TypeError, OSError):  # masks of another origin
        pass
    else:
        _check_labels(masks, made_with, data_folder(request.data, files), labels)
        source |= {"fingerprint": fingerprint}
    return ReadMasks(masks, labels, files), source


def _check_labels(source: str, names: tuple[str, ...], data: DataFolder, labels: LabelSet) -> None:
    if names == labels.names:
        return
    difference = f"{len(names)} labels, not {len(labels)}"
    for index, (name, expected) in enumerate(zip(names, labels.names, strict=False)):
        if name != expected:
            difference = f"label {index} is {name!r}, not {expected!r}"
            break
    note = data.labels_note()
    raise UserError(
        f"{source}: its labels differ from those of {data.root}: {difference}; use data with the "
        f"same labels, or fix {data.root}/labels.json" + (f" ({note})" if note else "")
    )
