"""What answers of models that generate text are counted by, in words of the shared file. Pure.

One layout counts a version (in its slot of `counters`) and an arm (`arms`). Metrics are named as in
vLLM, and histograms have the buckets of OpenTelemetry's conventions for generative models.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from bascule.core import Columns
from bascule.stats import durations as duration_bins

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
FINISHES = ("stop", "length", "tool_calls", "content_filter", "cancelled", "failed")
_CHECKS = [(side, kind) for side in ("input", "output")
           for kind in ("pattern", "pii", "presidio", "schema")]  # fmt: skip

Counter = tuple[str, str]
"""The name of a metric, and its labels."""


def _check(side: str, kind: str, action: str = "") -> Counter:
    labels = f'side="{side}",kind="{kind}"'
    return ("text_checks", f'{labels},action="{action}"') if action else ("text_check_ns", labels)


_FIGURES = ("prompt_tokens", "generation_tokens", "cached_prompt_tokens", "refusals",
            "schema_checked", "schema_invalid")  # fmt: skip
_COUNTERS: tuple[Counter, ...] = (
    *((name, "") for name in _FIGURES),
    *(("generations", f'finish="{finish}"') for finish in FINISHES),
    *(_check(*of, action) for of in _CHECKS for action in ("refuse", "redact", "flag")),
    *(_check(*of) for of in _CHECKS),
)
_AT = {counter: place for place, counter in enumerate(_COUNTERS)}
_TIMES_MS = (1, 5, 10, 20, 40, 60, 80, 100, 250, 500, 750, 1_000, 2_500, 5_000, 7_500, 10_000)
_TIMES_NS = tuple(ms * 1_000_000 for ms in _TIMES_MS)
_HISTOGRAMS = (
    "time_to_first_token_seconds", "time_per_output_token_seconds", "request_queue_time_seconds",
)  # fmt: skip
_WIDTH = len(_TIMES_NS) + 2
"""Words of a histogram: its buckets, one for what is above all, and the sum."""
WORDS = len(_COUNTERS) + len(_HISTOGRAMS) * _WIDTH


class TextFigures(NamedTuple):
    """One generated answer.

    Attributes:
        first_token_ns: From the request's last byte to the first text; 0 where it is not known.
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

    @property
    def is_whole(self) -> bool:
        """Whether it was neither given up nor failed."""
        return self.finish not in ("cancelled", "failed")

    def records(self) -> Columns:
        """What the ledger keeps of it."""
        values = {
            RECORD: self.first_token_ns / 1e6, "token_ms": self.token_ns / 1e6,
            "prompt_tokens": self.prompt_tokens, "completion_tokens": self.completion_tokens,
            "cached_tokens": self.cached_tokens, "is_refusal": self.is_refusal,
            "is_malformed": bool(self.is_malformed),
        }  # fmt: skip
        finish = {"finish": np.array([self.finish], object)}
        return finish | {name: np.array([value]) for name, value in values.items()}


def rules_of(model: str) -> dict[str, str]:
    """`RULES`, as settings name the fields of a model."""
    return {f"{model}.{name}": rule for name, rule in RULES.items()}


def count_text(words: memoryview, at: int, text: TextFigures) -> None:
    """Count an answer in the words from `at` on."""
    is_checked = text.is_malformed is not None
    for place, count in enumerate((
        text.prompt_tokens, text.completion_tokens, text.cached_tokens, text.is_refusal,
        is_checked, bool(text.is_malformed),
    )):  # fmt: skip
        words[at + place] += count
    words[at + _AT["generations", f'finish="{text.finish}"']] += 1
    first = at + len(_COUNTERS)
    for name, ns in zip(_HISTOGRAMS, text[:3], strict=True):
        if ns or name == "request_queue_time_seconds":  # no time to the first token is none
            words[first + bisect_left(_TIMES_NS, ns)] += 1
            words[first + _WIDTH - 1] += ns
        first += _WIDTH


def count_check(words: memoryview, at: int, side: str, kind: str, action: str, ns: int) -> None:
    """Count what a check of a prompt or an answer has cost, and its action if it took one."""
    words[at + _AT[_check(side, kind)]] += ns
    if action:
        words[at + _AT[_check(side, kind, action)]] += 1


def duration_places(text: TextFigures) -> list[int]:
    """Where an answer is counted for guards of rollouts, below `stats.durations.PLACES`."""
    bin_of, bins = duration_bins.bin_of, duration_bins.BINS
    length = bin_of(text.completion_tokens * 1_000_000)
    places = {
        duration_bins.FIRST_TOKEN: text.first_token_ns and bin_of(text.first_token_ns),
        duration_bins.TOKEN: text.token_ns and bin_of(text.token_ns),
        duration_bins.LENGTH: length * text.is_whole,
        duration_bins.BREVITY: (bins - 1 - length) * text.is_whole,
    }
    return [of * bins + place for of, place in places.items() if place]


class TextTotals(NamedTuple):
    """What was counted of texts.

    Attributes:
        counts: By the name of a metric, the values by its labels, of which only those seen.
        histograms: By name: upper bounds, buckets (not cumulative, one more than bounds), and the
            sum; times in seconds.
    """

    counts: Mapping[str, Mapping[str, float]]
    histograms: Mapping[str, tuple[Sequence[float], Sequence[int], float]]


def totals_of(words: Sequence[int]) -> TextTotals | None:
    """From `WORDS` numbers; None where no text was counted."""
    if not any(words):
        return None
    counts: dict[str, dict[str, float]] = {name: {} for name, _ in _COUNTERS}
    for (name, labels), count in zip(_COUNTERS, words, strict=False):
        if count or not labels:
            counts[name][labels] = count
    seconds = counts.pop("text_check_ns")
    counts["text_check_seconds"] = {labels: ns / 1e9 for labels, ns in seconds.items()}
    histograms, first, bounds = {}, len(_COUNTERS), [ms / 1e3 for ms in _TIMES_MS]
    for name in _HISTOGRAMS:
        of_name = words[first : first + _WIDTH]
        histograms[name] = bounds, of_name[:-1], of_name[-1] / 1e9
        first += _WIDTH
    return TextTotals(counts, histograms)


def attributes_of(original: Columns | None) -> dict[str, Any]:
    """The attributes of a span (OpenTelemetry's `gen_ai`) from `Answer.original` of a text."""
    if original is None or RECORD not in original:
        return {}
    return {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "bascule",
        "gen_ai.usage.input_tokens": int(original["prompt_tokens"][0]),
        "gen_ai.usage.output_tokens": int(original["completion_tokens"][0]),
        "gen_ai.response.finish_reasons": [str(original["finish"][0])],
        "gen_ai.server.time_to_first_token": float(original[RECORD][0]) / 1e3,
    }
