"""What answers of models that generate text are counted by, in words of the shared file. Pure.

Times and lengths of single answers are in histograms; the same layout counts a version (in its slot
of `counters`) and an arm (`arms`). Metrics are named as in vLLM and OpenTelemetry's conventions for
generative models.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from bascule.core import Columns, DType, Signature
from bascule.stats import durations as duration_bins

FINISHES = ("stop", "length", "tool_calls", "content_filter", "cancelled", "failed", "other")
SIDES, KINDS = ("input", "output"), ("length", "pattern", "pii", "schema")
ACTIONS = ("refuse", "redact", "flag")
REQUEST, TEXT, CHUNK = "request", "text", "chunk"
"""The input of a model that generates text, and its outputs."""
RECORD = "first_token_ms"
"""A column of `Answer.original` that texts alone have."""
KEPT_PROMPT, KEPT_ANSWER, SUBJECT = "prompt", "answer", "subject"
RULES = {
    REQUEST: "hash", TEXT: "hash", SUBJECT: "hash", CHUNK: "omit",
    KEPT_PROMPT: "encrypt", KEPT_ANSWER: "encrypt",
}  # fmt: skip
"""What the ledger keeps of a text model's columns; see `monitoring.private`."""
_TIMES_S = (
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0,
)  # fmt: skip
_TOKENS = tuple(4**power for power in range(9))
_HISTOGRAMS = (
    ("time_to_first_token_seconds", "From a request's last byte to the first text.", _TIMES_S),
    ("time_per_output_token_seconds", "Mean between the tokens of an answer.", _TIMES_S),
    ("request_queue_time_seconds", "From a call to the start of its generation.", _TIMES_S),
    ("request_prompt_tokens", "Tokens of prompts.", _TOKENS),
    ("request_generation_tokens", "Tokens of answers.", _TOKENS),
)
_BOUNDS = tuple(
    tuple(round(bound * 1e9) if bounds is _TIMES_S else bound for bound in bounds)
    for *_, bounds in _HISTOGRAMS
)
_TOTALS = ("prompt_tokens", "generation_tokens", "cached_prompt_tokens", "refusals",
           "schema_checked", "schema_invalid")  # fmt: skip
_FINISHES = len(_TOTALS)
_CHECKS = _FINISHES + len(FINISHES)
_CHECK_NS = _CHECKS + len(SIDES) * len(KINDS) * len(ACTIONS)
_FIRST = _CHECK_NS + len(SIDES) * len(KINDS)
_PLACES = tuple(_FIRST + sum(len(bounds) + 2 for bounds in _BOUNDS[:at]) for at in range(5))
WORDS = _PLACES[-1] + len(_BOUNDS[-1]) + 2


def makes_texts(signature: Signature) -> bool:
    """Whether a model of this signature generates text."""
    inputs = [(field.name, field.dtype, field.shape) for field in signature.inputs]
    outputs = {field.name for field in signature.outputs}
    return inputs == [(REQUEST, DType.BYTES, ())] and {TEXT, CHUNK} <= outputs


class TextFigures(NamedTuple):
    """One generated answer.

    Attributes:
        first_token_ns: From the request's last byte to the first text; 0 for no text.
        token_ns: Mean between the tokens after the first one; 0 for fewer than two.
        queue_ns: From the call to the start of the generation.
        prompt_tokens: As the model has counted them.
        completion_tokens: Likewise; the parts with text, where the model has not.
        cached_tokens: Of the prompt, those that the engine did not compute again.
        finish: One of `FINISHES`.
        is_refusal: Whether it begins as refusals do.
        is_malformed: Whether it breaks the JSON schema that was asked for; None without one.
    """

    first_token_ns: int
    token_ns: int
    queue_ns: int
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int
    finish: str
    is_refusal: bool
    is_malformed: bool | None


def count_text(words: memoryview, at: int, text: TextFigures) -> None:
    """Count an answer in `WORDS` words from `at` on."""
    is_malformed = text.is_malformed
    for place, count in enumerate((
        text.prompt_tokens, text.completion_tokens, text.cached_tokens, text.is_refusal,
        is_malformed is not None, bool(is_malformed),
    )):  # fmt: skip
        words[at + place] += count
    words[at + _FINISHES + FINISHES.index(text.finish)] += 1
    values = text.first_token_ns, text.token_ns, text.queue_ns
    for first, bounds, value, is_known in zip(
        _PLACES, _BOUNDS, (*values, text.prompt_tokens, text.completion_tokens),
        (*map(bool, values[:2]), True, True, True), strict=True,
    ):  # fmt: skip
        if is_known:
            words[at + first + bisect_left(bounds, value)] += 1
            words[at + first + len(bounds) + 1] += value


def count_check(words: memoryview, at: int, check: tuple[str, str, str], ns: int) -> None:
    """Count what a check has cost, and its action if it took one.

    Args:
        words: See `count_text`.
        at: See `count_text`.
        check: One of `SIDES`, one of `KINDS`, and one of `ACTIONS` or nothing.
        ns: How long it took.
    """
    side, kind, action = check
    place = SIDES.index(side) * len(KINDS) + KINDS.index(kind)
    words[at + _CHECK_NS + place] += ns
    if action:
        words[at + _CHECKS + place * len(ACTIONS) + ACTIONS.index(action)] += 1


def duration_places(text: TextFigures) -> list[int]:
    """Where an answer is counted for guards of rollouts, below `stats.durations.PLACES`.

    Lengths are counted as durations of a millisecond a token.
    """
    length = duration_bins.bin_of(text.completion_tokens * 1_000_000)
    bins = {duration_bins.LENGTH: length, duration_bins.BREVITY: duration_bins.BINS - 1 - length}
    for of, ns in (
        (duration_bins.FIRST_TOKEN, text.first_token_ns), (duration_bins.TOKEN, text.token_ns),
    ):  # fmt: skip
        if ns:
            bins[of] = duration_bins.bin_of(ns)
    return [of * duration_bins.BINS + place for of, place in bins.items()]


class TextHistogram(NamedTuple):
    """`buckets` are not cumulative, the last one above all `bounds`; `total` is in their unit."""

    name: str
    about: str
    bounds: tuple[float, ...]
    buckets: tuple[int, ...]
    total: float


class TextTotals(NamedTuple):
    """What was counted of texts.

    Attributes:
        counts: By name: tokens, refusals, answers that were compared with a JSON schema.
        finishes: Answers by how they ended, only those seen.
        checks: Actions of checks by side, kind and action, only those seen.
        check_s: What checks cost, by side and kind, only those seen.
        histograms: Of times and lengths.
    """

    counts: Mapping[str, int]
    finishes: Mapping[str, int]
    checks: Mapping[tuple[str, str, str], int]
    check_s: Mapping[tuple[str, str], float]
    histograms: tuple[TextHistogram, ...]


def totals_of(words: Sequence[int]) -> TextTotals | None:
    """From `WORDS` numbers; None where no text was counted."""
    if not any(words):
        return None
    each = [(side, kind) for side in SIDES for kind in KINDS]
    actions = [(*check, action) for check in each for action in ACTIONS]
    histograms = []
    for first, bounds, (name, about, shown) in zip(_PLACES, _BOUNDS, _HISTOGRAMS, strict=True):
        end = first + len(bounds) + 1
        total = words[end] / (1e9 if shown is _TIMES_S else 1)
        buckets = tuple(words[first:end])
        histograms.append(TextHistogram(name, about, shown, buckets, total))
    return TextTotals(
        dict(zip(_TOTALS, words, strict=False)),
        _seen(FINISHES, words[_FINISHES:_CHECKS]),
        _seen(actions, words[_CHECKS:_CHECK_NS]),
        {check: ns / 1e9 for check, ns in _seen(each, words[_CHECK_NS:_FIRST]).items()},
        tuple(histograms),
    )


def _seen(names: Sequence[Any], counts: Sequence[int]) -> dict[Any, int]:
    return {name: count for name, count in zip(names, counts, strict=True) if count}


def attributes_of(original: Columns | None) -> dict[str, str | int | float | list[str]]:
    """The attributes of a span (OpenTelemetry's `gen_ai`) from `Answer.original` of a text."""
    if original is None or RECORD not in original:
        return {}
    of = {name: values[0] for name, values in original.items()}
    return {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "bascule",
        "gen_ai.usage.input_tokens": int(of["prompt_tokens"]),
        "gen_ai.usage.output_tokens": int(of["completion_tokens"]),
        "gen_ai.response.finish_reasons": [str(of["finish"])],
        "gen_ai.server.time_to_first_token": float(of[RECORD]) / 1e3,
    }
