"""Runs ``segment``: plan → load → claim → stage → run → report."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import apache_beam as beam

from model_build.artifact import DESCRIPTION, NETWORK
from model_build.common.console import visible
from model_build.common.errors import JobError, UserError, first_line
from model_build.common.quiet_imports import import_tensorflow
from model_build.data.files import is_never_file
from pipeline.network import models, threads
from pipeline.outputs import run_json, runs
from pipeline.outputs.folder import STAGED, SUMMARY, OutputFolder
from pipeline.outputs.journal import JournalCounter
from pipeline.outputs.lock import Lock
from pipeline.outputs.summary import Summary, allowed_rejects, versions
from pipeline.runners import local, progress, remote
from pipeline.runners.remote_job import RemoteJob
from pipeline.runners.run import run_pipeline, submit_pipeline
from pipeline.segmentation import dry_run
from pipeline.segmentation.graph import SegmentArchive
from pipeline.segmentation.plan import Plan, Request, plan
from pipeline.storage import describe_error, is_remote, remedy


def _print(text: str) -> None:
    print(text, file=sys.stderr)


def segment(request: Request, say: Callable[[str], None] = _print) -> Summary:
    """Runs the whole job.

    Args:
        say: prints notes before anything is written.

    Raises:
        UserError: a mistake the user can fix: bad options, a missing INPUT, another model's OUT.
        JobError: the job failed.
        KeyboardInterrupt: on Ctrl-C, or SIGTERM.
    """
    planned = plan(request)
    dry_run.report_edits(planned, say)
    load(planned)
    with claimed(planned) as run_plan:
        return run(stage(run_plan))


def submit(request: Request, say: Callable[[str], None] = _print) -> RemoteJob:
    """Hands the job to a cluster and does not wait for it.

    Args:
        say: see :func:`segment`.

    Raises:
        UserError, JobError, KeyboardInterrupt: as :func:`segment`; or the runner is not a cluster
            that can be asked for a job.
    """
    planned = plan(request)
    if remote.address(planned.beam_options) is None:
        raise UserError(
            "--detach: needs --runner DataflowRunner, or FlinkRunner with --flink_master; any "
            "other job would end with this command"
        )
    dry_run.report_edits(planned, say)
    with claimed(planned, leave=True) as run_plan:
        assert run_plan.job is not None
        submit_pipeline(_graph(stage(run_plan)), run_plan.job)
        return run_plan.job


def load(plan: Plan) -> None:
    """Loads the network of a local run into this process, with its threads set.

    A damaged model is reported by one line here, not by thirty of a worker.

    Raises:
        UserError: the model cannot be loaded.
        JobError: this process may not take the memory that the job needs.
    """
    if plan.local:
        import_tensorflow()
        threads.set_threads()
        models.load_ahead(plan.engine.model, plan.out.files)
        local.check_memory(plan.workers)


@contextlib.contextmanager
def claimed(plan: Plan, leave: bool = False) -> Iterator[Plan]:
    """Claims OUT for this run while its block runs.

    Args:
        leave: a cluster continues the run after the block.

    Yields:
        The plan of the run that has claimed OUT.

    Raises:
        UserError: another job is writing to OUT, or it cannot be an output folder; or the job's
            runner does not answer.
        JobError: it cannot be written at the moment.
    """
    run_json.make_folder(plan.out.path, plan.out.files)
    out = replace(plan.out, run=runs.new_run())
    job = None if plan.local else remote.name_job(plan.beam_options, out.run)
    if job is not None:
        job.prepare(plan.beam_options)
    handed_over = False
    lock = Lock(out, job=None if job is None else job.to_json(), is_running=remote.is_running)
    try:
        with run_json.explaining_writes(out.path):
            lock.take()
            # A run in this process is never begun again, as one on a cluster may be.
            since = None if plan.local else lock.taken_at()
        # Another job may have ended here since the plan was made.
        run_plan = replace(
            plan, out=out, earlier_runs=run_json.read_earlier_runs(out), job=job, since=since
        )
        run_plan.check_output()
        run_json.claim(
            out,
            run_plan.recipe,
            run_plan.listing.root,
            run_plan.earlier_runs.shards,
            versions(),
        )
        handed_over = True
        yield run_plan
    except BaseException:
        runs.stop_writes(out.run)
        with contextlib.suppress(OSError):  # the error that ended the job is the one to report
            if job and handed_over and remote.is_running(job.to_json()) is not False:
                lock.hand_over()  # it could not be cancelled
            else:
                lock.abandon()
        raise
    with contextlib.suppress(OSError):  # the job is done; the next one finds its lock dead
        if leave:
            lock.hand_over()
        else:
            lock.release()


def stage(plan: Plan) -> Plan:
    """Copies a local model and local lists to OUT, where workers elsewhere can read them.

    Raises:
        UserError: a file cannot be copied.
    """
    if plan.local or plan.shared_disk:
        return plan
    copy = f"{STAGED}/model-{plan.model.fingerprint[:12]}"
    model = _copied(plan.engine.model, copy, plan.out)
    sources = tuple(
        source._replace(where=_copied(source.where, f"{STAGED}/input-{index}.txt", plan.out))
        if source.kind == "list"
        else source
        for index, source in enumerate(plan.sources)
    )
    return replace(plan, sources=sources, engine=replace(plan.engine, model=model))


def _copied(path: str, name: str, out: OutputFolder) -> str:
    """Copies a local file or folder below OUT and returns its path there; leaves remote ones."""
    if is_remote(path):
        return path
    root = Path(path)
    try:
        for file in [root] if root.is_file() else _files_of_model(root):
            below = "" if file == root else f"/{file.relative_to(root).as_posix()}"
            out.write(name + below, file.read_bytes())
    except OSError as error:
        raise UserError(f"{path}: cannot be copied to {out.path}: {first_line(error)}") from None
    return f"{out.path}/{name}"


def _files_of_model(folder: Path) -> list[Path]:
    """Returns the files of a saved-model folder that workers need: all but the Keras weights."""
    network = (path for path in (folder / NETWORK).rglob("*") if path.is_file())
    return [folder / DESCRIPTION, *(path for path in network if not is_never_file(path.name))]


def run(plan: Plan) -> Summary:
    """Runs the job and waits for it.

    Raises:
        JobError: the job failed.
        KeyboardInterrupt: on Ctrl-C, or SIGTERM.
    """
    if plan.local:
        local.run_here(plan.beam_options, plan.workers)
    try:
        journalled = None if plan.local else JournalCounter(plan.out)
        result = run_pipeline(_graph(plan), job=plan.job, journalled=journalled)
    except JobError as error:
        raise JobError(f"{error}; {_so_far()}") from error
    stages = progress.stage_seconds(result)
    try:
        content = plan.out.read_json(SUMMARY)
    except OSError as error:
        raise JobError(
            f"{describe_error(error)}: the job is done, but its summary cannot be read; "
            f"{remedy(error)}, and run the same command again to continue"
        ) from error
    return Summary.from_json(plan.out.path, content, stages)


def _graph(plan: Plan) -> beam.Pipeline:
    pipeline = beam.Pipeline(options=plan.beam_options)
    pipeline | "Sources" >> beam.Create(plan.sources) | "SegmentArchive" >> SegmentArchive(plan)
    return pipeline


def _so_far() -> str:
    """Returns the progress of the run, and how to continue it."""
    counts = progress.COUNTS
    done = f"{counts.done} of {counts.listed} images are done; " if counts.listed else ""
    return f"{done}run the same command again to continue"


def report(summary: Summary, max_rejected: str | None = None) -> tuple[str, int, str]:
    """Reports a finished run.

    Args:
        max_rejected: see :func:`pipeline.outputs.summary.allowed_rejects`.

    Returns:
        The text to print, the exit status, and why it is not 0.
    """
    lines = [summary.table()]
    if 0 < summary.masks == summary.kept and not (summary.rejected or summary.added):
        lines.append("nothing to do: all masks are up to date")
    text = "\n".join([*lines, f"results: {visible(summary.output)}"])
    rejects = f"{summary.output}/rejected-*.jsonl"
    if not summary.masks:
        return text, 3, f"no image got a mask; see {rejects}"
    if summary.rejected > allowed_rejects(max_rejected, summary.images):
        return text, 3, f"more than {max_rejected} of the images were rejected; see {rejects}"
    return text, 0, ""
