"""Around every model that generates text: measures answers, checks texts, and tells the ledger.

The ledger gets keyed hashes of prompt and answer, and counts. The texts themselves are kept,
encrypted, of `keep_texts_percent` of the requests, unless a request says `"store": false` or
`Bascule-Store: no`. The person whom a request is about is its `Bascule-Subject`, or OpenAI's
`safety_identifier` or `user`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import random
from time import perf_counter_ns
from typing import Any

import msgspec
import numpy as np

from bascule.bundle.disk import generates_text
from bascule.core import BasculeError, Columns, Invalid, Refused
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
from bascule.serving.execution.text_checks import TextCheck, TextFilter, schema_check
from bascule.serving.telemetry.texts import (
    CHUNK,
    FINISHES,
    KEPT_ANSWER,
    KEPT_PROMPT,
    RECORD,
    REQUEST,
    SUBJECT,
    TEXT,
    TextFigures,
)

_SUBJECT_HEADER, _STORE_HEADER = b"bascule-subject", b"bascule-store"
_NO_TEXT = ("role", "type", "url", "id", "tool_call_id")
_REFUSAL_WITHIN = 200
_REFUSALS = (
    "i can't assist", "i can't help", "i cannot assist", "i cannot help", "i'm sorry, but i can",
    "i am sorry, but i can", "i'm unable to", "i am unable to", "i won't be able to",
    "as an ai language model", "i must decline",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class TextSettings:
    """The keys of `[policies.NAME]` about generated texts.

    Attributes:
        keep_texts_percent: Of the requests, those whose texts the ledger keeps, encrypted.
        refusal_phrases: An answer with one of them in its first 200 characters is a refusal.
        input_checks: Of prompts.
        output_checks: Of answers, and of the arguments of their tool calls.
        hold_back_characters: How many characters a stream holds back for `output_checks`.
    """

    keep_texts_percent: float = 0.0
    refusal_phrases: tuple[str, ...] = _REFUSALS
    input_checks: tuple[TextCheck, ...] = ()
    output_checks: tuple[TextCheck, ...] = ()
    hold_back_characters: int = 64

    def __post_init__(self) -> None:
        if not 0 <= self.keep_texts_percent <= 100:
            raise ValueError(f"keep_texts_percent: {self.keep_texts_percent:g} is not 0 to 100")
        if self.hold_back_characters < 0:
            raise ValueError(f"hold_back_characters: {self.hold_back_characters} is not >= 0")
        if any(check.json_schema for check in self.input_checks):
            raise ValueError("input_checks: json_schema is of output_checks")


class Texts:
    """See `Policy`. Text models have it also where no setting names it."""

    settings: type[Any] = TextSettings

    @staticmethod
    def around(model: Predictor, settings: Any, facts: PolicyFacts) -> Predictor:  # noqa: ARG004
        """See `Policy.around`."""
        return TextPredictor(model, settings)

    @staticmethod
    def check(
        model: Predictor,
        settings: object,  # noqa: ARG004
        find: Callable[[str], Predictor | None],  # noqa: ARG004
    ) -> None:
        """Refuse a model that generates no text."""
        if not generates_text(model.signature):
            raise Refused(
                f"{model.name}/{model.version} generates no text, and a policy of it is of texts",
                hint="take that out of its section",
            )


class TextPredictor(AroundPredictor):
    """One text model. On the event loop only."""

    def __init__(self, model: Predictor, settings: TextSettings) -> None:
        super().__init__(model)
        self.settings = settings
        self.asks_headers = model.asks_headers | {_SUBJECT_HEADER, _STORE_HEADER}

    def answer(
        self, call: Call, context: Context, allowed_s: float, deliver: Deliver
    ) -> Cancel | None:
        """See `Predictor.answer`; raises `Refused` for a prompt that a check refuses."""
        texts, inner = self._begin(call, context)
        names = call.outputs or (TEXT, CHUNK)

        def take(outcome: Outcome) -> None:
            if not isinstance(outcome, BasculeError):
                answered = outcome.outputs
                handed = _stacked([
                    text.take({name: values[at : at + 1] for name, values in answered.items()})
                    for at, text in enumerate(texts)
                ])  # fmt: skip
                records = _stacked([text.end("other") for text in texts])
                outcome = Answer({name: handed[name] for name in names}, outcome.by, records)
            deliver(outcome)

        return self.model.answer(inner, context, allowed_s, take)

    def answer_in_parts(
        self, call: Call, context: Context, allowed_s: float, deliver: DeliverParts
    ) -> Cancel:
        """See `Predictor.answer_in_parts`; raises as `answer`."""
        if call.rows != 1:
            raise Invalid(f"{call.rows} requests cannot be answered in parts", hint="send one")
        (text,), inner = self._begin(call, context)
        running: list[Cancel] = []

        def cancel() -> None:
            text.tell("cancelled")
            for cancel_run in running:
                cancel_run()

        def take(outcome: PartsOutcome) -> None:
            if not isinstance(outcome, BasculeError):
                outcome = text.parts = TextParts(
                    outcome, text, call.outputs or (TEXT, CHUNK), cancel
                )
            deliver(outcome)

        running.append(self.model.answer_in_parts(inner, context, allowed_s, take))
        return cancel

    def _begin(self, call: Call, context: Context) -> tuple[list[_Text], Call]:
        """The answers to come, and the call for the model; the recorder gets what that gets."""
        texts = [_Text(self, context, text or "") for text in call.columns[REQUEST].tolist()]
        columns = {REQUEST: _column([text.prompt for text in texts])}
        if context.call is not None:
            kept = columns | {SUBJECT: _column([text.subject for text in texts])}
            if self.settings.keep_texts_percent:
                kept[KEPT_PROMPT] = _column([text.kept(text.prompt) for text in texts])
            context.call = call._replace(columns=kept)
        return texts, call._replace(columns=columns, outputs=None)

    def checked(self, value: Any) -> Any:
        """A prompt, a text or JSON, as the model may get it; raises `Refused`."""

        def note(kind: str, action: str, ns: int) -> None:
            self.series.count_check("input", kind, action, ns)

        def feed(checks: Sequence[TextCheck], text: str) -> str:
            one = TextFilter(checks, 0, note)
            changed = one.feed(text, is_last=True)
            if one.ended_by is None:
                return changed
            self.series.count_refusal("text")
            raise Refused(
                f"the prompt is not for {self.name}, by its input_checks: {one.ended_by.said}",
                hint="change the prompt",
            )

        lengths = [check for check in self.settings.input_checks if check.max_characters]
        others = [check for check in self.settings.input_checks if not check.max_characters]
        if lengths:
            strings: list[str] = []
            _mapped(value, strings.append)
            feed(lengths, "".join(strings))
        return _mapped(value, lambda text: feed(others, text)) if others else value


class _Text:
    """One request and its answer: what is known of it so far, and what of it may be handed on.

    Attributes:
        prompt: As the model gets it.
        subject: The person whom it is about; None where that is not said.
        parts: The answer; None before it has begun.
        on_end: Takes the tokens of the prompt and the answer, once it has ended.
        is_stopped: Whether a check has ended it.
    """

    def __init__(self, of: TextPredictor, context: Context, request: str) -> None:
        self._of, self._context = of, context
        self.prompt = request
        self.subject = context.header(_SUBJECT_HEADER).decode("utf-8", "replace") or None
        self.parts: Parts | None = None
        self.on_end: Callable[[int], None] | None = None
        self.is_stopped = self._is_ended = False
        refuses = context.header(_STORE_HEADER).lower() in (b"no", b"false", b"0")
        self._is_kept = random() * 100 < of.settings.keep_texts_percent and not refuses
        self._is_valid: Callable[[str], bool] | None = None
        self._read(request)
        checks = of.settings.output_checks
        self._filters: dict[int, TextFilter] = {}  # by tool call; -1 is the text
        self._checks = checks
        self._texts: list[str] = []
        self._first_ns = self._last_ns = self._pieces = 0
        self._usage: dict[str, int] = {}
        self._finish: str | None = None

    def _read(self, request: str) -> None:
        try:
            asked = msgspec.json.decode(request)
        except (msgspec.DecodeError, RecursionError):
            asked = None
        if not isinstance(asked, dict):
            self.prompt = self._of.checked(request)
            return
        before = dict(asked)
        self._is_kept &= asked.pop("store", None) is not False
        users = [asked.pop(name, None) for name in ("safety_identifier", "user")]
        self.subject = self.subject or next((str(user) for user in users if user), None)
        texts = {name: asked[name] for name in ("messages", "prompt") if name in asked}
        asked |= self._of.checked(texts)
        self._is_valid = _asked_schema(asked.get("response_format"))
        if asked != before:
            self.prompt = msgspec.json.encode(asked).decode()

    def kept(self, text: str) -> str | None:
        """The text, where the ledger may keep it."""
        return text if self._is_kept else None

    def _checked(self, place: int, text: str, *, is_last: bool) -> str:
        known = self._filters.get(place)
        if known is None:

            def note(kind: str, action: str, ns: int) -> None:
                self._of.series.count_check("output", kind, action, ns)

            checks = [check for check in self._checks if place < 0 or not check.json_schema]
            hold = self._of.settings.hold_back_characters
            known = self._filters[place] = TextFilter(checks, hold, note)
        return known.feed(text, is_last=is_last)

    def take(self, columns: Columns, *, in_parts: bool = False) -> Columns | None:
        """What of a part may be handed on; None where that is nothing yet."""
        chunk = msgspec.json.decode(columns[CHUNK][0])
        text = columns[TEXT][0] or ""
        calls, finish = chunk.get("tool_calls") or [], chunk.get("finish")
        if (text or calls) and in_parts:
            self._last_ns = perf_counter_ns()
            self._first_ns = self._first_ns or self._last_ns
            self._pieces += 1
        self._usage = chunk.get("usage") or self._usage
        self._finish = finish or self._finish
        if not self._checks:
            self._texts.append(text)
            return columns
        is_last = not in_parts or finish is not None
        text = self._checked(-1, text, is_last=is_last)
        calls = self._checked_calls(calls, in_parts=in_parts, is_last=is_last)
        ended = [one.ended_by for one in self._filters.values() if one.ended_by is not None]
        if ended:
            self.is_stopped = True
            is_refused = any(check.action == "refuse" for check in ended)
            finish = self._finish = "content_filter" if is_refused else "length"
            text, calls = ("", []) if is_refused else (text, calls)
        self._texts.append(text)
        if in_parts and not (text or calls or finish):
            return None
        chunk = {TEXT: text, "finish": finish}  # log probabilities spell what is held back
        if calls:
            chunk["tool_calls"] = calls
        if finish:
            usage = {"prompt_tokens": 0, "completion_tokens": self._pieces, "cached_tokens": 0}
            chunk["usage"] = usage | self._usage
        return {TEXT: _column([text]), CHUNK: _column([msgspec.json.encode(chunk).decode()])}

    def _checked_calls(self, calls: list[Any], *, in_parts: bool, is_last: bool) -> list[Any]:
        """Tool calls with their arguments as they may be handed on."""
        for place, call in enumerate(calls):
            function = call.get("function") or {}
            if arguments := function.get("arguments"):
                place = call.get("index") or (0 if in_parts else place)
                function["arguments"] = self._checked(place, arguments, is_last=not in_parts)
        if in_parts and is_last:
            rests = {at: self._checked(at, "", is_last=True) for at in self._filters if at >= 0}
            calls += [
                {"index": at, "function": {"arguments": rest}} for at, rest in rests.items() if rest
            ]
        return calls

    def rest(self) -> Columns | None:
        """What is held back, where the model ended without saying so."""
        if self._finish is not None or not self._checks:
            return None
        chunk = _column(['{"finish": "stop"}'])
        return self.take({TEXT: _column([""]), CHUNK: chunk}, in_parts=True)

    def tell(self, finish: str) -> None:
        """Have the recorder get the answer; see `end`."""
        if not self._is_ended:
            by = self._of.by if self.parts is None else self.parts.by
            self._context.reply = Answer({}, by, self.end(finish))

    def end(self, finish: str) -> Columns:
        """Count the answer; `finish` where the model has not said. Returns what is recorded."""
        self._is_ended = True
        finish = self._finish or finish
        text = "".join(self._texts)
        completion = int(self._usage.get("completion_tokens") or self._pieces)
        start = text[:_REFUSAL_WITHIN].lower().replace("\u2019", "'")
        is_text = finish in ("stop", "length")
        figures = TextFigures(
            self._first_ns and max(self._first_ns - self._context.started_ns, 1),
            (self._last_ns - self._first_ns) // (completion - 1) if completion > 1 else 0,
            0 if self.parts is None else self.parts.queue_ns,
            int(self._usage.get("prompt_tokens") or 0),
            completion,
            int(self._usage.get("cached_tokens") or 0),
            finish if finish in FINISHES else "other",
            is_text and any(phrase in start for phrase in self._of.settings.refusal_phrases),
            not self._is_valid(text) if is_text and self._is_valid is not None else None,
        )
        self._context.series.count_text(figures)
        if self.on_end is not None:
            self.on_end(figures.prompt_tokens + completion)
        texts = {TEXT: text, CHUNK: "", "finish": figures.finish}
        if self._of.settings.keep_texts_percent:
            texts[KEPT_ANSWER] = self.kept(text)  # type: ignore[assignment]
        numbers = {
            RECORD: figures.first_token_ns / 1e6,
            "token_ms": figures.token_ns / 1e6,
            "prompt_tokens": figures.prompt_tokens,
            "completion_tokens": completion,
            "cached_tokens": figures.cached_tokens,
            "is_refusal": figures.is_refusal,
            "is_malformed": bool(figures.is_malformed),
        }
        records = {name: _column([value]) for name, value in texts.items()}
        return records | {name: np.array([value]) for name, value in numbers.items()}


class TextParts:
    """An answer in parts (a `Parts`, and the `Receiver` of those it is from)."""

    def __init__(self, parts: Parts, text: _Text, names: Sequence[str], cancel: Cancel) -> None:
        self._parts, self.text, self._names, self._cancel = parts, text, names, cancel
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
        self._parts.start(self)

    def take(self, part: Answer) -> bool:
        """See `calls.Receiver`."""
        has_room = self._hand_on(self.text.take(part.outputs, in_parts=True))
        if not self.text.is_stopped:
            return has_room
        self.text.tell("stop")
        self._cancel()
        self._receiver.finish(None)
        return False

    def finish(self, error: BasculeError | None) -> None:
        """See `calls.Receiver`."""
        if error is None:
            self._hand_on(self.text.rest())
        self.text.tell("stop" if error is None else "failed")
        self._receiver.finish(error)

    def _hand_on(self, columns: Columns | None) -> bool:
        if columns is None:
            return True
        return self._receiver.take(Answer({name: columns[name] for name in self._names}, self.by))


def _mapped(value: Any, change: Callable[[str], Any]) -> Any:
    """JSON with its texts changed."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, list):
        return [_mapped(item, change) for item in value]
    if isinstance(value, dict):
        return {
            key: item if key in _NO_TEXT else _mapped(item, change) for key, item in value.items()
        }
    return value


def _asked_schema(asked: Any) -> Callable[[str], bool] | None:
    """Whether a text is what `response_format` asks for; None where nothing can be said."""
    kind = asked.get("type") if isinstance(asked, dict) else None
    if kind == "json_object":
        return schema_check('{"type": "object"}', is_trusted=False)
    schema = asked.get("json_schema") if kind == "json_schema" else None
    if not (isinstance(schema, dict) and "schema" in schema):
        return None
    return schema_check(msgspec.json.encode(schema["schema"]).decode(), is_trusted=False)


def _column(values: Sequence[str | None]) -> Any:
    column = np.empty(len(values), object)
    column[:] = values
    return column


def _stacked(rows: Sequence[Columns | None]) -> Columns:
    known = [row for row in rows if row is not None]
    return {name: np.concatenate([row[name] for row in known]) for name in known[0]}
