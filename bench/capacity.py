"""Forecasts of `bascule capacity` beside a real server under load: `python -m bench.capacity`.

Three models are packed, measured by the load test of the command, and loaded at shares of the most
requests that a worker takes. Requests arrive independently, whether answers come or not: a client
that waits for answers would hide the queue. A latency begins when its request was due. A run has as
many requests as a run of the forecast.

A row compares the median of the runs with the forecast. Its bar: within 20 % where the load is at
most 60 %, but for p99; there, and at a higher load, the 90 % interval holds 8 of 10 runs and is 3
times wide at most. Replicas: of 4 that are planned, one more keeps the limit of p99, and two fewer
do not. `--runs 10` takes some ten minutes of a machine that does nothing else: the last column says
for which share of its ready time the server waited for a processor.
"""

from __future__ import annotations

import argparse
import asyncio
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import psutil
from numpy.typing import NDArray
from sklearn.ensemble import GradientBoostingClassifier, RandomForestClassifier
from sklearn.neural_network import MLPClassifier

import bascule
from bascule.planning import Service, capacity_hz, forecast, measure, request_body
from bascule_client.control import ControlClient

Measured = Callable[[float], NDArray[np.float64]]
"""Latencies at a rate, in seconds, of `SHARES`."""
MODELS = {
    "forest": (RandomForestClassifier(400, random_state=0), 64),
    "boosting": (GradientBoostingClassifier(n_estimators=400, random_state=0), 256),
    "network": (MLPClassifier((512, 512), max_iter=3, random_state=0), 64),
}
"""Each with the rows of its requests."""
SHARES = (0.5, 0.95, 0.99)
REQUESTS, WARM_REQUESTS = 2_500, 500
NEAR, HELD, WIDE = 0.2, 0.8, 3.0
PLANNED, LIMIT = 4, 6.0
"""Pods, and the limit of p99 as a multiple of the time of a request alone."""


def pack(name: str, folder: Path) -> bascule.Bundle:
    random = np.random.default_rng(0)
    rows = random.standard_normal((1_000, 8))
    model = MODELS[name][0].fit(rows, rows[:, 0] + rows[:, 1] > 0)
    return bascule.pack(model, name=name, train=rows, to=folder / name, explain=False)


async def load(url: str, body: bytes, name: str, rate_hz: float) -> list[float]:
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
    random = np.random.default_rng()
    async with asyncio.TaskGroup() as group:
        for _ in range(REQUESTS):
            due_s += random.exponential(1 / rate_hz)
            # A sleep ends up to a millisecond late, which would be counted: the last ones are spun.
            while (left_s := due_s - time.perf_counter()) > 0:
                await asyncio.sleep(max(0.0, left_s - 0.002))
            group.create_task(send(due_s))
    for _, writer in idle:
        writer.close()
    return took_s[WARM_REQUESTS:]


def waits_of(pid: int) -> NDArray[np.float64]:
    """Seconds on a processor, and of waiting for one, of all threads of a process so far."""
    tasks = Path(f"/proc/{pid}/task").glob("*/schedstat")
    spent_ns = [[int(word) for word in task.read_text().split()[:2]] for task in tasks]
    return np.asarray(np.sum(spent_ns, axis=0) / 1e9)


def rows_of(name: str, loads: list[float], runs: int) -> Iterator[str]:
    rows = MODELS[name][1]
    with TemporaryDirectory() as folder:
        bundle = pack(name, Path(folder))
        with bascule.serve(bundle, workers=1) as server:
            look = ControlClient(server.control_url).do("GET /api/v1/server/load")
            pid, body = look["workers"][0]["pid"], request_body(bundle, rows)
            service = measure(server.url, server.control_url, bundle, rows)

            def measured(rate_hz: float) -> NDArray[np.float64]:
                took_s = asyncio.run(load(server.url, body, name, rate_hz))
                return np.quantile(took_s, SHARES, method="inverted_cdf")  # some are infinite

            for share in loads:
                yield from _lines(name, service, share, runs, measured, pid)
            yield _replicas(name, service, measured)


def _lines(
    name: str, service: Service, share: float, runs: int, measured: Measured, pid: int
) -> Iterator[str]:
    batches_s = service.batches_s()
    rate_hz = share * float((np.arange(1, len(batches_s) + 1) / batches_s).max())
    expected = forecast(service, rate_hz, SHARES).latencies_s
    before = waits_of(pid)
    by_run = np.array([measured(rate_hz) for _ in range(runs)])
    ran_s, waited_s = waits_of(pid) - before
    for quantile, took_s in zip(SHARES, by_run.T, strict=True):
        low, middle, high = expected[quantile]
        median = float(np.median(took_s))
        off, wide = abs(middle / median - 1), high / low
        held = float(np.mean((low <= took_s) & (took_s <= high)))
        is_near = share <= 0.6 and quantile < 0.99
        is_met = off <= NEAR if is_near else held >= HELD and wide <= WIDE
        yield (
            f"| {name} | {share:.0%}, {rate_hz:.0f}/s | p{100 * quantile:g} | {1e3 * median:.2f} | "
            f"{1e3 * middle:.2f} ({1e3 * low:.2f} to {1e3 * high:.2f}) | {off:.0%} | {held:.0%} | "
            f"{wide:.1f} x | {_verdict(is_met)} | {waited_s / (ran_s + waited_s):.0%} |"
        )


def _replicas(name: str, service: Service, measured: Measured) -> str:
    limit_s = LIMIT * float(service.batches_s()[0]) + service.outside_s
    rate_hz = PLANNED * capacity_hz(service, {0.99: limit_s})
    if not rate_hz:
        return f"| {name} | no rate | p99 <= {1e3 * limit_s:.2f} | | | | | | {_verdict(False)} | |"
    more_s, fewer_s = (float(measured(rate_hz / pods)[2]) for pods in (PLANNED + 1, PLANNED - 2))
    return (
        f"| {name} | {PLANNED} pods, {rate_hz:.0f}/s | p99 <= {1e3 * limit_s:.2f} | "
        f"{1e3 * more_s:.2f} by {PLANNED + 1}, {1e3 * fewer_s:.2f} by {PLANNED - 2} | | | | | "
        f"{_verdict(more_s <= limit_s < fewer_s)} | |"
    )


def _verdict(is_met: bool) -> str:
    return "met" if is_met else "NOT MET"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", choices=MODELS, action="append")
    parser.add_argument("--load", type=float, action="append")
    parser.add_argument("--runs", type=int, default=1)
    asked = parser.parse_args()
    print(f"load average {psutil.getloadavg()[0]:.1f}; ms; forecasts with their 90 % interval\n")
    heads = "model", "load", "latency", "measured", "forecast", "off by", "runs in it", "width"
    print(f"| {' | '.join((*heads, 'bar', 'waits'))} |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    for name in asked.model or MODELS:
        for line in rows_of(name, asked.load or [0.3, 0.6, 0.85], asked.runs):
            print(line, flush=True)


if __name__ == "__main__":
    main()
