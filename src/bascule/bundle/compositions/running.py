"""The program of a composition: its parts' programs, run in the order of its plan.

The rules:
- a row's answer is what its parts would give, asked one after the other by hand;
- an error names the part; the parts behind it do not run;
- parts of one level run at once where two of them take long enough to be worth a thread;
- what a part answered, and how long it took, goes to the ledger with the request (`complete`).
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Lock

import numpy as np
from numpy.typing import NDArray

from bascule.bundle.compositions.expressions import Key, Values
from bascule.bundle.compositions.planning import Plan
from bascule.bundle.programs import COMPOSITION, place_of
from bascule.bundle.tables import for_program
from bascule.core import BasculeError, Columns, ModelFailed, PartCounts, Program, TimedOut

_WORTH_A_THREAD_S = 5e-4
"""A thread and back cost some 50 us."""
_DIGEST_CHARACTERS = 19
_ROW: Key = (" ", "row")
"""Among the columns: the number of the row. No part has a name with a space."""


class CompositionProgram(Program):
    """See `Program`. Its inputs are those of the signature of its plan."""

    name = COMPOSITION

    def __init__(
        self, plan: Plan, programs: Mapping[str, Program], digests: Mapping[str, str]
    ) -> None:
        """`programs` and the `digests` of their bundles: by part that is a model."""
        self.plan, self.programs = plan, programs
        self.inputs, self.outputs = plan.signature.inputs, plan.signature.outputs
        self.counts = dict.fromkeys(plan.steps, PartCounts())
        self.last_s = dict.fromkeys(plan.steps, 0.0)
        self.has_routers = sum(map(len, plan.levels)) < len(plan.steps)
        self.interrupted_s, self.bound_s = 0.0, float("inf")
        self.lock = Lock()
        self.threads = ThreadPoolExecutor(len(plan.steps), "bascule-part")
        self._digests = {part: digest[:_DIGEST_CHARACTERS] for part, digest in digests.items()}
        # What complete() adds for all rows, by what it is called there.
        self._recorded: dict[str, Key] = {
            f"{part}.{field.name}": (part, field.name)
            for level in plan.levels
            for part in level
            for field in (*plan.steps[part].outputs, *plan.steps[part].notes)
        }
        self._mark = next(iter(self._recorded))

    def run(self, columns: Columns, outputs: Sequence[str] | None = None) -> Columns:
        """See `Program.run`; raises what a part raises, with its name."""
        if self._mark not in columns:
            (columns,) = self.complete([columns])
        values = {("", field.name): columns[field.name] for field in self.inputs}
        values |= {key: columns[name] for name, key in self._recorded.items()}
        rows = len(columns[self._mark])
        names = self.plan.outputs if outputs is None else outputs
        with np.errstate(all="ignore"):
            return {name: self.plan.outputs[name].of(values, rows) for name in names}

    def complete(self, calls: Sequence[Columns]) -> Sequence[Columns]:
        """Runs the parts, and adds to the columns what they answered: for the ledger, and `run`.

        PART.OUTPUT of every part that all rows have; PART.ms and PART.digest of each part. PART.ms
        is the time of its run, NaN of a row without it; calls have views of the array of a run.
        """
        first, columns = self.inputs[0].name, calls[0]
        if len(calls) > 1:
            names = [field.name for field in self.inputs]
            columns = {name: np.concatenate([call[name] for call in calls]) for name in names}
        run, rows = _Run(self), len(columns[first])
        values = run.of(columns)
        added: Columns = {}
        for part, (took_s, of_rows) in run.took.items():
            added[f"{part}.ms"] = times = np.full(rows, took_s * 1e3 if of_rows is None else np.nan)
            if of_rows is not None:
                times[of_rows] = took_s * 1e3
        for part, digest in self._digests.items():
            added[f"{part}.digest"] = np.full(rows, digest, object)
        # Last, because an output may be called `ms`.
        added |= {name: values[key] for name, key in self._recorded.items()}
        ends = np.cumsum([len(call[first]) for call in calls]).tolist()
        return [
            call | {name: column[start:end] for name, column in added.items()}
            for call, start, end in zip(calls, [0, *ends], ends, strict=False)
        ]

    def new_part_counts(self) -> Mapping[str, PartCounts]:
        with self.lock:
            counts, self.counts = self.counts, dict.fromkeys(self.plan.steps, PartCounts())
        return counts

    @property
    def may_block(self) -> bool:
        return any(program.may_block for program in self.programs.values())

    @property
    def pid(self) -> int | None:
        """Of the first part that has a process."""
        pids = (program.pid for program in self.programs.values())
        return next((pid for pid in pids if pid is not None), None)

    def bound_runs(self, timeout_s: float) -> None:
        """Parts that wait for a process, one behind the other, share the time; see `Program`."""
        self.bound_s = timeout_s
        blocking = {part for part, program in self.programs.items() if program.may_block}
        turns = sum(not blocking.isdisjoint(level) for level in self.plan.levels)
        turns += len(blocking.difference(*self.plan.levels))  # those that routers choose
        for program in self.programs.values():
            program.bound_runs(timeout_s / max(1, turns))

    def interrupt(self) -> None:
        """See `Program.interrupt`: the parts that have not begun do not begin."""
        self.interrupted_s = time.perf_counter()
        for program in self.programs.values():
            program.interrupt()

    def close(self) -> None:
        self.threads.shutdown(wait=False)
        for program in self.programs.values():
            program.close()


class _Run:
    """One run of a composition; see `steps.Running`."""

    def __init__(self, of: CompositionProgram) -> None:
        self._of = of
        self._began_s = time.perf_counter()
        self.took: dict[str, tuple[float, NDArray[np.intp] | None]] = dict.fromkeys(
            of.plan.steps, (float("nan"), None)
        )
        """By part: how long it took, and for which rows it ran; None for all."""

    def of(self, columns: Columns) -> Values:
        values = {("", field.name): columns[field.name] for field in self._of.inputs}
        rows = len(columns[self._of.inputs[0].name])
        if self._of.has_routers:
            values[_ROW] = np.arange(rows)
        for level in self._of.plan.levels:
            for part, answered in self._level(level, dict(values), rows).items():
                values |= {(part, name): column for name, column in answered.items()}
        return values

    def _level(self, level: tuple[str, ...], values: Values, rows: int) -> dict[str, Columns]:
        slow = [part for part in level if self._of.last_s[part] > _WORTH_A_THREAD_S]
        futures = {
            part: self._of.threads.submit(self.part, part, values, rows) for part in slow[1:]
        }
        try:
            answers = {part: self.part(part, values, rows) for part in level if part not in futures}
        finally:
            for future in futures.values():
                future.exception()  # none goes on behind the answer
        return answers | {part: future.result() for part, future in futures.items()}

    def part(self, name: str, values: Values, rows: int) -> Columns:
        of, began_s = self._of, time.perf_counter()
        if of.interrupted_s > self._began_s or began_s - self._began_s > of.bound_s:
            raise TimedOut(f"no time is left for part {name}", hint="allow more time", part=name)
        failures = 1
        try:
            with np.errstate(all="ignore"):  # which is of a thread
                answered = of.plan.steps[name].run(values, rows, self)
            failures = 0
        except Exception as problem:
            raise _naming(name, problem) from problem
        finally:
            of.last_s[name] = took_s = time.perf_counter() - began_s
            self.took[name] = took_s, values.get(_ROW)
            with of.lock:
                done = (1, rows, failures, int(took_s * 1e9))
                of.counts[name] = PartCounts(*map(int.__add__, of.counts[name], done))
        return answered

    def program(self, name: str, columns: Columns) -> Columns:
        program = self._of.programs[name]
        return program.run(for_program(columns, program.inputs))


def _naming(part: str, problem: Exception) -> BasculeError:
    """The error of a part as one of the composition."""
    if not isinstance(problem, BasculeError):
        problem = ModelFailed(f"failed: {problem}", hint="ask it alone", reason=place_of(problem))
    facts = problem.facts | {"part": part}
    if isinstance(problem, ModelFailed):
        reason = problem.facts.get("reason") or place_of(problem.__cause__ or problem)
        facts["reason"] = f"part {part}: {reason}"
    return type(problem)(f"part {part}: {problem.message}", hint=problem.hint, **facts)
