"""The third story of the demo: a model goes to devices, and what is wrong with it goes no further.

Three agents follow a signed repository over HTTP. The story holds only if each step held: a C
header and an ORT file answer as the program, two versions reach the first device, the second
refuses what was altered on its way, and the third what does not give the recorded answers.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from threadpoolctl import threadpool_limits

from bascule.bundle.disk import write_statement
from bascule.core import end
from bascule.demo import flights
from bascule.demo.flights import NAME
from bascule.demo.telling import awaited, command, heading, summary
from bascule.edge import GOLDEN, Home, device_statements
from bascule.registry import open_registry

if TYPE_CHECKING:
    from rich.console import Console

T = TypeVar("T")

_WITHIN_S, _EVERY_S = 60.0, 0.2
_PLAN = {"look_s": 2.5, "retry_s": 600, "trial_requests": 0, "trial_s": 0, "settle_s": 1}
_REPOSITORY = "repository"


def tell_edge(folder: Path, console: Console) -> dict[str, Any]:
    """Tell the story in `folder`: its facts, and in `held` whether each promise was kept.

    Raises:
        BasculeError: A step could not be done at all.
    """
    settings = f'[edge]\nrepository = "files://{folder / _REPOSITORY}"\n'
    (folder / "bascule.toml").write_text(settings, encoding="utf-8")
    (folder / "plan.json").write_text(json.dumps(_PLAN), encoding="utf-8")
    heading(console, "A model of delays; then 5 trees more, and 10")
    _learn(console, folder)

    heading(console, "Small enough for a processor without a system")
    exports = {runtime: _exported(console, folder, runtime) for runtime in ("c", "ort")}

    heading(console, "Three devices follow a channel")
    command(console, folder, "edge", "init", "--root-key", "root.pem", as_json=False)
    for channel in ("stable", "lab"):
        command(console, folder, "edge", "publish", f"{NAME}/1", "--channel", channel)
    is_altering = threading.Event()
    with ExitStack() as stack:
        honest = stack.enter_context(_served(folder / _REPOSITORY))
        altering = stack.enter_context(_served(folder / _REPOSITORY, is_altering))
        camera, till, lamp = (
            stack.enter_context(_agent(folder / name, url, channel))
            for name, url, channel in (
                ("camera", honest, "stable"), ("till", altering, "stable"), ("lamp", honest, "lab"),
            )
        )  # fmt: skip
        for home in (camera, till, lamp):
            _awaited(home, lambda home: _version(home) == f"{NAME}/1")
        console.print(f"camera, till and lamp serve {NAME}/1")

        heading(console, "The next versions: altered on the way, and computed otherwise")
        is_altering.set()
        stable = command(console, folder, "edge", "publish", f"{NAME}/2", "--channel", "stable")
        _record_other_answers(folder)
        command(console, folder, "edge", "publish", f"{NAME}/3", "--channel", "lab")
        _awaited(camera, lambda home: _version(home) == f"{NAME}/2")
        altered = _awaited(till, lambda home: _reported(home, "refused"))
        failed = _awaited(lamp, lambda home: _reported(home, "golden_failed"))
        versions = {home.path.name: _version(home) for home in (camera, till, lamp)}
    delta_bytes = sum(stable["delta_bytes"].values())
    full_bytes = stable["full_bytes"]
    console.print(f"camera serves {versions['camera']}: {delta_bytes:,} of {full_bytes:,} bytes")
    console.print(f"till serves {versions['till']}: {altered}")
    console.print(f"lamp serves {versions['lamp']}: {failed}")

    promises = {
        "a C header and an ORT file answer as the program": all(exports.values()),
        "a difference brought the next version": versions["camera"] == f"{NAME}/2"
        and 0 < delta_bytes < full_bytes,
        "a file altered on its way was refused": versions["till"] == f"{NAME}/1",
        "a version with other answers was refused": versions["lamp"] == f"{NAME}/1",
    }
    facts = {
        "files": exports, "delta_bytes": delta_bytes, "full_bytes": full_bytes,
        "altered": altered, "failed": failed,
    }  # fmt: skip
    return summary(console, promises, facts)


def _learn(console: Console, folder: Path) -> None:
    months = flights.split(flights.load_flights(), train_until=1)
    train, test = months.train.iloc[::4], months.test.iloc[::8]
    model = flights.build_model()
    booster = model.steps[-1][1]
    booster.set_params(warm_start=True, early_stopping=False)
    trees = booster.max_iter
    with console.status("packing"), threadpool_limits(flights.THREADS):
        for more in (0, 5, 10):
            booster.set_params(max_iter=trees + more)
            model.fit(*flights.learnt_from(train))
            flights.packed(
                model, folder, train=flights.learnt_from(train), test=flights.learnt_from(test),
                measure=False, explain=False, outliers=False,
            )  # fmt: skip
            command(console, folder, "push", f"{NAME}.bundle")


def _exported(console: Console, folder: Path, runtime: str) -> dict[str, int]:
    """The files, and their bytes."""
    words = ("edge", "export", f"{NAME}/1", "--runtime", runtime, "--out", runtime)
    exported = command(console, folder, *words)
    files: dict[str, int] = exported["files"]
    shown = ", ".join(f"{name} of {size:,} bytes" for name, size in files.items())
    console.print(f"{shown}: {exported['parity']['reason']}")
    return files


def _record_other_answers(folder: Path) -> None:
    """Have the third version's recorded answers be those of a runtime that computes otherwise."""
    registry = open_registry(folder / ".bascule")
    bundle = registry.path(registry.resolve(f"{NAME}/3"))
    (golden,) = json.loads(device_statements(bundle, by="demo"))
    for output in golden["body"]["outputs"]:
        output["data"] = output["data"][::-1]
    write_statement(bundle, GOLDEN, golden["body"], at=datetime.now(UTC), by="demo")


@contextmanager
def _served(folder: Path, is_altering: threading.Event | None = None) -> Iterator[str]:
    """The address of a web server of the folder; it may alter what devices download."""

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            pass

        def send_head(self) -> Any:
            file = super().send_head()
            is_target = self.path.startswith(("/targets/bundles", "/targets/deltas"))
            if file is None or not is_target or not (is_altering and is_altering.is_set()):
                return file
            with file:
                content = bytearray(file.read())
            content[len(content) // 2] ^= 1
            return BytesIO(content)

    handler = partial(Handler, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@contextmanager
def _agent(path: Path, url: str, channel: str) -> Iterator[Home]:
    """The home of a device whose agent runs, and trusts the root that is beside it."""
    path.mkdir()
    root = path.with_name(_REPOSITORY) / "metadata" / "1.root.json"
    words = [
        *(sys.executable, "-m", "bascule.edge", "run", "--repository", url, "--channel", channel),
        *("--home", path, "--root", root, "--plan", path.with_name("plan.json")),
        *("--listen", "none", "--device", path.name),
    ]
    with (path / "log").open("wb") as log:
        process = subprocess.Popen([*map(str, words)], stdout=log, stderr=log)
        try:
            yield Home(path)
        finally:
            end(process, _WITHIN_S)


def _version(home: Home) -> str:
    state = home.read_state()
    return "" if state is None or state.current is None else state.current.version


def _reported(home: Home, event: str) -> str:
    """Why, by the device's first report of such an event; empty before."""
    reports = [json.loads(file.read_bytes()) for file in sorted(home.outbox.iterdir())]
    return next((report["reason"] for report in reports if report["event"] == event), "")


def _awaited(home: Home, look: Callable[[Home], T]) -> T:
    return awaited(lambda: look(home), home.path.name, _WITHIN_S, _EVERY_S)
