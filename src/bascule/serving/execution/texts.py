"""Around every model that generates text: measures answers, checks texts, and tells the ledger.

The ledger gets keyed hashes of prompt and answer, and counts. The texts themselves are kept,
encrypted, of `keep_texts_percent` of the requests, unless a request says `"store": false` or
`Bascule-Store: no`. The person whom a request is about is its `Bascule-Subject`, or OpenAI's
`safety_identifier` or `user`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from random import random
from time import perf_counter_ns
from typing import Any

import msgspec
import numpy as np

from bascule.bundle.disk import generates_text
from bascule.bundle.generation import Chunk, Usage, chunk_of, joined
from bascule.core import BasculeError, Columns, Invalid, ModelFailed, Refused
from bascule.serving.calls import (
    Answer,
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
from bascule.serving.execution import presidio
from bascule.serving.execution.policies import PolicyFacts
from bascule.serving.execution.predictors import AroundPredictor, Predictor
from bascule.serving.execution.text_checks import TextCheck, TextFilter, schema_check
from bascule.serving.telemetry import (
    CHUNK,
    KEPT_ANSWER,
    KEPT_PROMPT,
    REQUEST,
    SUBJECT,
    TEXT,
    TextFigures,
)

_SUBJECT_HEADER, _STORE_HEADER = b"bascule-subject", b"bascule-store"
_CHECKED = ("messages", "prompt", "tools")
"""The fields of a request that become a prompt."""
_MOST_TOKENS = 2**31
"""What an engine may say that it has counted."""
_HOLD_BACK = 64
"""Characters of a stream in which a match may begin that a later part ends."""
_REFUSAL_WITHIN = 200
_CHARACTERS_OF_TOKEN = 4
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
        max_prompt_characters: A longer prompt is refused; 0 for no limit.
        max_answer_characters: A longer answer ends there, but for arguments of tools.
        input_checks: Of prompts.
        output_checks: Of answers, and of the arguments of their tool calls.
    """

    keep_texts_percent: float = 0.0
    refusal_phrases: tuple[str, ...] = _REFUSALS
    max_prompt_characters: int = 0
    max_answer_characters: int = 0
    input_checks: tuple[TextCheck, ...] = ()
    output_checks: tuple[TextCheck, ...] = ()

    def __post_init__(self) -> None:
        if not 0 <= self.keep_texts_percent <= 100:
            raise ValueError(f"keep_texts_percent: {self.keep_texts_percent:g} is not 0 to 100")
        if min(self.max_prompt_characters, self.max_answer_characters) < 0:
            raise ValueError("max_prompt_characters and max_answer_characters are >= 0")
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
        settings: object,
        find: Callable[[str], Predictor | None],  # noqa: ARG004
    ) -> None:
        """Refuse a model that generates no text, and load what checks need."""
        if not generates_text(model.signature):
            raise Refused(
                f"{model.name}/{model.version} generates no text, and a policy of it is of texts",
                hint="take that out of its section",
            )
        if isinstance(settings, TextSettings):
            for check in settings.input_checks + settings.output_checks:
                if check.judged:
                    presidio.load(check.judged, check.spacy_model)


class TextPredictor(AroundPredictor):
    """One text model. On the event loop only."""

    def __init__(self, model: Predictor, settings: TextSettings) -> None:
        super().__init__(model)
        self.settings = settings
        self.refusals = tuple(map(_plain, settings.refusal_phrases))
        self.asks_headers = model.asks_headers | {_SUBJECT_HEADER, _STORE_HEADER}

    def answer(
        self, call: Call, context: Context, allowed_s: float, deliver: Deliver
    ) -> Cancel | None:
        """See `Predictor.answer`; raises `Refused` for a prompt that a check refuses."""
        texts, inner = self._begin(call, context)
        names = call.outputs or (TEXT, CHUNK)

        def answered(by_row: Answer) -> Outcome:
            rows = [
                text.take({name: values[at : at + 1] for name, values in by_row.outputs.items()})
                for at, text in enumerate(texts)
            ]
            outputs = _stacked([row for row in rows if row is not None])
            records = _stacked([text.end("stop") for text in texts])
            return Answer({name: outputs[name] for name in names}, by_row.by, records)

        def take(outcome: Outcome) -> None:
            if isinstance(outcome, Answer):
                try:
                    outcome = answered(outcome)
                except ModelFailed as error:
                    outcome = error
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
        try:
            texts = [_Text(self, context, text) for text in call.columns[REQUEST].tolist()]
        except RecursionError:
            raise Invalid("request: is nested too deeply", hint="flatten it") from None
        columns = {REQUEST: _column([text.prompt for text in texts])}
        if context.call is not None:
            kept = columns | {SUBJECT: _column([text.subject for text in texts])}
            if self.settings.keep_texts_percent:
                kept[KEPT_PROMPT] = _column([text.kept(text.prompt) for text in texts])
            context.call = call._replace(columns=kept)
        return texts, call._replace(columns=columns, outputs=None)

    def checked(self, prompt: Any) -> Any:
        """A prompt, a text or JSON, as the model may get it; raises `Refused`."""
        checks, most = self.settings.input_checks, self.settings.max_prompt_characters
        length = 0

        def change(text: str) -> str:
            nonlocal length
            length += len(text)
            if 0 < most < length:
                raise self._refused(f"more than {most:,} characters (max_prompt_characters)")
            of_text = TextFilter(checks, 0, partial(self.series.count_check, "input"))
            changed = of_text.feed(text, is_last=True)
            if of_text.refused_by is not None:
                raise self._refused(f"{of_text.refused_by.said} (input_checks)")
            return changed

        return _mapped(prompt, change) if checks or most else prompt

    def _refused(self, why: str) -> Refused:
        self.series.count_refusal("text")
        return Refused(f"{self.name} does not take the prompt: {why}", hint="change the prompt")


class _Text:
    """One request and its answer: what is known of it so far, and what of it may be handed on.

    Attributes:
        prompt: As the model gets it.
        subject: The person whom it is about; None where that is not said.
        parts: The answer; None before it has begun.
        on_end: Takes the tokens of the prompt and of the answer.
        is_stopped: Whether a check or a limit has ended it.
    """

    def __init__(self, of: TextPredictor, context: Context, request: str) -> None:
        self._of, self._context = of, context
        self.prompt = request
        self.subject = context.header(_SUBJECT_HEADER).decode("utf-8", "replace") or None
        self.parts: TextParts | None = None
        self.on_end: Callable[[int, int], None] | None = None
        self.is_stopped = self._is_ended = False
        refuses = context.header(_STORE_HEADER).lower() in (b"no", b"false", b"0")
        self._is_kept = random() * 100 < of.settings.keep_texts_percent and not refuses
        self._is_valid: Callable[[str], bool] | None = None
        note = partial(of.series.count_check, "output")
        self._filter = TextFilter(of.settings.output_checks, _HOLD_BACK, note)
        self._calls: list[Chunk] = []
        self._texts: list[str] = []
        self._length = self._first_ns = self._last_ns = self._pieces = 0
        self._usage = Usage()
        self._finish: str | None = None
        self._read(request)

    def _read(self, request: str) -> None:
        try:
            fields = msgspec.json.decode(request)
        except msgspec.DecodeError:
            fields = None
        if not isinstance(fields, dict):
            self.prompt = self._of.checked(request)
            return
        before = dict(fields)
        self._is_kept &= fields.pop("store", None) is not False
        users = [fields.pop(name, None) for name in ("safety_identifier", "user")]
        self.subject = self.subject or next((str(user) for user in users if user), None)
        fields |= self._of.checked({name: fields[name] for name in _CHECKED if name in fields})
        self._is_valid = _schema_check_of(fields.get("response_format"))
        if fields != before:
            self.prompt = msgspec.json.encode(fields).decode()

    def kept(self, text: str) -> str | None:
        """The text, where the ledger may keep it."""
        return text if self._is_kept else None

    def take(self, columns: Columns, *, in_parts: bool = False) -> Columns | None:
        """What of a part may be handed on; None where that is nothing yet. Raises `ModelFailed`."""
        try:
            chunk = chunk_of(columns)
            return self._taken(columns[TEXT][0] or "", chunk, columns, in_parts=in_parts)
        except (msgspec.MsgspecError, TypeError, AttributeError, LookupError) as problem:
            raise ModelFailed(
                f"{self._of.name} has answered with no chunk: {problem}", hint="mend the model"
            ) from None

    def _taken(
        self, text: str, chunk: Chunk, columns: Columns, *, in_parts: bool
    ) -> Columns | None:
        settings, finish = self._of.settings, chunk.finish
        if in_parts and (text or chunk.tool_calls):
            self._last_ns = perf_counter_ns()
            self._first_ns = self._first_ns or self._last_ns
            self._pieces += 1
        self._usage = chunk.usage or self._usage
        self._length += len(text)
        over = self._length - settings.max_answer_characters
        if settings.max_answer_characters and over > 0:
            text, finish, self.is_stopped = text[: max(len(text) - over, 0)], "length", True
        elif not settings.output_checks:
            self._finish = finish or self._finish
            self._texts.append(text)
            return columns
        is_last = not in_parts or finish is not None
        text = self._filter.feed(text, is_last=is_last)
        self._calls.append(chunk)
        calls = []
        if is_last:  # pieces of calls are put together
            calls = self._checked_calls(
                joined(self._calls).tool_calls if in_parts else chunk.tool_calls
            )
        if self._filter.refused_by is not None:
            text, calls, finish, self.is_stopped = "", [], "content_filter", True
        self._finish = finish or self._finish
        self._texts.append(text)
        if in_parts and not (text or calls or finish):
            return None
        # Log probabilities spell what is held back.
        usage = self._usage if self._usage != Usage() else Usage(0, self._pieces)
        encoded = msgspec.json.encode(Chunk(text, calls, None, finish, usage if finish else None))
        return {TEXT: _column([text]), CHUNK: _column([encoded.decode()])}

    def _checked_calls(self, calls: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """Whole calls of tools, with their arguments as they may be handed on."""
        checked = []
        for call in calls:
            function = call.get("function") or {}
            of_call = TextFilter(self._filter.spans, 0, self._filter.note)
            arguments = of_call.feed(function.get("arguments") or "", is_last=True)
            self._filter.refused_by = self._filter.refused_by or of_call.refused_by
            checked.append(call | {"function": function | {"arguments": arguments}})
        return checked

    def rest(self) -> Columns | None:
        """What is held back, where the model ended without saying so."""
        if self._finish is not None or not self._of.settings.output_checks:
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
        finish, text = self._finish or finish, "".join(self._texts)
        counts = msgspec.structs.astuple(self._usage)
        prompt, completion, cached = (min(max(count, 0), _MOST_TOKENS) for count in counts)
        if not prompt:  # the model has not told, or not yet
            prompt = tokens_in(self.prompt)
            completion = max(completion, self._pieces, tokens_in(text))
        completion = completion or self._pieces
        start, is_text = _plain(text[:_REFUSAL_WITHIN]), finish in ("stop", "length")
        figures = TextFigures(
            self._first_ns and max(self._first_ns - self._context.started_ns, 1),
            (self._last_ns - self._first_ns) // (completion - 1) if completion > 1 else 0,
            0 if self.parts is None else self.parts.queue_ns,
            prompt, completion, cached, finish,
            is_text and any(phrase in start for phrase in self._of.refusals),
            not self._is_valid(text) if is_text and self._is_valid is not None else None,
        )  # fmt: skip
        self._context.series.count_text(figures)
        if self.on_end is not None:
            self.on_end(prompt, completion)
        records = figures.records() | {TEXT: _column([text])}
        if self._of.settings.keep_texts_percent:
            records[KEPT_ANSWER] = _column([self.kept(text)])
        return records


class TextParts:
    """An answer in parts (a `Parts`, and the `Receiver` of those it is from)."""

    def __init__(self, parts: Parts, text: _Text, names: Sequence[str], cancel: Cancel) -> None:
        self._parts, self.text, self._names, self._cancel = parts, text, names, cancel
        self.by, self.resume, self.queue_ns = parts.by, parts.resume, parts.queue_ns

    def start(self, receiver: Receiver) -> None:
        self._receiver = receiver
        self._parts.start(self)

    def take(self, part: Answer) -> bool:
        try:
            has_room = self._hand_on(self.text.take(part.outputs, in_parts=True))
        except ModelFailed as error:
            self.finish(error)
        else:
            if not self.text.is_stopped:
                return has_room
            self.text.tell("stop")
            self._receiver.finish(None)
        self._cancel()
        return False

    def finish(self, error: BasculeError | None) -> None:
        if error is None:
            try:
                self._hand_on(self.text.rest())
            except ModelFailed as problem:
                error = problem
        self.text.tell("stop" if error is None else "failed")
        self._receiver.finish(error)

    def _hand_on(self, columns: Columns | None) -> bool:
        if columns is None:
            return True
        return self._receiver.take(Answer({name: columns[name] for name in self._names}, self.by))


def tokens_in(text: str) -> int:
    """An estimate, where the model does not tell."""
    return -(-len(text) // _CHARACTERS_OF_TOKEN)


def _plain(text: str) -> str:
    return text.lower().replace("\u2019", "'")


def _mapped(value: Any, change: Callable[[str], Any]) -> Any:
    """JSON with its texts changed; texts that are parts of a message are one, as for an engine."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, list):
        texts = [part.get("text") if isinstance(part, dict) else None for part in value]
        if len(texts) > 1 and all(isinstance(text, str) for text in texts):
            value = [{"type": "text", "text": "".join(map(str, texts))}]
        return [_mapped(item, change) for item in value]
    if isinstance(value, dict):
        return {key: _mapped(item, change) for key, item in value.items()}
    return value


def _schema_check_of(wanted: Any) -> Callable[[str], bool] | None:
    """Whether a text is what `response_format` asks for; None where nothing can be said."""
    kind = wanted.get("type") if isinstance(wanted, dict) else None
    if kind == "json_object":
        return schema_check('{"type": "object"}', is_trusted=False)
    schema = wanted.get("json_schema") if kind == "json_schema" else None
    if not (isinstance(schema, dict) and "schema" in schema):
        return None
    return schema_check(msgspec.json.encode(schema["schema"]).decode(), is_trusted=False)


def _column(values: Sequence[str | None]) -> Any:
    return np.array(values, object)


def _stacked(rows: Sequence[Columns]) -> Columns:
    return {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}
