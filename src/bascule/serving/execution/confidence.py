"""What a request may ask beside the model's own outputs: a prediction set, or an interval.

A request that asks for nothing pays nothing: everything that can be known before is worked out
when a model is loaded, and a threshold is looked up once per confidence.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from bascule.core.errors import BasculeError, Invalid, ModelFailed
from bascule.core.fields import Field
from bascule.serving.execution.engine import Outcome
from bascule.stats.conformal import Calibration, check_confidence

_UNSAID = object()


@dataclass(frozen=True, slots=True)
class Asked:
    """A confidence that the model can support, and the method.

    Attributes:
        confidence: Over 0 and under 1.
        method: One of the calibration's.
        always: Whether the set or interval is added even where the request lists other outputs.
    """

    confidence: float
    method: str
    always: bool = True


class Confidence:
    """Reads what requests to one model ask, and adds it to their answers."""

    def __init__(
        self, calibration: Calibration | None, outputs: Sequence[Field], default: float = 0.0
    ) -> None:
        """See `Limits.confidence` for `default`; raises `Invalid` if it cannot be supported."""
        self._calibration = calibration
        self.fields = () if calibration is None else calibration.fields(outputs)
        self.names = frozenset(field.name for field in self.fields)
        self._check: Callable[..., Asked] = lru_cache(256)(self._checked)
        self.by_default: Asked | None = None
        if default and self._calibration is not None:
            self.by_default = self._check(default, None, always=False)

    def read(self, parameters: Any) -> Asked | None:
        """What the `parameters` of a request ask for. Other parameters are not looked at.

        Raises:
            Invalid: The confidence is none, or more than the model can support.
        """
        method: Any = parameters.get("conformal")
        confidence: Any = parameters.get("confidence", _UNSAID)
        if confidence is None:
            return None
        if confidence is _UNSAID:
            if self.by_default is None or method is None:
                return self.by_default
            confidence = self.by_default.confidence
        # Only what can be a key is looked up; the rest is refused in full words.
        plain = isinstance(confidence, int | float) and isinstance(method, str | None)
        if plain:
            return self._check(confidence, method)
        return self._checked(confidence, method)

    def refuse(self, outputs: Sequence[str]) -> None:
        """Raise `Invalid` where an output is listed that only a confidence makes."""
        for name in outputs:
            if name in self.names:
                raise Invalid(
                    f"outputs: {name} is made for a confidence, and none is asked for",
                    hint='send "parameters": {"confidence": 0.9}',
                )

    def needed(self, outputs: tuple[str, ...] | None, asked: Asked) -> tuple[str, ...] | None:
        """What the program must answer, so that `added` can do its work; None is all of it."""
        if outputs is None or self._calibration is None:
            return outputs
        own = [name for name in outputs if name not in self.names]
        if self._adds(outputs, asked):
            own += [name for name in self._calibration.needs if name not in own]
        return tuple(own)

    def added(self, outcome: Outcome, outputs: tuple[str, ...] | None, asked: Asked) -> Outcome:
        """The answer with the set or the interval; an error as it is."""
        if isinstance(outcome, BasculeError) or self._calibration is None:
            return outcome
        if not self._adds(outputs, asked):
            return outcome
        try:
            more = self._calibration.added(outcome, asked.confidence, asked.method)
        except BasculeError as problem:
            return ModelFailed(f"the answer has no confidence: {problem.message}")
        if outputs is None:
            return outcome | more
        every = outcome | more
        named = dict.fromkeys((*outputs, *more) if asked.always else outputs)
        return {name: every[name] for name in named}

    def parameters(self) -> dict[str, Any]:
        """What the metadata says; flat, as the protocol's parameters are."""
        if self._calibration is None:
            return {}
        made: dict[str, Any] = {
            "confidence_adds": ",".join(field.name for field in self.fields),
            "confidence_methods": ",".join(self._calibration.methods),
            "confidence_largest": self._calibration.largest_confidence,
        }
        if self.by_default is not None:
            made["confidence"] = self.by_default.confidence
        return made

    def _adds(self, outputs: tuple[str, ...] | None, asked: Asked) -> bool:
        return asked.always or outputs is None or not self.names.isdisjoint(outputs)

    def _checked(self, confidence: Any, method: Any, *, always: bool = True) -> Asked:
        checked = check_confidence(confidence)
        if self._calibration is None:
            raise Invalid(
                "parameters.confidence: the model has no calibration",
                hint="pack it with held-out rows and their truth: test=(X, y)",
            )
        named = self._calibration.method(method)
        self._calibration.threshold(checked, named)
        return Asked(checked, named, always)
