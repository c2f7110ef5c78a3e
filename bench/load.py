"""Load from wrk: a fixed number of connections, each asking again as soon as it is answered.

Every answer is checked while it is counted: its status, and that it carries the numbers that were
verified beforehand. An answer that fails either is an error, and so is a connection that breaks.
"""

from __future__ import annotations

import json
import math
import subprocess
from dataclasses import dataclass
from pathlib import Path

from bench.pinning import on_core
from bench.requests import Request

CONNECTIONS = 16
_MARK = "BENCH "
_SLACK_S = 20
_SCRIPT = """\
local threads = {}
function setup(thread) table.insert(threads, thread) end

function init(args)
  wrk.method = "POST"
  for line in io.lines(args[3]) do
    local name, value = string.match(line, "^([^:]+): (.*)$")
    wrk.headers[name] = value
  end
  local file = assert(io.open(args[1], "rb"))
  wrk.body = file:read("*a")
  file:close()
  file = assert(io.open(args[2], "rb"))
  expected = file:read("*a")
  file:close()
  bad_status, bad_body = 0, 0
  prepared = wrk.format()
end

function request() return prepared end

function response(status, headers, body)
  if status ~= 200 then
    bad_status = bad_status + 1
  elseif not string.find(body, expected, 1, true) then
    bad_body = bad_body + 1
  end
end

function done(summary, latency, requests)
  local status, body = 0, 0
  for _, thread in ipairs(threads) do
    status = status + thread:get("bad_status")
    body = body + thread:get("bad_body")
  end
  local e = summary.errors
  io.write(string.format(
    'BENCH {"requests":%d,"duration_us":%d,"p50_us":%.1f,"p99_us":%.1f,' ..
    '"bad_status":%d,"bad_body":%d,"broken":%d}\\n',
    summary.requests, summary.duration, latency:percentile(50), latency:percentile(99),
    status, body, e.connect + e.read + e.write + e.timeout))
end
"""


@dataclass(frozen=True, slots=True)
class Load:
    """What the clients saw."""

    requests: int
    seconds: float
    p50_ms: float
    p99_ms: float
    errors: int

    @property
    def rps(self) -> float:
        return self.requests / self.seconds


def parse(output: str) -> Load:
    """Read the line that the script prints at the end of a run.

    Raises:
        ValueError: There is none; the tool failed before it finished.
    """
    for line in output.splitlines():
        if line.startswith(_MARK):
            found = json.loads(line.removeprefix(_MARK))
            return Load(
                requests=found["requests"],
                seconds=found["duration_us"] / 1e6,
                p50_ms=found["p50_us"] / 1e3,
                p99_ms=found["p99_us"] / 1e3,
                errors=found["bad_status"] + found["bad_body"] + found["broken"],
            )
    raise ValueError(f"wrk printed no result: {output.strip()[-500:]!r}")


def run(
    url: str, request: Request, expected: bytes, seconds: float, *, folder: Path, core: int
) -> Load:
    """Ask `url` for `seconds`; `expected` must stand in every answer's body."""
    names = ("load.lua", "asked.body", "expected.part", "asked.headers")
    script, asked, wanted, heads = (folder / name for name in names)
    script.write_text(_SCRIPT)
    heads.write_text("".join(f"{name}: {value}\n" for name, value in request.headers.items()))
    asked.write_bytes(request.body)
    wanted.write_bytes(expected)
    command = ["wrk", "-t1", f"-c{CONNECTIONS}", f"-d{math.ceil(seconds)}s", "--timeout", "10s"]
    command += ["-s", str(script), url, "--", str(asked), str(wanted), str(heads)]
    done = subprocess.run(
        on_core(core, command), capture_output=True, text=True, timeout=seconds + _SLACK_S
    )
    return parse(done.stdout + done.stderr)
