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

import numpy as np

from bascule.bundle.compositions.expressions import Key, Values
from bascule.bundle.compositions.planning import Plan
from bascule.bundle.programs import place_of
from bascule.core import BasculeError, Columns, ModelFailed, PartCounts, Program, TimedOut

_WORTH_A_THREAD_S = 5e-4
"""A thread and back cost some 50 us."""
_DIGEST_CHARACTERS = 19


class CompositionProgram(Program):
    """See `Program`. Its inputs are those of the signature of its plan."""

    def __init__(
        self, name: str, plan: Plan, programs: Mapping[str, Program], digests: Mapping[str, str]
    ) -> None:
        """`programs` and the `digests` of their bundles: by part that is a model."""
        self.name, self.plan, self.programs = name, plan, programs
        self.inputs, self.outputs = plan.signature.inputs, plan.signature.outputs
        self.counts = dict.fromkeys(plan.steps, PartCounts())
        self.last_s = dict.fromkeys(plan.steps, 0.0)
        self.interrupted_s, self.bound_s = 0.0, float("inf")
        self._digests = {part: digest[:_DIGEST_CHARACTERS] for part, digest in digests.items()}
        self._outputs = dict(zip([one.name for one in self.outputs], plan.outputs, strict=True))
        # What complete() adds for all rows, by what it is called there.
        self._recorded: dict[str, Key] = {
            f"{part}.{field.name}": (part, field.name)
            for level in plan.levels
            for part in level
            for field in (*plan.steps[part].outputs, *plan.steps[part].notes)
        }
        self._mark = next(iter(self._recorded))
        self._threads: ThreadPoolExecutor | None = None

    def run(self, columns: Columns, outputs: Sequence[str] | None = None) -> Columns:
        """See `Program.run`; raises what a part raises, with its name."""
        values: Values
        if self._mark in columns:
            known = {("", one.name): columns[one.name] for one in self.inputs}
            values = known | {key: columns[name] for name, key in self._recorded.items()}
        else:
            values = _Run(self).of(columns)
        rows = len(columns[self.inputs[0].name])
        with np.errstate(all="ignore"):
            return {
                name: self._outputs[name].of(values, rows)
                for name in (self._outputs if outputs is None else outputs)
            }

    def complete(self, calls: Sequence[Columns]) -> Sequence[Columns]:
        """Runs the parts, and adds to the columns what they answered: for the ledger, and `run`.

        PART.OUTPUT of every part that all rows have; PART.ms and PART.digest of each part.
        """
        first, columns = self.inputs[0].name, calls[0]
        if len(calls) > 1:
            names = [one.name for one in self.inputs]
            columns = {name: np.concatenate([call[name] for call in calls]) for name in names}
        run, rows = _Run(self), len(columns[first])
        values = run.of(columns)
        added = {name: values[key] for name, key in self._recorded.items()}
        for part in self.plan.steps:
            added[f"{part}.ms"] = np.full(rows, run.took_s.get(part, np.nan) * 1e3)
        for part, digest in self._digests.items():
            added[f"{part}.digest"] = np.full(rows, digest, object)
        made, start = [], 0
        for call in calls:
            end = start + len(call[first])
            made.append(call | {name: column[start:end] for name, column in added.items()})
            start = end
        return made

    @property
    def part_counts(self) -> Mapping[str, PartCounts]:
        return self.counts

    @property
    def may_block(self) -> bool:
        return any(one.may_block for one in self.programs.values())

    @property
    def pid(self) -> int | None:
        """Of the first part that has a process."""
        return next((one.pid for one in self.programs.values() if one.pid is not None), None)

    def bound_runs(self, timeout_s: float) -> None:
        """Parts that wait for a process, one behind the other, share the time; see `Program`."""
        self.bound_s = timeout_s
        blocking = {part for part, program in self.programs.items() if program.may_block}
        levels = sum(not blocking.isdisjoint(level) for level in self.plan.levels)
        for program in self.programs.values():
            program.bound_runs(timeout_s / max(1, levels))

    def interrupt(self) -> None:
        """See `Program.interrupt`: the parts that have not begun do not begin."""
        self.interrupted_s = time.perf_counter()
        for program in self.programs.values():
            program.interrupt()

    def close(self) -> None:
        if self._threads is not None:
            self._threads.shutdown(wait=False)
        for program in self.programs.values():
            program.close()

    def threads(self) -> ThreadPoolExecutor:
        """For parts that run at once."""
        if self._threads is None:
            self._threads = ThreadPoolExecutor(len(self.plan.steps), f"bascule-{self.name}")
        return self._threads


class _Run:
    """One run of a composition; see `steps.Running`."""

    def __init__(self, of: CompositionProgram) -> None:
        self._of = of
        self._began_s = time.perf_counter()
        self.took_s: dict[str, float] = {}

    def of(self, columns: Columns) -> Values:
        values = {("", one.name): columns[one.name] for one in self._of.inputs}
        rows = len(columns[self._of.inputs[0].name])
        with np.errstate(all="ignore"):
            for level in self._of.plan.levels:
                for part, answered in self._level(level, dict(values), rows).items():
                    values |= {(part, name): column for name, column in answered.items()}
        return values

    def _level(self, level: tuple[str, ...], values: Values, rows: int) -> dict[str, Columns]:
        slow = [part for part in level if self._of.last_s[part] > _WORTH_A_THREAD_S]
        others = slow[1:]
        futures = {
            part: self._of.threads().submit(self.part, part, values, rows) for part in others
        }
        try:
            made = {part: self.part(part, values, rows) for part in level if part not in futures}
        finally:
            for future in futures.values():
                future.exception()  # none goes on behind the answer
        return made | {part: future.result() for part, future in futures.items()}

    def part(self, name: str, values: Values, rows: int) -> Columns:
        of, began_s = self._of, time.perf_counter()
        if of.interrupted_s > self._began_s or began_s - self._began_s > of.bound_s:
            raise TimedOut(f"no time is left for part {name}", hint="allow more time", part=name)
        failures = 1
        try:
            answered = of.plan.steps[name].run(values, rows, self)
            failures = 0
        except Exception as problem:
            raise _naming(name, problem) from problem
        finally:
            of.last_s[name] = self.took_s[name] = took_s = time.perf_counter() - began_s
            runs, had, failed, ns = of.counts[name]
            of.counts[name] = PartCounts(
                runs + 1, had + rows, failed + failures, ns + int(took_s * 1e9)
            )
        return answered

    def program(self, name: str, columns: Columns) -> Columns:
        return self._of.programs[name].run(columns)


def _naming(part: str, problem: Exception) -> BasculeError:
    """The error of a part as one of the composition."""
    if not isinstance(problem, BasculeError):
        said = f"part {part}: {place_of(problem)}"
        words = f"part {part} failed: {problem}"
        return ModelFailed(words, hint="ask that part alone", reason=said, part=part)
    facts = problem.facts | {"part": part}
    if isinstance(problem, ModelFailed):
        reason = problem.facts.get("reason") or place_of(problem.__cause__ or problem)
        facts["reason"] = f"part {part}: {reason}"
    return type(problem)(f"part {part}: {problem.message}", hint=problem.hint, **facts)
