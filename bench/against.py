"""Two commits side by side: `python -m bench.against REV` (or `make bench-against REV=...`).

Both serve the same bundle, packed by the older one, on the same core. Within a round each work is
asked of one and then of the other, seconds apart and in alternating order, so that a clock that
drifts over minutes slows both. The figure is CPU per request of the working tree divided by that
of REV: the median over the rounds, with the interval between order statistics that holds the true
median with at least 95 % (Hahn and Meeker 1991, section 5.2). A line fails where even the lower
end of its interval is over the bar.

    python -m bench.against HEAD --with BASCULE_MONITORING__LEDGER=on --bar 1.15
    python -m bench.against HEAD --with BASCULE_MONITORING__LEDGER=on --endpoint --bar 1.2
    python -m bench.against HEAD --with BASCULE_MONITORING__LEDGER=on --endpoint --both --bar 1.02
"""

from __future__ import annotations

import argparse
import json
import math
import os
import pickle
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from bench import cpu, endpoint, measure
from bench.__main__ import parts_are_there
from bench.measure import WORKS, Settings
from bench.pinning import two_cores
from bench.report import Sample
from bench.requests import Request
from bench.subject import NAME, ImportedModel
from bench.systems import ALL, System, Wrong

ROOT = Path(__file__).resolve().parent.parent
OUTPUT = ROOT / "build" / "bench"
BAR = 1.03
SIDES = ("before", "now")
SYSTEMS = ("bascule", "bascule-grpc")

_ENDPOINT = """
import pickle, sys
from pathlib import Path
from bench import endpoint
subject = pickle.loads((Path(sys.argv[1]) / "subject.pickle").read_bytes())
endpoint.make(Path(sys.argv[2]), subject)
"""

_PACK = """
import pickle, sys
from pathlib import Path
from bench.subject import make
folder = Path(sys.argv[1])
(folder / "subject.pickle").write_bytes(pickle.dumps(make(folder)))
"""


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.against", description=__doc__)
    parser.add_argument("rev", help="the commit to compare with")
    parser.add_argument(
        "--rounds", type=int, default=10, help="interleaved rounds, at least 6 (10)"
    )
    parser.add_argument("--seconds", type=int, default=3, help="timed seconds a work (3)")
    parser.add_argument(
        "--with",
        dest="variables",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="an environment variable of the working tree's server; may be repeated",
    )
    parser.add_argument(
        "--endpoint",
        action="store_true",
        help="the working tree's server answers by a canary plan, with a sticky header and keys",
    )
    parser.add_argument(
        "--both", action="store_true", help="--with and --endpoint are for both sides, not for one"
    )
    parser.add_argument(
        "--work", action="append", choices=WORKS, help="ask only this; may be repeated"
    )
    parser.add_argument("--bar", type=float, default=BAR, help=f"what a line must meet ({BAR})")
    asked = parser.parse_args(arguments)
    if asked.rounds < 6:
        parser.error("--rounds: fewer than 6 rounds give no interval of 95 %")
    console = Console()
    options = dict(each.partition("=")[::2] for each in asked.variables)
    if not parts_are_there(console, {tool for name in SYSTEMS for tool in ALL[name].tools}):
        return 1
    source = checked_out(asked.rev)
    folder = OUTPUT / "against"
    folder.mkdir(parents=True, exist_ok=True)
    works = tuple(asked.work or WORKS)
    settings = Settings(asked.rounds, asked.seconds, *two_cores(), folder, works)
    console.print(f"packing the model with {asked.rev}")
    subject = packed_by(source, folder)
    sides = {
        side: side_of(side, source, folder, options, asked.endpoint)
        if asked.both or side == "now"
        else Side(source)
        for side in SIDES
    }
    samples: list[Sample] = []
    for number in range(1, asked.rounds + 1):
        with console.status(f"round {number} of {asked.rounds}, about a minute"):
            samples += one_round(sides, subject, settings, number)
        each = {work: ratios(samples, work) for work in WORKS}
        found = ", ".join(f"{work} {made[-1]:.3f}" for work, made in each.items() if made)
        console.print(f"round {number}: {found}", highlight=False)
    lines = {work: made for work in WORKS if (made := ratios(samples, work))}
    console.print(table(lines, asked.rev, asked.bar))
    written = {
        work: {"ratios": found, "interval": interval(found)} for work, found in lines.items()
    }
    (folder / "against.json").write_text(json.dumps(written, indent=2) + "\n")
    return int(any(interval(found)[0] > asked.bar for found in lines.values()))


def checked_out(rev: str) -> Path:
    """The sources of a commit, in a work tree below the bench's folder."""
    commit = _git("rev-parse", "--verify", f"{rev}^{{commit}}")
    folder = OUTPUT / "commits" / commit[:12]
    if not folder.exists():
        _git("worktree", "add", "--detach", str(folder), commit)
    return folder / "src"


def packed_by(source: Path, folder: Path) -> ImportedModel:
    """The model of the bench, packed by the sources at `source`."""
    paths = os.pathsep.join(map(str, (source, ROOT)))
    environment = {**os.environ, "PYTHONPATH": paths}
    subprocess.run([sys.executable, "-c", _PACK, str(folder)], check=True, env=environment)
    made: ImportedModel = pickle.loads((folder / "subject.pickle").read_bytes())  # written just now
    return made


@dataclass(frozen=True)
class Side:
    """What a server of one side runs: its sources, its variables, its endpoint's home if any."""

    source: Path
    variables: Mapping[str, str] = field(default_factory=dict)
    home: Path | None = None


def side_of(
    name: str, source: Path, folder: Path, options: Mapping[str, str], with_endpoint: bool
) -> Side:
    """A side with options, in a home of its own: the schemas of two commits may differ."""
    root = source.parent if name == "before" else ROOT
    own = folder / name
    own.mkdir(exist_ok=True)
    if not with_endpoint:
        return Side(root / "src", {"BASCULE_HOME": str(own / "home"), **options})
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (root / "src", root)))}
    command = [sys.executable, "-c", _ENDPOINT, str(folder), str(own)]
    subprocess.run(command, check=True, env=environment, cwd=root)
    home = own / "endpoint"
    known = {"BASCULE_HOME": str(home), "BASCULE_SECURITY__CALLERS": "keys"}
    return Side(root / "src", {**options, **known}, home)


def one_round(
    sides: Mapping[str, Side], subject: ImportedModel, settings: Settings, number: int
) -> list[Sample]:
    """Every work, asked of both sides in turn."""
    samples = []
    homes = any(side.home for side in sides.values())
    with ExitStack() as running:
        for name in SYSTEMS[:1] if homes else SYSTEMS:  # its headers are those of HTTP
            systems = [ALL[name](subject, settings.folder, settings.server_core) for _ in SIDES]
            for side, system in zip(SIDES, systems, strict=True):
                if home := sides[side].home:
                    _ask_endpoint(system, home)
                running.enter_context(_of(system, side, sides[side]))
                system.first_answer_s()
            for system in systems:
                cpu.wait_until_idle(system.process.pid)
            for at, (what, work) in enumerate(WORKS.items()):
                if what not in settings.works or not systems[0].offers(work.coding):
                    continue
                turn = systems if (number + at) % 2 else systems[::-1]
                samples += [measure.loaded(one, settings, number, what, work) for one in turn]
    if failed := [sample for sample in samples if sample.errors]:
        raise Wrong(f"{failed[0].system}: {failed[0].errors} errors in {failed[0].work}")
    return samples


def _of(system: System, name: str, side: Side) -> System:
    """The system, whose process imports the sources of its side and reads its variables."""
    system.name = f"{system.name}-{name}"
    environment = {"PYTHONPATH": str(side.source), **side.variables}
    system.environment = lambda: environment  # type: ignore[method-assign]
    return system


def _ask_endpoint(system: System, home: Path) -> None:
    """Have a system serve the endpoint of a home, and send what its callers send."""
    headers = json.loads((home / endpoint.HEADERS).read_text())
    command, request = system.command(), system.request
    command[command.index(str(system.subject.bundle))] = NAME

    def with_headers(rows: NDArray[np.float64], coding: str = "json") -> Request:
        made = request(rows, coding)
        return Request(made.body, {**made.headers, **headers})

    system.command = lambda: command  # type: ignore[method-assign]
    system.request = with_headers  # type: ignore[method-assign]
    system.offers = lambda coding: coding != "grpc"  # type: ignore[method-assign]


def ratios(samples: Sequence[Sample], work: str) -> list[float]:
    """By round: CPU per request now, divided by that of before."""
    cost = {
        (sample.round, sample.system.rpartition("-")[2]): sample.cpu_s_per_1k
        for sample in samples
        if sample.work == work
    }
    return [cost[number, "now"] / cost[number, "before"] for number in sorted({n for n, _ in cost})]


def interval(values: Sequence[float], confidence: float = 0.95) -> tuple[float, float]:
    """Two order statistics that hold the median of what `values` were drawn from.

    Args:
        values: At least 6; fewer cannot give 95 %.
        confidence: The least probability that it does; sums of a binomial of one half.
    """
    ordered, count = sorted(values), len(values)
    outside, cut = 2 * 0.5**count, 0
    while outside + 2 * math.comb(count, cut + 1) * 0.5**count <= 1 - confidence:
        cut += 1
        outside += 2 * math.comb(count, cut) * 0.5**count
    return ordered[cut], ordered[count - 1 - cut]


def table(lines: dict[str, list[float]], rev: str, bar: float = BAR) -> Table:
    """The result for a terminal."""
    made = Table(title=f"CPU per request, working tree / {rev}")
    for heading in ("work", "median", "interval", f"lower end <= {bar}"):
        made.add_column(heading)
    for work, found in lines.items():
        low, high = interval(found)
        verdict = "met" if low <= bar else "NOT MET"
        made.add_row(work, f"{median(found):.3f}", f"{low:.3f} to {high:.3f}", verdict)
    return made


def _git(*words: str) -> str:
    done = subprocess.run(["git", *words], cwd=ROOT, check=True, capture_output=True, text=True)
    return done.stdout.strip()


if __name__ == "__main__":
    sys.exit(main())
