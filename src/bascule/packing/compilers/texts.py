"""Steps that turn texts into counts of words.

The program prepares a text (see `programs.texts`), the graph cuts it into words by a regular
expression, and the operator TfIdfVectorizer counts those of the vocabulary. What is a letter is
Python's own list, written out: the expressions of the runtime (RE2) know ASCII letters only.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from bascule.core import DType, Unconvertible
from bascule.packing.compilers.graph import MICROSOFT, Context, Graph, as_column
from bascule.packing.compilers.scaling import made_unit
from bascule.packing.compilers.values import TEXT, Value, numbers, numeric, width

MAX_WORDS = 10_000
"""Of a vocabulary. Every row becomes a number for each of its words: with so many, a single row
still takes a seventh of the original's time, and a batch of hundreds several times as long."""
_CELLS_AT_ONCE = 1 << 20
"""Eight megabytes of doubles."""
_MOST_ROWS_AT_ONCE = 512

_SHORTEST_WORD = {
    r"(?u)\b\w\w+\b": 2,
    r"\b\w\w+\b": 2,
    r"\w\w+": 2,
    r"(?u)\w\w+": 2,
    r"(?u)\b\w+\b": 1,
    r"\b\w+\b": 1,
    r"\w+": 1,
    r"(?u)\w+": 1,
}
"""The patterns that are read: whole runs of letters, digits and underscores, so many at least."""


def count_vectorizer(context: Context, step: Any, value: Value) -> Value:
    """How often each word, or sequence of words or characters, is in the text."""
    graph = context.graph
    _check(step)
    terms, columns = _terms(step)
    counted = _counted(graph, step, _prepared(graph, step, value), terms)
    if step.binary:
        counted = graph.add("Min", counted, 1.0)
    graph.rows_at_once = min(
        graph.rows_at_once or _MOST_ROWS_AT_ONCE, max(1, _CELLS_AT_ONCE // columns)
    )
    return numbers(counted, columns)


def tfidf_vectorizer(context: Context, step: Any, value: Value) -> Value:
    return tfidf_transformer(context, step._tfidf, count_vectorizer(context, step, value))


def tfidf_transformer(context: Context, step: Any, value: Value) -> Value:
    """Counts, or one and their logarithm, by how rare the word is, brought to one length."""
    graph, tensor = numeric(context, step, value)
    if step.sublinear_tf:
        there = graph.add("Greater", tensor, 0.0)
        logarithm = graph.add("Log", graph.add("Max", tensor, 1.0))
        raised = graph.add("Add", logarithm, 1.0)
        tensor = graph.add("Where", there, raised, 0.0)
    if hasattr(step, "idf_"):
        tensor = graph.add("Mul", tensor, as_column(step.idf_))
    if step.norm is not None:
        tensor = made_unit(graph, tensor, step.norm)
    return numbers(tensor, width(value))


def hashing_vectorizer(context: Context, step: Any, value: Value) -> Value:
    del context, step, value
    raise Unconvertible(
        "HashingVectorizer counts words by a hash that the runtime does not have",
        hint="use a CountVectorizer or TfidfVectorizer, or pass serve_original=True "
        "(--serve-original) to serve the original, slower",
    )


def _check(step: Any) -> None:
    name = type(step).__name__
    problem = ""
    if step.analyzer not in ("word", "char"):
        problem = f"analyzer={step.analyzer!r}"
    elif step.preprocessor is not None or callable(step.strip_accents):
        problem = "a preprocessor of its own"
    elif step.input != "content":
        problem = f"input={step.input!r}"
    elif step.analyzer == "word" and step.tokenizer is not None:
        problem = "a tokenizer of its own"
    elif step.analyzer == "word" and step.token_pattern not in _SHORTEST_WORD:
        problem = f"token_pattern={step.token_pattern!r}"
    elif step.analyzer == "word" and step.ngram_range[1] > 1 and step.get_stop_words():
        problem = "stop words left out of sequences of words"
    if problem:
        raise Unconvertible(f"{name} has {problem}, and there is no compiler for that")


def _terms(step: Any) -> tuple[list[tuple[tuple[str, ...], int]], int]:
    """Each sequence of the vocabulary with its column, shorter ones first; and how many columns."""
    columns = len(step.vocabulary_)
    if columns > MAX_WORDS:
        raise Unconvertible(
            f"{type(step).__name__} knows {columns:,} words, and up to {MAX_WORDS:,} are compiled",
            hint=f"pass max_features={MAX_WORDS} to it, or serve_original=True (--serve-original)",
        )
    is_word = step.analyzer == "word"
    left_out = (step.get_stop_words() or frozenset()) if is_word else frozenset()
    shortest, longest = step.ngram_range
    made = []
    for term, column in step.vocabulary_.items():
        parts = tuple(term.split(" ")) if is_word else tuple(term)
        # What no text can ever hold is not looked for; an empty part is how the rows are filled.
        if shortest <= len(parts) <= longest and all(parts) and term not in left_out:
            made.append((parts, int(column)))
    if not any(column == columns - 1 for _, column in made):
        raise Unconvertible("the last word of a vocabulary is one that no text can hold")
    return sorted(made, key=lambda pair: (len(pair[0]), pair[1])), columns


def _prepared(graph: Graph, step: Any, value: Value) -> str:
    (part,) = value if len(value) == 1 else (None,)
    name = type(step).__name__
    if part is None or part.kind != TEXT or not part.flat:
        raise Unconvertible(f"{name} is not given one column of texts")
    steps = ["lower"] if step.lowercase else []
    if step.strip_accents is not None:
        steps.append(f"strip_accents_{step.strip_accents}")
    if step.analyzer == "char":
        steps.append("single_spaces")
    return graph.prepared_text(part.tensor, tuple(steps))


def _counted(graph: Graph, step: Any, texts: str, terms: list[tuple[tuple[str, ...], int]]) -> str:
    if step.analyzer == "char":
        cut: dict[str, Any] = {"separators": [""]}
    else:
        cut = {"tokenexp": f"{letters()}{{{_SHORTEST_WORD[step.token_pattern]},}}"}
    graph.uses_microsoft = True
    words = graph.add(
        "Tokenizer", texts, domain=MICROSOFT, mark=0, pad_value="", mincharnum=1, **cut
    )
    shortest, longest = step.ngram_range
    lengths = np.array([len(parts) for parts, _ in terms])
    starts = [int((lengths[lengths < n]).sum()) for n in range(1, longest + 1)]
    counted = graph.add(
        "TfIdfVectorizer",
        words,
        mode="TF",
        max_skip_count=0,
        min_gram_length=shortest,
        max_gram_length=longest,
        ngram_counts=starts,
        ngram_indexes=[column for _, column in terms],
        pool_strings=[word for parts, _ in terms for word in parts],
    )
    return graph.cast(counted, DType.FP64)


@cache
def letters() -> str:
    """Python's letters, digits and underscore, as a class of characters that RE2 reads."""
    ranges: list[list[int]] = []
    for code in range(0x110000):
        if chr(code).isalnum() or code == ord("_"):
            if ranges and ranges[-1][1] == code - 1:
                ranges[-1][1] = code
            else:
                ranges.append([code, code])
    return "[" + "".join(f"\\x{{{low:x}}}-\\x{{{high:x}}}" for low, high in ranges) + "]"
