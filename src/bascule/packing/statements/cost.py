"""Measures cost on this machine: time by batch size, and memory."""

from __future__ import annotations

import itertools
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from importlib import import_module
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bascule.bundle import for_program, recombined, take
from bascule.bundle.statements import BATCH_SIZES, cpu_name
from bascule.core import Columns, Program, Unavailable

_LONGEST_RUN_S = 1.0
"""Larger batches than this allows are not timed: the time grows with the rows from there on."""
_ROUNDS = 3
"""In how many turns each program is timed, at most."""
_NEAR = 0.1
"""How far apart, as a share, two turns may be for a third to be left out."""
_MAX_SAMPLES = 200
_MAX_VALUES = 1 << 25
"""How many values the rows that are timed may hold together: 256 MB of doubles."""
_MEMORY_TIMEOUT_S = 120.0

_MEMORY_PROBE = """
import sys, time
from pathlib import Path
import numpy as np
from bascule.bundle.disk import EXAMPLE, read_manifest
from bascule.bundle.opening import open_program
from bascule.bundle.disk.examples import columns_of
path = Path(sys.argv[1])
manifest = read_manifest(path, verify=False)
program = open_program(path, manifest, name=sys.argv[2])
columns = columns_of((path / EXAMPLE).read_bytes(), program.inputs)
have, size, took_s = len(next(iter(columns.values()))), 1, 0.0
while size <= 512 and took_s < 1.0:
    rows = np.arange(size) % have
    started = time.perf_counter()
    program.run({name: column[rows] for name, column in columns.items()})
    took_s, size = (time.perf_counter() - started) * 8, size * 8
# Not getrusage: its figure is handed down from the parent.
status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
peak = int(status["VmHWM"].split()[0])
if pid := program.pid:  # a model in a process of its own
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    peak += int(dict(line.split(":", 1) for line in lines)["VmHWM"].split()[0])
print(peak * 1024)
"""


def sample_latency(
    program: Program, columns: Columns, rows: int, *, budget_s: float = 0.1, at_least: int = 3
) -> NDArray[np.float64]:
    """Times in microseconds of single calls with `rows` rows, after a warm-up.

    At most 200 calls, and no more than fit into about `budget_s`; a call that takes longer than
    that is not repeated to warm up. Each call has
    other rows than the last where there are enough: a processor learns the way of rows that come
    again through a tree, and real ones do not.

    Args:
        program: What to time.
        columns: Real rows in the signature's dtypes, repeated as needed.
        rows: The batch size.
        budget_s: When to stop.
        at_least: The least number of calls, and of calls to warm up, beyond the budget if need be.
    """
    have = len(next(iter(columns.values())))
    different = min(max(1, have // rows), _MAX_SAMPLES)
    batches = [
        for_program(take(columns, _places(start * rows, rows, have)), program.inputs)
        for start in range(different)
    ]
    coming = itertools.cycle(batches)
    samples: list[float] = []
    started = time.perf_counter()
    for _ in range(at_least):
        took_us = _timed(program, next(coming))
        if took_us > budget_s * 1e6:
            samples.append(took_us)
            break
    if not samples:
        started = time.perf_counter()
    while len(samples) < _MAX_SAMPLES:
        if len(samples) >= at_least and time.perf_counter() - started > budget_s:
            break
        samples.append(_timed(program, next(coming)))
    return np.asarray(samples)


def _timed(program: Program, batch: Columns) -> float:
    before = time.perf_counter_ns()
    program.run(batch)
    return (time.perf_counter_ns() - before) / 1e3


def _places(start: int, rows: int, have: int) -> slice | NDArray[np.int64]:
    """`rows` places from `start` on, and from the beginning again after the last of `have`."""
    if start + rows <= have:
        return slice(start, start + rows)  # which copies nothing
    return np.arange(start, start + rows) % have


def rows_to_time(columns: Columns) -> Columns:
    """As many different rows as the largest batch has, made of the values of real ones.

    Fewer where they would not fit: then they are repeated.
    """
    values = sum(int(np.prod(column.shape[1:])) for column in columns.values())
    return recombined(columns, max(1, min(max(BATCH_SIZES), _MAX_VALUES // max(1, values))))


def measure_latency(
    programs: Mapping[str, Program],
    columns: Columns,
    *,
    budget_s: float = 0.06,
    step: Callable[[int, int], object] | None = None,
) -> dict[str, dict[int, float]]:
    """By program, by batch size: the median time of one call in microseconds, on one thread.

    The programs take turns, so that what else happens on the machine happens to all of them. Each
    one's sizes end with that whose next one would take more than a second a call.

    Args:
        programs: What to time, by what it is called.
        columns: Real rows in the signature's dtypes; see `rows_to_time`.
        budget_s: How long to time one program at one size.
        step: Called after each batch size with how many are done, of how many.
    """
    measured: dict[str, dict[int, float]] = {name: {} for name in programs}
    with _one_thread():
        for place, size in enumerate(BATCH_SIZES):
            if step is not None:
                step(place, len(BATCH_SIZES))
            asked = [name for name in programs if _is_quick(measured[name], size)]
            rounds: dict[str, list[NDArray[np.float64]]] = {name: [] for name in asked}
            for _ in range(_ROUNDS):
                for name in asked:
                    if _agree(rounds[name]):
                        continue
                    samples = sample_latency(
                        programs[name], columns, size, budget_s=budget_s / _ROUNDS, at_least=1
                    )
                    rounds[name].append(samples)
            for name in asked:
                measured[name][size] = round(float(np.median(np.concatenate(rounds[name]))), 3)
    return measured


def _agree(rounds: Sequence[NDArray[np.float64]]) -> bool:
    """Whether there are two rounds or more, and their medians lie close together."""
    medians = [float(np.median(samples)) for samples in rounds]
    return len(medians) > 1 and max(medians) - min(medians) <= _NEAR * min(medians)


def _is_quick(measured: Mapping[int, float], rows: int) -> bool:
    if not measured:
        return True
    largest = max(measured)
    return measured[largest] * rows / largest <= _LONGEST_RUN_S * 1e6


def measure_memory(path: Path, program: str) -> int:
    """The peak memory in bytes of a fresh process that loads a program and answers rows.

    Up to 512, each time eight times as many; no more once that would take longer than a second.

    Raises:
        Unavailable: The process could not be run, or failed.
    """
    try:
        done = subprocess.run(
            [sys.executable, "-c", _MEMORY_PROBE, str(path), program],
            capture_output=True,
            check=True,
            timeout=_MEMORY_TIMEOUT_S,
            env={**os.environ, "PYTHONWARNINGS": "ignore"},
        )
        return int(done.stdout)
    except (OSError, subprocess.SubprocessError, ValueError) as problem:
        raise Unavailable(
            f"the memory of a fresh process could not be measured: {problem}"
        ) from None


def machine() -> dict[str, str]:
    """What the measurements were made on."""
    import onnxruntime

    return {
        "cpu": cpu_name(),
        "cpus": str(os.cpu_count() or 0),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "onnxruntime": onnxruntime.__version__,
    }


@contextmanager
def _one_thread() -> Iterator[None]:
    """The threads of the frameworks are held to one, as the programs' are."""
    with ExitStack() as held:
        with suppress(ImportError):
            held.enter_context(import_module("threadpoolctl").threadpool_limits(1))
        if torch := sys.modules.get("torch"):
            held.callback(torch.set_num_threads, torch.get_num_threads())
            torch.set_num_threads(1)
        yield
