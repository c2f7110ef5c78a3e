"""`bascule-edge measure`: what an archive takes on this machine, from a file or standard input."""

from __future__ import annotations

import subprocess
import sys

import msgspec
import pytest

from bascule.edge import Timing, pack

COMMAND = (sys.executable, "-m", "bascule.edge", "measure")


@pytest.fixture(scope="module")
def archive(versions, tmp_path_factory):
    return pack(versions[0], tmp_path_factory.mktemp("archive") / "late.tar").path


@pytest.mark.parametrize("is_piped", [True, False])
def test_single_rows_are_timed_from_a_file_or_standard_input(archive, is_piped):
    content = archive.read_bytes() if is_piped else None
    command = [*COMMAND, "-" if is_piped else archive]
    done = subprocess.run(command, input=content, capture_output=True, check=True, timeout=60)
    timing = msgspec.json.decode(done.stdout, type=Timing)
    assert 20 <= timing.n <= 1_000
    assert 0 < timing.p50_ms <= timing.p95_ms <= timing.p99_ms
    assert 20 < timing.memory_mb < 200


@pytest.mark.parametrize("cut", [1_000, 5_000])
def test_half_an_archive_is_an_error_with_its_next_step(archive, cut):
    half = archive.read_bytes()[:cut]
    done = subprocess.run([*COMMAND, "-"], input=half, capture_output=True, timeout=60)
    assert done.returncode == 1
    assert done.stdout == b""
    assert b"error: corrupted" in done.stderr
    assert b"hint: " in done.stderr
