"""Files that somebody asked for: whole or not at all, and a place that refuses is named."""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from pathlib import Path

import pytest

from bascule.core.errors import Conflict, Invalid
from bascule.core.files import check_writable, replacing, writing


def test_a_file_is_there_whole_or_as_it_was(tmp_path):
    target = tmp_path / "told"
    with replacing(target) as draft:
        draft.write_text("first")
        assert not target.exists()
    assert target.read_text() == "first"

    with suppress(ValueError), replacing(target) as draft:
        draft.write_text("sec")
        raise ValueError
    assert target.read_text() == "first"
    assert list(tmp_path.iterdir()) == [target]


def test_the_reason_is_told_and_not_that_there_is_nothing_to_tidy_up(tmp_path):
    """The draft cannot be removed either, for the same reason."""
    (tmp_path / "file").touch()
    target = tmp_path / "file" / "told"
    with pytest.raises(Invalid) as refused, replacing(target) as draft:
        draft.write_text("never")
    assert str(refused.value) == f"{target} cannot be written: Not a directory"
    assert refused.value.hint == "choose a place that you may write to"


@pytest.mark.parametrize(
    ("number", "step"),
    [
        (errno.ENOSPC, "make room there, or choose another place"),
        (errno.EROFS, "copy it"),
        (errno.ENOENT, "make the folder first, or choose another place"),
    ],
)
def test_the_next_step_is_that_of_the_reason(number, step):
    with pytest.raises(Invalid) as refused, writing("the card", hint="copy it"):
        raise OSError(number, "a library's own words", "/tmp/.draft")
    assert str(refused.value) == f"the card cannot be written: {os.strerror(number)}"
    assert refused.value.hint == step


@pytest.mark.parametrize("place", [".", "/", ".."])
def test_a_path_that_names_no_file_is_no_target(place, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(Invalid, match="names no file"), replacing(Path(place)):
        pass


def test_what_is_no_regular_file_is_never_replaced(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    (tmp_path / "regular").write_text("kept")
    (tmp_path / "link").symlink_to("regular")
    before = {path: path.lstat().st_ino for path in tmp_path.iterdir()}

    for name in ("pipe", "folder", "link"):
        with pytest.raises(Conflict, match="is no regular file"), replacing(tmp_path / name):
            pass
    with pytest.raises(Conflict, match="pipe exists and is no regular file"):
        check_writable(tmp_path / "pipe")
    assert {path: path.lstat().st_ino for path in tmp_path.iterdir()} == before


def test_whether_a_place_can_be_written_is_known_beforehand_and_leaves_nothing(
    tmp_path, may_only_read
):
    check_writable(tmp_path / "told")
    assert not list(tmp_path.iterdir())
    with may_only_read(tmp_path), pytest.raises(Invalid, match="told cannot be written: Perm"):
        check_writable(tmp_path / "told")
