"""Whether parity holds: hundreds of models, asked about rows that `pack` has not seen.

    python -m bench.sweep [--only WORDS] [--json FILE] [--markdown]     (or `make sweep`)

Each model is fitted, packed and asked in a process of its own, which may crash or hang without
ending the sweep; see `judge` for what is promised and measured. The exit code is 1 where a model
breaks the promise, or where boosting with default settings falls back to the original.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.table import Table

from bench.machine import machine, versions
from bench.report import put_between_marks
from bench.sweep.children import verdicts_of
from bench.sweep.page import BAD, HEADS, cells, fallen_back, markdown, summary, table

PAGE = Path(__file__).resolve().parent.parent.parent / "docs" / "reference" / "parity.md"
_ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
_DISTRIBUTIONS = (
    "onnxruntime", "scikit-learn", "skl2onnx", "xgboost-cpu", "lightgbm",
    "catboost", "torch", "numpy", "pandas", "polars",
)  # fmt: skip


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.sweep", description=__doc__)
    parser.add_argument("--only", metavar="WORDS", action="append", help="models called like this")
    parser.add_argument("--json", metavar="FILE", type=Path, help="write the verdicts there")
    parser.add_argument("--markdown", action="store_true", help="write the page of the docs too")
    parser.add_argument("--processes", type=int, default=len(os.sched_getaffinity(0)))
    asked = parser.parse_args(arguments)
    if asked.only and asked.markdown:
        parser.error("--markdown: the page holds all models, so leave --only out")
    os.environ.update(_ONE_THREAD)
    from bench.sweep.models import models

    names = [n for n in models() if not asked.only or any(word in n for word in asked.only)]
    if not names:
        parser.error(f"--only: no model is called like {asked.only}")
    console = Console(highlight=False, markup=False, soft_wrap=True)
    started = time.perf_counter()
    verdicts = []
    for verdict in verdicts_of(names, asked.processes):
        verdicts.append(verdict)
        console.print(f"{verdict.name}: {verdict.status} {verdict.why}")
        for finding in verdict.findings:
            console.print(f"    {finding}")
        if asked.json:
            asked.json.write_text(json.dumps([asdict(one) for one in verdicts], indent=1))
    shown = Table(*HEADS)
    for verdict in verdicts:
        shown.add_row(*cells(verdict))
    console.print(shown)
    for words in summary(verdicts):
        console.print(words)
    console.print(f"{time.perf_counter() - started:.0f} s")
    if asked.markdown:
        text = markdown(verdicts, versions(_DISTRIBUTIONS), machine()["processor"])
        PAGE.write_text(put_between_marks(PAGE.read_text(), text, "sweep"))
        PAGE.with_suffix(".csv").write_text(table(verdicts))
    return int(any(one.status in BAD for one in verdicts) or bool(fallen_back(verdicts)))


if __name__ == "__main__":
    sys.exit(main())
