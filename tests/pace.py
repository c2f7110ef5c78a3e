"""How fast this machine is at this moment: promises of time are about a quiet machine.

The processors of some machines run at half their speed for hours, and others share them. A bar is
multiplied by how much longer the same kind of work takes than on the machine it was promised for;
never by less than one.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

from tests.waiting import until

LOOP_US = 20.0
"""What `loop` takes on the machine that the promises are about."""
START_S = 0.2
"""What the start of a process that imports NumPy and ONNX Runtime takes there."""


def loop() -> int:
    total = 0
    for number in range(1_000):
        total += number
    return total


def loop_us() -> float:
    """What `loop` takes now, in microseconds."""
    started_ns = time.perf_counter_ns()
    loop()
    return (time.perf_counter_ns() - started_ns) / 1e3


def slowness_of_starts() -> float:
    """How many times as long as promised a process takes to start, beside what runs now.

    The quicker of two. To be asked while the load of a test runs: it slows the starts of both.
    """
    took_s = []
    for _ in range(2):
        started_s = time.perf_counter()
        subprocess.run([sys.executable, "-c", "import numpy, onnxruntime"], check=True)
        took_s.append(time.perf_counter() - started_s)
    return max(1.0, min(took_s) / START_S)


def is_within(took_s: float, promised_s: float) -> bool:
    """Whether something took no longer than is promised, as it would on a quiet machine."""
    return took_s <= promised_s or took_s <= promised_s * slowness_of_starts()


def until_soon(condition: Callable[[], Any], promised_s: float) -> Any:
    """What the condition gives once that is true, which is promised to be so soon."""
    began_s = time.monotonic()
    met = until(condition)
    took_s = time.monotonic() - began_s
    assert is_within(took_s, promised_s), f"it took {took_s:.2f} s"
    return met
