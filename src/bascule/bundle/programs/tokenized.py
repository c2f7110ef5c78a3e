"""Runs a graph that reads tokens: its file carries the tokenizer, in the metadata of ONNX.

Rows are sorted by their number of tokens and cut into runs with little padding, because a padded
token costs as much as a real one. Tokens of padding are masked, so an answer differs by rounding
alone between two runs.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bascule.core import Columns, DType, Field, Invalid, MissingExtra, Program, Untrusted

METADATA = "bascule.texts"
"""The key of the metadata. Its JSON: `columns`, one text or a pair; `tokenizer`, which truncates
and pads, as Hugging Face's tokenizers write it."""
TOKENS = ("input_ids", "attention_mask", "token_type_ids")
"""The inputs that a graph may have; the first it must have."""
MAX_TOKENS = 8192
"""The most tokens that a text may be cut to."""
_TOKENS_AT_ONCE = 512
"""More tokens leave the processor's cache: measured with MiniLM, 10 % slower at 2,048."""
_RUN_TOKENS = 10
"""What it costs to start a run, in tokens; measured with MiniLM."""


class TokenizedProgram(Program):
    """A program of one column of texts, or of two whose texts are read as pairs."""

    __slots__ = ("_inner", "_pad", "_reads", "_tokenizer", "inputs", "name", "outputs")

    def __init__(self, inner: Program, tokenizer: Any, columns: Sequence[str]) -> None:
        self.name, self.outputs = inner.name, inner.outputs
        self.inputs = text_fields(columns)
        self._inner = inner
        self._reads = {field.name: field.dtype.numpy for field in inner.inputs}
        self._pad = {"input_ids": tokenizer.padding["pad_id"]}
        tokenizer.no_padding()
        self._tokenizer = tokenizer

    def run(self, columns: Columns, outputs: Sequence[str] | None = None) -> Columns:
        """The outputs asked for; see `core.programs.Program`."""
        rows = self._encoded(*(columns[field.name].tolist() for field in self.inputs))
        lengths = np.array([len(row.ids) for row in rows], np.int64)
        order = np.argsort(lengths, kind="stable")
        pieces = [
            self._inner.run(self._padded([rows[place] for place in order[run]]), outputs)
            for run in runs_of(lengths[order])
        ]
        back = np.argsort(order, kind="stable")
        return {name: np.concatenate([piece[name] for piece in pieces])[back] for name in pieces[0]}

    def interrupt(self) -> None:
        """See `core.programs.Program`."""
        self._inner.interrupt()

    def _encoded(self, texts: list[str], seconds: Sequence[str | None] = ()) -> list[Any]:
        """One by one: in batches, the library would take all cores."""
        encode = self._tokenizer.encode
        pairs = zip(texts, seconds or [None] * len(texts), strict=True)
        try:
            return [
                encode(text.strip(), None if second is None else second.strip())
                for text, second in pairs
            ]
        except (AttributeError, TypeError, UnicodeEncodeError):
            raise Invalid(
                "a text is missing, or holds half of a surrogate pair", hint="send an empty text"
            ) from None

    def _padded(self, rows: Sequence[Any]) -> Columns:
        """The inputs of the graph, each of shape (rows, tokens of the longest)."""
        shape = len(rows), max(1, *(len(row.ids) for row in rows))
        made = {
            name: np.full(shape, self._pad.get(name, 0), dtype)
            for name, dtype in self._reads.items()
        }
        for place, row in enumerate(rows):
            parts = zip(TOKENS, (row.ids, row.attention_mask, row.type_ids), strict=True)
            for name, values in parts:
                if name in made:
                    made[name][place, : len(values)] = values
        return made


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


def text_fields(columns: Sequence[str]) -> tuple[Field, ...]:
    return tuple(Field(name, DType.BYTES) for name in columns)


def texts_of(session: Any, file: str) -> tuple[tuple[str, ...], Any] | None:
    """The columns of texts and the tokenizer that a graph carries; None where it carries none.

    Raises:
        Untrusted: The tokenizer cannot be read, or does not truncate to `MAX_TOKENS`.
        MissingExtra: tokenizers is not installed.
    """
    held = session.get_modelmeta().custom_metadata_map.get(METADATA)
    if held is None:
        return None
    try:
        from tokenizers import Tokenizer
    except ImportError:
        raise MissingExtra(
            "tokenizers is not installed", hint="pip install 'bascule[embeddings]'"
        ) from None
    strange = [node.name for node in session.get_inputs() if node.name not in TOKENS]
    try:
        parts = json.loads(held)
        columns = tuple(map(str, parts["columns"]))
        tokenizer = Tokenizer.from_str(parts["tokenizer"])
        if strange or not 1 <= len(columns) <= 2 or not tokenizer.padding:
            raise ValueError(f"its graph reads {strange or columns}")
        if not 1 <= (tokenizer.truncation or {}).get("max_length", 0) <= MAX_TOKENS:
            raise ValueError(f"it takes more than {MAX_TOKENS} tokens")
    except Exception as problem:  # the library raises plain exceptions
        raise Untrusted(
            f"{file} has a tokenizer that cannot be used: {problem}", file=file
        ) from None
    return columns, tokenizer
