"""The other side of `bundle.programs.child`: a process that holds a model and answers for it.

It knows nothing of Bascule but this file, for it may run under another Python, with other
packages: the standard library and numpy are all it needs. The arguments of `main` name which
process started this one, and what to hold:

    host.py PID call MODULE:FUNCTION ...     what a function of an installed package gives for the
                                             rest
    host.py PID class FOLDER MODULE:CLASS    a class of the user's, in FOLDER/code, its files in
                                             FOLDER/files

A frame is eight bytes of length and as many bytes: a JSON head, a line feed, and the bytes of the
arrays, one behind the other. Frames come on standard input and go to what was standard output;
the model's own output goes to standard error.
"""

from __future__ import annotations

import ctypes
import importlib.util
import json
import math
import os
import signal
import sys
import threading
import traceback
import types
from collections.abc import Callable, Generator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

MAX_FRAME_BYTES = 1 << 31
_SMALL_BYTES = 1 << 16
"""A frame that is smaller is one piece, and one call of the system."""
_MANY_TEXTS = 256
_BETWEEN = "\0"
HIDE_TEXTS = "BASCULE_HIDE_EXCEPTION_TEXTS"
"""Set where what an exception says may quote rows that are not the reader's."""
_MOST_TRACE = 8_000
_DIE_WITH_PARENT = 1  # PR_SET_PDEATHSIG

Columns = dict[str, Any]
Predict = Callable[[Columns, "list[str] | None"], Mapping[str, Any]]
PredictStream = Callable[[Columns, "list[str] | None"], Generator[Mapping[str, Any], None, None]]


class Refused(Exception):
    """The rows are invalid; the caller gets the reason."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


def encode(head: dict[str, Any], columns: Mapping[str, Any]) -> list[Any]:
    """A frame in pieces, to be written one behind the other; its length is in the first.

    Large arrays are pieces as they lie in memory: to copy them costs more than many a model.
    """
    described: list[dict[str, Any]] = []
    arrays: list[Any] = []
    for name, column in columns.items():
        array = np.asarray(column)
        if array.dtype.kind in "OUS":
            values = array.ravel().tolist()
            if {*map(type, values)} - {str}:
                values = [_text(value) for value in values]
            how: dict[str, Any] = {"name": name, "shape": list(array.shape)}
            joined = _joined(values) if len(values) >= _MANY_TEXTS else None
            if joined is None:
                described.append({**how, "texts": values})
            else:
                arrays.append(joined)
                described.append({**how, "joined": len(joined)})
        else:
            small = array.nbytes < _SMALL_BYTES
            flat = array if small else np.ascontiguousarray(array).reshape(-1).view(np.uint8)
            arrays.append(flat.tobytes() if small else flat.data)
            described.append({"name": name, "shape": list(array.shape), "dtype": array.dtype.str})
    said = json.dumps({**head, "columns": described}).encode() + b"\n"
    size = len(said) + sum(len(array) for array in arrays)
    first = size.to_bytes(8, "little") + said
    if size < _SMALL_BYTES:
        return [b"".join([first, *arrays])]
    return [first, *arrays]


def decode(body: bytes) -> tuple[dict[str, Any], Columns]:
    """What a frame holds; raises `ValueError` if it is none. The arrays may not be written to."""
    end = body.index(b"\n")
    head = json.loads(body[:end])
    columns: Columns = {}
    at = end + 1
    for described in head["columns"]:
        shape = tuple(described["shape"])
        if "texts" in described:
            array = np.empty(len(described["texts"]), object)
            array[:] = described["texts"]
        elif "joined" in described:
            texts = body[at : at + described["joined"]].decode().split(_BETWEEN)
            if len(texts) != math.prod(shape):
                raise ValueError("other texts than were announced")
            array = np.empty(len(texts), object)
            array[:] = texts
            at += described["joined"]
        else:
            dtype = np.dtype(described["dtype"])
            if dtype.kind not in "biuf":
                raise ValueError(f"an array of {dtype}")
            size = math.prod(shape) * dtype.itemsize
            if size < 0 or at + size > len(body):
                raise ValueError("an array that is cut short")
            array = np.frombuffer(body, dtype, size // dtype.itemsize, at)
            at += size
        columns[str(described["name"])] = array.reshape(shape)
    if at != len(body):
        raise ValueError("bytes behind the last array")
    return head, columns


def _joined(values: list[Any]) -> bytes | None:
    """Texts in one, an eighth of the work of JSON; None where they cannot be parted again."""
    try:
        joined = _BETWEEN.join(values)
        return joined.encode() if joined.count(_BETWEEN) == len(values) - 1 else None
    except (TypeError, UnicodeEncodeError):  # one is missing, or has half a surrogate pair
        return None


def _text(value: Any) -> str | None:
    if value is None or value != value:
        return None
    return value.decode() if isinstance(value, bytes) else str(value)


def main(arguments: list[str]) -> int:
    """Hold a model until standard input ends."""
    parent, *arguments = arguments
    die_with(int(parent))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the server to act on
    frames_in = os.fdopen(os.dup(0), "rb")
    frames_out = os.fdopen(os.dup(1), "wb")
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)
    if HIDE_TEXTS in os.environ:
        _hide_texts()
    try:
        predict, stream = _OPENERS[arguments[0]](*arguments[1:])
    except Exception as problem:  # foreign code may raise anything
        hint = getattr(problem, "hint", None)
        # An error with a hint is Bascule's own: its words are enough.
        failure = _failure(problem) if hint is None else {"error": str(problem)}
        _send(frames_out, {**failure, "hint": str(hint or "")}, {})
        return 3
    parts = None if stream is None else _Parts(stream)
    _send(frames_out, {"ready": True, "parts": parts is not None}, {})
    while (size := frames_in.read(8)) and len(size) == 8:
        head, columns = decode(frames_in.read(int.from_bytes(size, "little")))
        try:
            if parts is not None and "parts" in head:
                frame = parts.answer(head, columns)
            else:
                frame = encode({"ok": True}, predict(columns, head.get("outputs")))
        except BaseException as problem:  # nor is a call of sys.exit in one, a reason to leave
            if _is_refusal(problem):
                facts, hint = getattr(problem, "facts", {}), str(getattr(problem, "hint", ""))
                refused = {"refused": str(problem), "hint": hint, "field": facts.get("field")}
                frame = encode(refused, {})
            else:
                frame = encode(_failure(problem), {})
        _write(frames_out, frame)
    return 0


class _Parts:
    """The answers in parts that are under way, by the number that the parent gave each.

    Every part is asked for, so that the model computes no more than is taken.
    """

    def __init__(self, stream: PredictStream) -> None:
        self._stream = stream
        self._open: dict[int, Generator[Mapping[str, Any], None, None]] = {}

    def answer(self, head: dict[str, Any], columns: Columns) -> list[Any]:
        """The frame for a part, or for the end."""
        number = head["parts"]
        if head["do"] == "begin":
            self._open[number] = self._stream(columns, head["outputs"])
        elif head["do"] == "next":
            for part in self._open[number]:
                return encode({"ok": True, "more": True}, part)
        else:
            self._open.pop(number).close()
        return encode({"ok": True}, {})


_INVALID = ("bascule_client.errors.Invalid", "bascule.core.errors.Invalid")
"""Where `Invalid` is defined, and where it was until 0.1: the model may bring an older Bascule."""


def _is_refusal(problem: BaseException) -> bool:
    """Whether the model tells the caller what is wrong with the rows: `Refused`, or its `Invalid`.

    The latter is known by its name, for Bascule need not be installed here.
    """
    names = {f"{kind.__module__}.{kind.__name__}" for kind in type(problem).__mro__}
    return isinstance(problem, Refused) or not names.isdisjoint(_INVALID)


def _failure(problem: BaseException) -> dict[str, Any]:
    """The report to the parent: type and place, because the text of an exception may hold rows."""
    if HIDE_TEXTS not in os.environ:
        traceback.print_exception(problem)
    trace = "".join(traceback.format_tb(problem.__traceback__))[-_MOST_TRACE:]
    said = f"{type(problem).__name__}: {problem}"
    return {"error": said, "reason": place_of(problem), "trace": trace}


def _hide_texts() -> None:
    """Report uncaught exceptions, in threads and destructors too, by type and place only."""

    def tell(problem: BaseException | None) -> None:
        if problem is not None:
            sys.stderr.write(f"{place_of(problem)}\n")

    sys.excepthook = lambda *about: tell(about[1])
    threading.excepthook = lambda about: tell(about.exc_value)
    sys.unraisablehook = lambda about: tell(about.exc_value)


def place_of(problem: BaseException) -> str:
    """The type of an exception and where it was raised, without what it says."""
    frames = traceback.extract_tb(problem.__traceback__)
    kind = type(problem).__qualname__
    if not frames:
        return kind
    last = frames[-1]
    return f"{kind} at {os.path.basename(last.filename)}:{last.lineno} in {last.name}"


def _send(output: BinaryIO, head: dict[str, Any], columns: Columns) -> None:
    _write(output, encode(head, columns))


def _write(output: BinaryIO, frame: list[Any]) -> None:
    for piece in frame:
        output.write(piece)
    output.flush()


def die_with(parent: int) -> None:
    """Have the system kill this process when the *thread* that started it ends, however it ends."""
    ctypes.CDLL(None).prctl(_DIE_WITH_PARENT, signal.SIGKILL)
    if os.getppid() != parent:  # it has ended already
        os._exit(3)


def _of_function(place: str, *arguments: str) -> tuple[Predict, PredictStream | None]:
    """What a function of the project gives; named by text, for this file imports nothing of it."""
    module, _, name = place.partition(":")
    made = getattr(importlib.import_module(module), name)(*arguments)
    return made, getattr(made, "stream", None)


def _of_class(folder: str, entry: str) -> tuple[Predict, PredictStream | None]:
    module, _, name = entry.partition(":")
    if importlib.util.find_spec("bascule") is None:
        # The class tells its caller what is wrong by `raise bascule.Invalid(...)` all the same.
        sys.modules["bascule"] = stub = types.ModuleType("bascule")
        stub.Invalid = Refused  # type: ignore[attr-defined]
    sys.path.insert(0, str(Path(folder) / "code"))
    made = getattr(importlib.import_module(module), name)()
    load = getattr(made, "load", None)
    if load is not None:
        load(Path(folder) / "files")

    def predict(columns: Columns, outputs: list[str] | None) -> Mapping[str, Any]:
        return _named(made.predict(columns), outputs, rows=len(next(iter(columns.values()))))

    def stream(
        columns: Columns, outputs: list[str] | None
    ) -> Generator[Mapping[str, Any], None, None]:
        for part in made.predict_stream(columns):
            yield _named(part, outputs)

    return predict, stream if hasattr(made, "predict_stream") else None


def _named(answer: Any, outputs: list[str] | None, rows: int = -1) -> Mapping[str, Any]:
    """The arrays of an answer by output, with as many rows as asked for, or any number."""
    if not isinstance(answer, Mapping):
        answer = {"prediction": answer}
    arrays = {str(name): np.asarray(values) for name, values in answer.items()}
    for name, array in arrays.items():
        if rows >= 0 and array.shape[:1] != (rows,):
            raise ValueError(f"{name} has shape {array.shape}, and there are {rows} rows")
    return arrays if outputs is None else {name: arrays[name] for name in outputs}


_OPENERS: dict[str, Callable[..., tuple[Predict, PredictStream | None]]] = {
    "call": _of_function,
    "class": _of_class,
}


if __name__ == "__main__":
    # What is run as a script and what others import as a module are to be one.
    sys.modules["bascule.bundle.programs.host"] = sys.modules[__name__]
    sys.exit(main(sys.argv[1:]))
