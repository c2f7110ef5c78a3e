"""Opens the model of a bundle that writes texts, as a program."""

from __future__ import annotations

import threading
from collections.abc import Generator, Sequence
from contextlib import closing, suppress
from pathlib import Path

from bascule.bundle.disk import Manifest, check_file
from bascule.bundle.generation.chunks import joined
from bascule.bundle.generation.hosting import as_columns, check_rows, chunk_of
from bascule.bundle.generation.requests import INPUTS, OUTPUTS, parse_request
from bascule.bundle.generation.specs import FILE, Spec, spec_of
from bascule.bundle.generation.upstream import UpstreamEngine
from bascule.bundle.programs import ChildProgram
from bascule.core import AroundProgram, Columns, DType, Field, Program, TimedOut, Unconvertible

_HOST = "bascule.bundle.generation.hosting"
_OWN = "original/"
_START_TIMEOUT_S, _LONGEST_TEXT_S = 600.0, 600.0
_SCORES = (
    Field("logprob", DType.FP64, ()), Field("tokens", DType.INT64, ()),
    Field("is_greedy", DType.BOOL, ()),
)  # fmt: skip
_TEXTS = (Field("text", DType.BYTES, ()), Field("context", DType.BYTES, ()))


def open_generation(path: Path, manifest: Manifest | None, *, threads: int = 1) -> Program:
    """The model, in a process of its own unless it is an upstream.

    Args:
        path: The bundle's folder, or one with the same files below `original`.
        manifest: What the files must be; None for files of the caller's own.
        threads: How many it may use.

    Raises:
        Untrusted: A file is not that of the manifest.
        ModelFailed, MissingExtra, Unavailable: The engine cannot be started.
    """
    if manifest is not None:
        for name in manifest.files:
            if name.startswith(_OWN):
                check_file(path, manifest, name)
    spec = spec_of((path / FILE).read_bytes())
    if spec.engine == "upstream":
        return UpstreamProgram(spec)
    return OneAtATime(_child(path, "hosted", threads, INPUTS, OUTPUTS))


def open_scorer(path: Path) -> ChildProgram:
    """A program that tells how likely a model finds texts, in a process of its own.

    From the columns `text` and `context`, which comes before it, to what `Engine.score` tells.
    Raises `Unconvertible` where the engine does not tell it.
    """
    file = path / FILE
    if not file.exists() or spec_of(file.read_bytes()).engine != "llama.cpp":
        raise Unconvertible(
            "its engine does not tell the log probabilities of a text",
            hint="measure what it generates, or pack the model as GGUF, for llama.cpp",
        )
    scorer = _child(path, "scoring", 1, _TEXTS, _SCORES)
    scorer.bound_runs(_LONGEST_TEXT_S)
    return scorer


def _child(
    path: Path, function: str, threads: int, inputs: tuple[Field, ...], outputs: tuple[Field, ...]
) -> ChildProgram:
    return ChildProgram(
        ["call", f"{_HOST}:{function}", str(path.resolve()), str(threads)],
        name="original", inputs=inputs, outputs=outputs, threads=threads,
        start_timeout_s=_START_TIMEOUT_S,
    )  # fmt: skip


class WholeTexts(Program):
    """Whole answers, asked for in parts: each piece has the time of a run, and they can be ended.

    Subclasses make `_under_way`, in which each run has what ends it.
    """

    _under_way: set[threading.Event]

    def run(self, columns: Columns, outputs: Sequence[str] | None = None) -> Columns:
        interrupted = threading.Event()
        self._under_way.add(interrupted)
        try:
            whole = [
                joined(map(chunk_of, self.run_in_parts({"request": request}, None, interrupted)))
                for request in columns["request"].reshape(-1, 1)
            ]
        finally:
            self._under_way.remove(interrupted)
        if interrupted.is_set():
            raise TimedOut("the run was ended", hint="ask again")
        return as_columns(whole, outputs)

    def interrupt(self) -> None:
        for interrupted in tuple(self._under_way):
            interrupted.set()


class OneAtATime(WholeTexts, AroundProgram):
    """A process that writes one text at a time: its turn is taken here."""

    def __init__(self, child: ChildProgram) -> None:
        super().__init__(child)
        self._under_way, self._turn = set(), threading.Lock()

    @property
    def most_parts(self) -> int:
        return 1

    def run_in_parts(
        self, columns: Columns, outputs: Sequence[str] | None, cancelled: threading.Event
    ) -> Generator[Columns, None, None]:
        """The chunks of an answer to one request; see `core.programs.Program`."""
        check_rows(columns)
        with self._turn, closing(self._program.run_in_parts(columns, None, cancelled)) as parts:
            for part in parts:
                if cancelled.is_set():
                    return
                if len(part["text"]):
                    yield part if outputs is None else {name: part[name] for name in outputs}


class UpstreamProgram(WholeTexts):
    """A server elsewhere as a program; it is asked from this process."""

    name, inputs, outputs = "original", INPUTS, OUTPUTS

    def __init__(self, spec: Spec) -> None:
        self._spec, self._engine, self._under_way = spec, UpstreamEngine(spec), set()

    @property
    def may_block(self) -> bool:
        return True

    def run_in_parts(
        self, columns: Columns, outputs: Sequence[str] | None, cancelled: threading.Event
    ) -> Generator[Columns, None, None]:
        """The chunks of an answer to one request; see `core.programs.Program`."""
        check_rows(columns)
        request = parse_request(columns["request"][0], self._spec.defaults)
        for chunk in self._engine.generate(request, cancelled):
            yield as_columns([chunk], outputs)

    def close(self) -> None:
        self._engine.close()

    def __del__(self) -> None:
        with suppress(Exception):
            self.close()
