"""Folders that cannot be written, also by the user whom no permission binds."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

_HEADER = (ctypes.c_uint32 * 2)(0x20080522, 0)  # capabilities(7): the third form; this thread
_DAC_OVERRIDE = 1 << 1


@pytest.fixture
def may_only_read():
    """`with may_only_read(FOLDER):` nothing in it can be written, even by root."""
    return _may_only_read


@contextmanager
def _may_only_read(folder: Path) -> Iterator[None]:
    places = [folder, *(path for path in folder.rglob("*") if not path.is_symlink())]
    before = [(place, place.stat().st_mode) for place in places]
    for place, mode in before:
        place.chmod(mode & ~0o222)
    try:
        with _bound_by_permissions():
            yield
    finally:
        for place, mode in before:
            place.chmod(mode)


@contextmanager
def _bound_by_permissions() -> Iterator[None]:
    """Take the right to pass over permissions from this thread, if it has it."""
    if sys.platform != "linux" or os.geteuid() != 0:
        yield
        return
    libc = ctypes.CDLL(None, use_errno=True)
    sets = (ctypes.c_uint32 * 6)()  # effective, permitted, inheritable; twice
    assert libc.capget(_HEADER, sets) == 0
    before = sets[0]
    sets[0] &= ~_DAC_OVERRIDE
    assert libc.capset(_HEADER, sets) == 0
    try:
        yield
    finally:
        sets[0] = before
        assert libc.capset(_HEADER, sets) == 0
