"""Gives callers less than a model answers: rounded, the largest probabilities, labels, with noise.

What a copy is learned from are the digits of an answer (Tramèr et al. 2016, section 6). The rules:

- the ledger, shadows and rollouts see what the model answered (`Answer.original`);
- a label is that of the model's own probabilities, also where rounding or noise would say another;
- noise follows from a secret key and the row alone: who sends a row again, or has others send it,
  gets the same answer, so that averaging repeats removes nothing. Rows that differ a little have
  noise of their own, which averages out: a budget bounds that, not noise;
- extra outputs are withheld: an interval has the digits of its prediction, and attributions those
  of the weights.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bascule.core import BasculeError, Columns, Field, Refused
from bascule.serving.calls import (
    Answer,
    AnsweredBy,
    Call,
    Cancel,
    Context,
    Deliver,
    DeliverParts,
    Outcome,
    Parts,
    PartsOutcome,
    Receiver,
)
from bascule.serving.execution.policies import PolicyFacts
from bascule.serving.execution.predictors import AroundPredictor, Predictor


@dataclass(frozen=True, slots=True)
class CoarseSettings:
    """The keys of `[policies.NAME]` that make answers coarser.

    Attributes:
        round: How many decimals probabilities and other numbers have; -1 for all.
        top_k: How many of the largest probabilities are given, the others as 0; 0 for all.
        label_only: Whether a classifier answers its label alone.
        noise: The scale of Laplace noise on probabilities and other numbers; 0 for none.
    """

    round: int = -1
    top_k: int = 0
    label_only: bool = False
    noise: float = 0.0

    def __post_init__(self) -> None:
        for name, least in (("round", -1), ("top_k", 0), ("noise", 0)):
            if not getattr(self, name) >= least:
                raise ValueError(f"{name}: {getattr(self, name):g} is not >= {least}")


class CoarsePredictor(AroundPredictor):
    """One version whose callers get coarser answers. On the event loop only."""

    def __init__(self, model: Predictor, settings: CoarseSettings, noise_key: bytes) -> None:
        super().__init__(model)
        self._settings, self._key = settings, noise_key
        self._fields = {field.name: field for field in model.signature.outputs}
        if settings.label_only:
            labels = tuple(field for field in model.signature.outputs if is_label(field))
            self.signature = replace(model.signature, outputs=labels)
            self._fields = {field.name: field for field in labels}

    def answer(
        self, call: Call, context: Context, allowed_s: float, deliver: Deliver
    ) -> Cancel | None:
        """See `Predictor.answer`; raises `Refused` for outputs that are withheld."""
        whole = self._whole(call)

        def take(outcome: Outcome) -> None:
            if not isinstance(outcome, BasculeError):
                outcome = self._coarse(outcome, call)
            deliver(outcome)

        return self.model.answer(whole, context, allowed_s, take)

    def answer_in_parts(
        self, call: Call, context: Context, allowed_s: float, deliver: DeliverParts
    ) -> Cancel:
        """See `Predictor.answer_in_parts`; raises as `answer`."""
        whole = self._whole(call)

        def take(outcome: PartsOutcome) -> None:
            if not isinstance(outcome, BasculeError):
                outcome = _CoarseParts(outcome, lambda part: self._coarse(part, call))
            deliver(outcome)

        return self.model.answer_in_parts(whole, context, allowed_s, take)

    def _whole(self, call: Call) -> Call:
        """The call for the model: of all outputs, which the ledger keeps; without extras."""
        withheld = [f"extra output {each.extra.name}" for each in call.extras if each.always]
        withheld += [f"output {name}" for name in call.outputs or () if name not in self._fields]
        if withheld:
            raise Refused(
                f"the {withheld[0]} of {self.name} is withheld by its policy",
                hint=f"ask for {', '.join(self._fields)}",
            )
        return call._replace(outputs=None, extras=())

    def _coarse(self, answer: Answer, call: Call) -> Answer:
        names = call.outputs or tuple(self._fields)
        outputs = coarse(
            {name: answer.outputs[name] for name in names}, self._fields, self._settings,
            lambda shape: row_noise(self._key, call, shape),
        )  # fmt: skip
        # What another policy has added is no output of the model.
        own = {field.name for field in self.model.signature.outputs}
        added = {name: values for name, values in answer.outputs.items() if name not in own}
        original = answer.original or answer.outputs
        return Answer(outputs | added, answer.by, original, answer.inputs)


class CoarseAnswers:
    """Rounding, top k, labels alone and noise; see `Policy`."""

    settings = CoarseSettings

    @staticmethod
    def around(model: Predictor, settings: CoarseSettings, facts: PolicyFacts) -> Predictor:
        """See `Policy.around`."""
        key = facts.callers.noise_key if facts.callers is not None else b""
        return CoarsePredictor(model, settings, key)

    @staticmethod
    def check(
        model: Predictor,
        settings: CoarseSettings,
        find: Callable[[str], Predictor | None],  # noqa: ARG004
    ) -> None:
        """Refuse labels alone of a model without labels."""
        if settings.label_only and not any(map(is_label, model.signature.outputs)):
            raise Refused(
                f"{model.name}/{model.version} has no label that could be its only output",
                hint=f"take label_only out of [policies.{model.name}]",
            )


class _CoarseParts:
    """An answer in parts, each made coarser (a `Parts`, and the `Receiver` of those it is from)."""

    def __init__(self, parts: Parts, coarse_part: Callable[[Answer], Answer]) -> None:
        self._parts, self._coarse = parts, coarse_part
        self.resume, self.queue_ns = parts.resume, parts.queue_ns

    @property
    def by(self) -> AnsweredBy:
        return self._parts.by

    @by.setter
    def by(self, by: AnsweredBy) -> None:
        self._parts.by = by

    def start(self, receiver: Receiver) -> None:
        """See `calls.Parts`."""
        self._receiver = receiver
        self.finish = receiver.finish
        self._parts.start(self)

    def take(self, part: Answer) -> bool:
        """See `calls.Receiver`."""
        return self._receiver.take(self._coarse(part))


def is_label(field: Field) -> bool:
    return field.name == "label" or field.name.startswith("label.")


def is_probabilities(field: Field) -> bool:
    return field.name.partition(".")[0] == "probabilities"


def coarse(
    outputs: Columns,
    fields: dict[str, Field],
    settings: CoarseSettings,
    noise: Callable[[tuple[int, ...]], NDArray[np.float64]],
) -> Columns:
    """Outputs as callers get them, in their dtypes.

    Args:
        outputs: What the model answers.
        fields: Its outputs, by name.
        settings: What is left of them.
        noise: Laplace noise of scale 1, in the shape that is asked for.
    """
    return {
        name: values if is_label(fields[name]) else _coarse(values, fields[name], settings, noise)
        for name, values in outputs.items()
    }


def _coarse(
    values: NDArray[Any],
    field: Field,
    settings: CoarseSettings,
    noise: Callable[[tuple[int, ...]], NDArray[np.float64]],
) -> NDArray[Any]:
    if values.dtype.kind != "f":
        return values
    coarser = values.astype(np.float64)
    if settings.noise:
        coarser += settings.noise * noise(coarser.shape)
    if is_probabilities(field):
        if settings.noise:
            coarser = np.clip(coarser, 1e-9, 1.0)
        if settings.noise and coarser.ndim > 1:
            coarser /= coarser.sum(axis=-1, keepdims=True)
        if settings.top_k and coarser.ndim > 1:
            smaller = np.argsort(-coarser, axis=-1, kind="stable")[..., settings.top_k :]
            np.put_along_axis(coarser, smaller, 0.0, -1)
    if settings.round >= 0:
        coarser = np.round(coarser, settings.round)
    return coarser.astype(values.dtype)


def row_noise(key: bytes, call: Call, shape: tuple[int, ...]) -> NDArray[np.float64]:
    """Laplace noise of scale 1 for each row of a call, the same whenever that row is asked.

    Without the key it looks like noise that is drawn, so it cannot be subtracted.
    """
    per_row = int(np.prod(shape[1:], dtype=np.int64))
    drawn = b"".join(
        hashlib.shake_128(key + _bytes_of(call, row)).digest(8 * per_row) for row in range(shape[0])
    )
    uniform = (np.frombuffer(drawn, "<u8").astype(np.float64) + 0.5) / 2.0**64 - 0.5
    noise: NDArray[np.float64] = -np.sign(uniform) * np.log1p(-2 * np.abs(uniform)).clip(-40.0)
    return noise.reshape(shape)


def _bytes_of(call: Call, row: int) -> bytes:
    """A row as bytes that no other row has."""
    values = (call.columns[name][row % call.rows] for name in sorted(call.columns))
    parts = [
        value.tobytes() if isinstance(value, np.ndarray | np.generic) and value.dtype.kind != "O"
        else repr(value).encode()
        for value in values
    ]  # fmt: skip
    return b"".join(len(part).to_bytes(8, "little") + part for part in parts)
