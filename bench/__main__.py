"""Bascule beside its peers and the floor, in one run: `python -m bench` (or `make bench`).

Every round visits every system: start it on its core, compare its answers with scikit-learn's,
load it from the other core, count what its whole process tree spent, stop it. The figures are
medians over the rounds; claims compare neighbours within a round.

`--peers` (or `make bench-peers`) adds other projects' servers, each in an environment of its own.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import FrameType

from rich.console import Console

from bench import chart, environments, load, measure, report
from bench.machine import PARTS, install, load_before, machine, missing_parts, versions
from bench.measure import Settings
from bench.pinning import two_cores
from bench.report import Sample, Start
from bench.systems import ALL, ASKED_FOR, PEERS, Peer, System, Wrong

ROOT = Path(__file__).resolve().parent.parent
OUTPUT = ROOT / "build" / "bench"
PAGE = ROOT / "docs" / "benchmarks.md"
STARTS = 5
BUSY = 0.7
"""The load average over which something else is running beside the bench."""


def main(arguments: list[str] | None = None) -> int:
    asked = _parser().parse_args(arguments)
    console = Console()
    signal.signal(signal.SIGTERM, _interrupt)  # so that servers are stopped then too
    kinds = _chosen(asked.only, asked.peers, asked.expensive)
    if not parts_are_there(console, {tool for kind in kinds for tool in kind.tools}):
        return 1
    OUTPUT.mkdir(parents=True, exist_ok=True)
    server_core, load_core = two_cores()
    settings = Settings(asked.rounds, asked.seconds, server_core, load_core, OUTPUT)
    try:
        done = run(console, kinds, settings)
    except Wrong as error:
        console.print(f"error: {error}", style="red", markup=False)
        return 1
    except KeyboardInterrupt:
        console.print("stopped; nothing was written")
        return 130
    return publish(console, done, asked.markdown, "peers" if done.runs else "serving")


def run(console: Console, kinds: list[type[System]], settings: Settings) -> report.Report:
    """Measure everything; raises `Wrong` as soon as a figure would mean nothing."""
    from bench.subject import make  # imports scikit-learn: after the quick refusals

    if settings.server_core == settings.load_core:
        console.print("only one core: load and server share it, figures are rough", style="yellow")
    if (busy := load_before()) > BUSY:
        console.print(f"the machine is busy (load {busy:.1f}), figures are rough", style="yellow")
    console.print("fitting and packing the model")
    subject = make(settings.folder)
    console.print(f"bascule pins the program {subject.pinned}", highlight=False)
    samples: list[Sample] = []
    starts: list[Start] = []
    left_out = _prepare(console, kinds)
    for number in range(1, settings.rounds + 1):
        for kind in kinds:
            if kind.name in left_out:
                continue
            try:
                for found in measure.visit(kind, subject, settings, number):
                    if isinstance(found, Sample):
                        samples.append(found)
                        _tell(console, found, settings.rounds)
                    else:
                        starts.append(found)
            except (Wrong, OSError) as error:
                if not issubclass(kind, Peer):
                    raise
                # Another project's failure is a fact about it, and ours to say, not to hide.
                left_out[kind.name] = report.in_one_line(str(error))
                console.print(f"{kind.name} is left out: {error}", style="yellow", markup=False)
    own = [kind for kind in kinds if kind.predicts and kind.name in ALL]
    for _ in range(STARTS - settings.rounds):
        starts += [measure.start_only(kind, subject, settings) for kind in own]
    distributions = {
        name for kind in kinds if not issubclass(kind, Peer) for name in kind.distributions
    }
    return report.Report(
        samples=samples,
        starts=starts,
        machine=machine(),
        versions=versions(distributions) | _versions_of_peers(kinds, left_out),
        settings={
            "rounds": settings.rounds,
            "seconds": settings.seconds,
            "connections": load.CONNECTIONS,
            "server_core": settings.server_core,
            "load_core": settings.load_core,
            "load_average_before": busy,
            "pinned_program": subject.pinned,
        },
        about={kind.name: kind.about for kind in kinds},
        runs={kind.name: kind.runs for kind in kinds if kind.runs},
        left_out=left_out,
    )


def _chosen(only: list[str] | None, peers: bool, expensive: bool) -> list[type[System]]:
    """The systems to measure, in the order in which a round visits them."""
    everybody = ALL | PEERS | ASKED_FOR
    if only:
        return [everybody[name] for name in only]
    added = [peer for peer in PEERS.values() if peers and (expensive or not peer.expensive)]
    return [*ALL.values(), *added]


def _prepare(console: Console, kinds: list[type[System]]) -> dict[str, str]:
    """Make the environments of the peers that have none; what could not be made, and why."""
    left_out: dict[str, str] = {}
    for project in dict.fromkeys(kind.project for kind in kinds if issubclass(kind, Peer)):
        peers = [kind for kind in kinds if issubclass(kind, Peer) and kind.project == project]
        folder, requirements = peers[0].folder_of_environment(), peers[0].requirements()
        if environments.is_made(folder, requirements):
            continue
        try:
            with console.status(f"making the environment of {project}: a minute or more"):
                environments.make(folder, requirements)
            console.print(f"made the environment of {project}")
        except environments.CannotBeMade as error:
            console.print(f"no environment of {project}: {error}", style="yellow", markup=False)
            left_out |= {peer.name: f"its environment cannot be made: {error}" for peer in peers}
    return left_out


def _versions_of_peers(kinds: list[type[System]], left_out: dict[str, str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for kind in kinds:
        if issubclass(kind, Peer) and kind.name not in left_out:
            found |= environments.installed(kind.folder_of_environment(), list(kind.distributions))
    return found


def publish(console: Console, done: report.Report, into_page: bool, name: str) -> int:
    """Show and write the report under its name; 1 when errors void it."""
    for table in report.tables(done):
        console.print(table)
    written = OUTPUT / f"{name}.json"
    done.write(written)
    console.print(f"written to {written.relative_to(ROOT)}")
    if done.errors:
        console.print("there were errors: the rows that have any are void", style="red")
        return 1
    if into_page:
        page = PAGE.read_text() if PAGE.exists() else "# Benchmarks\n"
        PAGE.parent.mkdir(exist_ok=True)
        PAGE.write_text(report.put_between_marks(page, report.markdown(done), name))
        console.print(f"and to {PAGE.relative_to(ROOT)}")
        if name == "peers":
            chart.write()
            console.print(f"and to {chart.PICTURE.relative_to(ROOT)}")
    return 0


def _tell(console: Console, sample: Sample, rounds: int) -> None:
    console.print(
        f"round {sample.round}/{rounds}  {sample.system:13} {sample.work:15} "
        f"{sample.cpu_s_per_1k:7.4f} CPU s per 1,000  {sample.rps:9,.0f} req/s  "
        f"{sample.errors} errors",
        highlight=False,
        soft_wrap=True,
    )


def parts_are_there(console: Console, parts: set[str]) -> bool:
    """Install what is missing where we may, and say what is missing where we may not."""
    missing = missing_parts(sorted(parts))
    if not missing:
        return True
    packages = " ".join(PARTS[part] for part in missing)
    if os.geteuid() == 0:
        console.print(f"installing {packages}")
        try:
            install(missing)
            return True
        except (subprocess.SubprocessError, OSError) as error:
            console.print(f"apt-get failed: {error}", style="red", markup=False)
    console.print(f"error: the bench needs {', '.join(missing)}", style="red")
    console.print(f"hint:  sudo apt-get install {packages}")
    return False


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--rounds", type=_at_least_one, default=3, help="interleaved rounds (3)")
    parser.add_argument("--seconds", type=_at_least_one, default=3, help="timed seconds a work (3)")
    parser.add_argument(
        "--only", choices=ALL | PEERS | ASKED_FOR, nargs="+", help="measure these only"
    )
    parser.add_argument("--peers", action="store_true", help="other projects' servers too")
    parser.add_argument("--expensive", action="store_true", help="of those, the slow ones too")
    parser.add_argument("--markdown", action="store_true", help="write docs/benchmarks.md too")
    return parser


def _at_least_one(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number >= 1")
    return int(text)


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
