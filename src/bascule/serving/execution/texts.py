"""Around every model that generates text: measures its answers, checks texts, and decides what the
ledger gets.

A text model takes `request` and gives `text` and `chunk` (see the reference of HTTP). The ledger
gets keyed hashes of prompt and answer, and counts. The texts themselves are kept, encrypted, of
`keep_texts_percent` of the requests, unless a request says `"store": false` or `Bascule-Store: no`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import random
from time import perf_counter_ns
from typing import Any

import msgspec
import numpy as np

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
    makes_texts,
)

SUBJECT_HEADER, STORE_HEADER = b"bascule-subject", b"bascule-store"
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
        input_checks: Of prompts, in their order.
        output_checks: Of answers.
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

    settings = TextSettings

    @staticmethod
    def around(model: Predictor, settings: TextSettings, facts: PolicyFacts) -> Predictor:  # noqa: ARG004
        """See `Policy.around`."""
        return TextPredictor(model, settings)

    @staticmethod
    def check(
        model: Predictor,
        settings: TextSettings,  # noqa: ARG004
        find: Callable[[str], Predictor | None],  # noqa: ARG004
    ) -> None:
        """Refuse a model that generates no text."""
        check_makes_texts(model)


def check_makes_texts(model: Predictor) -> None:
    """Raise `Refused` for a model that generates no text."""
    if not makes_texts(model.signature):
        raise Refused(
            f"{model.name}/{model.version} generates no text, and its policies are about texts",
            hint="take them out of its section",
        )


class TextPredictor(AroundPredictor):
    """One text model. On the event loop only."""

    def __init__(self, model: Predictor, settings: TextSettings) -> None:
        super().__init__(model)
        self.settings = settings
        self.asks_headers = model.asks_headers | {SUBJECT_HEADER, STORE_HEADER}

    def answer(
        self, call: Call, context: Context, allowed_s: float, deliver: Deliver
    ) -> Cancel | None:
        """See `Predictor.answer`; raises `Refused` for a prompt that a check refuses."""
        prompts, inner = self._begin(call, context)
        names = call.outputs or (TEXT, CHUNK)

        def take(outcome: Outcome) -> None:
            if not isinstance(outcome, BasculeError):
                rows = [_Text(self, context, prompt) for prompt in prompts]
                given = [text.take(_row(outcome.outputs, at)) for at, text in enumerate(rows)]
                original = _stacked([text.end("other") for text in rows])
                handed = _stacked(given)
                outcome = Answer({name: handed[name] for name in names}, outcome.by, original)
            deliver(outcome)

        return self.model.answer(inner, context, allowed_s, take)

    def answer_in_parts(
        self, call: Call, context: Context, allowed_s: float, deliver: DeliverParts
    ) -> Cancel:
        """See `Predictor.answer_in_parts`; raises as `answer`."""
        if call.rows != 1:
            raise Invalid(f"{call.rows} requests cannot be answered in parts", hint="send one")
        (prompt,), inner = self._begin(call, context)
        text = _Text(self, context, prompt)
        running: list[Cancel] = []

        def cancel() -> None:
            text.tell("cancelled")
            for cancel_run in running:
                cancel_run()

        def take(outcome: PartsOutcome) -> None:
            if not isinstance(outcome, BasculeError):
                outcome = _TextParts(outcome, text, call.outputs or (TEXT, CHUNK), cancel)
            deliver(outcome)

        running.append(self.model.answer_in_parts(inner, context, allowed_s, take))
        return cancel

    def _begin(self, call: Call, context: Context) -> tuple[list[_Prompt], Call]:
        """The prompts as the model gets them, and the call for it; the recorder gets the same."""
        may_keep = context.header(STORE_HEADER).lower() not in (b"no", b"false", b"0")
        prompts = []
        for text in call.columns[REQUEST].tolist():
            prompt = _Prompt(text, self)
            prompt.is_kept &= may_keep
            prompts.append(prompt)
        column = _texts([prompt.text for prompt in prompts])
        if context.call is not None:
            subject = context.header(SUBJECT_HEADER).decode("utf-8", "replace") or None
            columns = {REQUEST: column, SUBJECT: _texts([subject] * call.rows)}
            if self.settings.keep_texts_percent:
                kept = [prompt.text if prompt.is_kept else None for prompt in prompts]
                columns[KEPT_PROMPT] = _texts(kept)
            context.call = call._replace(columns=columns)
        return prompts, call._replace(columns={REQUEST: column}, outputs=None)


class _Prompt:
    """A request after the checks of its texts.

    Attributes:
        text: As the model gets it.
        is_kept: Whether the ledger may keep its texts.
        is_valid: Whether an answer is valid under the schema that it asks for; None without one.
    """

    def __init__(self, text: str, of: TextPredictor) -> None:
        self.text = text
        self.is_kept = random() * 100 < of.settings.keep_texts_percent
        self.is_valid: Callable[[str], bool] | None = None
        try:
            request = msgspec.json.decode(text)
        except (msgspec.DecodeError, RecursionError):
            request = None
        if not isinstance(request, dict):
            self.text = _checked(text, of)
            return
        is_changed = "store" in request
        self.is_kept &= request.pop("store", None) is not False
        self.is_valid = _asked_schema(request.get("response_format"))
        if of.settings.input_checks:
            before = {name: request[name] for name in ("messages", "prompt") if name in request}
            after = _checked(before, of)
            is_changed |= after != before
            request |= after
        if is_changed:
            self.text = msgspec.json.encode(request).decode()


class _Text:
    """What is known of one answer so far, and what of it may be handed on.

    Attributes:
        is_stopped: Whether a check has ended it.
    """

    def __init__(self, of: TextPredictor, context: Context, prompt: _Prompt) -> None:
        self._of, self._context, self._prompt = of, context, prompt
        self.parts: Parts | None = None
        checks = of.settings.output_checks
        self._filter: TextFilter | None = None
        if checks:
            self._filter = TextFilter(checks, of.settings.hold_back_characters, self._note)
        self._arguments: dict[int, TextFilter] = {}
        self._texts: list[str] = []
        self._is_ended = self.is_stopped = False
        self._first_ns = self._last_ns = self._pieces = 0
        self._usage: dict[str, int] = {}
        self._finish: str | None = None

    def _note(self, kind: str, action: str, ns: int) -> None:
        self._of.series.count_check(("output", kind, action), ns)

    def take(self, columns: Columns, *, in_parts: bool = False) -> Columns | None:
        """What of a part may be handed on; None where that is nothing yet."""
        chunk = msgspec.json.decode(columns[CHUNK][0])
        text = columns[TEXT][0] or ""
        calls, finish = chunk.get("tool_calls") or (), chunk.get("finish")
        if (text or calls) and in_parts:
            self._last_ns = perf_counter_ns()
            self._first_ns = self._first_ns or self._last_ns
            self._pieces += 1
        self._usage = chunk.get("usage") or self._usage
        self._finish = finish or self._finish
        if self._filter is None:
            self._texts.append(text)
            return columns
        is_last = not in_parts or finish is not None
        handed = self._filter.feed(text, is_last=is_last)
        ended_by = self._filter.ended_by
        calls = self._checked_calls(calls, in_parts=in_parts, is_last=is_last)
        for one in self._arguments.values():
            ended_by = one.ended_by or ended_by
        if ended_by is not None:
            self.is_stopped = True
            finish = self._finish = "length" if ended_by.action == "redact" else "content_filter"
            if ended_by.action == "refuse":
                handed, calls = "", ()
        self._texts.append(handed)
        if in_parts and not (handed or calls or finish):
            return None
        usage = {"prompt_tokens": 0, "completion_tokens": self._pieces} | self._usage
        chunk = {TEXT: handed, "finish": finish}  # log-probabilities spell what is held back
        chunk |= {"tool_calls": calls} if calls else {}
        chunk |= {"usage": usage} if finish else {}
        return {TEXT: _texts([handed]), CHUNK: _texts([msgspec.json.encode(chunk).decode()])}

    def _checked_calls(self, calls: Any, *, in_parts: bool, is_last: bool) -> list[Any]:
        """Tool calls whose arguments are checked as the text is."""
        settings, checked = self._of.settings, list(calls)
        for call in checked:
            function = call.get("function") or {}
            if not function.get("arguments"):
                continue
            index = call.get("index", len(self._arguments) * (not in_parts))
            if index not in self._arguments:
                checks = tuple(one for one in settings.output_checks if not one.json_schema)
                hold = settings.hold_back_characters
                self._arguments[index] = TextFilter(checks, hold, self._note)
            fed = self._arguments[index].feed(function["arguments"], is_last=not in_parts)
            function["arguments"] = fed
        if in_parts and is_last:
            for index, one in self._arguments.items():
                if rest := one.feed("", is_last=True):
                    checked.append({"index": index, "function": {"arguments": rest}})
        return checked

    def end(self, finish: str) -> Columns:
        """Count the answer, once, and tell the recorder; `finish` where the model has not said.

        Returns what the recorder gets.
        """
        finish = self._finish or finish
        text = "".join(self._texts)
        is_whole = finish in ("stop", "length")
        completion = int(self._usage.get("completion_tokens") or self._pieces)
        between_ns = (self._last_ns - self._first_ns) // max(completion - 1, 1)
        start = text[:_REFUSAL_WITHIN].lower().replace("\u2019", "'")
        is_valid = self._prompt.is_valid
        figures = TextFigures(
            max(self._first_ns - self._context.started_ns, 0) if self._first_ns else 0,
            between_ns if completion > 1 else 0,
            0 if self.parts is None else self.parts.queue_ns,
            int(self._usage.get("prompt_tokens") or 0),
            completion,
            int(self._usage.get("cached_tokens") or 0),
            finish if finish in FINISHES else "other",
            is_whole and any(phrase in start for phrase in self._of.settings.refusal_phrases),
            not is_valid(text) if is_whole and is_valid is not None else None,
        )
        if not self._is_ended:
            self._is_ended = True
            self._context.series.count_text(figures)
        kept = {}
        if self._of.settings.keep_texts_percent:
            kept[KEPT_ANSWER] = _texts([text if self._prompt.is_kept else None])
        return kept | {
            TEXT: _texts([text]), CHUNK: _texts([""]), "finish": _texts([figures.finish]),
            RECORD: np.array([figures.first_token_ns / 1e6]),
            "token_ms": np.array([figures.token_ns / 1e6]),
            **{name: np.array([getattr(figures, name)])
               for name in ("prompt_tokens", "completion_tokens", "cached_tokens")},
            "is_refusal": np.array([figures.is_refusal]),
            "is_malformed": np.array([bool(figures.is_malformed)]),
        }  # fmt: skip

    def tell(self, finish: str) -> None:
        """Have the recorder get the answer; see `end`."""
        if not self._is_ended:
            by = self._of.by if self.parts is None else self.parts.by
            self._context.reply = Answer({}, by, self.end(finish))

    def rest(self) -> Columns | None:
        """What is held back, where the model ended without saying so."""
        if self._finish is not None:
            return None
        chunk = msgspec.json.encode({TEXT: "", "finish": "stop"}).decode()
        return self.take({TEXT: _texts([""]), CHUNK: _texts([chunk])}, in_parts=True)


class _TextParts:
    """An answer in parts (a `Parts`, and the `Receiver` of those it is from)."""

    def __init__(self, parts: Parts, text: _Text, names: tuple[str, ...], cancel: Cancel) -> None:
        self._parts, self._text, self._names, self._cancel = parts, text, names, cancel
        self.resume, self.queue_ns = parts.resume, parts.queue_ns
        text.parts = self

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
        text = self._text
        has_room = self._hand_on(text.take(part.outputs, in_parts=True))
        if not text.is_stopped:
            return has_room
        text.tell("stop")
        self._cancel()
        self._receiver.finish(None)
        return False

    def finish(self, error: BasculeError | None) -> None:
        """See `calls.Receiver`."""
        if error is None:
            self._hand_on(self._text.rest())
        self._text.tell("stop" if error is None else "failed")
        self._receiver.finish(error)

    def _hand_on(self, columns: Columns | None) -> bool:
        if columns is None:
            return True
        given = {name: columns[name] for name in self._names}
        return self._receiver.take(Answer(given, self.by))


def _checked(value: Any, of: TextPredictor) -> Any:
    """A prompt, a text or JSON, as the model may get it; raises `Refused`."""
    settings, length = of.settings, sum(map(len, _strings(value)))

    def note(kind: str, action: str, ns: int) -> None:
        of.series.count_check(("input", kind, action), ns)

    def refused(what: str) -> Refused:
        of.series.count_refusal("text")
        return Refused(f"the prompt of {of.name} has {what}", hint="change the prompt")

    def change(text: str) -> str:
        one = TextFilter(checks, 0, note)
        changed = one.feed(text, is_last=True)
        if one.ended_by is not None:
            what = ", ".join(one.ended_by.pii) or "what a pattern of its policy refuses"
            raise refused(what)
        return changed

    for check in settings.input_checks:
        if check.max_characters:
            is_over = length > check.max_characters
            note("length", check.action * is_over, 0)
            if is_over and check.action != "flag":
                raise refused(f"{length:,} characters, and {check.max_characters:,} are allowed")
    checks = tuple(check for check in settings.input_checks if not check.max_characters)
    return _mapped(value, change) if checks else value


def _mapped(value: Any, change: Callable[[str], str]) -> Any:
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


def _strings(value: Any) -> list[str]:
    strings: list[str] = []

    def note(text: str) -> str:
        strings.append(text)
        return text

    _mapped(value, note)
    return strings


def _asked_schema(asked: Any) -> Callable[[str], bool] | None:
    """Whether a text is what `response_format` asks for; None where nothing can be said."""
    kind = asked.get("type") if isinstance(asked, dict) else None
    if kind == "json_object":
        return schema_check('{"type": "object"}', is_trusted=False)
    schema = asked.get("json_schema") if kind == "json_schema" else None
    schema = schema.get("schema") if isinstance(schema, dict) else None
    if schema is None:
        return None
    return schema_check(msgspec.json.encode(schema).decode(), is_trusted=False)


def _texts(values: list[str] | list[str | None]) -> Any:
    column = np.empty(len(values), object)
    column[:] = values
    return column


def _row(columns: Columns, at: int) -> Columns:
    return {name: values[at : at + 1] for name, values in columns.items()}


def _stacked(rows: list[Any]) -> Columns:
    return {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}
