"""Lines of comma-separated values for spreadsheets."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable


def csv_line(cells: Iterable[object]) -> str:
    """One line, in which no spreadsheet takes a text for a formula (OWASP, CSV injection)."""
    line = io.StringIO()
    csv.writer(line, lineterminator="\r\n").writerow(map(_plain, cells))
    return line.getvalue()


def _plain(value: object) -> object:
    is_formula = isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r")
    return f"'{value}" if is_formula else value
