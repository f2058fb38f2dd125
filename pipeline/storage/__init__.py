"""Any disk or store: list, stat, read, write whole, create, delete.

The only user of fsspec, and the only room that opens a file of INPUT, OUT, DATA or a remote model.
"""

from pipeline.storage.faults import (
    ends_the_job,
    is_everybodys,
    is_names,
    on_temporary_disk,
    remedy,
    temporary_folder,
    told,
    users_fault,
)
from pipeline.storage.files import Files, glob_folder
from pipeline.storage.listed import File, Link, Part, Unlisted
from pipeline.storage.names import (
    absolute,
    escape_folders,
    folder_of,
    is_read_only,
    is_remote,
    join,
    pattern_of,
    printable,
    scheme_of,
    unescape_folders,
)
from pipeline.storage.stores import google_token, parse_options, secrets

__all__ = [
    "File",
    "Files",
    "Link",
    "Part",
    "Unlisted",
    "absolute",
    "ends_the_job",
    "escape_folders",
    "folder_of",
    "glob_folder",
    "google_token",
    "is_everybodys",
    "is_names",
    "is_read_only",
    "is_remote",
    "join",
    "on_temporary_disk",
    "parse_options",
    "pattern_of",
    "printable",
    "remedy",
    "scheme_of",
    "secrets",
    "temporary_folder",
    "told",
    "unescape_folders",
    "users_fault",
]
