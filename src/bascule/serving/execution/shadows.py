"""A shadow: a version that answers a sample of requests again, for comparison alone.

Its run begins when the client has its answer, on the thread of its model and never on the event
loop. What waits for it is bounded; a sampled request beyond the bound is dropped and counted.
"""

from __future__ import annotations

import asyncio
import logging
import math
import random
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from bascule.bundle.disk import generates_text
from bascule.core import BasculeError, Columns, Overloaded, TimedOut
from bascule.serving.calls import Answer, Call, Outcome, Parts, PartsOutcome, Receiver
from bascule.serving.execution.admission import held_bytes
from bascule.serving.execution.engine import Job
from bascule.serving.execution.predictors import embedding_of
from bascule.serving.execution.resilient import call_for
from bascule.serving.execution.served import ServedModel
from bascule.serving.telemetry import ArmSeries
from bascule.stats import edit_distance

log = logging.getLogger(__name__)

MAX_WAITING = 32
"""How many requests wait for a shadow, or are run by it, in one worker."""
PAIRS_SHARE = 0.01
"""Of a candidate's requests, those that the current version answers too."""
MAX_TEXT = 2_000
"""Characters of a text that are compared."""
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
        find_embedder: Callable[[], ServedModel | None] | None = None,
        draw: Callable[[], float] = random.random,
    ) -> None:
        """Run nothing yet.

        Args:
            model: The version.
            series: Where comparisons are counted.
            loop: The event loop.
            share: Of the answers that are offered, the share that is compared, from 0 to 1.
            tolerance: The greatest absolute difference at which two numbers agree, or the greatest
                distance of two texts.
            find_embedder: Finds the model whose embeddings texts are compared by; None to compare
                them by edits.
            draw: Uniform on [0, 1).
        """
        self._model = model
        self._series = series
        self._loop = loop
        self._share = share
        self._tolerance = tolerance
        self._find_embedder = find_embedder
        self._draw = draw
        self.is_of_texts = generates_text(model.signature)
        self.waiting = 0

    def offer(self, call: Call, answer: Outcome) -> None:
        """Compare, perhaps, what a client got; never raises."""
        if self._draw() >= self._share:
            return
        if isinstance(answer, BasculeError):
            if isinstance(answer, Overloaded):  # the text is too long: see `GatheredText`
                self._drop()
            return
        by = self._model.by
        if (answer.by.model, answer.by.version) == (by.model, by.version):
            return  # the arm that answered is the shadow's version
        self._ask_later(call, answer)

    def _ask_later(self, call: Call, answer: Answer) -> None:
        if self.waiting >= MAX_WAITING or held_bytes(call.columns) > MAX_CALL_BYTES:
            self._drop()
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
            if self.is_of_texts:
                if call.rows > 1 or "text" not in expected:
                    raise _NotRun

                def begin(outcome: PartsOutcome) -> None:
                    if isinstance(outcome, BasculeError):
                        take(outcome)
                    else:
                        outcome.start(GatheredText(outcome, take))

                engine.run_in_parts(columns, 1, None, model.limits.deadline_s, begin, "")
                return
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
        if self.is_of_texts and isinstance(outcome, Overloaded | TimedOut):
            self._drop()  # it writes one text after the other: those of clients are not late
            return
        if self.is_of_texts and isinstance(outcome, Answer):
            self._compare_texts(outcome, expected, duration_ns)
            return
        failed = isinstance(outcome, BasculeError)
        self._series.count_arm(duration_ns, 0 if failed else rows, failed=failed)
        if isinstance(outcome, BasculeError):
            return
        if self._series.answers is not None:
            self._series.answers.add(outcome)
        if not agree(outcome.outputs, expected, self._tolerance):
            self._series.count_disagreement()

    def _compare_texts(self, outcome: Answer, expected: Columns, duration_ns: int) -> None:
        texts = [str(columns["text"][0]) for columns in (expected, outcome.outputs)]

        def count(distance: float) -> None:
            self.waiting -= 1
            if math.isnan(distance):
                self._drop()
                return
            self._series.count_arm(duration_ns, 1, failed=False)
            if distance > self._tolerance:
                self._series.count_disagreement()

        self.waiting += 1
        if texts[0] == texts[1] or not self._tolerance:
            count(float(texts[0] != texts[1]))
        elif self._find_embedder is None:
            starts = [text[:MAX_TEXT] for text in texts]
            done = self._loop.run_in_executor(None, lambda: edit_distance(*starts))
            done.add_done_callback(lambda done: count(done.result()))
        else:
            self._embed(self._find_embedder(), np.array(texts, object), count)

    def _embed(
        self, model: ServedModel | None, texts: np.ndarray, count: Callable[[float], None]
    ) -> None:
        def take(outcome: Outcome) -> None:
            if isinstance(outcome, BasculeError):
                count(math.nan)
                return
            first, other = outcome.outputs[output].astype(np.float64)
            lengths = float(np.linalg.norm(first) * np.linalg.norm(other))
            count(1 - float(first @ other) / lengths if lengths else math.nan)

        vector = None if model is None else embedding_of(model)
        if model is None or model.engine is None or vector is None:
            count(math.nan)
            return
        text, output = model.program.inputs[0].name, vector.name
        job = Job({text: texts}, 2, (output,), take)
        try:
            model.engine.batcher.submit(job, model.limits.deadline_s)
        except BasculeError:
            count(math.nan)


class GatheredText:
    """An answer in parts on its way to a receiver, whose whole text `tell` gets at its end.

    Both `calls.Parts` and `calls.Receiver`; of a text that is too long it gets `Overloaded`, and
    nothing of one that its client has left.
    """

    def __init__(
        self, parts: Parts, tell: Callable[[Outcome], None], receiver: Receiver | None = None
    ) -> None:
        self.by, self._parts, self._tell, self._receiver = parts.by, parts, tell, receiver
        self.queue_ns = parts.queue_ns
        self._pieces: list[str] = []
        self._size = 0

    def start(self, receiver: Receiver) -> None:
        self._receiver = receiver
        self._parts.start(self)

    def resume(self) -> None:
        self._parts.resume()

    def take(self, part: Answer) -> bool:
        for piece in map(str, part.outputs.get("text", ())):
            self._size += len(piece)
            if self._size <= MAX_CALL_BYTES:
                self._pieces.append(piece)
        return self._receiver is None or self._receiver.take(part)

    def finish(self, error: BasculeError | None) -> None:
        if self._receiver is not None:
            self._receiver.finish(error)
        if error is None and self._size > MAX_CALL_BYTES:
            error = Overloaded("the text is too long to be compared", hint="lower max_tokens")
        text = np.array(["".join(self._pieces)], object)
        self._tell(error or Answer({"text": text}, self.by))


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

    def offer(self, call: Call, answer: Outcome) -> None:
        """Ask the current version too; never raises."""
        answers = self._series.answers
        if isinstance(answer, BasculeError) or answers is None or answer.by is not answers.by:
            return  # the answer is a fallback's
        self._ask_later(call, answer)

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


def _equal(first: np.ndarray, other: np.ndarray, tolerance: float) -> bool:
    if first.shape != other.shape:
        return False
    if first.dtype.kind == other.dtype.kind == "f":
        return bool(np.allclose(first, other, rtol=0.0, atol=tolerance, equal_nan=True))
    return bool(np.array_equal(first, other))
