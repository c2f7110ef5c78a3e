"""How Bascule behaves when it is asked for much: `python -m bench.storm` (or `make bench-storm`).

calm      gradient boosting at 70 % of capacity, even and random arrivals
overload  three times capacity, on a model that runs on the loop and on one that is batched
network   a costly network, 16 clients 4 ms away, beside the model alone; and one client
soak      half load for long: memory and descriptors
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path

from rich.console import Console

from bench import report
from bench.machine import load_before, machine, versions
from bench.pinning import two_cores
from bench.storm.findings import Finding, cells, claims_of, markdown, table
from bench.storm.works import WORKS, Settings
from bench.systems import Wrong

ROOT = Path(__file__).resolve().parent.parent.parent
OUTPUT = ROOT / "build" / "bench"
PAGE = ROOT / "docs" / "benchmarks.md"
_LONG = {"calm": 20.0, "overload": 60.0, "network": 20.0, "soak": 3600.0}
_QUICK = {"calm": 8.0, "overload": 10.0, "network": 6.0, "soak": 60.0}


def main(arguments: list[str] | None = None) -> int:
    asked = _parser().parse_args(arguments)
    console = Console()
    OUTPUT.mkdir(parents=True, exist_ok=True)
    server_core, load_core = two_cores()
    busy = load_before()
    seconds = dict(_QUICK if asked.quick else _LONG)
    if asked.soak_seconds:
        seconds["soak"] = asked.soak_seconds
    findings: list[Finding] = []
    try:
        for name in asked.only or WORKS:
            console.print(f"{name}: {seconds[name]:g} s a run")
            settings = Settings(seconds[name], server_core, load_core, OUTPUT, _teller(console))
            findings += WORKS[name](settings)
    except Wrong as error:
        console.print(f"error: {error}", style="red", markup=False)
        return 1
    except KeyboardInterrupt:
        console.print("stopped; nothing was written")
        return 130
    made = claims_of(findings)
    for title, headings, lines in cells(findings):
        console.print(report.table(title, headings, lines))
    console.print(report.table("Claims", report.CLAIM_HEADINGS, report.claim_cells(made)))
    written = OUTPUT / "storm.json"
    facts = {
        "schema_version": 1,
        "findings": [finding.to_json() for finding in findings],
        "claims": [claim.to_json() for claim in made],
        "seconds": seconds,
        "load_average_before": busy,
        "machine": machine(),
        "versions": versions(("bascule", "onnxruntime", "uvloop", "numpy")),
    }
    written.write_text(json.dumps(facts, indent=2) + "\n")
    console.print(f"written to {written.relative_to(ROOT)}")
    if asked.markdown:
        page = report.put_between_marks(PAGE.read_text(), markdown(made, facts), "storm")
        PAGE.write_text(page)
        (PAGE.parent / "measured" / "storm.csv").write_text(table(findings))
        console.print(f"and to {PAGE.relative_to(ROOT)}")
    return 0


def _teller(console: Console) -> Callable[[str], None]:
    def tell(text: str) -> None:
        console.print("  " + text, highlight=False, markup=False, soft_wrap=True)

    return tell


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench.storm",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--only", choices=WORKS, nargs="+", help="these works only")
    parser.add_argument("--quick", action="store_true", help="seconds instead of minutes")
    parser.add_argument("--soak-seconds", type=_seconds, help="how long to soak (3600; quick 60)")
    parser.add_argument("--markdown", action="store_true", help="write docs/benchmarks.md too")
    return parser


def _seconds(text: str) -> float:
    if not text.isdigit() or int(text) < 20:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of seconds >= 20")
    return float(text)


if __name__ == "__main__":
    sys.exit(main())
