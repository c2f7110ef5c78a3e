"""What a shared catalogue sees of its servers: `make bench-catalogue`, in about four minutes.

PostgreSQL is started here, empty. A registered model is served by one server with 1, 2, 4 and 8
workers, and by 1, 2 and 4 servers, without requests and with a steady load of one client. What is
counted is PostgreSQL's own: committed transactions and sessions of the database.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import numpy as np
import psycopg
from rich import box
from rich.console import Console
from rich.table import Table
from sklearn.linear_model import LogisticRegression
from tests.stores import postgresql

import bascule

WORKERS = (1, 2, 4, 8)
SERVERS = (2, 4)
MODEL = "late"


@dataclass(frozen=True, slots=True)
class Seen:
    """What the database counted in a second, and how many requests were answered meanwhile."""

    servers: int
    workers: int
    requests_per_s: float
    transactions_per_s: float
    sessions_per_s: float
    tuples_per_s: float


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=20.0, help="of each measurement")
    parser.add_argument("--workers", type=int, nargs="*", default=WORKERS)
    parser.add_argument("--servers", type=int, nargs="*", default=SERVERS)
    asked = parser.parse_args(arguments)
    console = Console()
    with postgresql() as database, tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        environ = {
            **os.environ, "BASCULE_HOME": str(home / "home"),
            "BASCULE_REGISTRY__STORE": database.url, "BASCULE_MONITORING__LEDGER": "off",
        }  # fmt: skip
        _push(home, environ)
        plans = [(1, workers) for workers in asked.workers]
        plans += [(servers, 1) for servers in asked.servers]
        found = []
        for servers, workers in plans:
            for has_load in (False, True):
                one = _measure(database.url, environ, servers, workers, asked.seconds, has_load)
                console.print(one)
                found.append(one)
    _print(console, found)
    return 0


def _push(home: Path, environ: dict[str, str]) -> None:
    random = np.random.default_rng(0)
    rows = random.normal(size=(200, 4))
    fitted = LogisticRegression().fit(rows, rows[:, 0] > 0)
    bundle = bascule.pack(fitted, name=MODEL, train=rows, to=home / MODEL, measure=False)
    command = [sys.executable, "-m", "bascule.cli", "push", str(bundle.path)]
    subprocess.run(command, env=environ, check=True, capture_output=True)


def _measure(
    url: str, environ: dict[str, str], servers: int, workers: int, seconds: float, has_load: bool
) -> Seen:
    with ExitStack() as stack:
        addresses = [stack.enter_context(_server(environ, workers)) for _ in range(servers)]
        time.sleep(3.0)  # the first looks are over
        asked = stack.enter_context(_asking(addresses)) if has_load else [0]
        before, start_s, first = _counts(url), time.monotonic(), asked[0]
        time.sleep(seconds)
        after, passed_s = _counts(url), time.monotonic() - start_s
        transactions, sessions, tuples = (
            (late - early) / passed_s for early, late in zip(before, after, strict=True)
        )
        return Seen(servers, workers, (asked[0] - first) / passed_s, transactions, sessions, tuples)


@contextmanager
def _server(environ: dict[str, str], workers: int) -> Iterator[str]:
    command = [
        sys.executable, "-m", "bascule.cli", "serve", MODEL, f"--workers={workers}", "--port=0",
        "--control-port=0", "--json",
    ]  # fmt: skip
    process = subprocess.Popen(
        command, env=environ, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    try:
        assert process.stdout is not None
        text = ""
        for line in process.stdout:
            text += line
            if line == "}\n":
                break
        yield str(json.loads(text)["serving"][0]["infer"])
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()


@contextmanager
def _asking(addresses: Sequence[str]) -> Iterator[list[int]]:
    """One client asks the servers in turn; the list holds how many answers there are so far."""
    asked, stopped = [0], threading.Event()
    inputs = [{"name": "input", "datatype": "FP64", "shape": [1, 4], "data": [0.1, 0.2, 0.3, 0.4]}]

    def ask() -> None:
        with httpx.Client() as client:
            while not stopped.is_set():
                address = addresses[asked[0] % len(addresses)]
                client.post(address, json={"inputs": inputs}).raise_for_status()
                asked[0] += 1

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield asked
    finally:
        stopped.set()
        thread.join()


def _counts(url: str) -> tuple[int, int, int]:
    """Transactions, sessions and rows read so far, without those that ask for them."""
    query = (
        "SELECT xact_commit + xact_rollback, sessions, tup_returned FROM pg_stat_database "
        "WHERE datname = current_database()"
    )
    other = url.rsplit("/", 1)[0] + "/template1"  # asking is counted for another database
    with psycopg.connect(other) as connection:
        found = connection.execute(query.replace("current_database()", "'postgres'")).fetchone()
    assert found is not None
    return int(found[0]), int(found[1]), int(found[2])


def _print(console: Console, found: Sequence[Seen]) -> None:
    table = Table(box=box.MARKDOWN)
    headings = ("servers", "workers each", "requests/s", "transactions/s", "sessions/s")
    for heading in headings:
        table.add_column(heading, justify="right")
    for one in found:
        table.add_row(
            str(one.servers), str(one.workers), f"{one.requests_per_s:,.0f}",
            f"{one.transactions_per_s:.1f}", f"{one.sessions_per_s:.1f}",
        )  # fmt: skip
    console.print(table)


if __name__ == "__main__":
    sys.exit(main())
