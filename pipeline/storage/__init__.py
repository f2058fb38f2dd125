"""Any disk or store: list, stat, read, write whole, create, delete.

Only this room uses fsspec, and only it opens files of INPUT, OUT, DATA or a remote model.
"""

from pipeline.storage.faults import (
    affects_all_files,
    as_job_error,
    as_user_error,
    describe_error,
    is_name_error,
    on_temporary_disk,
    remedy,
    temporary_folder,
)
from pipeline.storage.files import Files
from pipeline.storage.listed import File, Link, Part, Unlisted
from pipeline.storage.names import (
    absolute,
    escape_folders,
    folder_of,
    glob_folder,
    is_remote,
    join,
    pattern_of,
    printable,
    scheme_of,
    unescape_folders,
)
from pipeline.storage.stores.gs import google_token
from pipeline.storage.stores.table import is_read_only, parse_options, secrets

__all__ = [
    "File",
    "Files",
    "Link",
    "Part",
    "Unlisted",
    "absolute",
    "affects_all_files",
    "as_job_error",
    "as_user_error",
    "describe_error",
    "escape_folders",
    "folder_of",
    "glob_folder",
    "google_token",
    "is_name_error",
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
    "unescape_folders",
]
