"""Runs a graph that reads tokens: its file carries the tokenizer, in the metadata of ONNX.

Rows are sorted by their number of tokens and cut into runs with little padding, because a padded
token costs as much as a real one. Padding is masked, so two runs differ by rounding alone.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bascule.core import AroundProgram, Columns, DType, Field, Invalid, Program, Untrusted, library

METADATA = "bascule.texts"
"""The key of the metadata. Its JSON: `columns`, one text or a pair; `tokenizer`, which truncates
and pads, as Hugging Face's tokenizers write it."""
TOKENS = {"input_ids": "ids", "attention_mask": "attention_mask", "token_type_ids": "type_ids"}
"""The inputs that a graph may have, and what the tokenizer calls them."""
_MAX_TOKENS = 8192
_TOKENS_AT_ONCE = 512
"""More tokens leave the processor's cache: measured with MiniLM, 10 % slower at 2,048."""
_RUN_TOKENS = 10
"""What it costs to start a run, in tokens; measured with MiniLM."""


class TokenizedProgram(AroundProgram):
    """A program of one column of texts, or of two whose texts are read as pairs."""

    def __init__(self, program: Program, tokenizer: Any, columns: Sequence[str]) -> None:
        super().__init__(program)
        self.inputs = tuple(Field(name, DType.BYTES) for name in columns)
        self._pad_id = tokenizer.padding["pad_id"]
        tokenizer.no_padding()
        self._tokenizer = tokenizer

    def run(self, columns: Columns, outputs: Sequence[str] | None = None) -> Columns:
        """The outputs asked for; see `core.programs.Program`."""
        texts = zip(*(columns[field.name].tolist() for field in self.inputs), strict=True)
        try:  # one by one: in batches, the library would take all cores
            rows = [self._tokenizer.encode(*(text.strip() for text in row)) for row in texts]
        except (AttributeError, TypeError, UnicodeEncodeError):
            raise Invalid(
                "a text is missing, or holds half of a surrogate pair", hint="send an empty text"
            ) from None
        lengths = np.array([len(row.ids) for row in rows], np.int64)
        order = np.argsort(lengths, kind="stable")
        pieces = [
            self._program.run(self._padded([rows[place] for place in order[run]]), outputs)
            for run in runs_of(lengths[order])
        ]
        back = np.argsort(order)
        return {name: np.concatenate([piece[name] for piece in pieces])[back] for name in pieces[0]}

    def _padded(self, rows: Sequence[Any]) -> Columns:
        """The inputs of the graph, each of shape (rows, tokens of the longest)."""
        width = max(1, *(len(row.ids) for row in rows))
        for row in rows:
            row.pad(width, pad_id=self._pad_id)
        return {
            read.name: np.array([getattr(row, TOKENS[read.name]) for row in rows], read.dtype.numpy)
            for read in self._program.inputs
        }


def runs_of(lengths: NDArray[np.int64]) -> Iterator[slice]:
    """Neighbouring rows that are run together: a row joins where its padding costs less than a run.

    Args:
        lengths: Tokens of each row, rising. Shape (rows,).
    """
    start = longest = 0
    for row, length in enumerate(lengths.tolist()):
        rows = row - start
        is_costly = rows * (length - longest) > _RUN_TOKENS or (rows + 1) * length > _TOKENS_AT_ONCE
        if rows and is_costly:
            yield slice(start, row)
            start = row
        longest = length
    yield slice(start, len(lengths))


def texts_of(session: Any, file: str) -> tuple[tuple[str, ...], Any] | None:
    """The columns of texts and the tokenizer that a graph carries; None where it carries none.

    Raises:
        Untrusted: The tokenizer cannot be read, or does not truncate.
        MissingExtra: tokenizers is not installed.
    """
    held = session.get_modelmeta().custom_metadata_map.get(METADATA)
    if held is None:
        return None
    tokenizers = library("tokenizers", "embeddings")
    try:
        parts = json.loads(held)
        columns, tokenizer = (
            tuple(parts["columns"]),
            tokenizers.Tokenizer.from_str(parts["tokenizer"]),
        )
        longest = (tokenizer.truncation or {}).get("max_length", 0)
        is_known = {node.name for node in session.get_inputs()} <= {*TOKENS}
        if not (is_known and 1 <= len(columns) <= 2 and tokenizer.padding):
            raise ValueError("its graph reads something else")
        if not 1 <= longest <= _MAX_TOKENS:
            raise ValueError(f"it takes {longest or 'any number of'} tokens")
    except Exception as problem:  # the library raises plain exceptions
        message = f"{file} has a tokenizer that cannot be used: {problem}"
        raise Untrusted(message, hint="pack it again", file=file) from None
    return columns, tokenizer
