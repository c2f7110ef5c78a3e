from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bascule.core.digests import sha256_bytes
from bascule.core.errors import Unavailable, Untrusted
from bascule.registry.stores.files import Files

MANIFEST = b"{}"
DIGEST = sha256_bytes(MANIFEST)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "source"
    folder.mkdir()
    (folder / "bundle.json").write_bytes(MANIFEST)
    return folder


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "objects"


def put(root: Path, source: Path) -> None:
    Files(root).put(DIGEST, source, {"bundle.json": DIGEST})


def abandoned(root: Path, *, pid: int, host: str, age_s: float = 0) -> Path:
    folder = root / f".partial-{pid}-0123abcd-{host}"
    folder.mkdir(parents=True)
    (folder / "half").write_text("half")
    then = time.time() - age_s
    os.utime(folder, (then, then))
    return folder


def a_dead_pid() -> int:
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    return process.pid


def test_what_a_dead_writer_left_is_removed_by_the_next(root, source):
    left = abandoned(root, pid=a_dead_pid(), host=socket.gethostname())

    put(root, source)

    assert not left.exists()


@pytest.mark.parametrize(("age_s", "stays"), [(3_500, True), (3_700, False)])
def test_what_a_writer_elsewhere_left_is_removed_after_an_hour(root, source, age_s, stays):
    """Whether a process runs on another machine cannot be seen from here."""
    left = abandoned(root, pid=a_dead_pid(), host="elsewhere", age_s=age_s)

    put(root, source)

    assert left.exists() == stays


def test_what_a_running_writer_is_at_stays(root, source):
    left = abandoned(root, pid=os.getppid(), host=socket.gethostname())

    put(root, source)

    assert left.exists()


@pytest.mark.parametrize("name", ["../out", "/etc/passwd", "a/../../out", "", "a\\..\\b"])
def test_a_name_that_leads_out_of_the_bundle_is_refused(root, source, name):
    with pytest.raises(Untrusted, match="leads out of the bundle"):
        Files(root).put(DIGEST, source, {name: None})
    assert list(root.iterdir()) == []


def test_a_link_in_the_place_of_a_file_is_not_followed(root, source, tmp_path):
    (tmp_path / "secret").write_text("secret")
    (source / "card.md").symlink_to(tmp_path / "secret")

    with pytest.raises(Unavailable):
        Files(root).put(DIGEST, source, {"bundle.json": DIGEST, "card.md": None})
    assert list(root.iterdir()) == []


def test_bytes_that_change_between_the_look_and_the_copy_are_refused(root, source):
    (source / "bundle.json").write_bytes(b"[]")

    with pytest.raises(Untrusted, match=r"bundle\.json was altered"):
        put(root, source)
    assert list(root.iterdir()) == []


def test_a_place_that_cannot_be_written_is_named(source, tmp_path):
    (tmp_path / "file").write_text("")

    with pytest.raises(Unavailable, match="cannot write to"):
        put(tmp_path / "file" / "objects", source)
