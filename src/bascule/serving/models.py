"""The models that a worker serves, ready to run."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from bascule.core.fields import Field, Signature
from bascule.core.programs import Program
from bascule.serving.calls import Call
from bascule.serving.confidence import Confidence
from bascule.serving.counters import Slot
from bascule.serving.engine import Deliver, Engine, Job, Outcome, Pace, run_one
from bascule.serving.limits import Limits
from bascule.serving.services import Service
from bascule.stats.conformal import Calibration

Cancel = Callable[[], None]
"""What to call when a caller has gone."""


class Facts(NamedTuple):
    """What faces need to know of a program, apart from the program itself.

    Routes are made of these alone. Whoever kept the program would keep its memory too, after it
    was let go of.
    """

    name: str
    inputs: tuple[Field, ...]
    outputs: tuple[Field, ...]


class ServedModel:
    """One version, loaded and measured: runs calls inline or through its thread."""

    def __init__(
        self,
        service: Service,
        *,
        signature: Signature,
        program: Program,
        digest: str,
        batch_invariant: bool,
        pace: Pace,
        slot: Slot,
        limits: Limits,
        loop: asyncio.AbstractEventLoop,
        calibration: Calibration | None = None,
    ) -> None:
        self.service = service
        self.name = service.model
        self.version = service.version
        self.signature = signature
        self.program = Facts(program.name, program.inputs, program.outputs)
        self.digest = digest
        self.batch_invariant = batch_invariant
        self.slot = slot
        self.limits = limits
        self.confidence = Confidence(calibration, signature.outputs, limits.confidence)
        self.engine = Engine(program, pace, limits, loop, name=f"{self.name}/{self.version}")

    def answer(self, call: Call, allowed_s: float, deliver: Deliver) -> Cancel | None:
        """Run a call and deliver its outcome, once: at once, or later on the event loop.

        Args:
            call: What is asked.
            allowed_s: How long the caller waits.
            deliver: Takes the outputs, or the error.

        Returns:
            What to call if the caller goes away; None where the outcome has been delivered.

        Raises:
            Overloaded: Too many calls wait.
            Unavailable: The model is being unloaded.
        """
        outputs = call.outputs
        if call.asked is not None:
            deliver = partial(self._deliver_with_confidence, call, deliver)
            outputs = self.confidence.needed(outputs, call.asked)
        engine = self.engine
        if call.rows <= engine.inline_rows:
            deliver(run_one(engine.program, call.columns, outputs))
            return None
        job = Job(call.columns, call.rows, outputs, deliver)
        engine.batcher.submit(job, allowed_s)
        return job.cancel

    def _deliver_with_confidence(self, call: Call, deliver: Deliver, outcome: Outcome) -> None:
        assert call.asked is not None
        deliver(self.confidence.added(outcome, call.outputs, call.asked))
