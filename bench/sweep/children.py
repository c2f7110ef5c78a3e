"""One process for each model, which may crash or hang without ending the sweep."""

from __future__ import annotations

import multiprocessing
import os
import signal
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext
from pathlib import Path

from bench.sweep.judge import Verdict

TIMEOUT_S = 240.0
_LAST_WORDS = 300


def verdicts_of(names: Sequence[str], processes: int) -> Iterator[Verdict]:
    """The verdict of each model, in their order, as they come."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        ["bench.sweep.models", "bascule.packing.packing", "onnxruntime", "skl2onnx", "skops.io"]
    )
    with ThreadPoolExecutor(processes) as threads:
        yield from threads.map(lambda name: _in_a_child(context, name), names)


def _in_a_child(context: ForkServerContext, name: str) -> Verdict:
    with tempfile.TemporaryDirectory() as folder:
        here, there = context.Pipe(duplex=False)
        child = context.Process(target=_judge, args=(name, Path(folder), there))
        child.start()
        there.close()
        try:
            if here.poll(TIMEOUT_S):
                return Verdict(**here.recv())
            return Verdict(name, "timeout", why=f"no verdict in {TIMEOUT_S:g} s")
        except EOFError:
            child.join(10)
            words = (Path(folder) / "output").read_text(errors="replace").strip()
            return Verdict(name, "crash", why=f"{_ended(child.exitcode)}: {words[-_LAST_WORDS:]}")
        finally:
            child.kill()
            child.join()


def _ended(code: int | None) -> str:
    if code is not None and code < 0:
        return f"the process ended by {signal.Signals(-code).name}"
    return f"the process ended with {code}"


def _judge(name: str, folder: Path, answer: Connection) -> None:
    from bench.sweep.judge import judge
    from bench.sweep.models import models

    os.chdir(folder)
    output = os.open(folder / "output", os.O_CREAT | os.O_WRONLY)
    os.dup2(output, 1)
    os.dup2(output, 2)
    answer.send(asdict(judge(name, models()[name], folder)))
