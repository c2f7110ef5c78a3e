"""Forecasts of `bascule capacity` beside a real server under load: `python -m bench.capacity`.

Three models are packed, measured by the load test of the command, and loaded at shares of the most
requests that a worker takes. Requests arrive independently, whether answers come or not: a client
that waits for answers would hide the queue. A latency begins when its request was due.

The table says for which share of its ready time the server had to wait for a processor: where other
work shares the machine, latencies are those of both.
"""

from __future__ import annotations

import argparse
import asyncio
import math
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import psutil
from numpy.typing import NDArray
from sklearn.ensemble import GradientBoostingClassifier, RandomForestClassifier
from sklearn.neural_network import MLPClassifier

import bascule
from bascule.planning import Service, forecast, measure, request_body
from bascule_client.control import ControlClient

MODELS = {
    "forest": (RandomForestClassifier(400, random_state=0), 64),
    "boosting": (GradientBoostingClassifier(n_estimators=400, random_state=0), 256),
    "network": (MLPClassifier((512, 512), max_iter=3, random_state=0), 256),
}
"""Each with the rows of its requests."""
SHARES = (0.5, 0.95, 0.99)


def pack(name: str, folder: Path) -> bascule.Bundle:
    random = np.random.default_rng(0)
    rows = random.standard_normal((1_000, 8))
    model = MODELS[name][0].fit(rows, rows[:, 0] + rows[:, 1] > 0)
    return bascule.pack(model, name=name, train=rows, to=folder / name, explain=False)


async def load(url: str, body: bytes, name: str, rate_hz: float, seconds: float) -> list[float]:
    """Latencies in seconds of requests that arrive as a Poisson process; infinite if refused."""
    host, _, port = url.removeprefix("http://").partition(":")
    head = f"POST /v2/models/{name}/infer HTTP/1.1\r\nHost: {host}:{port}\r\n"
    head += f"Content-Length: {len(body)}\r\nContent-Type: application/json\r\n\r\n"
    request = head.encode() + body
    idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
    took_s: list[float] = []

    async def send(due_s: float) -> None:
        reader, writer = idle.pop() if idle else await asyncio.open_connection(host, int(port))
        writer.write(request)
        answer = await reader.readuntil(b"\r\n\r\n")
        length = answer.lower().partition(b"content-length: ")[2].partition(b"\r")[0]
        await reader.readexactly(int(length))
        is_answer = answer.startswith(b"HTTP/1.1 200")
        took_s.append(time.perf_counter() - due_s if is_answer else math.inf)
        idle.append((reader, writer))

    due_s = time.perf_counter()
    ends_s, random = due_s + seconds, np.random.default_rng()
    async with asyncio.TaskGroup() as group:
        while due_s < ends_s:
            due_s += random.exponential(1 / rate_hz)
            await asyncio.sleep(max(0.0, due_s - time.perf_counter()))
            group.create_task(send(due_s))
    for _, writer in idle:
        writer.close()
    return took_s


def waits_of(pid: int) -> NDArray[np.float64]:
    """Seconds on a processor, and of waiting for one, of all threads of a process so far."""
    tasks = Path(f"/proc/{pid}/task").glob("*/schedstat")
    spent_ns = [[int(word) for word in task.read_text().split()[:2]] for task in tasks]
    return np.asarray(np.sum(spent_ns, axis=0) / 1e9)


def rows_of(name: str, loads: list[float], seconds: float, runs: int) -> Iterator[str]:
    rows = MODELS[name][1]
    with TemporaryDirectory() as folder:
        bundle = pack(name, Path(folder))
        with bascule.serve(bundle, workers=1) as server:
            service = measure(server.url, server.control_url, bundle, rows)
            look = ControlClient(server.control_url).do("GET /api/v1/server/load")
            pid, body = look["workers"][0]["pid"], request_body(bundle, rows)
            for share in loads:
                yield from _lines(name, service, share, seconds, runs, server.url, pid, body)


def _lines(
    name: str, service: Service, share: float, seconds: float, runs: int, url: str, pid: int,
    body: bytes,
) -> Iterator[str]:  # fmt: skip
    batches_s = service.batches_s()
    rate_hz = share * float((np.arange(1, len(batches_s) + 1) / batches_s).max())
    expected = forecast(service, rate_hz, SHARES).latencies_s
    for _ in range(runs):
        before = waits_of(pid)
        took_s = asyncio.run(load(url, body, name, rate_hz, seconds))
        ran_s, waited_s = waits_of(pid) - before
        cells = []
        for quantile, measured in zip(SHARES, np.quantile(took_s, SHARES), strict=True):
            low, middle, high = (1e3 * value for value in expected[quantile])
            is_in = "in" if low <= 1e3 * measured <= high else "out"
            cells.append(f"{1e3 * measured:.2f} / {middle:.2f} ({low:.2f} to {high:.2f}, {is_in})")
        waits = waited_s / (ran_s + waited_s)
        yield f"| {name} | {share:.0%} | {rate_hz:.0f} | {' | '.join(cells)} | {waits:.0%} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", choices=MODELS, action="append")
    parser.add_argument("--load", type=float, action="append")
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--runs", type=int, default=1)
    asked = parser.parse_args()
    print(f"load average {psutil.getloadavg()[0]:.1f}; ms, measured / forecast (90 % interval)")
    print("| model | load | requests/s | p50 | p95 | p99 | waits for a processor |")
    print("|---|---|---|---|---|---|---|")
    for name in asked.model or MODELS:
        for line in rows_of(name, asked.load or [0.3, 0.6, 0.85], asked.seconds, asked.runs):
            print(line, flush=True)


if __name__ == "__main__":
    main()
