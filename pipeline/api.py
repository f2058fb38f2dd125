"""The Python API: :func:`segment` and :func:`evaluate`, see ``pipeline/__init__.py``."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from model_build.common.errors import UserError
from pipeline.child_process import run_in_child
from pipeline.evaluation import run as evaluation
from pipeline.evaluation.run import Evaluation
from pipeline.network.threads import threads_differ
from pipeline.outputs.summary import Summary
from pipeline.segmentation import run as segmentation
from pipeline.segmentation.plan import as_text

Path = str | os.PathLike[str]


def segment(
    inputs: Path | Iterable[Path],
    output: Path,
    *,
    model: Path | None = None,
    overlays: bool = False,
    all_files: bool = False,
    limit: int | None = None,
    overwrite: bool = False,
    discard_edits: bool = False,
    moved: bool = False,
    verify: bool = False,
    workers: int | None = None,
    shared_disk: bool = False,
    storage_options: Mapping[str, str] | None = None,
    beam_options: Sequence[str] = (),
    **mask_options: Any,
) -> Summary:
    """Segments every image of ``inputs``, as ``fcn-beam segment`` does; resumes where it stopped.

    A run in this process sets TensorFlow to one thread per operation. If TensorFlow already runs
    with other settings, as in a notebook, the job runs in a child process.

    Args:
        inputs: folders, globs, images or ``@LIST`` files, local or remote; one or several.
        output: the folder for the results, local or remote.
        model: a saved-model folder, local or remote; by default the included one.
        overlays: also write each photo blended with its mask.
        all_files: also try files without a known image extension.
        limit: only this many images, the first by name.
        overwrite: redo masks made with another model or other options; edited ones are kept.
        discard_edits: redo masks edited by hand; their number is first printed to standard error.
        moved: the archive is the same as in earlier runs, in another place.
        verify: check the pixels of every existing mask against its row.
        workers: streams of a local run; None means one per core, or one on an accelerator.
        shared_disk: with a remote runner, every worker sees this machine's disk.
        storage_options: ``{"s3.anon": "true"}`` and the like, for the clients of the stores.
        beam_options: Apache Beam's own, as on its command line: ``["--runner", "FlinkRunner"]``.
        mask_options: ``long_side``, ``tile``, ``max_pixels``, ``engine``, ``precision`` and
            ``batch_size``; see :class:`pipeline.segmentation.mask_options.MaskOptions`.

    Returns:
        The summary of the run. Images without a mask are counted there and listed in
        ``rejected-*.jsonl``; they do not raise.

    Raises:
        UserError: the command would exit with status 2; the text is the line it would print.
        JobError: the job failed; the command would exit with status 1.
    """
    request = segmentation.Request(
        inputs=_texts(inputs),
        output=as_text("output", output),
        model=None if model is None else as_text("model", model),
        overlays=overlays,
        all_files=all_files,
        limit=limit,
        overwrite=overwrite,
        discard_edits=discard_edits,
        moved=moved,
        verify=verify,
        workers=workers,
        shared_disk=shared_disk,
        storage_options=dict(storage_options or {}),
        beam_options=list(beam_options),
        **mask_options,
    )
    if threads_differ():
        return Summary(**run_in_child("segment", request))
    return segmentation.segment(request)


def evaluate(
    data: Path,
    *,
    model: Path | None = None,
    masks: Path | None = None,
    split: str = "val",
    skip_missing: bool = False,
    workers: int | None = None,
    storage_options: Mapping[str, str] | None = None,
    beam_options: Sequence[str] = (),
    **mask_options: Any,
) -> Evaluation:
    """Scores predicted masks against a split's true ones, as ``fcn-beam evaluate`` does.

    Args:
        data: a folder in PASCAL VOC layout, or with the folders ``images`` and ``masks``; local or
            remote.
        model: score the masks that this saved model makes; or
        masks: score the masks in this folder.
        split: of the data.
        skip_missing: leave out images whose mask is missing.
        workers, storage_options, beam_options: see :func:`segment`; the job always runs in this
            process.
        mask_options: with ``model``; see :func:`segment`.

    Returns:
        An object whose ``scores`` are a dict: ``pixel_accuracy``, ``mean_accuracy``, ``miou`` and
        ``frequency_weighted_iou``, from 0 to 1; its ``report`` is what ``--json`` writes.

    Raises:
        UserError: the command would exit with status 2; or there are no scores, because a mask is
            missing or bad.
        JobError: the job failed.
    """
    request = evaluation.Request(
        data=as_text("data", data),
        model=None if model is None else as_text("model", model),
        masks=None if masks is None else as_text("masks", masks),
        split=split,
        skip_missing=skip_missing,
        workers=workers,
        storage_options=dict(storage_options or {}),
        beam_options=list(beam_options),
        **mask_options,
    )
    if threads_differ():
        result = Evaluation(**run_in_child("evaluate", request))
    else:
        result = evaluation.evaluate(request)
    if result.scores is None:
        raise UserError("; ".join(result.complaint()[:2]))
    return result


def _texts(inputs: Path | Iterable[Path]) -> list[str]:
    if isinstance(inputs, str | bytes) or not isinstance(inputs, Iterable):
        inputs = [inputs]
    return [as_text("inputs", path) for path in inputs]
