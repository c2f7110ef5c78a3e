"""Whether parity holds: hundreds of models, asked about rows that `pack` has not seen.

    python -m bench.sweep [--only WORDS] [--json FILE] [--markdown]     (or `make sweep`)

Each model is fitted, packed and asked in a process of its own, which may crash or hang without
ending the sweep; see `judge` for what is promised and measured. The exit code is 1 where a model
breaks the promise.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections import Counter
from dataclasses import asdict
from pathlib import Path

from rich.console import Console

from bench.sweep.children import verdicts_of

ROOT = Path(__file__).resolve().parent.parent.parent
_ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
_BAD = ("broken", "crash", "timeout")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.sweep", description=__doc__)
    parser.add_argument("--only", metavar="WORDS", action="append", help="models called like this")
    parser.add_argument("--json", metavar="FILE", type=Path, help="write the verdicts there")
    parser.add_argument("--processes", type=int, default=len(os.sched_getaffinity(0)))
    asked = parser.parse_args(arguments)
    os.environ.update(_ONE_THREAD)
    from bench.sweep.models import models

    names = [n for n in models() if not asked.only or any(word in n for word in asked.only)]
    if not names:
        parser.error(f"--only: no model is called like {asked.only}")
    console = Console()
    started = time.perf_counter()
    verdicts = []
    for verdict in verdicts_of(names, asked.processes):
        verdicts.append(verdict)
        mark = "[red]" if verdict.status in _BAD else ""
        console.print(f"{mark}{verdict.name}: {verdict.status}, measured {verdict.measured:.1e} {verdict.why}", highlight=False)
        for finding in verdict.findings:
            console.print(f"    {finding}", highlight=False, markup=False)
        if asked.json:
            asked.json.write_text(json.dumps([asdict(v) for v in verdicts], indent=1))
    console.print(Counter(verdict.status for verdict in verdicts), f"{time.perf_counter() - started:.0f} s")
    return int(any(verdict.status in _BAD for verdict in verdicts))


if __name__ == "__main__":
    sys.exit(main())
