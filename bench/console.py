"""What the pages of the console cost on a large catalogue: `python -m bench.console`, two minutes.

The home has 1,000 models, 1,000 endpoints, a million events, a million rollout decisions, and a
ledger of ten million rows; it is made once in `--folder`. A page is asked for 11 times, after a
first time. `--beside` measures instead what ten open consoles cost the worker that serves a model,
in three minutes.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import median

import httpx
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from tests.consoles import CountedServer, roll_out
from tests.production import Day, fill, packed

from bascule.app import open_registry, open_rollouts
from bascule.monitoring.ledger import write_segment
from bascule.monitoring.ledger.manifest import commit, read_manifest
from bascule.release.rollouts import RolloutRequest
from bascule.settings import load_settings

MODELS, ACTS, ROLLOUTS, DECISIONS, ROWS = 1_000, 1_000_000, 1_000, 1_000, 10_000_000
TIMES, SEGMENT, DAYS = 11, 250_000, 10
PAGES = (
    "/", "/models", "/models/late", "/models/late/1", "/endpoints/late", "/monitoring/late",
    "/ledger", "/ledger?model=late&span=7d", "/ledger?id={id}", "/history", "/history?by=unknown",
    "/deploy", "/deploy?version=late/2", "/try/late", "/batch", "/settings",
)  # fmt: skip
ROUNDS, ROUND_S, RATE, CONSOLES = 6, 10.0, 200, 10
_COUNT = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {}) "


def make_home(folder: Path) -> dict[str, str]:
    """The environment of a home, which is made unless it is there; with the id of a prediction."""
    environ = {"BASCULE_HOME": str(folder / "home"), "BENCH_ID": ""}
    if not (done := folder / "done.json").exists():
        settings = load_settings(folder, environ)
        registry = open_registry(settings)
        bundles = [packed(folder / str(seed), seed=seed) for seed in (0, 1)]
        for bundle in bundles:
            registry.push(bundle.path, by="ada")
        first = RolloutRequest(version="late/1", strategy="all", reason="the first")
        open_rollouts(settings).deploy(first, by="ada")
        server = CountedServer(settings, bad_every=25)
        rollout = roll_out(settings, server, "late/2", turns=24, requests=500)
        fill(settings.home, bundles[0], "1", [Day(back, rows=2_000) for back in range(5)])
        with closing(sqlite3.connect(settings.home / "catalogue.db")) as database, database:
            _fill_catalogue(database, rollout)
        done.write_text(json.dumps({**environ, "BENCH_ID": _fill_ledger(settings.home)}))
    return {**environ, "BENCH_ID": json.loads(done.read_text())["BENCH_ID"]}


def _fill_catalogue(database: sqlite3.Connection, rollout: str) -> None:
    """Copies of what is there, under other names."""
    name = "printf('m%04d', i)"
    for table, values in (
        ("models", f"{name}, created_at"),
        (
            "versions",
            f"{name}, number, digest, pushed_at, pushed_by, retired_at, retired_by, "
            "retired_reason, deprecation",
        ),
        ("endpoints", f"{name}, follows, created_at, following, followed, deleted_at"),
        ("plans", f"{name}, 1, json_set(content, '$.endpoint', {name}), made_at, made_by, reason"),
    ):
        chosen = " WHERE number = 1" if table == "plans" else ""
        database.execute(
            f"INSERT INTO {table} {_COUNT.format(MODELS)} SELECT {values} FROM n, {table}{chosen}"
        )
    events = database.execute("SELECT count(*) FROM events").fetchone()[0]
    database.execute(
        "INSERT INTO events (subject_kind, subject, kind, at, actor, reason, body) "
        f"{_COUNT.format(ACTS)} SELECT subject_kind, iif(subject_kind = 'model' AND i % 9, "
        f"printf('m%04d', 1 + i % {MODELS}), subject), kind, at, printf('user %d', i % 50), "
        f"reason, body FROM n JOIN events ON id = 1 + i % {events}"
    )
    made = database.execute("SELECT decisions FROM rollouts WHERE id = ?", [rollout]).fetchone()[0]
    for table, chosen, values in (
        ("rollouts", "WHERE id = :of", f"printf('copy-%04d', i), endpoint, json_set(content, "
         f"'$.id', printf('copy-%04d', i)), {DECISIONS}, latest, sealed, intervals, "
         "datetime(ended_at, printf('-%d hours', i)), datetime(created_at, "
         "printf('-%d hours', i)), created_by, reason"),
        ("rollout_intervals", "WHERE rollout = :of", "printf('copy-%04d', i), number, content, "
         "log_e"),
        ("rollout_decisions", f"JOIN k ON number = 1 + k % {made} WHERE rollout = :of",
         "printf('copy-%04d', i), 1 + k, at, made_by, \"before\", content, plan_number"),
    ):  # fmt: skip
        counts = _COUNT.format(ROLLOUTS).rstrip() + ", k(k) AS (SELECT 0 UNION ALL SELECT k + 1 "
        counts += f"FROM k WHERE k < {DECISIONS - 1}) "
        query = f"INSERT INTO {table} {counts} SELECT {values} FROM n JOIN {table} {chosen}"
        database.execute(query, {"of": rollout})


def _fill_ledger(home: Path) -> str:
    """Rows that are there, under new ids, over the last days; the id of one of them."""
    manifest, random = read_manifest(home), np.random.default_rng(2)
    small = pq.read_table(home / "ledger" / manifest.segments[0].file, partitioning=None)
    table = small.take(random.integers(0, small.num_rows, SEGMENT))
    today = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    ids = [""]
    for number in range(ROWS // SEGMENT):
        start = today - timedelta(days=1 + number % DAYS)
        worker = random.bytes(8).hex()
        ids = [f"{worker}-{count:x}" for count in range(SEGMENT)]  # as `new_prediction_id` has them
        seconds = np.sort(random.uniform(0, 86_000, SEGMENT))
        times = pa.array((seconds * 1e6).astype(np.int64) + int(start.timestamp() * 1e6))
        columns = {"id": pa.array(ids), "time": times.cast(table.schema.field("time").type)}
        for name, values in columns.items():
            table = table.set_column(table.schema.get_field_index(name), name, values)
        name = f"{manifest.sequence + 1:08d}-bench-{number}.parquet"
        day = start.date().isoformat()
        manifest.segments.append(write_segment(home, table, "late", "1", day, name))
    manifest.sequence += 1
    commit(home, manifest)
    return ids[SEGMENT // 2]


def cpu_s(pid: int) -> float:
    """The CPU time of a process with all its threads; the kernel's clock of it, in nanoseconds."""
    return time.clock_gettime((~pid << 3) | 2)


@contextmanager
def running(environ: dict[str, str], command: str, ready: str) -> Iterator[tuple[int, str]]:
    """A command of Bascule: its process id, and what it has printed once `ready` is in it."""
    process = subprocess.Popen(
        [sys.executable, "-m", "bascule.cli", *command.split()], env={**os.environ, **environ},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    try:
        text = ""
        assert process.stdout is not None
        for line in process.stdout:
            text += line
            if ready in text:
                break
        yield process.pid, text
    finally:
        process.terminate()
        process.communicate()


def measure_pages(environ: dict[str, str]) -> None:
    with running(environ, "control --control-port 0", "console at") as (pid, text):
        url = re.search(r"console at (http://\S+?)/?\s", text)
        assert url is not None, text
        made = subprocess.run(
            [sys.executable, "-m", "bascule.cli", "--server", url[1], "sign-in"],
            env={**os.environ, **environ}, capture_output=True, text=True, check=True,
        )  # fmt: skip
        link = re.search(r"(http://[^/\s]+)(/sign-in\?code=\S+)", made.stdout)
        assert link is not None, text
        with httpx.Client(base_url=link[1], follow_redirects=True, timeout=60) as client:
            form = dict(re.findall(r'name="(\w+)" value="([^"]*)"', client.get(link[2]).text))
            origin = {"Origin": link[1]}
            client.post("/sign-in", data=form, headers=origin).raise_for_status()
            print(f"first page with all that it loads: {_first_page(client):,} bytes\n")
            print("| page | CPU ms | from | to | wall ms | CPU ms, first time |")
            print("|---|---|---|---|---|---|")
            for page in PAGES:
                path = page.format(id=environ["BENCH_ID"])
                (first, _), *rest = (_cost(client, path, pid) for _ in range(TIMES + 1))
                spent, passed = zip(*rest, strict=True)
                cells = [page, _ms(median(spent)), _ms(min(spent)), _ms(max(spent))]
                print(f"| {' | '.join([*cells, _ms(median(passed)), _ms(first)])} |", flush=True)


def _first_page(client: httpx.Client) -> int:
    page = client.get("/")
    loaded = re.findall(r'(?:href|src)="(/console/static/[^"]+)"', page.text)
    answers = [page, *(client.get(one).raise_for_status() for one in dict.fromkeys(loaded))]
    heads = sum(len(k) + len(v) + 4 for one in answers for k, v in one.headers.raw)
    return heads + sum(one.num_bytes_downloaded for one in answers)


def _cost(client: httpx.Client, path: str, pid: int) -> tuple[float, float]:
    """Seconds of CPU of the control process, and of the wall."""
    before, began_s = cpu_s(pid), time.perf_counter()
    answer = client.get(path)
    passed_s = time.perf_counter() - began_s
    answer.raise_for_status()
    return cpu_s(pid) - before, passed_s


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:.1f}"


def measure_beside(environ: dict[str, str]) -> None:
    with running(environ, "serve late --workers 1 --port 0 --control-port 0 --json", "\n}\n") as (
        _, text,
    ):  # fmt: skip
        said = json.loads(text)
        infer, control = said["serving"][0]["infer"], said["control"]
        (worker,) = httpx.get(f"{control}/api/v1/server").raise_for_status().json()["workers"]
        found: dict[int, list[float]] = {0: [], CONSOLES: []}
        _ask(infer, ROUND_S)  # to warm up
        for _ in range(ROUNDS):
            for consoles, costs in found.items():
                with _consoles(control, consoles):
                    before = cpu_s(worker["pid"])
                    asked = _ask(infer, ROUND_S)
                    costs.append((cpu_s(worker["pid"]) - before) / asked)
        for consoles, costs in found.items():
            low, middle, high = (f(costs) * 1e6 for f in (min, median, max))
            print(f"{consoles:2} consoles: {middle:.0f} µs a request ({low:.0f} to {high:.0f})")
        pairs = zip(found[CONSOLES], found[0], strict=True)
        print("ratios of the rounds:", *(f"{one / other:.3f}" for one, other in sorted(pairs)))


def _ask(infer: str, seconds: float) -> int:
    """Requests at a steady rate."""
    columns = {"wind": ("FP64", 10.0), "distance": ("FP64", 900.0), "carrier": ("BYTES", "AA")}
    inputs = [
        {"name": name, "datatype": kind, "shape": [1, 1], "data": [value]}
        for name, (kind, value) in columns.items()
    ]
    count, began_s = round(RATE * seconds), time.perf_counter()
    with httpx.Client() as client:
        for number in range(count):
            time.sleep(max(0.0, began_s + number / RATE - time.perf_counter()))
            client.post(infer, json={"inputs": inputs}).raise_for_status()
    return count


@contextmanager
def _consoles(control: str, count: int) -> Iterator[None]:
    """Open pages, half of them the overview: all are loaded again every 5 s, and those of the
    endpoint ask for its numbers every 2 s, as their script does."""
    stopped = threading.Event()

    def look(number: int) -> None:
        page, parts = ("/", 0) if number % 2 else ("/endpoints/late", 2)
        with httpx.Client(base_url=control, timeout=60) as client:
            while not stopped.is_set():
                client.get(page).raise_for_status()
                for _ in range(parts):
                    stopped.wait(2.0)
                    client.get("/endpoints/late/live").raise_for_status()
                stopped.wait(5.0 - 2.0 * parts)

    threads = [threading.Thread(target=look, args=[number]) for number in range(count)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stopped.set()
        for thread in threads:
            thread.join()


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path("build/bench/console"))
    parser.add_argument("--beside", action="store_true", help="measure the worker of a model")
    chosen = parser.parse_args(arguments)
    chosen.folder.mkdir(parents=True, exist_ok=True)
    environ = make_home(chosen.folder.resolve())
    (measure_beside if chosen.beside else measure_pages)(environ)
    return 0


if __name__ == "__main__":
    sys.exit(main())
