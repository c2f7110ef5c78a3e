"""Connections to SQLite that a test leaves open are an error on every Python.

Python 3.13 warns of them; earlier ones close them in silence when they are collected.
"""

from __future__ import annotations

import functools
import sqlite3
import sys
import warnings


class _Watched(sqlite3.Connection):
    def __del__(self) -> None:
        try:
            _ = self.total_changes
        except sqlite3.ProgrammingError:  # closed, or never opened
            return
        warnings.warn(f"unclosed database in {self!r}", ResourceWarning, source=self, stacklevel=1)


def watch_connections() -> None:
    """Have connections of this process warn as those of Python 3.13 do."""
    if sys.version_info >= (3, 13):
        return
    connect = functools.partial(sqlite3.connect, factory=_Watched)
    for module in (sqlite3, sys.modules["sqlite3.dbapi2"]):
        vars(module)["connect"] = connect
