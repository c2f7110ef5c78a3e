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
        self._loop.call_soon(self._run, call, answer.outputs)

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
            self._series.count_dropped()
        except Exception:
            self.waiting -= 1
            log.exception("the shadow %s could not be asked", model.by.name)

    def _compare(self, outcome: Outcome, expected: Columns, rows: int, duration_ns: int) -> None:
        failed = isinstance(outcome, BasculeError)
        self._series.count_arm(duration_ns, 0 if failed else rows, failed=failed)
        if not isinstance(outcome, BasculeError) and not agree(
            outcome.outputs, expected, self._tolerance
        ):
            self._series.count_disagreement()


class _NotRun(Exception):
    """The shadow is not in memory, or has none of the outputs."""


def agree(outputs: Columns, expected: Columns, tolerance: float) -> bool:
    """Whether every expected output is there with equal values.

    Floating-point numbers agree up to `tolerance`; a missing value (NaN) agrees with another.
    """
    return all(
        name in outputs and _equal(outputs[name], column, tolerance)
        for name, column in expected.items()
    )


def _equal(one: np.ndarray, other: np.ndarray, tolerance: float) -> bool:
    if one.shape != other.shape:
        return False
    if one.dtype.kind == other.dtype.kind == "f":
        return bool(np.allclose(one, other, rtol=0.0, atol=tolerance, equal_nan=True))
    return bool(np.array_equal(one, other))
