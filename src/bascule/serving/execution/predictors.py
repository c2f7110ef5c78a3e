"""The interface `Predictor`: answers calls under one name and version."""

from __future__ import annotations

from typing import NamedTuple, Protocol

from bascule.bundle import Bundle, Places
from bascule.core import Columns, DType, Field, Signature
from bascule.security import Action
from bascule.serving.calls import (
    AnsweredBy,
    Call,
    Cancel,
    Context,
    Deliver,
    DeliverParts,
)
from bascule.serving.execution.extras import Extras
from bascule.serving.limits import Limits
from bascule.serving.specs import ModelSpec
from bascule.serving.telemetry import MetricSeries


class Facts(NamedTuple):
    """What protocols need to know of a program, apart from the program itself.

    Routes are made of these alone: a route that held the program would keep its memory after the
    model was unloaded.
    """

    name: str
    inputs: tuple[Field, ...]
    outputs: tuple[Field, ...]


class Predictor(Protocol):
    """Answers calls under one name and version. On the event loop only.

    `ServedModel` is one version; `ResilientPredictor` is one with a policy. A predictor may ask
    others: the `Answer` says which version produced it.

    Attributes:
        name: Of the model, or of the endpoint.
        version: Of the model.
        by: Whose answers are taken for granted; an answer by another is marked as such.
        signature: What requests are checked against.
        program: What columns are decoded into.
        digest: Of the bundle.
        batch_invariant: Whether a row has the same bits in every batch.
        service: The name, the version and the folder.
        example: Rows to show to people; None where there are none.
        places: The classes that the values in a row of an output stand for, by output.
        limits: The bounds to keep.
        extras: The extra outputs that can be asked for.
        series: Where answers are counted.
        asks_headers: The request headers that `answer` reads from its context, in lower case.
        needs: What a caller must be allowed to do: `infer`; `manage` for a version of a plan,
            which only its endpoint answers with for all callers.
    """

    name: str
    version: str
    by: AnsweredBy
    signature: Signature
    program: Facts
    digest: str
    batch_invariant: bool
    service: ModelSpec
    example: Columns | None
    places: Places
    limits: Limits
    extras: Extras
    series: MetricSeries
    asks_headers: frozenset[bytes]
    needs: Action

    def check_room(self, allowed_s: float) -> None:
        """Return if a call may be answered in time: what cannot be need not even be decoded.

        Raises:
            Overloaded: Too many calls wait, or there is no answer to be had in time.
            Unavailable: The model is being unloaded.
        """

    def answer(
        self, call: Call, context: Context, allowed_s: float, deliver: Deliver
    ) -> Cancel | None:
        """Run a call and deliver its outcome, once: at once, or later on the event loop.

        Args:
            call: What is asked.
            context: The request that asks.
            allowed_s: How long the caller waits.
            deliver: Takes the answer, or the error.

        Returns:
            What to call if the caller goes away; None where the outcome has been delivered.

        Raises:
            Overloaded: Too many calls wait, or there is no answer to be had in time.
            Unavailable: The model is being unloaded.
        """

    def answer_in_parts(
        self, call: Call, context: Context, allowed_s: float, deliver: DeliverParts
    ) -> Cancel:
        """Begin an answer in parts, and deliver it when its first part is there; or the error.

        Args:
            call: What is asked; without extra outputs, which belong to whole answers.
            context: The request that asks.
            allowed_s: How long the caller waits for the first part. Each further one has
                `Limits.deadline_s` from when the one before it was taken.
            deliver: Takes the answer, or the error, once.

        Returns:
            What to call if the caller goes away, before the first part or after it.

        Raises:
            Overloaded: Too many answers in parts wait.
            Unavailable: The model is being unloaded.
            Invalid: The call asks for extra outputs.
        """


class AroundPredictor:
    """A `Predictor` that is and answers as another where a subclass defines nothing else."""

    def __init__(self, model: Predictor) -> None:
        self.model = model
        self.by = model.by
        self.name = model.name
        self.version = model.version
        self.service = model.service
        self.signature = model.signature
        self.program = model.program
        self.digest = model.digest
        self.batch_invariant = model.batch_invariant
        self.example = model.example
        self.places = model.places
        self.limits = model.limits
        self.extras = model.extras
        self.series = model.series
        self.asks_headers = model.asks_headers
        self.needs = model.needs

    def check_room(self, allowed_s: float) -> None:
        """See `Predictor.check_room`."""
        self.model.check_room(allowed_s)

    def answer(
        self, call: Call, context: Context, allowed_s: float, deliver: Deliver
    ) -> Cancel | None:
        """See `Predictor.answer`."""
        return self.model.answer(call, context, allowed_s, deliver)

    def answer_in_parts(
        self, call: Call, context: Context, allowed_s: float, deliver: DeliverParts
    ) -> Cancel:
        """See `Predictor.answer_in_parts`."""
        return self.model.answer_in_parts(call, context, allowed_s, deliver)


def embedding_of(model: Predictor | Bundle) -> Field | None:
    """The vector of floats that a model gives for a text; None of a model that does not.

    It may also tell the `tokens` of each text. A classifier, which has labels, is no such model.
    """
    outputs = [field for field in model.signature.outputs if field.name != "tokens"]
    if len(model.signature.inputs) != 1 or len(outputs) != 1:
        return None
    (field,), (vector,) = model.signature.inputs, outputs
    is_text = field.dtype is DType.BYTES and not field.shape
    return vector if is_text and vector.dtype.is_float and len(vector.shape) == 1 else None
