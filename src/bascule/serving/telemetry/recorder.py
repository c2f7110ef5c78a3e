"""The recorder: every answer of every protocol passes it once, where the answer is counted.

Without one, a request costs a comparison. With one, what it asked and was answered is kept by its
context until then.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

from bascule.core.errors import Invalid
from bascule.serving.calls import Answer, Call, Context
from bascule.serving.telemetry.counters import MetricLabels

RECORDER_VARIABLE = "BASCULE_BENCH_RECORDER"
"""The variable of a worker's environment that names its recorder. For the benchmark alone."""


class Recorded(NamedTuple):
    """What a context asked a predictor.

    Attributes:
        call: The rows and what was wanted of them, as decoded.
        answer: None until it is there, and where there is none.
    """

    call: Call
    answer: Answer | None = None


class Recorder(Protocol):
    """Takes what was asked and answered."""

    def add(
        self,
        context: Context,
        label: MetricLabels,
        status: int,
        duration_ns: int,
        recorded: Recorded | None,
    ) -> None:
        """Take one answer. On the event loop: it must cost next to nothing, and may not raise.

        Args:
            context: The request.
            label: The version that was asked; `recorded.answer.by` is the one that answered.
            status: Of HTTP, or its equivalent.
            duration_ns: From the request's last byte to its answer.
            recorded: None where the request was refused before a predictor was asked.
        """


class NoopRecorder:
    """Records nothing: what it costs is what the seam costs."""

    def add(
        self,
        context: Context,
        label: MetricLabels,
        status: int,
        duration_ns: int,
        recorded: Recorded | None,
    ) -> None:
        """See `Recorder`."""


def open_recorder(name: str) -> Recorder | None:
    """The recorder of a name: `noop`; None for the empty name. Raises `Invalid`."""
    if not name:
        return None
    if name != "noop":
        raise Invalid(f"{RECORDER_VARIABLE}: no recorder {name!r}", hint="use noop")
    return NoopRecorder()
