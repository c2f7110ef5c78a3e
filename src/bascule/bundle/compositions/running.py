"""The program of a composition: its parts' programs, run in the order of its plan.

The rules:
- a row's answer is what its parts would give, asked one after the other by hand;
- an error names the part; the parts behind it do not run;
- parts of one level run at once where each of two takes long enough to be worth a thread;
- what a part answered, and how long it took, goes to the ledger with the request (`complete`).
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import accumulate

import numpy as np

from bascule.bundle.compositions.expressions import Values
from bascule.bundle.compositions.planning import Plan
from bascule.bundle.compositions.steps import ModelStep
from bascule.bundle.programs import place_of
from bascule.core import (
    BasculeError,
    Columns,
    Field,
    ModelFailed,
    PartCounts,
    Program,
    TimedOut,
)

_WORTH_A_THREAD_S = 5e-4
"""A thread and back cost some 50 us."""
_DIGEST_CHARACTERS = 19


class CompositionProgram(Program):
    """See `Program`. Its inputs are those of the signature of its plan."""

    def __init__(self, name: str, plan: Plan, programs: Mapping[str, Program]) -> None:
        """`programs`: by part that is a model."""
        self.name = name
        self.inputs, self.outputs = plan.signature.inputs, plan.signature.outputs
        self._counts = dict.fromkeys(plan.steps, PartCounts())
        self._plan = plan
        self._programs = programs
        self._recorded = [
            (part, field)
            for level in plan.levels
            for part in level
            for field in (*plan.steps[part].outputs, *plan.steps[part].notes)
        ]
        self._digests = {
            part: step.digest[:_DIGEST_CHARACTERS]
            for part, step in plan.steps.items()
            if isinstance(step, ModelStep)
        }
        self._outputs = dict(zip([one.name for one in self.outputs], plan.outputs, strict=True))
        self._mark = _column(*_key(self._recorded[0]))
        self._last_s = dict.fromkeys(plan.steps, 0.0)
        self._bound_s = float("inf")
        self._interrupted_at = 0.0
        self._threads: ThreadPoolExecutor | None = None

    def run(self, columns: Columns, outputs: Sequence[str] | None = None) -> Columns:
        """See `Program.run`; raises what a part raises, with its name."""
        rows = len(columns[self.inputs[0].name])
        values: Values
        if self._mark in columns:
            values = {_key(one): columns[_column(*_key(one))] for one in self._recorded}
            values |= {("", one.name): columns[one.name] for one in self.inputs}
        else:
            values, _ = self._run_parts(columns, rows)
        wanted = self._outputs if outputs is None else outputs
        with np.errstate(all="ignore"):
            return {name: self._outputs[name].of(values, rows) for name in wanted}

    def complete(self, calls: Sequence[Columns]) -> Sequence[Columns]:
        """Runs the parts, and adds to the columns what they answered: for the ledger, and `run`.

        `PART.OUTPUT` of every part that all rows have; `PART.ms` and `PART.digest` of each part.
        """
        if len(calls) == 1:
            columns = calls[0]
        else:
            names = [one.name for one in self.inputs]
            columns = {name: np.concatenate([call[name] for call in calls]) for name in names}
        sizes = [len(call[self.inputs[0].name]) for call in calls]
        rows = sum(sizes)
        values, took_s = self._run_parts(columns, rows)
        added = {_column(*_key(one)): values[_key(one)] for one in self._recorded}
        for part in self._plan.steps:
            added[f"{part}.ms"] = np.full(rows, took_s.get(part, np.nan) * 1e3)
        for part, digest in self._digests.items():
            added[f"{part}.digest"] = np.full(rows, digest, object)
        if len(calls) == 1:
            return [columns | added]
        ends = list(accumulate(sizes))
        return [
            call | {name: column[end - size : end] for name, column in added.items()}
            for call, size, end in zip(calls, sizes, ends, strict=True)
        ]

    @property
    def part_counts(self) -> Mapping[str, PartCounts]:
        return self._counts

    @property
    def may_block(self) -> bool:
        return any(one.may_block for one in self._programs.values())

    @property
    def pid(self) -> int | None:
        """Of the first part that has a process."""
        return next((one.pid for one in self._programs.values() if one.pid is not None), None)

    def bound_runs(self, timeout_s: float) -> None:
        """Parts that wait for a process, one behind the other, share the time; see `Program`."""
        self._bound_s = min(self._bound_s, timeout_s)
        blocking = [
            any(part in self._programs and self._programs[part].may_block for part in level)
            for level in self._plan.levels
        ]
        for program in self._programs.values():
            program.bound_runs(timeout_s / max(1, sum(blocking)))

    def interrupt(self) -> None:
        """See `Program.interrupt`: the parts that have not begun do not begin."""
        self._interrupted_at = time.perf_counter()
        for program in self._programs.values():
            program.interrupt()

    def close(self) -> None:
        if self._threads is not None:
            self._threads.shutdown(wait=False)
        for program in self._programs.values():
            program.close()

    def _run_parts(self, columns: Columns, rows: int) -> tuple[Values, dict[str, float]]:
        """Every column, and the seconds of each part that ran."""
        values = {("", one.name): columns[one.name] for one in self.inputs}
        run = _Run(self, time.perf_counter())
        with np.errstate(all="ignore"):
            for level in self._plan.levels:
                for part, answered in self._of_level(run, level, values, rows):
                    for name, column in answered.items():
                        values[part, name] = column
        return values, run.took_s

    def _count(self, part: str, rows: int, *, failures: int, took_s: float) -> None:
        old = self._counts[part]
        self._counts[part] = PartCounts(
            old.runs + 1, old.rows + rows, old.failures + failures,
            old.duration_ns + int(took_s * 1e9),
        )  # fmt: skip

    def _of_level(
        self, run: _Run, level: tuple[str, ...], values: Values, rows: int
    ) -> list[tuple[str, Columns]]:
        slow = [part for part in level if self._last_s[part] > _WORTH_A_THREAD_S]
        if len(slow) < 2:
            return [(part, run.part(part, values, rows)) for part in level]
        if self._threads is None:
            self._threads = ThreadPoolExecutor(len(self._plan.steps), f"bascule-{self.name}")
        asked = {part: self._threads.submit(run.part, part, values, rows) for part in slow[1:]}
        try:
            made = {part: run.part(part, values, rows) for part in level if part not in asked}
        finally:
            for future in asked.values():
                future.exception()  # none goes on behind an answer
        return [(part, made[part] if part in made else asked[part].result()) for part in level]


class _Run:
    """One run of a composition."""

    __slots__ = ("_of", "_started_s", "took_s")

    def __init__(self, of: CompositionProgram, started_s: float) -> None:
        self._of = of
        self._started_s = started_s
        self.took_s: dict[str, float] = {}

    def part(self, name: str, values: Values, rows: int) -> Columns:
        of, began_s = self._of, time.perf_counter()
        if of._interrupted_at > self._started_s or began_s - self._started_s > of._bound_s:
            raise TimedOut(f"no time is left for part {name}", hint="allow more time", part=name)
        step = of._plan.steps[name]
        try:
            if isinstance(step, ModelStep):
                answered = step.run_program(of._programs[name], values, rows)
            else:
                answered = step.run(values, rows, self.part)
        except Exception as problem:
            of._count(name, 0, failures=1, took_s=time.perf_counter() - began_s)
            raise _named(name, problem) from problem
        took_s = time.perf_counter() - began_s
        of._last_s[name] = self.took_s[name] = took_s
        of._count(name, rows, failures=0, took_s=took_s)
        return answered


def _named(part: str, problem: Exception) -> BasculeError:
    """The error of a part as one of the composition."""
    if not isinstance(problem, BasculeError):
        said = f"part {part}: {place_of(problem)}"
        return ModelFailed(f"part {part} failed: {problem}", reason=said, part=part)
    facts = {
        **problem.facts,
        "part": f"{part}.{problem.facts['part']}" if "part" in problem.facts else part,
    }
    if isinstance(problem, ModelFailed):
        reason = problem.facts.get("reason") or place_of(problem.__cause__ or problem)
        facts["reason"] = f"part {part}: {reason}"
    return type(problem)(f"part {part}: {problem.message}", hint=problem.hint, **facts)


def _key(recorded: tuple[str, Field]) -> tuple[str, str]:
    return recorded[0], recorded[1].name


def _column(part: str, name: str) -> str:
    return f"{part}.{name}"
