"""What a bundle takes on this machine, opened as the agent opens it: `bascule-edge measure`."""

from __future__ import annotations

import itertools
import os
import shutil
import sys
import time
from pathlib import Path
from typing import Annotated

import msgspec
import numpy as np

from bascule.bundle import read_manifest, take
from bascule.bundle.disk import EXAMPLE, columns_of, read_file
from bascule.core import Columns, NotFound, Program, Scratch
from bascule.edge.channels import Offer
from bascule.edge.deltas import unpack
from bascule.edge.device import Opened

_RUNS, _FEWEST_RUNS, _WARM_UP_RUNS = 1_000, 20, 10
_LONG_ENOUGH_S = 5.0


class Timing(msgspec.Struct, frozen=True):
    """Of runs with one row, as the criteria `latency_p50` and `latency_p99` mean them.

    Attributes:
        p50_ms: Median. Requests are read and answers written in addition to it.
        p95_ms: That 95 % of the runs do not exceed.
        p99_ms: That 99 % of the runs do not exceed.
        memory_mb: Resident in the process, in 10^6 bytes, with all that it needs to answer.
        n: How many runs were timed.
    """

    p50_ms: Annotated[float, msgspec.Meta(gt=0)]
    p95_ms: float
    p99_ms: float
    memory_mb: float
    n: int


def measure(archive: str) -> Timing:
    """Time the program that serves, on the rows of the bundle's example in turn.

    Args:
        archive: The file that `deltas.pack` writes; `-` for standard input.

    Raises:
        NotFound: There is no such file.
        Untrusted: It is damaged.
    """
    with Scratch("bascule-measure-") as folder:
        file = Path(archive)
        if archive == "-":
            file = folder / "bundle.tar"
            with file.open("wb") as copy:
                shutil.copyfileobj(sys.stdin.buffer, copy)
        elif not file.is_file():
            raise NotFound(f"there is no file {archive}", hint="give the archive of a bundle, or -")
        bundle = folder / "bundle"
        bundle.mkdir()
        unpack(file, bundle)
        manifest = read_manifest(bundle)
        program = Opened(Offer(f"{manifest.name}/0", manifest.digest), bundle).program
        example = columns_of(read_file(bundle, manifest, EXAMPLE), program.inputs)
        times_ms = _time_rows(program, example)
        p50_ms, p95_ms, p99_ms = np.percentile(times_ms, (50, 95, 99), method="higher").tolist()
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        memory_mb = pages * os.sysconf("SC_PAGE_SIZE") / 1e6
        return Timing(p50_ms, p95_ms, p99_ms, memory_mb, len(times_ms))


def _time_rows(program: Program, example: Columns) -> list[float]:
    """Milliseconds of each run, on one row after the other."""
    count = len(next(iter(example.values())))
    rows = itertools.cycle([take(example, slice(at, at + 1)) for at in range(count)])
    times_ms = list[float]()
    began_s = time.perf_counter()
    while len(times_ms) < _WARM_UP_RUNS + _RUNS:
        row, start_ns = next(rows), time.perf_counter_ns()
        program.run(row)
        times_ms.append((time.perf_counter_ns() - start_ns) / 1e6)
        has_enough = len(times_ms) >= _WARM_UP_RUNS + _FEWEST_RUNS
        if has_enough and time.perf_counter() - began_s > _LONG_ENOUGH_S:
            break
    return times_ms[_WARM_UP_RUNS:]
