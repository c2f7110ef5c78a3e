"""Answers within a JSON schema, by llguidance: tokens that the schema excludes get no probability.

Compiling and each step have bounds (`LLParserLimits`), references outside the schema are refused,
and no schema can end the process: a schema comes from a caller.
"""

from __future__ import annotations

import json
import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bascule.core import Invalid, first_line, library

_MOST_CHARACTERS = 1 << 16
_STYLE: Any = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
"""Free white space lets small models write nothing else."""


def in_style(schema: dict[str, Any]) -> str:
    """A schema for llguidance, with how it writes JSON; raises `Invalid` for one too large."""
    try:
        text = json.dumps({**schema, "x-guidance": _STYLE})
    except (ValueError, RecursionError) as problem:
        raise refused(str(problem)) from None
    if len(text) > _MOST_CHARACTERS:
        raise refused(f"{len(text):,} characters; the limit is {_MOST_CHARACTERS:,}")
    return text


class SchemaMask:
    """The tokens that may come next in one answer."""

    def __init__(self, tokenizer: Any, schema: dict[str, Any]) -> None:
        """`tokenizer`: of llguidance. Raises `Invalid` for a schema it cannot use."""
        from llguidance import LLMatcher, LLParserLimits
        from llguidance.numpy import allocate_token_bitmask

        grammar = LLMatcher.grammar_from_json_schema(in_style(schema))
        limits = LLParserLimits(verbose_errors=False)
        self._matcher = LLMatcher(tokenizer, grammar, log_level=0, limits=limits)
        self._bits = allocate_token_bitmask(1, tokenizer.vocab_size)
        self.check()

    def check(self) -> None:
        """Raise `Invalid` where the schema exceeded the bounds."""
        if self._matcher.is_error():
            raise refused(self._matcher.get_error())

    def apply(self, logits: NDArray[np.float32]) -> None:
        """Set the logits of excluded tokens to -inf. Raises nothing; `check` tells of errors."""
        from llguidance.numpy import fill_next_token_bitmask

        fill_next_token_bitmask(self._matcher, self._bits)
        if not self._matcher.is_error():
            allowed = np.unpackbits(self._bits[0].view(np.uint8), bitorder="little")
            logits[allowed[: len(logits)] == 0] = -np.inf

    def add(self, token: int) -> None:
        """Go on behind a token. Raises `Invalid` as `check` does."""
        self._matcher.consume_token(token)
        self.check()


def llama_tokenizer(vocabulary: Any, ends: list[int]) -> Any:
    """The vocabulary of a llama.cpp model for `SchemaMask`; takes a second.

    `ends`: the tokens that end an answer.
    """
    guidance = library("llguidance.llamacpp", "llama")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # it calls llama_cpp by older names
        return guidance.lltokenizer_from_vocab(vocabulary, eos_token=ends)


def refused(reason: str) -> Invalid:
    """What is raised for a schema that cannot be followed."""
    return Invalid(
        f"response_format: the schema cannot be followed: {first_line(reason)[:300]}",
        hint="see docs/reference/openai.md for the supported keywords",
        field="response_format",
    )
