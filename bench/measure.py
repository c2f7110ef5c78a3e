"""One system, alive once: started, verified, loaded with each work, looked at, stopped."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from bench import cpu
from bench.load import Load
from bench.report import Sample, Start
from bench.subject import ImportedModel
from bench.systems import System, Wrong


@dataclass(frozen=True, slots=True)
class Work:
    """What is asked again and again: how many rows, and how their numbers are written."""

    rows: int
    coding: str


WORKS = {
    "1 row": Work(1, "json"),
    "100 rows": Work(100, "json"),
    "100 rows binary": Work(100, "binary"),
    "1 row gRPC": Work(1, "grpc"),
    "100 rows gRPC": Work(100, "grpc"),
}
_WARM_S = 1


@dataclass(frozen=True, slots=True)
class Settings:
    """How long, how often, where."""

    rounds: int
    seconds: int
    server_core: int
    load_core: int
    folder: Path
    works: tuple[str, ...] = tuple(WORKS)


def visit(
    kind: type[System], subject: ImportedModel, settings: Settings, number: int
) -> Iterator[Sample | Start]:
    """Start `kind`, check it, measure each work in turn, and say how the start went.

    Raises:
        Wrong: It did not start, or its answers are not the model's.
    """
    with kind(subject, settings.folder, settings.server_core) as system:
        first_answer_s = system.first_answer_s()
        cpu.wait_until_idle(system.process.pid)
        before = cpu.tree(system.process.pid)
        for name, work in WORKS.items():
            if system.offers(work.coding):
                yield loaded(system, settings, number, name, work)
        worker = cpu.busiest(before, alive := cpu.tree(system.process.pid))
        if kind.predicts:
            own = cpu.memory(worker)
            everything = sum(cpu.memory(process.pid).proportional for process in alive)
            yield Start(kind.name, first_answer_s, own.resident, own.proportional, everything)


def start_only(kind: type[System], subject: ImportedModel, settings: Settings) -> Start:
    """Start `kind`, and stop it after its first answer."""
    with kind(subject, settings.folder, settings.server_core) as system:
        return Start(kind.name, system.first_answer_s())


def loaded(system: System, settings: Settings, number: int, name: str, work: Work) -> Sample:
    rows, truth = system.subject.rows[: work.rows], system.subject.truth[: work.rows]
    expected = system.verified(rows, truth, work.coding)
    request = system.request(rows, work.coding)

    def ask(seconds: int) -> Load:
        return system.load(request, expected, seconds, settings.load_core)

    ask(_WARM_S)
    before = cpu.cpu_seconds(cpu.tree(system.process.pid))
    seen = ask(settings.seconds)
    spent = cpu.cpu_seconds(cpu.tree(system.process.pid)) - before
    if not seen.requests:
        raise Wrong(f"{system.name} answered nothing in {settings.seconds} s of {name}")
    return Sample(
        round=number,
        system=system.name,
        work=name,
        cpu_s_per_1k=spent / seen.requests * 1000,
        rps=seen.rps,
        p50_ms=seen.p50_ms,
        p99_ms=seen.p99_ms,
        errors=seen.errors,
    )
