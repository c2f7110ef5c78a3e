"""What a model's own process does to open the original inside a bundle; see `programs.child`."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from bascule.bundle.disk import read_manifest
from bascule.bundle.opening import open_original
from bascule.bundle.programs import Refused
from bascule.core import Columns, Invalid


def original_of(path: str, threads: str) -> Callable[[Columns, Sequence[str] | None], Columns]:
    """A function that answers with the original of the bundle at `path`."""
    with _in_haste():
        program = open_original(path, read_manifest(path), threads=int(threads))

    def predict(columns: Columns, outputs: Sequence[str] | None) -> Columns:
        try:
            return program.run(columns, outputs)
        except Invalid as refused:
            raise Refused(refused.message, refused.hint) from refused

    return predict


@contextmanager
def _in_haste() -> Iterator[None]:
    """Callers wait while a process that died is replaced.

    The collector would look through what imports make again and again, and find nothing.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        gc.freeze()
