"""The commands ``fcn-beam data …``; heavy imports happen when one runs."""

from __future__ import annotations

import shlex

import click

from model_build.cli import local_folder
from model_build.common.console import complain, say, visible
from model_build.common.errors import SuggestingGroup


@click.group(cls=SuggestingGroup)
def data() -> None:
    """Download and check training data."""


@data.command()
@click.argument("dest", callback=local_folder)
def voc2012(dest: str) -> int:
    """Download PASCAL VOC 2012 (2 GB).

    It is unpacked into the folder DEST. Run the same command again to continue where it stopped.
    """
    from model_build.data import download

    try:
        folder = download.download_and_unpack(download.VOC2012, dest, say=say)
    except KeyboardInterrupt:
        return complain("interrupted; run the same command again to continue", 130)
    say(f"next: fcn-beam train {shlex.quote(str(folder))} --output model")
    return 0


@data.command()
@click.argument("folder", metavar="DIR", callback=local_folder)
@click.option(
    "--split", "splits", multiple=True, metavar="NAME", help="Check only this split; repeatable."
)
def check(folder: str, splits: tuple[str, ...]) -> int:
    """Check every photo and mask of DIR, and count classes.

    DIR is in PASCAL VOC layout or has the subfolders images and masks. The exit status is 1 if
    anything is wrong.
    """
    from model_build.common.progress_bar import progress_bar
    from model_build.data.layouts import DataFolder
    from model_build.data.survey import report, survey

    with progress_bar("check") as advance:
        found = survey(DataFolder(folder), splits, advance)
    for line in report(found):
        say(visible(line))
    return 1 if found.errors else 0
