"""The models that a worker serves, ready to run."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from bascule.bundle import Places
from bascule.bundle.extras import Extra
from bascule.core import BasculeError, Columns, Overloaded, Program, Signature, Unavailable
from bascule.security import Action
from bascule.serving.calls import AnsweredBy, Call, Cancel, Context, Deliver, DeliverParts, Outcome
from bascule.serving.execution.admission import BufferBudget, held_bytes
from bascule.serving.execution.engine import Engine
from bascule.serving.execution.extras import Extras, needed
from bascule.serving.execution.extras_thread import ExtraRun, ExtrasThread
from bascule.serving.execution.placement import Pace
from bascule.serving.execution.predictors import Facts
from bascule.serving.limits import Limits
from bascule.serving.specs import ModelSpec
from bascule.serving.telemetry import MetricSeries

_Deliver = Callable[[Any], None]
"""Takes an answer, whole or in parts, or the error."""


class ServedModel:
    """One version (a `Predictor`): runs calls where its engine says, and is loaded when asked.

    A version without an engine is known, and not in memory. A call for it waits until it is loaded,
    for as long as a request may take.
    """

    def __init__(
        self,
        service: ModelSpec,
        *,
        signature: Signature,
        program: Program | Facts,
        digest: str,
        batch_invariant: bool,
        pace: Pace | None,
        series: MetricSeries,
        limits: Limits,
        loop: asyncio.AbstractEventLoop,
        held: BufferBudget,
        extras: Sequence[Extra] = (),
        example: Columns | None = None,
        places: Places | None = None,
        columns: Mapping[str, tuple[str, ...]] | None = None,
        allows_non_finite: bool = False,
        sources: Mapping[str, frozenset[str]] = {},
    ) -> None:
        """Ready to run with a program and its pace; unloaded with the facts of a program alone.

        `example`: rows that the program can answer, to show to users. `places`: the classes that
        the values in a row of an output stand for. `columns`, `sources`: see `AnsweredBy`.
        `allows_non_finite`: see `Manifest`.
        """
        self.service = service
        self.name = service.model
        self.version = service.version
        self.signature = signature
        self.program = Facts(program.name, program.inputs, program.outputs)
        self.digest = digest
        self.batch_invariant = batch_invariant
        self.series = series
        self.example = example
        self.allows_non_finite = allows_non_finite
        self.places: Places = places or {}
        self.limits = limits
        self.held = held
        self.by = AnsweredBy(
            self.name, self.version, program.name, tuple((columns or {}).items()), sources=sources
        )
        self.asks_headers: frozenset[bytes] = frozenset()
        self.needs: Action = "manage" if service.is_planned else "infer"
        self.extras = Extras(extras)
        self.extras_thread = ExtrasThread(self.by.name, limits, loop, held)
        self.engine: Engine | None = None
        if pace is not None and not isinstance(program, Facts):
            self.engine = Engine(
                program, pace, limits, loop,
                by=self.by, batch_invariant=batch_invariant, held=held,
            )  # fmt: skip
        self.request_load: Callable[[ServedModel], None] = _no_loader
        self.size_bytes = 0
        self.last_used_s = 0.0
        self._loop = loop
        self._waiting: list[_Waiting] = []

    @property
    def open_calls(self) -> int:
        """How many calls wait, for the model or in its queue, or run."""
        return len(self._waiting) + (0 if self.engine is None else self.engine.open_calls)

    def check_room(self, allowed_s: float) -> None:
        """See `Predictor.check_room`."""
        engine = self.engine
        if engine is not None and not engine.inline_rows:
            engine.batcher.check_room(1, allowed_s)

    def answer(
        self,
        call: Call,
        context: Context,  # noqa: ARG002 -- one version answers all callers alike
        allowed_s: float,
        deliver: Deliver,
    ) -> Cancel | None:
        """See `Predictor.answer`."""
        if call.extras:
            return self._answer_with_extras(call, allowed_s, deliver)
        self.last_used_s = self._loop.time()
        engine = self.engine
        if engine is None:
            return self._wait(call, call.outputs, allowed_s, deliver)
        return engine.run(call.columns, call.rows, call.outputs, allowed_s, deliver)

    def answer_in_parts(
        self,
        call: Call,
        context: Context,
        allowed_s: float,
        deliver: DeliverParts,
    ) -> Cancel:
        """See `Predictor.answer_in_parts`."""
        self.extras.check_none(call.extras)
        self.last_used_s = self._loop.time()
        engine, caller = self.engine, context.caller or context.address
        if engine is None:
            cancel = self._wait(call, call.outputs, allowed_s, deliver)
            self._waiting[-1].asks_in_parts_as = caller
            return cancel
        run = engine.run_in_parts
        return run(call.columns, call.rows, call.outputs, allowed_s, deliver, caller)

    def answer_as(
        self, by: AnsweredBy, call: Call, allowed_s: float, deliver: Deliver
    ) -> Cancel | None:
        """As `answer`, and the answer is by another value than that of the version.

        Of a model in memory (`engine`), and a call without extra outputs.
        """
        self.last_used_s = self._loop.time()
        engine = self.engine
        assert engine is not None
        return engine.run(call.columns, call.rows, call.outputs, allowed_s, deliver, by)

    def _answer_with_extras(self, call: Call, allowed_s: float, deliver: Deliver) -> Cancel | None:
        outputs = needed(call)
        run = ExtraRun(self.extras_thread, call, self._loop.time() + allowed_s, deliver)
        self.last_used_s = self._loop.time()
        engine = self.engine
        if engine is None:
            run.cancel_run = self._wait(call, outputs, allowed_s, run.take)
        else:
            run.cancel_run = engine.run(call.columns, call.rows, outputs, allowed_s, run.take)
        return None if run.is_over else run.cancel

    def loaded(self, engine: Engine) -> None:
        """It is in memory now: run the waiting calls."""
        self.engine = engine
        waiting, self._waiting = self._waiting, []
        self.last_used_s = now_s = self._loop.time()
        for call in waiting:
            if call.is_given_up:
                continue
            columns, deliver = call.leave()
            run: Any = engine.run
            if (caller := call.asks_in_parts_as) is not None:
                run = partial(engine.run_in_parts, caller=caller)
            left_s = call.until_s - now_s
            try:
                call.cancel_run = run(columns, call.rows, call.outputs, left_s, deliver)
            except BasculeError as error:
                deliver(error)

    def load_failed(self, error: BasculeError) -> None:
        """It could not be loaded: answer the waiting calls with the error."""
        waiting, self._waiting = self._waiting, []
        for call in waiting:
            call.settle(error)

    def unload(self) -> Engine | None:
        """Give up the engine, which the caller has to stop and close."""
        engine, self.engine = self.engine, None
        return engine

    def _wait(
        self, call: Call, outputs: tuple[str, ...] | None, allowed_s: float, deliver: _Deliver
    ) -> Cancel:
        if len(self._waiting) >= self.limits.max_queue_requests:
            raise Overloaded(
                f"{self.name}/{self.version} is being loaded, and {len(self._waiting)} requests "
                "wait for it, the limit of serving.max_queue_requests",
                hint="retry later",
                retry_after_s=1,
            )
        size = held_bytes(call.columns)
        self.held.check_room(size, f"{self.name}/{self.version}")
        until_s = self._loop.time() + allowed_s
        waiting = _Waiting(call.columns, call.rows, outputs, until_s, deliver, self.held, size)
        self.held.bytes += size
        late = Unavailable(
            f"{self.name}/{self.version} was not loaded within {allowed_s * 1e3:g} ms",
            hint="retry: it is being loaded",
            retry_after_s=1,
        )
        waiting.timer = self._loop.call_later(allowed_s, waiting.settle, late)
        self._waiting.append(waiting)
        self.request_load(self)
        return waiting.cancel


def _no_loader(model: ServedModel) -> None:
    raise Unavailable(f"{model.name}/{model.version} is not loaded", retry_after_s=1)


@dataclass(slots=True, eq=False)
class _Waiting:
    """A call that waits for its model."""

    columns: Columns
    rows: int
    outputs: tuple[str, ...] | None
    until_s: float
    deliver: _Deliver
    held: BufferBudget
    size_bytes: int
    is_given_up: bool = False
    asks_in_parts_as: str | None = None
    cancel_run: Cancel | None = None
    timer: asyncio.TimerHandle = field(init=False)

    def leave(self) -> tuple[Columns, _Deliver]:
        """Wait no longer: return the columns of the call, and keep nothing of it here."""
        self.timer.cancel()
        self.held.bytes -= self.size_bytes
        self.size_bytes = 0
        columns, self.columns = self.columns, {}
        # It may hold the rows as well, for a second attempt or for what is added to the answer.
        deliver, self.deliver = self.deliver, _deliver_nothing
        return columns, deliver

    def settle(self, error: BasculeError) -> None:
        if not self.is_given_up:
            self.is_given_up = True
            _, deliver = self.leave()
            deliver(error)

    def cancel(self) -> None:
        """The caller has gone, or has its answer."""
        self.is_given_up = True
        self.leave()
        if self.cancel_run is not None:
            self.cancel_run()


def _deliver_nothing(outcome: Outcome) -> None:
    """For a caller that has gone."""
