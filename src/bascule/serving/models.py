"""The models that a worker serves, ready to run."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from bascule.core.fields import Columns, Signature
from bascule.core.programs import Program
from bascule.serving.confidence import Confidence
from bascule.serving.counters import Slot
from bascule.serving.engine import Batcher, Deliver, Job, Outcome, Pace, run_one
from bascule.serving.limits import Limits
from bascule.serving.services import Service
from bascule.stats.conformal import Calibration


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
        self.name = service.model
        self.version = service.version
        self.signature = signature
        self.program = program
        self.digest = digest
        self.batch_invariant = batch_invariant
        self.pace = pace
        self.slot = slot
        self.limits = limits
        self.confidence = Confidence(calibration, signature.outputs, limits.confidence)
        self.inline_rows = pace.inline_rows
        self.batcher = Batcher(
            program, pace, limits, loop, name=f"{service.model}/{service.version}"
        )

    def run_inline(self, columns: Columns, outputs: tuple[str, ...] | None) -> Outcome:
        """Run now, on the event loop; for at most `inline_rows` rows."""
        return run_one(self.program, columns, outputs)

    def submit(
        self,
        columns: Columns,
        rows: int,
        outputs: tuple[str, ...] | None,
        deadline_s: float,
        deliver: Deliver,
    ) -> Callable[[], None]:
        """Queue for the thread; returns what to call if the caller goes away."""
        job = Job(columns, rows, outputs, deliver)
        self.batcher.submit(job, deadline_s)
        return job.cancel
