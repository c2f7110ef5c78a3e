"""A shadow: a version that answers a sample of requests again, for comparison alone.

Its run begins when the client has its answer, on the thread of its model and never on the event
loop. What waits for it is bounded; a sampled request beyond the bound is dropped and counted.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from bascule.core import BasculeError, Columns
from bascule.serving.calls import Answer, Call, Outcome
from bascule.serving.execution.admission import held_bytes
from bascule.serving.execution.engine import Job
from bascule.serving.execution.resilient import call_for
from bascule.serving.execution.served import ServedModel
from bascule.serving.telemetry import ArmSeries

log = logging.getLogger(__name__)

MAX_WAITING = 32
"""How many requests wait for a shadow, or are run by it, in one worker."""
PAIRS_SHARE = 0.01
"""Of a candidate's requests, those that the current version answers too."""
_FIRST_PAIRS, _FIRST_SHARE = 256, 0.25
"""So many are asked for sooner in each worker: with 1 % a rollout of 5,000 requests has none."""
MAX_CALL_BYTES = 1 << 20
"""Requests with larger inputs are dropped: `MAX_WAITING` of them hold 32 MB."""


class ShadowRunner:
    """The shadow of an endpoint in one worker. On the event loop only."""

    def __init__(
        self,
        model: ServedModel,
        series: ArmSeries,
        loop: asyncio.AbstractEventLoop,
        *,
        share: float,
        tolerance: float = 0.0,
        draw: Callable[[], float] = random.random,
    ) -> None:
        """Run nothing yet.

        Args:
            model: The version.
            series: Where comparisons are counted.
            loop: The event loop.
            share: Of the answers that are offered, the share that is compared, from 0 to 1.
            tolerance: The greatest absolute difference at which two numbers agree.
            draw: Uniform on [0, 1).
        """
        self._model = model
        self._series = series
        self._loop = loop
        self._share = share
        self._tolerance = tolerance
        self._draw = draw
        self.waiting = 0

    def offer(self, call: Call, answer: Answer) -> None:
        """Compare, perhaps, what a client got; never raises."""
        if self._draw() >= self._share:
            return
        by = self._model.by
        if (answer.by.model, answer.by.version) == (by.model, by.version):
            return  # the arm that answered is the shadow's version
        if self.waiting >= MAX_WAITING or held_bytes(call.columns) > MAX_CALL_BYTES:
            self._series.count_dropped()
            return
        self.waiting += 1
        self._loop.call_soon(self._run, call, answer.original or answer.outputs)

    def _run(self, call: Call, expected: Columns) -> None:
        model, started_ns = self._model, time.perf_counter_ns()
        names = {field.name for field in model.signature.outputs}
        expected = {name: column for name, column in expected.items() if name in names}

        def take(outcome: Outcome) -> None:
            self.waiting -= 1
            self._compare(outcome, expected, call.rows, time.perf_counter_ns() - started_ns)

        try:
            engine = model.engine
            if engine is None or not expected:
                raise _NotRun
            columns = call_for(call._replace(extras=()), model).columns
            engine.batcher.submit(
                Job(columns, call.rows, tuple(expected), take), model.limits.deadline_s
            )
        except (BasculeError, _NotRun):
            self.waiting -= 1
            self._drop()
        except Exception:
            self.waiting -= 1
            log.exception("the shadow %s could not be asked", model.by.name)

    def _drop(self) -> None:
        self._series.count_dropped()

    def _compare(self, outcome: Outcome, expected: Columns, rows: int, duration_ns: int) -> None:
        failed = isinstance(outcome, BasculeError)
        self._series.count_arm(duration_ns, 0 if failed else rows, failed=failed)
        if isinstance(outcome, BasculeError):
            return
        if self._series.answers is not None:
            self._series.answers.add(outcome)
        if not agree(outcome.outputs, expected, self._tolerance):
            self._series.count_disagreement()


class PairRunner(ShadowRunner):
    """Asks the current version again for some of the candidate's requests, and compares pairs.

    Answers given to the wrong rows have the right distribution. So two requests that both versions
    answered are compared: versions alike order the two alike, and answers to other rows are ordered
    by chance. Each pair is in one comparison, so that comparisons are independent. Its model is the
    current version, its series are the candidate's.
    """

    _first = _FIRST_PAIRS
    _before: Any = None

    def is_drawn(self) -> bool:
        """Whether the next request is to be offered, more often at the start of a comparison."""
        answers = self._series.answers
        if self._first and answers is not None and answers.is_comparing:
            is_drawn = self._draw() < max(self._share, _FIRST_SHARE)
            self._first -= is_drawn
            return is_drawn
        return self._draw() < self._share

    def offer(self, call: Call, answer: Answer) -> None:
        """Ask the current version too; never raises."""
        answers = self._series.answers
        if answers is None or answer.by is not answers.by:  # it is a fallback's
            return
        if self.waiting < MAX_WAITING and held_bytes(call.columns) <= MAX_CALL_BYTES:
            self.waiting += 1
            self._loop.call_soon(self._run, call, answer.original or answer.outputs)

    def _drop(self) -> None:
        """Of the current version nothing is counted here."""

    def _compare(self, outcome: Outcome, expected: Columns, rows: int, duration_ns: int) -> None:  # noqa: ARG002
        answers = self._series.answers
        if isinstance(outcome, BasculeError) or answers is None:
            return
        row = random.randrange(rows)
        both = [
            {name: column[row : row + 1] for name, column in columns.items()}
            for columns in (expected, outcome.outputs)
        ]
        values, _ = answers.values(both)
        if values is None:
            return
        before, self._before = self._before, values
        if before is not None:
            self._before = None
            answers.count_pairs(before, values)


class _NotRun(Exception):
    """The shadow is not in memory, or has none of the outputs."""


def agree(outputs: Columns, expected: Columns, tolerance: float) -> bool:
    """Whether every expected output is there with equal values.

    Numbers agree up to `tolerance`, and up to what parity allows two programs of one model to
    differ by; a missing value (NaN) agrees with another.
    """
    from bascule.bundle.statements import parity

    return all(
        (name in outputs and _equal(outputs[name], column, tolerance))
        or parity.are_equal({name: column}, outputs)
        for name, column in expected.items()
    )


def _equal(one: np.ndarray, other: np.ndarray, tolerance: float) -> bool:
    if one.shape != other.shape:
        return False
    if one.dtype.kind == other.dtype.kind == "f":
        return bool(np.allclose(one, other, rtol=0.0, atol=tolerance, equal_nan=True))
    return bool(np.array_equal(one, other))
