"""An event that the handler of a signal sets, beside threads that wait for it."""

from __future__ import annotations

import select
import subprocess
import sys

ROUNDS = 20_000  # `threading.Event` waits for ever after some 2,000
WAITING = f"""
import os, signal
from bascule.core import SignalEvent
for _ in range({ROUNDS}):
    event = SignalEvent()
    signal.signal(signal.SIGUSR1, lambda *_: event.set())
    os.write(1, b"x")
    assert event.wait(30) and event.is_set()
"""


def test_a_signal_at_any_moment_of_a_wait_ends_it():
    with subprocess.Popen([sys.executable, "-c", WAITING], stdout=subprocess.PIPE) as process:
        rounds = 0
        while select.select([process.stdout], [], [], 20)[0] and process.stdout.read1(1):
            rounds += 1
            process.send_signal(10)
        process.kill()
    assert rounds == ROUNDS
