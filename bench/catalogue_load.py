"""What a shared catalogue sees of its servers: `python -m bench.catalogue_load`, two minutes.

PostgreSQL is started here, empty. A registered model is served by one server with 1, 2, 4 and 8
workers, with a client that asks one request after the other, and by 2 servers. PostgreSQL itself
counts the statements, transactions and connections.
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
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psycopg
from sklearn.linear_model import LogisticRegression
from tests.stores import Postgresql, postgresql

import bascule

PLANS = ((1, 1, 0), (1, 2, 0), (1, 4, 0), (1, 8, 0), (1, 8, 1), (2, 1, 0))
"""Servers, the workers of each, and clients."""
WARM_S = 5.0
_COUNTS = """
SELECT (SELECT sum(calls) FROM pg_stat_statements s JOIN pg_database d ON d.oid = s.dbid
        WHERE d.datname = 'postgres'),
       (SELECT xact_commit + xact_rollback FROM pg_stat_database WHERE datname = 'postgres'),
       (SELECT count(*) FROM pg_stat_activity WHERE datname = 'postgres')
"""


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=15.0, help="of each measurement")
    seconds = parser.parse_args(arguments).seconds
    print("| servers | workers each | requests/s | statements/s | transactions/s | connections |")
    print("|---|---|---|---|---|---|")
    with postgresql() as database, tempfile.TemporaryDirectory() as folder:
        _count_statements(database)
        environ = {
            **os.environ, "BASCULE_HOME": f"{folder}/home",
            "BASCULE_REGISTRY__STORE": database.url, "BASCULE_MONITORING__LEDGER": "off",
        }  # fmt: skip
        rows = np.random.default_rng(0).normal(size=(200, 4))
        fitted = LogisticRegression().fit(rows, rows[:, 0] > 0)
        bundle = bascule.pack(
            fitted, name="late", train=rows, to=Path(folder, "late"), measure=False
        )
        push = [sys.executable, "-m", "bascule.cli", "push", str(bundle.path)]
        subprocess.run(push, env=environ, check=True, capture_output=True)
        for servers, workers, clients in PLANS:
            found = _measure(database.url, environ, servers, workers, seconds, clients > 0)
            print(f"| {servers} | {workers} | {' | '.join(found)} |", flush=True)
    return 0


def _count_statements(database: Postgresql) -> None:
    with psycopg.connect(database.url, autocommit=True) as connection:
        connection.execute("ALTER SYSTEM SET shared_preload_libraries = 'pg_stat_statements'")
    database.stop()
    database.start()
    with psycopg.connect(_other(database.url), autocommit=True) as connection:
        connection.execute("CREATE EXTENSION pg_stat_statements")


def _other(url: str) -> str:
    """A database of its own, so that asking is not counted."""
    return url.removesuffix("/postgres") + "/template1"


def _measure(
    url: str, environ: dict[str, str], servers: int, workers: int, seconds: float, has_load: bool
) -> list[str]:
    with ExitStack() as stack:
        addresses = [stack.enter_context(_server(environ, workers)) for _ in range(servers)]
        asked = stack.enter_context(_asking(addresses)) if has_load else [0]
        give_up_at = time.monotonic() + 60
        while _counts(url)[2] < servers and time.monotonic() < give_up_at:
            time.sleep(0.1)  # until every control process has begun to look
        time.sleep(WARM_S)
        before, first, start_s = _counts(url), asked[0], time.monotonic()
        time.sleep(seconds)
        after, last, passed_s = _counts(url), asked[0], time.monotonic() - start_s
        rates = [(late - early) / passed_s for early, late in zip(before, after, strict=True)]
        return [
            f"{(last - first) / passed_s:,.0f}", f"{rates[0]:.1f}", f"{rates[1]:.1f}",
            f"{after[2]}",
        ]  # fmt: skip


@contextmanager
def _server(environ: dict[str, str], workers: int) -> Iterator[str]:
    command = [
        sys.executable, "-m", "bascule.cli", "serve", "late", f"--workers={workers}", "--port=0",
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
def _asking(addresses: list[str]) -> Iterator[list[int]]:
    """One client asks the servers in turn; the list has the number of answers so far."""
    answered, stopped = [0], threading.Event()
    inputs = [{"name": "input", "datatype": "FP64", "shape": [1, 4], "data": [0.1, 0.2, 0.3, 0.4]}]

    def ask() -> None:
        with httpx.Client() as client:
            while not stopped.is_set():
                address = addresses[answered[0] % len(addresses)]
                client.post(address, json={"inputs": inputs}).raise_for_status()
                answered[0] += 1

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield answered
    finally:
        stopped.set()
        thread.join()


def _counts(url: str) -> tuple[Any, ...]:
    with psycopg.connect(_other(url)) as connection:
        found = connection.execute(_COUNTS).fetchone()
    assert found is not None
    return tuple(int(one) for one in found)


if __name__ == "__main__":
    sys.exit(main())
