"""``history.csv``: one row of losses and scores an epoch."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

FILE = "history.csv"
BEST_BY = "val_miou"  # the column that decides which epoch is the best


def read_history(output: Path) -> list[dict[str, Any]]:
    """Reads the rows of ``history.csv``: column names → text; none if there is no file."""
    try:
        with open(output / FILE, newline="", encoding="utf-8") as file:
            return list(csv.DictReader(file))
    except FileNotFoundError:
        return []


def best_epoch(rows: Iterable[Mapping[str, Any]]) -> int:
    """Returns the first of the epochs with the highest validation mIoU; 0 if there is none."""
    scored = [(number(row, BEST_BY), -int(row["epoch"])) for row in rows]
    return -max((one for one in scored if not math.isnan(one[0])), default=(0.0, 0))[1]


def number(row: Mapping[str, Any], column: str) -> float:
    """Returns a value of a row; NaN if it is missing or empty."""
    value = row.get(column)
    return math.nan if value in (None, "") else float(value)
