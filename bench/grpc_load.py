"""Load over gRPC from h2load: the same number of connections, one call under way on each.

h2load reads neither bodies nor trailers. But the requests carry an id, so that all answers to them
have one length, and it counts bytes: an error has no body, and another answer another length.
"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from statistics import median, quantiles

from bench.load import CONNECTIONS, Load
from bench.pinning import on_core

_TRIAL = 1_000
_SLACK_S = 60
_REQUESTS = re.compile(r"requests: .* (\d+) succeeded, (\d+) failed, (\d+) errored, (\d+) timeout")
_FINISHED = re.compile(r"finished in ([\d.]+)(us|ms|s),")
_DATA = re.compile(r"\((\d+)\) data$", re.MULTILINE)
_UNITS_S = {"us": 1e-6, "ms": 1e-3, "s": 1.0}


def parse(output: str, times: str, answer_bytes: int) -> Load:
    """Read what h2load printed, and its log of single requests.

    Raises:
        ValueError: A line is missing; the tool failed before it finished.
    """
    requests, finished, data = (pattern.search(output) for pattern in (_REQUESTS, _FINISHED, _DATA))
    if requests is None or finished is None or data is None:
        raise ValueError(f"h2load printed no result: {output.strip()[-500:]!r}")
    succeeded, *wrong = map(int, requests.groups())
    errors = sum(wrong)
    if int(data[1]) != succeeded * answer_bytes:
        errors += max(1, succeeded - int(data[1]) // answer_bytes)
    took_ms = [int(line.split("\t")[2]) / 1e3 for line in times.splitlines()]
    return Load(
        requests=succeeded,
        seconds=float(finished[1]) * _UNITS_S[finished[2]],
        p50_ms=median(took_ms),
        p99_ms=quantiles(took_ms, n=100)[98],
        errors=errors,
    )


def run(
    url: str, message: bytes, answer: bytes, seconds: float, *, folder: Path, core: int
) -> Load:
    """Call for about `seconds`, as many times as a short trial says; both are framed messages."""
    asked, log = folder / "asked.grpc", folder / "h2load.log"
    asked.write_bytes(message)

    def call(count: int) -> Load:
        log.unlink(missing_ok=True)
        command = ["h2load", "-n", str(count), "-c", str(CONNECTIONS), "-m", "1", "-d", str(asked)]
        command += ["-H", "content-type: application/grpc", "-H", "te: trailers"]
        command += [f"--log-file={log}", url]
        done = subprocess.run(
            on_core(core, command), capture_output=True, text=True, timeout=seconds + _SLACK_S
        )
        return parse(done.stdout + done.stderr, log.read_text(), len(answer))

    return call(max(_TRIAL, int(call(_TRIAL).rps * seconds)))
