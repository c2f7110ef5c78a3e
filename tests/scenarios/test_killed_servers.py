"""What a server leaves when it is killed with no warning, and what the next one finds."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import psutil
from tests.conftest import start_server

SHARED = Path("/dev/shm" if os.access("/dev/shm", os.W_OK) else "/tmp")


def test_a_server_that_is_killed_leaves_no_files_but_the_socket(cancer_bundle, tmp_path):
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    env = {
        "TMPDIR": str(temporary),
        "BASCULE_HOME": str(tmp_path / "home"),
        "BASCULE_SECURITY__CALLERS": "keys",
        "BASCULE_SERVING__UNIX_SOCKET": str(tmp_path / "socket"),
    }
    before = set(SHARED.glob("bascule-*"))
    server = start_server(cancer_bundle, env=env)
    everything = psutil.Process(server.process.pid).children(recursive=True)
    server.end(signal.SIGKILL)
    server.process.stdout.close()
    psutil.wait_procs(everything, 10)
    assert not list(temporary.glob("bascule-*"))
    assert set(SHARED.glob("bascule-*")) <= before

    server = start_server(cancer_bundle, env=env)  # at the same socket
    server.end()
    server.process.stdout.close()
    assert not list(temporary.glob("bascule-*"))
    assert set(SHARED.glob("bascule-*")) <= before
    assert not (tmp_path / "socket").exists()
