"""An engine behind the columns of a program; in a process of its own, see `programs.host`."""

from __future__ import annotations

import resource
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Protocol

import msgspec
import numpy as np

from bascule.bundle.generation.chunks import Chunk, joined, with_calls
from bascule.bundle.generation.requests import TextRequest, parse_request
from bascule.bundle.generation.specs import ENGINES, FILE, Spec, spec_of
from bascule.core import Columns, Invalid, ModelFailed, load_named

_encode, _decode = msgspec.json.Encoder().encode, msgspec.json.Decoder(Chunk).decode


class Engine(Protocol):
    """What writes texts in this process. A line in `specs.ENGINES` adds one."""

    def generate(self, request: TextRequest) -> Iterator[Chunk]:
        """The chunks of an answer; some may be empty, the last has `finish` and `usage`.

        Closed when the caller has gone. Raises `Invalid` for what the model cannot do.
        """

    def score(self, text: str, context: str) -> tuple[float, int, bool]:
        """The natural log probability of a text after a context, its tokens, and if it is greedy.

        Of llama.cpp alone. Raises `Invalid` for a context that does not fit with its text.
        """


class Answering:
    """Answers requests in columns by an engine: whole, or in parts (`stream`)."""

    def __init__(self, spec: Spec, engine: Engine) -> None:
        self._spec, self._engine = spec, engine

    def __call__(self, columns: Columns, outputs: Sequence[str] | None) -> Columns:
        return as_columns([joined(self._chunks(text)) for text in columns["request"]], outputs)

    def stream(self, columns: Columns, outputs: Sequence[str] | None) -> Iterator[Columns]:
        """The chunks of one request; an empty one has no rows."""
        for chunk in self._chunks(columns["request"][0]):
            yield as_columns([] if chunk == Chunk() else [chunk], outputs)

    def _chunks(self, text: str | bytes) -> Iterator[Chunk]:
        request = parse_request(text, self._spec.defaults)
        chunks = self._engine.generate(request)
        if request.callable:
            return with_calls(chunks, is_forced=bool(request.forced))
        return chunks


def check_rows(columns: Columns) -> None:
    """Raise `Invalid` for an answer in parts to more than one request."""
    if (rows := len(columns["request"])) != 1:
        raise Invalid(
            f"request: an answer in parts is to 1 request, and there are {rows}",
            hint="send each in a request of its own",
        )


def chunk_of(part: Columns) -> Chunk:
    """The chunk in a part with one row."""
    return _decode(part["chunk"][0])


def as_columns(chunks: Sequence[Chunk], outputs: Sequence[str] | None) -> Columns:
    columns = {
        "text": np.array([chunk.text for chunk in chunks], object),
        "chunk": np.array([_encode(chunk).decode() for chunk in chunks], object),
    }
    return columns if outputs is None else {name: columns[name] for name in outputs}


def _engine_of(folder: Path, spec: Spec, threads: str) -> Engine:
    """The engine of a bundle whose files were verified, in this process."""
    engine: Engine = load_named(ENGINES[spec.engine])(spec, folder, int(threads))
    return engine


def hosted(path: str, threads: str) -> Answering:
    """What `programs.host` calls; the process gets no more memory than the bundle says."""
    spec = spec_of((Path(path) / FILE).read_bytes())
    most = spec.memory_bytes
    if most:  # of data: mapped weights do not count
        resource.setrlimit(resource.RLIMIT_DATA, (most, most))
    try:
        return Answering(spec, _engine_of(Path(path), spec, threads))
    except MemoryError:
        raise ModelFailed(
            f"memory_bytes: {most:,} are too few to load the model", hint="pack it with more"
        ) from None


def scoring(path: str, threads: str) -> Callable[[Columns, Sequence[str] | None], Columns]:
    """What `programs.host` calls for log probabilities: see `opening.open_scorer`."""
    engine = _engine_of(Path(path), spec_of((Path(path) / FILE).read_bytes()), threads)

    def score(columns: Columns, _: Sequence[str] | None) -> Columns:
        pairs = zip(columns["text"], columns["context"], strict=True)
        scored = [engine.score(str(text), str(context)) for text, context in pairs]
        sums, counts, greedy = map(np.array, zip(*scored, strict=True))
        return {"logprob": sums, "tokens": counts, "is_greedy": greedy}

    return score
