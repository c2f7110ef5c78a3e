"""The recorder: every answer of every protocol passes it once, where the answer is counted.

Without one, a request costs a comparison. With one, what it asked and was answered is kept by its
context until then.
"""

from __future__ import annotations

from typing import Protocol

from bascule.core import Invalid
from bascule.serving.calls import Answer, Call, Context
from bascule.serving.telemetry.counters import MetricLabels

RECORDER_VARIABLE = "BENCH_RECORDER"
"""The environment variable that names the recorder of a worker. For the benchmark alone."""


class Recorder(Protocol):
    """Takes what was asked and answered."""

    def add(
        self,
        context: Context,
        call: Call | None,
        answer: Answer | None,
        label: MetricLabels,
        status: int,
        duration_ns: int,
        /,
    ) -> None:
        """Take one answer. On the event loop: it must cost next to nothing, and may not raise.

        Args:
            context: The request.
            call: What was asked, as decoded; None where no predictor was asked.
            answer: The outputs; None where there are none.
            label: The version that was asked; `Answer.by` is the one that answered.
            status: Of HTTP, or its equivalent.
            duration_ns: From the request's last byte to its answer.
        """


class NoopRecorder:
    """Records nothing: what it costs is what the seam costs."""

    def add(self, *_: object) -> None:
        """See `Recorder`."""


def open_recorder(name: str) -> Recorder | None:
    """The recorder of a name: `noop`; None for the empty name. Raises `Invalid`."""
    if not name:
        return None
    if name != "noop":
        raise Invalid(f"{RECORDER_VARIABLE}: no recorder {name!r}", hint="use noop")
    return NoopRecorder()
