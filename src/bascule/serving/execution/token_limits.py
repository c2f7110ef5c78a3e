"""Bounds the tokens that each caller may have of a text model, as `limiting` bounds rows.

A call takes its `max_tokens` and an estimate of its prompt, and gives back what it did not use when
it has ended; one that is given up pays for its prompt and what was written. One that turns out
longer than was taken for it takes the rest then.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

import msgspec

from bascule.core import BasculeError
from bascule.serving.calls import Answer, Call, Context
from bascule.serving.execution.limiting import Allowance, Caller, LimitedPredictor, LimitSettings
from bascule.serving.execution.meters import DAY, today
from bascule.serving.execution.policies import PolicyFacts
from bascule.serving.execution.predictors import Predictor
from bascule.serving.execution.texts import TextParts, Texts, tokens_in
from bascule.serving.telemetry import REQUEST

_USUAL_TOKENS = 1_024
"""Taken for an answer without `max_tokens`."""


@dataclass(frozen=True, slots=True)
class TokenSettings:
    """The keys of `[policies.NAME]` about tokens; 0 is no limit.

    Attributes:
        tokens_per_minute: Of prompts and answers that one caller gets, at once those of a minute.
        tokens_per_day: The same in a day, in UTC, of all servers.
    """

    tokens_per_minute: int = 0
    tokens_per_day: int = 0

    def __post_init__(self) -> None:
        if self.tokens_per_minute < 0 or self.tokens_per_day < 0:
            raise ValueError("tokens_per_minute and tokens_per_day are >= 0")


class TokenLimits(Texts):
    """See `Policy`; of models that generate text, as `Texts`."""

    settings: type[Any] = TokenSettings

    @staticmethod
    def around(model: Predictor, settings: Any, facts: PolicyFacts) -> Predictor:
        """See `Policy.around`; a process without the shared file has no bounds."""
        is_bounded = settings.tokens_per_minute or settings.tokens_per_day
        if facts.callers is None or not is_bounded:
            return model
        return TokenLimitedPredictor(model, settings, facts)


class TokenLimitedPredictor(LimitedPredictor):
    """One text model whose callers have budgets of tokens. On the event loop only."""

    unit, counter = "tokens", "tokens:"
    budget_key, rate_key = "tokens_per_day", "tokens_per_minute"

    def __init__(self, model: Predictor, settings: TokenSettings, facts: PolicyFacts) -> None:
        super().__init__(model, LimitSettings(), facts)
        of_minute, of_day = settings.tokens_per_minute, settings.tokens_per_day
        self._of_caller = Allowance("", of_day)
        if of_minute:
            rate = f"{of_minute} tokens/min"
            self._of_caller = Allowance("", of_day, rate, 0, round(60e9 / of_minute), 60 * 10**9)
        self._most = min(limit for limit in (of_minute, of_day) if limit)

    def units(self, call: Call) -> int:
        """See `LimitedPredictor.units`: what the call may use."""
        return sum(map(self._tokens_of, call.columns[REQUEST].tolist()))

    def _tokens_of(self, text: str) -> int:
        prompt = tokens_in(text)
        try:
            lengths = msgspec.json.decode(text, type=_Lengths)
        except (msgspec.MsgspecError, RecursionError):
            lengths = _Lengths()
        most = lengths.max_completion_tokens or lengths.max_tokens
        return prompt + most if most else min(prompt + _USUAL_TOKENS, max(self._most, prompt))

    def ask(
        self, ask: Callable[..., Any], caller: Caller, rows: int, call: Call, context: Context,
        allowed_s: float, deliver: Any,
    ) -> Any:  # fmt: skip
        """See `LimitedPredictor.ask`."""
        # That of the counters, also where the clock was set back since.
        day = max((meter.words[DAY] for meter, *_ in caller.counted), default=today())
        left, prompt = [rows], sum(map(tokens_in, call.columns[REQUEST].tolist()))

        caller.held_rows += rows

        def settle(used: int) -> None:
            if left:
                caller.held_rows -= rows
                self.take_back(caller, left.pop() - used, day)

        def take(outcome: Any) -> None:
            if isinstance(outcome, TextParts):
                outcome.text.on_end = lambda prompt, answer: settle(prompt + answer)
            elif isinstance(outcome, Answer):
                counts = outcome.original or {}
                settle(int(counts["prompt_tokens"].sum() + counts["completion_tokens"].sum()))
            elif isinstance(outcome, BasculeError):
                settle(0)
            deliver(outcome)

        try:
            cancel_run = ask(call, context, allowed_s, take)
        except BasculeError:
            settle(0)
            raise

        def cancel() -> None:
            cancel_run()
            settle(prompt)

        return None if cancel_run is None else cancel


_Tokens = Annotated[int, msgspec.Meta(ge=1)] | None


class _Lengths(msgspec.Struct):
    max_tokens: _Tokens = None
    max_completion_tokens: _Tokens = None
